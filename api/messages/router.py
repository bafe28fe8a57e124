"""Publishing, and the messages that were published."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import APIRouter, Request, Response

from api import problem_types, render
from api.dependencies import Paging, Principal, Services, ServicesDep, Store
from api.idempotency import IdempotencyKey, check_key, refuse_second
from api.messages import publishing
from api.messages.schemas import MessageDetail, MessageOut
from api.problems import Problem, conflict, invalid, not_found
from api.query import Several, several
from api.schemas import EventType, Gid, ListOf, Moment, Name
from everhook.delivery import store as deliveries
from everhook.delivery.body_formats import timestamp
from everhook.delivery.inputs_store import load_inputs
from everhook.delivery.starts import wake_delivery
from everhook.delivery.store import DeliveryFilter
from everhook.notifications.events import is_reserved
from everhook.observability.trace_context import TraceParent, parse
from everhook.observability.tracing import span
from everhook.publishing import erasure_store as erasure
from everhook.publishing import store as messages
from everhook.publishing.store import Acceptance, Accepted, KeyReused, UnknownChannel
from everhook.storage.bulk import Bulk
from everhook.storage.tenant_scope import TenantScope
from everhook.tenants import store as tenants
from everhook.tenants.audit_store import record_audit

router = APIRouter(tags=["messages"])
publishing_router = APIRouter(tags=["messages"])
log = structlog.get_logger()

MAX_BATCH_KEY = 249
"""A key with the index of a message is a key, too."""

MAX_DELIVERIES = 100
"""In one response: a message may go to very many endpoints."""

WOKEN = 200
WAKE_TIMEOUT_S = 2.0
"""Of an erased message so many deliveries are woken, for so long; others find out at their next step."""

_MESSAGE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["payload"],
    "additionalProperties": False,
    "properties": {
        "payload": {"description": "Any JSON; delivered as the very bytes that came."},
        "type": {"type": "string", "description": "Falls back to `payload.event`."},
        "idempotencyKey": {"type": "string", "description": "Or the header `Idempotency-Key`."},
        "tenant": {"type": "string", "description": "Deliver to this tenant's endpoints only."},
        "publishedAt": {"type": "string", "format": "date-time"},
    },
}
_EXAMPLE = {"type": "order.created", "payload": {"orderId": 1042, "amount": 99.5}, "idempotencyKey": "order-1042"}
_ANSWER = {
    "messageGid": "msg_01m83prhbfe23sdyzab24cmhby",
    "channelName": "orders",
    "type": "order.created",
    "publishedAt": "2026-01-31T12:00:00.000Z",
    "duplicate": False,
    "deliveries": [
        {
            "deliveryGid": "dlv_01m83prhbfe23sdyzab24cmhbz",
            "endpointGid": "ep_01m83prhbfe23sdyzab24cmhbx",
            "status": "accepted",
        }
    ],
}


def _documented(schema: dict[str, Any], example: Any, answer: Any) -> dict[str, Any]:
    """These bodies are read raw, so FastAPI cannot describe them by itself."""
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
        "responses": {"202": {"description": "Committed", "content": {"application/json": {"example": answer}}}},
    }


@publishing_router.post(
    "/channels/{name}/messages",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=_documented(_MESSAGE_SCHEMA, _EXAMPLE, _ANSWER),
)
async def publish(
    name: Name,
    request: Request,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Publish one message. `202` means that it and a delivery to each matching endpoint are committed.

    The same idempotency key with the same body answers with the first message and `duplicate: true`; with another
    body it is a `409`.
    """
    _refuse_reserved(name)
    if idempotency_key is not None:
        refuse_second(request)
    services.backlog.refuse_if_full()
    await services.publish_rate.take(caller)
    limit = services.settings.max_payload_bytes
    body = await publishing.read_one(request)
    tenant_gid = await _tenant_gid(store, body.tenant, "tenant")
    with _traced(request) as trace:
        publication = publishing.publication(body, name, tenant_gid, idempotency_key, limit, traceparent=trace)
        acceptance = await services.acceptor.accept(publication)
        if not isinstance(acceptance, Accepted):
            raise _refusal(acceptance)
        services.dispatcher.dispatch(acceptance.new)
    return _answer(_accepted(acceptance))


@publishing_router.post(
    "/channels/{name}/messages/batch",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=_documented(
        {
            "type": "object",
            "required": ["messages"],
            "properties": {"messages": {"type": "array", "maxItems": publishing.MAX_BATCH, "items": _MESSAGE_SCHEMA}},
        },
        {"messages": [_EXAMPLE]},
        {"data": [_ANSWER]},
    ),
)
async def publish_batch(
    name: Name,
    request: Request,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Publish up to 500 messages, in one transaction, with one answer each and in their order.

    A message that is invalid refuses the whole call and changes nothing. One whose idempotency key was used with
    another body answers with a problem document in its place; the others are accepted.

    The header `Idempotency-Key` gives a key to each message that has none: its own value with the message's index,
    `input-7[0]`.
    """
    _refuse_reserved(name)
    if idempotency_key is not None:
        check_key(request, idempotency_key, MAX_BATCH_KEY)
    services.backlog.refuse_if_full()
    await services.publish_rate.refuse_if_spent(caller)
    limit = services.settings.max_payload_bytes
    bodies = await publishing.read_batch(request)
    await services.publish_rate.take(caller, len(bodies))
    gids = {
        tenant: await _tenant_gid(store, tenant, f"messages[{index}].tenant")
        for tenant, index in {body.tenant: index for index, body in enumerate(bodies)}.items()
    }
    with _traced(request) as trace:
        publications = [
            publishing.publication(
                body,
                name,
                gids[body.tenant],
                f"{idempotency_key}[{index}]" if idempotency_key is not None and body.idempotency_key is None else None,
                limit,
                at=f"messages[{index}].",
                traceparent=trace,
            )
            for index, body in enumerate(bodies)
        ]
        acceptances = await services.acceptor.accept_all(publications)
        for acceptance in acceptances:
            if isinstance(acceptance, UnknownChannel):
                raise _refusal(acceptance)
        for acceptance in acceptances:
            if isinstance(acceptance, Accepted):
                services.dispatcher.dispatch(acceptance.new)
    return _answer({"data": [_answer_or_problem(acceptance, index) for index, acceptance in enumerate(acceptances)]})


@router.get("/messages")
async def list_messages(
    paging: Paging,
    store: Store,
    channel: Several[Name] = None,
    type: Several[EventType] = None,
    tenant: Several[Name] = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> ListOf[MessageOut]:
    """Newest first, without payloads."""
    async with store.reading() as session:
        tenant_gids = await tenants.chosen_gids(session, tenant)
        chosen = messages.MessageFilter(tenant_gids, several(channel), several(type), since, until)
        page = await messages.page(session, chosen, after=paging.after, limit=paging.limit)
        names = await tenants.names(session, {row.tenant_gid for row in page.rows if row.tenant_gid})
    data = [MessageOut(**render.message(row, names.get(row.tenant_gid or ""))) for row in page.rows]
    return ListOf(data=data, next_cursor=paging.next_cursor(page.next_key))


@router.get("/messages/{gid}", response_model=MessageDetail)
async def get_message(gid: Gid, store: Store) -> Response:
    """One message with its payload, its newest deliveries, and how many of all are in which status."""
    async with store.reading() as session:
        row = await messages.get(session, gid)
        if row is None:
            raise not_found("message", gid)
        names = await tenants.names(session, {row.tenant_gid} if row.tenant_gid else set())
        counts = await deliveries.counts_of_message(session, gid)
        page = await deliveries.page(session, DeliveryFilter(message_gid=gid), after=None, limit=MAX_DELIVERIES)
    detail = MessageDetail(
        **render.message(row, names.get(row.tenant_gid or "")),
        payload=None,
        delivery_counts=counts,
        deliveries=render.summaries(page.rows),
        more_deliveries=page.next_key is not None,
    )
    return render.with_payload(detail, row.payload)


@router.delete("/messages/{gid}/payload", status_code=HTTPStatus.NO_CONTENT)
async def erase_payload(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Erase its content at once: the payload, and what endpoints answered to it. Hashes and receipts stay.

    Deliveries that are still open become dead letters as `payload_erased`, without another request. Those that already
    are dead letters cannot be replayed any more.
    """
    async with store.writing() as session:
        if not await erasure.erase_payload(session, gid):
            raise not_found("message", gid)
        record_audit(session, caller.actor, "message.payload_erased", gid)
    await erasure.erase_responses(Bulk(services.database), [gid])
    await _wake(services, gid)


async def _wake(services: Services, message_gid: str) -> None:
    """Have a message's deliveries find out now what they would find out at their next step."""
    async with services.database.read_connection() as connection:
        waiting = await load_inputs(connection, services.defaults, erasure.still_to_send(message_gid), WOKEN)
    try:
        async with asyncio.timeout(WAKE_TIMEOUT_S):
            answers = await asyncio.gather(
                *(wake_delivery(services.temporal, input) for input in waiting), return_exceptions=True
            )
    except TimeoutError as error:
        answers = [error]
    if failed := [answer for answer in answers if answer is not None]:
        log.info("some deliveries find out later that their payload was erased", error=str(failed[0]))


@contextmanager
def _traced(request: Request) -> Iterator[TraceParent | None]:
    """The trace that what is published here belongs to: the caller's, with a span of ours where spans are sent."""
    parent = parse(request.headers.get("traceparent"))
    with span("publish", parent, serves=True) as current:
        yield current.traceparent or parent


def _refuse_reserved(channel: str) -> None:
    """Whoever subscribes there must be able to believe what comes."""
    if is_reserved(channel):
        raise Problem(problem_types.RESERVED_CHANNEL, f"Only Everhook itself publishes to {channel}.")


async def _tenant_gid(store: TenantScope, named: str | None, field: str) -> str | None:
    """Whom a message is for; what a tenant's key publishes is for that tenant."""
    if named is None:
        return store.tenant_gid
    async with store.reading() as session:
        tenant = await tenants.find_tenant(session, named)
    if tenant is None:
        raise invalid(field, f"there is no tenant {named[:100]!r}")
    return tenant.gid


def _refusal(acceptance: UnknownChannel | KeyReused) -> Problem:
    if isinstance(acceptance, UnknownChannel):
        return not_found("channel", acceptance.channel)
    return conflict(f"idempotencyKey: {_reused(acceptance)}. Nothing was published.")


def _reused(acceptance: KeyReused) -> str:
    return f"was used for {acceptance.message_gid} with another body"


def _accepted(acceptance: Accepted) -> dict[str, Any]:
    return {
        "messageGid": acceptance.message_gid,
        "channelName": acceptance.channel,
        "type": acceptance.event_type,
        "publishedAt": timestamp(acceptance.published_at),
        "duplicate": acceptance.duplicate,
        "deliveries": [
            {"deliveryGid": d.delivery_gid, "endpointGid": d.endpoint_gid, "status": d.status.value}
            for d in acceptance.deliveries
        ],
    }


def _answer_or_problem(acceptance: Acceptance, index: int) -> dict[str, Any]:
    if isinstance(acceptance, Accepted):
        return _accepted(acceptance)
    if isinstance(acceptance, KeyReused):
        detail = f"messages[{index}].idempotencyKey: {_reused(acceptance)}. This message was not published."
        return conflict(detail).document().model_dump()
    return _refusal(acceptance).document().model_dump()


def _answer(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), status_code=HTTPStatus.ACCEPTED, media_type="application/json")
