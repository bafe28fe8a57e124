"""Publishing, and the messages that were published."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Request, Response

from api import problem_types, render
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.idempotency import NOT_KEYED, IdempotencyKey, OnceDep, check_key, refuse_second
from api.lifecycle.viewers import viewer_of
from api.messages import publishing
from api.messages.schemas import (
    PUBLISHED_EXAMPLE,
    Message,
    MessageDetail,
    PublishedMessage,
    PublishedMessages,
    RedeliveredMessage,
    RedeliveryRequest,
    TransactionalMessages,
)
from api.problems import documents, from_domain, rate_headers
from api.query import Several
from api.schemas import ApiModel, EventType, Gid, ListOf, Moment, Name
from everhook.delivery.body_formats import timestamp
from everhook.errors import IdempotencyKeyReused, Quota
from everhook.observability.trace_context import parse
from everhook.publishing.gates import MAX_STEPS
from everhook.publishing.options import MAX_ATTRIBUTES
from everhook.publishing.publication import Accepted
from everhook.publishing.service import MessageQuery

router = APIRouter(tags=["messages"])
publishing_router = APIRouter(tags=["messages"])
redelivery_router = APIRouter(tags=["messages"])

MAX_BATCH_KEY = 249
"""A key with the index of a message is a key, too."""

MAX_DELIVERIES = 100
"""In one response: a message may go to very many endpoints."""

_EXAMPLE = {"type": "order.created", "payload": {"orderId": 1042, "amount": 99.5}, "idempotencyKey": "order-1042"}
_MESSAGE_SCHEMA: dict[str, Any] = {
    "title": "NewMessage",
    "type": "object",
    "required": ["payload"],
    "additionalProperties": False,
    "properties": {
        "payload": {"description": "Any JSON. Its bytes are delivered unchanged."},
        "type": {"type": "string", "description": "Falls back to `payload.event`."},
        "idempotencyKey": {"type": "string", "description": "Or the header `Idempotency-Key`."},
        "tenant": {"type": "string", "description": "Deliver to this tenant's endpoints only."},
        "publishedAt": {"type": "string", "format": "date-time"},
        "task": {
            "type": "object",
            "description": "What inboxes among the endpoints ask people; see docs/approvals.md.",
        },
        "gates": {
            "type": "array",
            "maxItems": MAX_STEPS,
            "description": "Who has to approve it, one after the other, before it is sent; instead of the gates of the "
            "channel. `[]`: none.",
            "items": {"$ref": "#/components/schemas/GateStep"},
        },
        "metadata": {
            "type": "object",
            "maxProperties": MAX_ATTRIBUTES,
            "additionalProperties": {"type": "string"},
            "description": "Attributes of the message, 4 KiB at most: delivered as `metadata.attributes`, and "
            "`$metadata.name` in filters.",
        },
        "endpointGid": {
            "type": "string",
            "description": "Deliver to this endpoint alone, regardless of its subscriptions.",
        },
        "retry": {
            "type": "boolean",
            "default": True,
            "description": "False: one attempt; if it fails, the delivery is dead-lettered.",
        },
        "deliverAt": {
            "type": "string",
            "format": "date-time",
            "description": "Deliver at this time, 30 days ahead at most, to the endpoints that match then.",
        },
        "groupKey": {
            "type": "string",
            "maxLength": 128,
            "description": "Each endpoint gets the messages with this key one after the other, in the order of their "
            "acceptance.",
        },
        "delaySeconds": {"type": "number", "minimum": 0, "maximum": 2_592_000, "description": "Or after this time."},
    },
    "examples": [_EXAMPLE],
}
_CHANNELLED_SCHEMA: dict[str, Any] = {
    **_MESSAGE_SCHEMA,
    "title": "NewChannelMessage",
    "required": ["channel", "payload"],
    "properties": {"channel": {"type": "string"}, **_MESSAGE_SCHEMA["properties"]},
    "examples": [{"channel": "orders", **_EXAMPLE}],
}


def _body(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    """The documentation of a body that is read raw, so that FastAPI cannot describe it."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


_RATE_HEADERS: dict[str, Any] = {
    name: {"description": f"{what}, if there is one.", "schema": {"type": "string"}}
    for name, what in (
        ("RateLimit-Policy", "The limit of the key, and that of the tenant"),
        ("RateLimit", "How many messages are left of each limit"),
    )
}


def _responses(model: type[ApiModel], example: Any) -> dict[int | str, dict[str, Any]]:
    """The documentation of a response that is written raw, and of the problems that publishing can have."""
    content = {"application/json": {"example": example}}
    committed = {"model": model, "description": "Committed", "content": content, "headers": _RATE_HEADERS}
    return {
        HTTPStatus.ACCEPTED.value: committed,
        **documents(
            problem_types.RESERVED_CHANNEL,
            problem_types.PAYLOAD_DOES_NOT_FIT,
            problem_types.UNKNOWN_EVENT_TYPE,
            problem_types.RATE_LIMITED,
            problem_types.BACKLOG_FULL,
        ),
    }


@publishing_router.post(
    "/channels/{name}/messages",
    status_code=HTTPStatus.ACCEPTED,
    responses=_responses(PublishedMessage, PUBLISHED_EXAMPLE),
    openapi_extra=_body(_MESSAGE_SCHEMA, _EXAMPLE),
)
async def publish_message(
    name: Name,
    request: Request,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Publish one message. `202` means that it and a delivery to each matching endpoint are committed.

    The same idempotency key with the same body responds with the first message and `duplicate: true`; with another
    body it is a `409`.
    """
    if idempotency_key is not None:
        refuse_second(request)
    quotas = await services.messages.admit(caller.actor, name)
    message = publishing.new_message(await publishing.read_one(request), idempotency_key)
    accepted = await services.messages.publish(
        store, caller.actor, name, message, parse(request.headers.get("traceparent")), quotas
    )
    return _response(_shown(accepted), quotas)


@publishing_router.post(
    "/channels/{name}/messages/batch",
    status_code=HTTPStatus.ACCEPTED,
    responses=_responses(PublishedMessages, {"data": [PUBLISHED_EXAMPLE]}),
    openapi_extra=_body(
        {
            "title": "NewMessages",
            "type": "object",
            "required": ["messages"],
            "properties": {"messages": {"type": "array", "maxItems": publishing.MAX_BATCH, "items": _MESSAGE_SCHEMA}},
            "examples": [{"messages": [_EXAMPLE]}],
        },
        {"messages": [_EXAMPLE]},
    ),
)
async def publish_messages(
    name: Name,
    request: Request,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Publish up to 500 messages in one transaction. The response has one element for each, in their order.

    An invalid message refuses the whole call, and nothing changes. For a message whose idempotency key was used with
    another body, a problem document stands in its place; the others are accepted.

    The header `Idempotency-Key` gives a key to each message that has none: its own value with the message's index,
    `input-7[0]`.
    """
    if idempotency_key is not None:
        check_key(request, idempotency_key, MAX_BATCH_KEY)
    await services.messages.admit_batch(caller.actor, name)
    new = publishing.new_messages(await publishing.read_batch(request), idempotency_key)
    trace = parse(request.headers.get("traceparent"))
    quotas: list[Quota] = []
    outcomes = await services.messages.publish_all(store, caller.actor, name, new, trace, quotas)
    return _response({"data": [_shown_or_problem(outcome) for outcome in outcomes]}, quotas)


@publishing_router.post(
    "/messages/transactional",
    status_code=HTTPStatus.ACCEPTED,
    responses=_responses(TransactionalMessages, {"data": [PUBLISHED_EXAMPLE]}),
    openapi_extra=_body(
        {
            "title": "NewChannelMessages",
            "type": "object",
            "required": ["messages"],
            "properties": {
                "messages": {"type": "array", "maxItems": publishing.MAX_TRANSACTION, "items": _CHANNELLED_SCHEMA}
            },
            "examples": [{"messages": [{"channel": "orders", **_EXAMPLE}]}],
        },
        {"messages": [{"channel": "orders", **_EXAMPLE}]},
    ),
)
async def publish_messages_transactionally(
    request: Request,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Publish up to 100 messages on several channels, all or none. The response has one element for each, in their
    order.

    An unknown channel, or an idempotency key that was used with another body, refuses the whole call. The header
    `Idempotency-Key` gives keys as in a batch.
    """
    if idempotency_key is not None:
        check_key(request, idempotency_key, MAX_BATCH_KEY)
    bodies = await publishing.read_transaction(request)
    new = publishing.new_messages(bodies, idempotency_key)
    quotas: list[Quota] = []
    accepted = await services.messages.publish_transactional(
        store,
        caller.actor,
        [(body.channel, message) for body, message in zip(bodies, new, strict=True)],
        parse(request.headers.get("traceparent")),
        quotas,
    )
    return _response({"data": [_shown(one) for one in accepted]}, quotas)


@router.get("/messages")
async def list_messages(
    paging: Paging,
    services: ServicesDep,
    store: Store,
    channel: Several[Name] = None,
    type: Several[EventType] = None,
    tenant: Several[Name] = None,
    since: Moment | None = None,
    until: Moment | None = None,
    unrouted: bool = False,
) -> ListOf[Message]:
    """Newest first, without payloads. `since` and `until` bound the time of acceptance. `unrouted`: only those that no
    endpoint took."""
    query = MessageQuery(tenants=tenant, channels=channel, types=type, since=since, until=until, unrouted=unrouted)
    async with store.reading() as session:
        page = await services.messages.page(session, query, after=paging.after, limit=paging.limit)
    return ListOf(data=[Message.of(view) for view in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/messages/{gid}", response_model=MessageDetail)
async def get_message(gid: Gid, services: ServicesDep, store: Store) -> Response:
    """One message with its payload, its newest deliveries, and how many of all are in which status."""
    async with store.reading() as session:
        detail = await services.messages.get(session, gid, max_deliveries=MAX_DELIVERIES)
    return render.with_payload(MessageDetail.of_detail(detail), detail.message.payload)


@router.delete("/messages/{gid}/payload", status_code=HTTPStatus.NO_CONTENT, response_class=Response)
async def erase_message_payload(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Erase its content at once: the payload, and the responses of endpoints to it. Hashes and receipts stay.

    Deliveries that are still open become dead letters as `payload_erased`, without another request; those that wait for
    a gate are discarded. Those that already are dead letters cannot be replayed any more.
    """
    await services.messages.erase_payload(store, caller.actor, gid)


@publishing_router.post(
    "/messages/{gid}/cancel", responses=documents(problem_types.NOT_SCHEDULED), response_model=MessageDetail
)
async def cancel_message(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> Response:
    """Cancel a message that waits for its `deliverAt`. To cancel it again changes nothing.

    A key with the scope `publish` alone may cancel what was published with it.
    """
    await services.messages.cancel(store, caller.actor, gid, viewer_of(caller).publisher_gid)
    return await get_message(gid, services, store)


@redelivery_router.post(
    "/messages/{gid}/redeliver",
    status_code=HTTPStatus.ACCEPTED,
    responses=documents(
        problem_types.PAYLOAD_ERASED,
        problem_types.ENDPOINT_DELETED,
        problem_types.GATE_NOT_PASSED,
        problem_types.NOT_RELEASED,
        problem_types.TOO_MANY_DELIVERIES,
    ),
)
async def redeliver_message(
    gid: Gid,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    body: Annotated[RedeliveryRequest | None, Body()] = None,
    once: OnceDep = NOT_KEYED,
) -> RedeliveredMessage:
    """Send a message again after it was delivered, dead-lettered or discarded.

    The next round of each of its deliveries begins; one that is in progress is left alone. Endpoints that match the
    message now and had no delivery of it get one. Its gates are not asked again; inboxes are. A key with the scope
    `publish` alone may send again what was published with it.
    """
    body = body or RedeliveryRequest()
    async with once.writing(store) as session:
        redelivery = await services.redelivery.redeliver(
            session,
            caller.actor,
            gid,
            endpoint_gid=body.endpoint_gid,
            reason=body.reason,
            viewer=viewer_of(caller),
        )
        response = RedeliveredMessage.of(redelivery)
        await once.keep(session, response, HTTPStatus.ACCEPTED, redelivery.tenant_gid)
    services.redelivery.start(redelivery)
    return response


def _shown(accepted: Accepted) -> dict[str, Any]:
    """A `PublishedMessage`, written without pydantic: this is the hot path."""
    shown = {
        "messageGid": accepted.message_gid,
        "channel": accepted.channel,
        "type": accepted.event_type,
        "publishedAt": timestamp(accepted.published_at),
        "deliverAt": timestamp(accepted.deliver_at) if accepted.deliver_at is not None else None,
        "duplicate": accepted.duplicate,
        "deliveries": [
            {"deliveryGid": d.delivery_gid, "endpointGid": d.endpoint_gid, "status": d.status.value}
            for d in accepted.deliveries
        ],
    }
    if accepted.fault is not None:
        shown["validationError"] = str(accepted.fault)
    return shown


def _shown_or_problem(outcome: Accepted | IdempotencyKeyReused) -> dict[str, Any]:
    return _shown(outcome) if isinstance(outcome, Accepted) else from_domain(outcome).document().model_dump()


def _response(content: dict[str, Any], quotas: Sequence[Quota]) -> Response:
    headers = rate_headers(quotas) if quotas else None
    return Response(orjson.dumps(content), HTTPStatus.ACCEPTED, headers, media_type="application/json")
