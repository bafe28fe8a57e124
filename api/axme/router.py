"""The calls of AXME's clients. Bodies are read raw, so the key is checked before a body is read."""

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response

from api import patterns, problem_types
from api.axme import mapping
from api.axme.schemas import decode_intent, decode_resolve, decode_resume
from api.axme.streams import OPENED, TIMEOUT, agent_event, intent_event
from api.callers import CONSUMERS, DECIDERS, OWNED, PUBLISHERS, Access, Caller
from api.decoding import checked_utf8, decoded
from api.dependencies import Principal, ServicesDep, Store
from api.event_stream import EventStream, permission
from api.idempotency import IdempotencyKey, refuse_second
from api.problems import Problem, invalid, rate_headers
from everhook.axme.intents import Intent, IntentStatus
from everhook.axme.service import IntentViewer, Settled
from everhook.errors import NotFound
from everhook.inbox.tasks import Person
from everhook.observability.trace_context import parse
from everhook.tenants.api_keys_store import Scope

router = APIRouter()

MAX_WAIT_S = 60
MAX_REASON = 2_000

Since = Annotated[int, Query(ge=0, le=2**53)]
WaitSeconds = Annotated[int, Query(ge=1)]
Limit = Annotated[int, Query(ge=1, le=500)]
Part = Annotated[str, Query(pattern=patterns.NO_NUL)]
"""A part of an agent's address."""


@router.get("/health")
async def health() -> Response:
    return _json({"ok": True})


@router.post("/v1/intents")
async def create_intent(
    request: Request,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Send an intent. 200 means that it is committed."""
    PUBLISHERS.check(caller, request.method)
    if idempotency_key is not None:
        refuse_second(request)
    quotas = await services.intents.admit(caller.actor)
    new = mapping.new_intent(decoded(decode_intent, await request.body()), idempotency_key)
    intent = await services.intents.send(
        store,
        caller.actor,
        new,
        creates_tenants=Scope.ADMIN in caller.scopes,
        trace=parse(request.headers.get("traceparent")),
        quotas=quotas,
    )
    shown = mapping.shown_intent(intent)
    names = ("intent_id", "status", "lifecycle_status", "created_at")
    return _json({"ok": True, **{name: shown[name] for name in names}}, rate_headers(quotas))


@router.get("/v1/intents/{intent_id}")
async def get_intent(intent_id: str, services: ServicesDep, store: Store, caller: Principal) -> Response:
    """An intent, also as members of the response: AXME's own examples read both."""
    shown = mapping.shown_intent(await services.intents.find(store, _viewer(caller), _id(intent_id)))
    return _json({"ok": True, "intent": shown, **shown})


@router.get("/v1/intents/{intent_id}/events")
async def list_events(
    intent_id: str, services: ServicesDep, store: Store, caller: Principal, since: Since = 0
) -> Response:
    intent = await services.intents.find(store, _viewer(caller), _id(intent_id))
    events = [mapping.shown_event(str(intent.id), event) for event in intent.events() if event.seq > since]
    return _json({"ok": True, "events": events})


@router.get("/v1/intents/{intent_id}/events/stream")
async def stream_events(
    intent_id: str,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    since: Since = 0,
    wait_seconds: WaitSeconds = 15,
) -> EventStream:
    id = _id(intent_id)
    wait_s = min(wait_seconds, MAX_WAIT_S)
    stream = await services.intents.follow(store, _viewer(caller), id, since=since, wait_s=wait_s)
    return EventStream(stream, partial(intent_event, str(id)), first=OPENED, last=TIMEOUT)


@router.get("/v1/agents/{tenant}/{workspace}/{name}/intents/stream")
async def stream_intents(
    tenant: str,
    workspace: str,
    name: str,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    since: Since = 0,
    wait_seconds: WaitSeconds = 15,
    status: str | None = None,
) -> EventStream:
    """Receive intents as an agent. A key for one endpoint does not create it."""
    _check_status(status)
    address = f"{tenant}/{workspace}/{name}"
    if CONSUMERS.admits(caller, "POST"):
        creates = Scope.ADMIN in caller.scopes
        agent = await services.intents.agent(store, caller.actor, address, "address", creates_tenants=creates)
    else:
        _require_bound(caller)
        agent = await services.intents.agent(store, caller.actor, address, "address", None)
        CONSUMERS.check(caller, "POST", agent.gid)

    stream = await services.intents.listen(
        store,
        agent,
        since=since,
        wait_s=min(wait_seconds, MAX_WAIT_S),
        name=caller.name,
        address=caller.address,
        may_continue=permission(
            services, caller, store, lambda session: services.endpoints.can_be_pulled(session, agent.gid)
        ),
    )
    return EventStream(stream, agent_event)


@router.post("/v1/intents/{intent_id}/resume")
async def resume_intent(
    intent_id: str, request: Request, services: ServicesDep, store: Store, caller: Principal
) -> Response:
    """Complete or fail an intent, or decide its task. Without `action` the body is the result."""
    intent = await services.intents.find(store, _viewer(caller), _id(intent_id))
    _check_may_settle(caller, intent, DECIDERS)
    body = decoded(decode_resume, await request.body())
    if "task_result" in body:
        decided = mapping.task_result(body["task_result"])
        person = Person(caller.name, caller.key_gid, caller.address, inboxes=caller.inboxes)
        comment = decided.comment or ""
        settled = await services.intents.decide(store, person, intent, decided.outcome, comment, decided.data)
        return _settled(settled)
    action = mapping.text_of(body["action"]) if "action" in body else "complete"
    if action == "complete":
        result = mapping.result_of_resume(body)
        return _settled(await services.intents.complete(store, caller.actor, intent, result))
    if action == "fail":
        return _settled(await services.intents.fail(store, caller.actor, intent, mapping.reason_of(body)))
    raise invalid("action", "is `complete` or `fail`")


@router.post("/v1/intents/{intent_id}/resolve")
async def resolve_intent(
    intent_id: str, request: Request, services: ServicesDep, store: Store, caller: Principal
) -> Response:
    """Settle an intent without a lease. Its sender may cancel it."""
    intent = await services.intents.find(store, _viewer(caller), _id(intent_id))
    body = decoded(decode_resolve, await request.body())
    if body.reason is not None and len(body.reason) > MAX_REASON:
        raise invalid("reason", f"takes at most {MAX_REASON} characters")
    if body.reason is not None and "\0" in body.reason:
        raise invalid("reason", patterns.WORDS[patterns.NO_NUL])
    if body.status == IntentStatus.CANCELED and _is_sender(caller, intent):
        return _settled(await services.intents.cancel(store, caller.actor, intent, body.reason or ""))
    _check_may_settle(caller, intent, OWNED)
    if body.status == IntentStatus.CANCELED:
        return _settled(await services.intents.cancel(store, caller.actor, intent, body.reason or ""))
    if body.status == IntentStatus.COMPLETED:
        result = mapping.checked_result(bytes(body.result))
        return _settled(await services.intents.complete(store, caller.actor, intent, result))
    if body.status == IntentStatus.FAILED:
        reason = body.reason or checked_utf8(bytes(body.error or body.result), "error").decode()
        return _settled(await services.intents.fail(store, caller.actor, intent, reason))
    raise invalid("status", "is COMPLETED, FAILED or CANCELED")


@router.get("/v1/agents")
async def list_agents(
    services: ServicesDep, store: Store, caller: Principal, org_id: Part, workspace_id: Part, limit: Limit = 100
) -> Response:
    """`org_id` is the name of a tenant."""
    OWNED.check(caller, "GET")
    rows = await services.intents.agents(store, org_id, workspace_id, limit)
    return _json({"ok": True, "agents": [mapping.shown_agent(row) for row in rows]})


@router.get("/v1/agents/{tenant}/{workspace}/{name}")
async def get_agent(
    tenant: str, workspace: str, name: str, services: ServicesDep, store: Store, caller: Principal
) -> Response:
    OWNED.check(caller, "GET")
    agent = await services.intents.agent(store, caller.actor, f"{tenant}/{workspace}/{name}", "address", None)
    return _json({"ok": True, "agent": mapping.shown_agent(await services.intents.endpoint(store, agent.gid))})


def _json(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), HTTPStatus.OK, headers, media_type="application/json")


def _settled(settled: Settled) -> Response:
    intent = settled.intent
    shown, latest = mapping.shown_intent(intent), mapping.shown_event(str(intent.id), intent.latest)
    reply: dict[str, Any] = {"delivered": settled.reply_gid is not None}
    if intent.envelope.reply_to is None:
        reply["reason"] = "reply_to_not_set"
    else:
        reply["reply_to"] = intent.envelope.reply_to
    return _json(
        {"ok": True, "intent_id": str(intent.id), "status": shown["status"], "intent": shown, "event": latest}
        | {"completion_delivery": reply}
    )


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound("intent", text[:100]) from error


def _check_status(wanted: str | None) -> None:
    open_ones = [status.value for status in IntentStatus if not status.is_terminal] + ["ACKNOWLEDGED"]
    if wanted and not {each.strip() for each in wanted.split(",")} & set(open_ones):
        raise invalid("status", f"is one or more of {', '.join(open_ones)}: only what is to be done is streamed")


def _viewer(caller: Caller) -> IntentViewer:
    """The intents that a caller may see; the caller's tenant limits them further."""
    if not caller.scopes.isdisjoint({Scope.ADMIN, Scope.READ, Scope.TENANT}):
        return IntentViewer()
    if Scope.PUBLISH in caller.scopes:
        return IntentViewer(publisher_gid=caller.key_gid or "")
    return IntentViewer(endpoint_gids=_require_bound(caller))


def _require_bound(caller: Caller) -> frozenset[str]:
    """The endpoints that a key receives or decides for. Raises 403 if there are none."""
    found = frozenset(each.endpoint_gid for each in caller.bound)
    if not found:
        raise Problem(problem_types.FORBIDDEN, "This needs a key with the scope `receive:<gid>` or `tenant:<gid>`.")
    return found


def _check_may_settle(caller: Caller, intent: Intent, of_people: Access) -> None:
    access = of_people if intent.is_for_people else CONSUMERS
    access.check(caller, "POST", intent.endpoint_gid)


def _is_sender(caller: Caller, intent: Intent) -> bool:
    return Scope.PUBLISH in caller.scopes and caller.key_gid is not None and intent.published_by == caller.key_gid
