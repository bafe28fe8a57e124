"""Use cases of AXME's clients: send an intent to an agent, listen as an agent, settle, and follow what becomes of it.

An intent is a message with one delivery, to the endpoint of its agent. All that holds for messages and deliveries holds
for it.
"""

import hashlib
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import orjson

from everhook.audit.store import Actor, record_audit
from everhook.axme import store
from everhook.axme.addresses import SCHEME, AgentAddress, consumer_gid
from everhook.axme.intents import (
    CHANNEL,
    COMPLETION_TYPE,
    Envelope,
    Intent,
    IntentEvent,
    IntentStatus,
)
from everhook.contracts import DeliveryMode, DeliveryStatus, OperatorAction
from everhook.decisions.service import SubmittedDecision, TaskService
from everhook.delivery.store import discard
from everhook.delivery.store import get as get_delivery
from everhook.endpoints.service import EndpointService, NewEndpoint
from everhook.errors import Conflict, EndpointDeleted, InvalidField, NotFound, Quota, QuotaExceeded
from everhook.ids import Kind, gid_of, new_gid, uuid_of
from everhook.inbox.deadlines_store import cancel
from everhook.inbox.tasks import Person
from everhook.lifecycle.service import LifecycleService
from everhook.observability.trace_context import TraceParent
from everhook.publishing.publication import Accepted, Publication
from everhook.publishing.routing import Route
from everhook.publishing.rows import Publisher
from everhook.publishing.service import MessageService, NewMessage
from everhook.publishing.store import Acceptor
from everhook.pulling.leases import Ack, LeaseResult, LeaseStatus, Nack
from everhook.pulling.leases import Lease as QueueLease
from everhook.pulling.queue_store import expect_signal, lock_rows, withdraw
from everhook.pulling.service import PullQueue
from everhook.receipts.strict_json import format_time
from everhook.storage.engine import Connection, Database, Session, is_unavailable
from everhook.storage.tables import Endpoint, now
from everhook.storage.tenant_scope import TenantScope
from everhook.streaming.service import PullStream, PullStreams, StreamRequest
from everhook.tenants import store as tenants

AGENT_OPTIONS: Mapping[str, Any] = {"leaseSeconds": 300, "maxInFlight": 16}
"""Of an agent that is created at its first use. AXME's client extends no leases, and buffers what it received."""

MAX_AGENTS = 10_000
"""For each tenant. A sender creates agents by naming them, so there is a limit."""

MAX_PREFETCH = 500
MAX_REASON = 1_000
CHECK_S = 5.0
"""How often a stream of events reads its intent if nothing wakes it: a hand-out does not."""

OUTAGE_PAUSE_S = 1.0

_TYPE = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)+\.v[0-9]+")
_MIN_LEFT = timedelta(seconds=1)
_LATEST = datetime(9999, 12, 30, tzinfo=UTC)
"""What is later may have no time in UTC."""
_OPEN = (DeliveryStatus.AVAILABLE, DeliveryStatus.AWAITING_DECISION)


@dataclass(frozen=True)
class NewIntent:
    """An intent to send. `payload` is a JSON object. `task` is for people, as `everhook/inbox/tasks.py` spells it."""

    intent_type: str
    correlation_id: str
    to_agent: str
    payload: bytes
    reply_to: str | None = None
    deadline_at: datetime | None = None
    task: Mapping[str, Any] | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class IntentViewer:
    """Who looks at intents: `publisher_gid` sees what was sent with this key, `endpoint_gids` what is for these
    endpoints; None sees everything."""

    publisher_gid: str | None = None
    endpoint_gids: frozenset[str] | None = None

    def may_see(self, intent: Intent) -> bool:
        if self.endpoint_gids is not None:
            return intent.endpoint_gid in self.endpoint_gids
        return self.publisher_gid is None or intent.published_by == self.publisher_gid


@dataclass(frozen=True)
class Agent:
    address: AgentAddress
    gid: str
    mode: DeliveryMode


@dataclass(frozen=True)
class Settled:
    """An intent after a call that settles it, and the reply that was sent in the same transaction, if any."""

    intent: Intent
    reply_gid: str | None = None


class IntentService:
    """One for each process."""

    def __init__(
        self,
        database: Database,
        messages: MessageService,
        endpoints: EndpointService,
        acceptor: Acceptor,
        pulls: PullQueue,
        streams: PullStreams,
        tasks: TaskService,
        lifecycle: LifecycleService,
    ) -> None:
        self._everything = TenantScope(database)
        self._messages = messages
        self._endpoints = endpoints
        self._acceptor = acceptor
        self._pulls = pulls
        self._streams = streams
        self._tasks = tasks
        self._lifecycle = lifecycle

    async def admit(self, actor: Actor) -> list[Quota]:
        """Count one intent of the sender, before it is read; what is left to its key. Raises BacklogFull and
        RateLimited."""
        return await self._messages.admit(actor, CHANNEL)

    async def send(
        self,
        scope: TenantScope,
        actor: Actor,
        new: NewIntent,
        *,
        creates_tenants: bool,
        trace: TraceParent | None = None,
        quotas: list[Quota] | None = None,
    ) -> Intent:
        """Send an intent that was admitted. Returns once it is committed. The same idempotency key with the same
        intent returns the first one. What is left to the tenant of the agent is added to `quotas`.

        Raises InvalidField, PayloadTooLarge, NotFound for the agent, QuotaExceeded and IdempotencyKeyReused.
        """
        _check(new)
        mode = DeliveryMode.INBOX if new.task is not None else DeliveryMode.STREAM
        agent = await self.agent(scope, actor, new.to_agent, "to_agent", mode, creates_tenants=creates_tenants)
        if new.task is not None:
            _require_inbox(agent, "human_task")
            new = replace(new, task=await self._with_inbox(scope, actor, new.task, agent.address))
        if new.reply_to is not None:
            reply_to = await self.agent(scope, actor, new.reply_to, "reply_to", creates_tenants=creates_tenants)
            new = replace(new, reply_to=str(reply_to.address))
        async with scope.reading() as session:
            route, owner = await self._route(session, agent.gid)
        if new.deadline_at is not None:
            left = new.deadline_at - datetime.now(UTC)
            route = replace(route, policy=replace(route.policy, max_window=min(left, route.policy.max_window)))
        message = NewMessage(
            _envelope(new, agent.address, actor),
            new.intent_type,
            new.idempotency_key,
            task=new.task,
        )
        accepted = await self._messages.publish_to(actor, CHANNEL, message, owner, route, trace, quotas)
        async with scope.reading() as session:
            return await self._found(session, IntentViewer(), uuid_of(accepted.message_gid))

    async def _with_inbox(
        self, scope: TenantScope, actor: Actor, task: Mapping[str, Any], asked: AgentAddress
    ) -> Mapping[str, Any]:
        """A task whose escalation has the gid of an inbox in place of its address. Without an address it stays."""
        escalation = task.get("escalation")
        if escalation is None or not escalation["to"].startswith(SCHEME):
            return task
        address = AgentAddress.parse(escalation["to"], "escalate_to")
        if address.tenant != asked.tenant:
            raise InvalidField("escalate_to", f"is an address of another tenant than {asked}")
        inbox = await self.agent(scope, actor, str(address), "escalate_to", DeliveryMode.INBOX)
        _require_inbox(inbox, "escalate_to")
        return {**task, "escalation": {**escalation, "to": inbox.gid}}

    async def agent(
        self,
        scope: TenantScope,
        actor: Actor,
        text: str,
        field: str,
        mode: DeliveryMode | None = DeliveryMode.STREAM,
        *,
        creates_tenants: bool = False,
    ) -> Agent:
        """The agent at an address. It is created in the given mode at its first use; with None it must exist. Raises
        InvalidField, NotFound and QuotaExceeded."""
        address = AgentAddress.parse(text, field)
        async with scope.reading() as session:
            tenant = await tenants.find_tenant(session, address.tenant)
            if tenant is not None:
                found, _ = await _existing(session, address, tenant.gid)
                if found is not None:
                    return found
        if mode is None or (tenant is None and not creates_tenants):
            raise NotFound("agent", str(address))
        return await self._create(scope, actor, address, mode)

    async def _create(self, scope: TenantScope, actor: Actor, address: AgentAddress, mode: DeliveryMode) -> Agent:
        options = {"name": address.name[:100]} if mode is DeliveryMode.INBOX else dict(AGENT_OPTIONS)
        new = NewEndpoint(mode=mode, tenant=address.tenant, description=str(address), options=options)
        checked = await self._endpoints.check(new, scope.tenant_gid)
        async with scope.writing() as session:
            tenant = await tenants.ensure_tenant(session, address.tenant)
            if tenant is None:
                raise NotFound("agent", str(address))
            await store.lock_tenant(session, tenant.gid)
            found, free = await _existing(session, address, tenant.gid)
            if found is not None:
                return found
            if free is None:
                raise EndpointDeleted(f"{address} was deleted too often to be created again. Use another address.")
            if await store.count_agents(session, tenant.gid, MAX_AGENTS) >= MAX_AGENTS:
                raise QuotaExceeded(f"{address.tenant} has {MAX_AGENTS} agents already.")
            chosen = replace(checked, columns={**checked.columns, "gid": free})
            await self._endpoints.create(session, actor, chosen)
            return Agent(address, free, mode)

    async def agents(self, scope: TenantScope, tenant: str, workspace: str, limit: int) -> Sequence[Endpoint]:
        """The agents of a workspace, as their descriptions name it; none for a tenant that does not exist."""
        prefix = f"{SCHEME}{tenant}/{workspace}/"
        async with scope.reading() as session:
            owner = await tenants.find_tenant(session, tenant)
            return await store.agents(session, owner.gid, prefix, limit) if owner is not None else ()

    async def endpoint(self, scope: TenantScope, gid: str) -> Endpoint:
        """The endpoint of an agent. Raises NotFound."""
        async with scope.reading() as session:
            return (await self._endpoints.get(session, gid)).endpoint

    async def find(self, scope: TenantScope, viewer: IntentViewer, id: UUID) -> Intent:
        """Raises NotFound."""
        async with scope.reading() as session:
            return await self._found(session, viewer, id)

    async def listen(
        self,
        scope: TenantScope,
        agent: Agent,
        *,
        since: int,
        wait_s: float,
        name: str,
        address: str | None,
        may_continue: Callable[[], Awaitable[bool]],
    ) -> PullStream:
        """Open a stream of an agent. An agent has one listener at a time.

        `since` is the number of the last intent that the client received: leases with a higher number never arrived,
        and are handed out again at once. 0: the client began anew; its open leases count as expired. The numbers of
        the stream are higher than `since`. Raises NotPulled and TooManyStreams.
        """
        async with self._pulls.turns, scope.reading() as session:
            endpoint = await self._endpoints.pulled(session, agent.gid)
        holder = consumer_gid(agent.gid)
        request = StreamRequest(
            name=name,
            prefetch=min(endpoint.max_in_flight, MAX_PREFETCH),
            address=address,
            holder=holder,
            after=max(since, time.time_ns() // 1_000),
            lifetime=wait_s,
        )
        stream = self._streams.open(endpoint, request, may_continue)
        try:
            if since:
                await self._pulls.release(endpoint, holder, since)
            else:
                await self._pulls.take_back(endpoint, holder)
        except BaseException:
            stream.leave()
            raise
        return stream

    async def complete(self, scope: TenantScope, actor: Actor, intent: Intent, result: bytes) -> Settled:
        """Settle an intent as done, with or without its lease. Completing it again changes nothing. Raises Conflict."""
        return await self._settle(scope, actor, intent, IntentStatus.COMPLETED, result)

    async def fail(self, scope: TenantScope, actor: Actor, intent: Intent, reason: str) -> Settled:
        """Settle an intent as failed: a dead letter. Failing it again changes nothing. Raises Conflict."""
        return await self._settle(scope, actor, intent, IntentStatus.FAILED, orjson.dumps(reason[:MAX_REASON]))

    async def _settle(
        self, scope: TenantScope, actor: Actor, intent: Intent, status: IntentStatus, result: bytes
    ) -> Settled:
        if intent.is_for_people:
            raise Conflict("This intent asks a person: resume it with a `task_result`.")
        if _is_repeated(intent, status):
            return Settled(intent)
        delivery = intent.history.delivery
        lease = str(QueueLease(delivery.gid, delivery.round, intent.lease.number if intent.lease is not None else 1))
        line: Ack | Nack
        if status is IntentStatus.COMPLETED:
            line = Ack(lease, result, needs_open_round=True)
        else:
            line = Nack(lease, orjson.loads(result), dead_letter=True, needs_lease=False)
        async with scope.reading() as session:
            endpoint = await self._endpoints.pulled(session, delivery.endpoint_gid)
        reply = await self._reply(actor, intent, status, result)
        sent: list[Accepted] = []

        async def also(connection: Connection, results: Sequence[LeaseResult]) -> None:
            sent.clear()
            if reply is not None and _has_settled(results[0]):
                sent.append(await self._accept_reply(connection, *reply))

        (outcome,) = await self._pulls.acknowledge(endpoint, [line], actor.address, also)
        if outcome.status in (LeaseStatus.CONFLICT, LeaseStatus.LOST):
            raise Conflict(f"The intent is over: {outcome.detail or 'it is completed'}.")
        if outcome.status is LeaseStatus.UNKNOWN:
            raise NotFound("intent", str(intent.id))
        await self._pulls.extend_held(endpoint, consumer_gid(endpoint.gid))
        return await self._settled(scope, intent, sent)

    async def cancel(self, scope: TenantScope, actor: Actor, intent: Intent, reason: str) -> Settled:
        """Give an open intent up. Canceling it again changes nothing. Raises Conflict."""
        if _is_repeated(intent, IntentStatus.CANCELED):
            return Settled(intent)
        gid = intent.history.delivery.gid
        reply = await self._reply(actor, intent, IntentStatus.CANCELED, orjson.dumps(reason))
        sent: list[Accepted] = []
        async with scope.writing() as session:
            connection = await session.connection()
            row = (await lock_rows(connection, None, [gid])).get(gid)
            await withdraw(session, gid)
            await cancel(session, gid)
            delivery = await get_delivery(session, gid)
            if delivery is None:
                raise NotFound("intent", str(intent.id))
            if row is not None and row.is_round_over:
                raise Conflict("The intent is over: its delivery has failed.")
            if delivery.status not in _OPEN:  # a consumer or a person was faster
                raise Conflict(f"The intent is over: its delivery is {delivery.status}.")
            await discard(session, gid, OperatorAction(actor.name, reason[:MAX_REASON]))
            is_guarded = row is not None and row.guarded_at is not None
            has_workflow = intent.is_for_people or delivery.round > 1 or is_guarded
            if has_workflow:
                await expect_signal(connection, [gid], now())
            if reply is not None:
                sent.append(await self._accept_reply(connection, *reply))
            record_audit(session, actor, "intent.canceled", gid, tenant_gid=delivery.tenant_gid)
        if has_workflow:
            await self._pulls.signal(gid)
        return await self._settled(scope, intent, sent)

    async def decide(
        self, scope: TenantScope, person: Person, intent: Intent, outcome: str, comment: str, data: Any
    ) -> Settled:
        """Decide the task of an intent. Raises Conflict if it has none, and what `TaskService.decide` raises."""
        if intent.task_gid is None or intent.task_version is None:
            raise Conflict("This intent asks no person: it takes no `task_result`.")
        submitted = SubmittedDecision(outcome, intent.task_version, comment, data)
        await self._tasks.decide(scope, person, intent.task_gid, submitted)
        return await self._settled(scope, intent, ())

    async def _settled(self, scope: TenantScope, intent: Intent, sent: Sequence[Accepted]) -> Settled:
        for accepted in sent:
            self._messages.start(accepted)
        self._lifecycle.watch.wake([intent.message_gid])
        found = await self.find(scope, IntentViewer(), intent.id)
        return Settled(found, sent[0].message_gid if sent else None)

    async def _route(self, session: Session, endpoint_gid: str) -> tuple[Route, str]:
        """The route to an agent, and its tenant."""
        route = await self._endpoints.route_to(session, endpoint_gid)
        return route, route.tenant_gid

    async def _reply(
        self, actor: Actor, intent: Intent, status: IntentStatus, result: bytes
    ) -> tuple[Publication, Route] | None:
        """What the agent at `reply_to` is sent once the intent is settled. None if there is no such agent (any more).

        It may be another tenant's than the one that settles: the sender named it, and could reach it.
        """
        if intent.envelope.reply_to is None:
            return None
        address = AgentAddress.parse(intent.envelope.reply_to, "reply_to")
        async with self._everything.reading() as session:
            tenant = await tenants.find_tenant(session, address.tenant)
            found = (await _existing(session, address, tenant.gid))[0] if tenant is not None else None
            if found is None:
                return None
            route, owner = await self._route(session, found.gid)
        return _completion(intent, status, result, address, actor, owner), route

    async def _accept_reply(self, connection: Connection, publication: Publication, route: Route) -> Accepted:
        accepted = await self._acceptor.accept_for_within(connection, publication, route)
        assert isinstance(accepted, Accepted)  # it has no idempotency key
        return accepted

    async def _found(self, session: Session, viewer: IntentViewer, id: UUID) -> Intent:
        rows = await store.intent_rows(session, gid_of(Kind.MESSAGE, id), CHANNEL)
        if rows is None:
            raise NotFound("intent", str(id))
        intent = _intent(rows)
        if not viewer.may_see(intent):
            raise NotFound("intent", str(id))
        return intent

    async def follow(
        self, scope: TenantScope, viewer: IntentViewer, id: UUID, *, since: int, wait_s: float
    ) -> "IntentStream":
        """Open a stream of the events of an intent after a number. It ends with the intent, or after `wait_s`. Raises
        NotFound and TooManyStreams."""
        await self.find(scope, viewer, id)
        self._lifecycle.take("streams", self._lifecycle.limits.streams)
        return IntentStream(self, self._lifecycle, scope, id, since, wait_s)


class IntentStream:
    """One stream of the events of an intent."""

    def __init__(
        self,
        service: IntentService,
        lifecycle: LifecycleService,
        scope: TenantScope,
        id: UUID,
        since: int,
        wait_s: float,
    ) -> None:
        self._service = service
        self._lifecycle = lifecycle
        self._scope = scope
        self._id = id
        self._since = since
        self._ends_at = time.monotonic() + wait_s
        self._has_left = False

    def leave(self) -> None:
        """The client has left: `events` ends soon."""
        if not self._has_left:
            self._has_left = True
            self._lifecycle.give_back("streams")
            self._lifecycle.watch.wake([gid_of(Kind.MESSAGE, self._id)])

    async def events(self) -> AsyncGenerator[IntentEvent]:
        """The events. When the generator continues, the last one was written."""
        try:
            with self._lifecycle.watch.watching(gid_of(Kind.MESSAGE, self._id)) as waiter:
                while True:
                    new, pause = await self._new()
                    for event in new:
                        if self._has_left:
                            return
                        yield event
                        self._since = event.seq
                        if event.status.is_terminal and event is new[-1]:
                            return
                    left = self._ends_at - time.monotonic()
                    if left <= 0 or self._has_left or self._lifecycle.is_ending:
                        return
                    await waiter.wait(min(left, pause))
        finally:
            self.leave()

    async def _new(self) -> tuple[Sequence[IntentEvent], float]:
        """The events after the last one that was written, and how long to wait for a wake-up at most."""
        try:
            intent = await self._service.find(self._scope, IntentViewer(), self._id)
        except NotFound:  # it was erased
            self._ends_at = 0
            return (), 0
        except Exception as error:
            if not is_unavailable(error):
                raise
            return (), OUTAGE_PAUSE_S
        pause = CHECK_S
        deadline = intent.envelope.deadline_at
        if deadline is not None and deadline > intent.asked_at:
            pause = min(pause, max((deadline - intent.asked_at).total_seconds(), 0.01))
        return [event for event in intent.events() if event.seq > self._since], pause


async def _existing(session: Session, address: AgentAddress, tenant_gid: str) -> tuple[Agent | None, str | None]:
    """The agent at an address, and otherwise the gid for a new one; that is None if too many were deleted."""
    gids = address.endpoint_gids(tenant_gid)
    rows = await store.agent_rows(session, gids)
    for gid in gids:
        row = rows.get(gid)
        if row is None:
            return None, gid
        if not row.is_deleted:
            return Agent(address, gid, row.mode), None
    return None, None


def _require_inbox(agent: Agent, field: str) -> None:
    if agent.mode is not DeliveryMode.INBOX:
        raise InvalidField(field, f"{agent.address} is an agent; people need an address of their own")


def _check(new: NewIntent) -> None:
    if not _TYPE.fullmatch(new.intent_type) or len(new.intent_type) > 128:
        raise InvalidField("intent_type", "is a name such as order.fulfillment.v1, of at most 128 characters")
    try:
        UUID(new.correlation_id)
    except ValueError as error:
        raise InvalidField("correlation_id", "is a UUID") from error
    if new.payload.lstrip()[:1] != b"{":
        raise InvalidField("payload", "is an object")
    if new.deadline_at is not None:
        if new.deadline_at.tzinfo is None:
            raise InvalidField("deadline_at", "must name its offset from UTC, such as `Z`")
        if new.deadline_at <= datetime.now(UTC) + _MIN_LEFT:
            raise InvalidField("deadline_at", "lies in the past, or is less than a second away")
        if new.deadline_at > _LATEST:
            raise InvalidField("deadline_at", "is later than 9999-12-30")


def _envelope(new: NewIntent, to: AgentAddress, actor: Actor) -> bytes:
    """The payload of the message. The same call gives the same bytes: they are compared for an idempotency key."""
    whole: dict[str, Any] = {
        "correlation_id": new.correlation_id,
        "from_agent": f"key:{actor.name}",
        "to_agent": str(to),
        "reply_to": new.reply_to,
        "deadline_at": format_time(new.deadline_at) if new.deadline_at is not None else None,
    }
    return _with_payload({name: value for name, value in whole.items() if value is not None}, new.payload)


def _with_payload(envelope: Mapping[str, Any], payload: bytes) -> bytes:
    """With the very bytes that came: written anew, repeated keys and huge numbers would not survive."""
    return orjson.dumps(dict(envelope))[:-1] + b',"payload":' + payload + b"}"


def _completion(
    intent: Intent, status: IntentStatus, result: bytes, to: AgentAddress, actor: Actor, tenant_gid: str
) -> Publication:
    name = "result" if status is IntentStatus.COMPLETED else "reason"
    payload = orjson.dumps(
        {
            "intent_id": str(intent.id),
            "intent_type": intent.intent_type,
            "status": status.value,
            name: orjson.Fragment(result),
        }
    )
    envelope = {
        "correlation_id": intent.envelope.correlation_id,
        "from_agent": intent.envelope.to_agent,
        "to_agent": str(to),
    }
    content = _with_payload(envelope, payload)
    return Publication(
        message_gid=new_gid(Kind.MESSAGE),
        channel=CHANNEL,
        event_type=COMPLETION_TYPE,
        payload=content,
        content=None,
        body_sha256=hashlib.sha256(content).hexdigest(),
        published_at=datetime.now(UTC),
        tenant_gid=tenant_gid,
        publisher=Publisher(actor.key_gid, actor.name),
    )


def _intent(rows: store.IntentRows) -> Intent:
    message = rows.message
    return Intent(
        message_gid=message.gid,
        tenant_gid=message.tenant_gid,
        published_by=message.published_by,
        intent_type=message.event_type,
        envelope=_parsed(message.payload),
        history=rows.history,
        asked_at=datetime.now(UTC),
        lease=rows.lease,
        last_response=rows.last_response,
        task_gid=rows.task.gid if rows.task is not None else None,
        task_version=rows.task.version if rows.task is not None else None,
    )


def _has_settled(result: LeaseResult) -> bool:
    return not result.duplicate and result.status in (LeaseStatus.ACKED, LeaseStatus.NACKED)


def _is_repeated(intent: Intent, status: IntentStatus) -> bool:
    """Whether the intent has the status already. Raises Conflict if it is over with another."""
    latest = intent.latest.status
    if latest.is_terminal and latest is not status:
        raise Conflict(f"The intent is {latest} already.")
    return latest is status


class _EnvelopeBody(msgspec.Struct, frozen=True):
    payload: msgspec.Raw
    correlation_id: str = ""
    from_agent: str = ""
    to_agent: str = ""
    reply_to: str | None = None
    deadline_at: datetime | None = None


_decode = msgspec.json.Decoder(_EnvelopeBody)


def _parsed(payload: bytes | None) -> Envelope:
    """The envelope that a message holds: empty once its payload was erased, or if it is not from here."""
    if payload is None:
        return Envelope()
    try:
        body = _decode.decode(payload)
    except msgspec.DecodeError:
        return Envelope(payload=payload)
    return Envelope(
        body.correlation_id, body.from_agent, body.to_agent, body.reply_to, body.deadline_at, bytes(body.payload)
    )
