"""Use cases of messages: publish them, list and show them, erase what they hold."""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from async_lru import alru_cache

from everhook.audit.store import Actor, record_audit
from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.delivery import store as deliveries
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.inputs_store import InputDefaults, load_inputs
from everhook.delivery.starts import wake_delivery
from everhook.delivery.store import DeliveryFilter
from everhook.errors import (
    IdempotencyKeyReused,
    InvalidField,
    MalformedPayload,
    NotFound,
    PayloadTooLarge,
    Quota,
    ReservedChannel,
)
from everhook.field_errors import MISSING, PATTERN
from everhook.ids import Kind, is_gid, new_gid
from everhook.inbox.tasks import parse_spec
from everhook.notifications.events import is_reserved
from everhook.observability.trace_context import TraceParent
from everhook.observability.tracing import span
from everhook.publishing import erasure_store as erasure
from everhook.publishing import gate_progress_store as gates
from everhook.publishing import schedules_store as schedules
from everhook.publishing import store as messages
from everhook.publishing.backlog import Backlog
from everhook.publishing.gate_progress_store import Ending, GateView
from everhook.publishing.gates import parse_gates
from everhook.publishing.json_faults import why_not_json
from everhook.publishing.matching import parse_exactly
from everhook.publishing.options import delivery_time, parse_attributes
from everhook.publishing.publication import (
    Acceptance,
    Accepted,
    KeyReused,
    PayloadRefused,
    Publication,
    Refused,
    UnknownChannel,
)
from everhook.publishing.publish_rate import Limit, PublishRate
from everhook.publishing.routing import Route
from everhook.publishing.rows import Publisher
from everhook.publishing.schedules import MessageSchedules
from everhook.publishing.store import NO_ENDPOINT, Acceptor, MessageFilter
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database, Session
from everhook.storage.paging import Page, any_of
from everhook.storage.tables import Delivery, Message, now
from everhook.storage.tenant_scope import TenantScope
from everhook.temporal.client import TemporalClient
from everhook.tenants import store as tenants

WOKEN = 200
WAKE_TIMEOUT_S = 2.0
"""After an erasure this many deliveries of the message are woken, for at most this long; the others find out at their
next step."""

ERASED = "the payload was erased"

RATES_CACHED = 10_000
RATE_CACHED_S = 5.0
"""How often the rate of a tenant is read for messages to one endpoint, which name no tenant."""

# For `fullmatch`: `$` would accept a line feed at the end, and types become headers.
_EVENT_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")
_KEY = re.compile(r"[^\x00-\x1f\x7f]{1,255}")
_GROUP_KEY = re.compile(r"[^\x00-\x1f\x7f]{1,128}")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to publish. `payload` is JSON, delivered as these very bytes; `tenant` is a name or a gid.

    `task` is for the inboxes among its endpoints: see `everhook/inbox/tasks.py`. `gates` replace those of the channel:
    see `everhook/publishing/gates.py`. `metadata`, `deliver_at` and `delay_seconds`: see
    `everhook/publishing/options.py`. `endpoint_gid`: to this endpoint alone, regardless of subscriptions. Without
    `retry` a delivery has one attempt. `group_key`: see `everhook/ordering/store.py`."""

    payload: bytes
    type: str | None = None
    idempotency_key: str | None = None
    tenant: str | None = None
    published_at: datetime | None = None
    task: Any = None
    gates: Sequence[Any] | None = None
    metadata: Mapping[str, Any] | None = None
    endpoint_gid: str | None = None
    retry: bool = True
    deliver_at: datetime | None = None
    delay_seconds: float | None = None
    group_key: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What belongs to the body that an idempotency key stands for, apart from payload, type, task and gates."""
        given = {
            "metadata": self.metadata,
            "endpointGid": self.endpoint_gid,
            "retry": self.retry if not self.retry else None,
            "deliverAt": self.deliver_at.isoformat() if self.deliver_at is not None else None,
            "delaySeconds": self.delay_seconds,
            "groupKey": self.group_key,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class MessageQuery:
    """Which messages: every part given must hold, by any of its values. `tenants` are names. `since` and `until` bound
    the time of acceptance: from, and before. `unrouted`: only those that no endpoint took."""

    tenants: Sequence[str] | None = None
    channels: Sequence[str] | None = None
    types: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    unrouted: bool = False


@dataclass(frozen=True)
class MessageView:
    """A message with the name of the tenant that it is for."""

    message: Message
    tenant: str | None


@dataclass(frozen=True)
class MessageDetail:
    """A message with its newest deliveries; `counts` are of all, by status. `gate`: what they waited or wait for.
    `waits`: it has no deliveries before its time."""

    message: Message
    tenant: str | None
    counts: Mapping[DeliveryStatus, int]
    deliveries: Sequence[Delivery]
    has_more_deliveries: bool
    gate: GateView | None
    waits: bool


class MessageService:
    def __init__(
        self,
        database: Database,
        temporal: TemporalClient,
        acceptor: Acceptor,
        dispatcher: Dispatcher,
        defaults: InputDefaults,
        backlog: Backlog,
        rate: PublishRate,
        schedules: MessageSchedules,
        *,
        max_payload_bytes: int,
    ) -> None:
        self._database = database
        self._temporal = temporal
        self._acceptor = acceptor
        self._dispatcher = dispatcher
        self._defaults = defaults
        self._backlog = backlog
        self._rate = rate
        self.schedules = schedules
        self._max_payload_bytes = max_payload_bytes
        self._rate_of = alru_cache(maxsize=RATES_CACHED, ttl=RATE_CACHED_S)(self._read_rate)

    async def admit(self, actor: Actor, channel: str) -> list[Quota]:
        """Count one message of the actor, before it is read; what is left to its key. Raises ReservedChannel,
        BacklogFull and RateLimited."""
        _require_open(channel)
        self._backlog.refuse_if_full()
        return await self._rate.take(self._rate.of_key(_rate_key(actor)))

    async def admit_batch(self, actor: Actor, channel: str) -> None:
        """The same before a batch is read, which `publish_all` counts. Raises what `admit` raises."""
        _require_open(channel)
        self._backlog.refuse_if_full()
        await self._rate.refuse_if_spent(self._rate.of_key(_rate_key(actor)))

    async def publish(
        self,
        scope: TenantScope,
        actor: Actor,
        channel: str,
        message: NewMessage,
        parent: TraceParent | None = None,
        quotas: list[Quota] | None = None,
    ) -> Accepted:
        """Publish one message that was admitted. Returns once it and its deliveries are committed.

        `parent`: the trace of the call. What is left to its tenant is added to `quotas`. Raises NotFound for the
        channel, InvalidField, MalformedPayload, PayloadTooLarge, PayloadDoesNotFit, UnknownEventType, RateLimited, and
        IdempotencyKeyReused.
        """
        tenant_gid, limit = await self._tenant(scope, actor, message.tenant, "tenant")
        limits = await self._endpoint_limits(scope, [message])
        left = await self._rate.take(limit or limits.get(message.endpoint_gid))
        if quotas is not None:
            quotas += left
        with _traced(parent) as trace:
            publication = self._publication(actor, channel, message, tenant_gid, trace)
            with self._dispatcher.traffic.in_progress():
                acceptance = await self._acceptor.accept(publication)
            if not isinstance(acceptance, Accepted):
                raise _refusal(acceptance, "idempotencyKey", "Nothing was published.")
            self._start(acceptance)
        return acceptance

    async def publish_to(
        self,
        actor: Actor,
        channel: str,
        message: NewMessage,
        tenant_gid: str,
        route: Route,
        parent: TraceParent | None = None,
        quotas: list[Quota] | None = None,
    ) -> Accepted:
        """Publish one message that was admitted, to one endpoint alone, regardless of subscriptions.

        `quotas` as for `publish`. Raises InvalidField, MalformedPayload, PayloadTooLarge, PayloadDoesNotFit,
        UnknownEventType, RateLimited, IdempotencyKeyReused, and NotFound if the endpoint was deleted meanwhile.
        """
        left = await self._rate.take(self._rate.of_tenant(tenant_gid, await self._rate_of(tenant_gid)))
        if quotas is not None:
            quotas += left
        with _traced(parent) as trace:
            publication = self._publication(actor, channel, message, tenant_gid, trace)
            with self._dispatcher.traffic.in_progress():
                acceptance = await self._acceptor.accept_for(publication, route, is_checked=True)
            if not isinstance(acceptance, Accepted):
                raise _refusal(acceptance, "idempotencyKey", "Nothing was published.")
            self._dispatcher.dispatch(acceptance.new)
        return acceptance

    def start(self, accepted: Accepted) -> None:
        """Start the deliveries of a message that was accepted in the transaction of the caller, after its commit."""
        self._acceptor.wake(accepted)
        self._dispatcher.dispatch(accepted.new)

    async def publish_all(
        self,
        scope: TenantScope,
        actor: Actor,
        channel: str,
        new: Sequence[NewMessage],
        parent: TraceParent | None = None,
        quotas: list[Quota] | None = None,
    ) -> Sequence[Accepted | IdempotencyKeyReused]:
        """Publish messages in one transaction; returns what became of each, in their order. What is left to the key,
        and to the tenants, is added to `quotas`.

        A message whose idempotency key was used with another body is not published, and the others are. Raises what
        `publish` raises for everything else, and RateLimited; then nothing is published.
        """
        gids = await self._counted(scope, actor, new, quotas)
        with _traced(parent) as trace:
            publications = [
                self._publication(actor, channel, message, gids[message.tenant], trace, f"messages[{index}].")
                for index, message in enumerate(new)
            ]
            with self._dispatcher.traffic.in_progress():
                acceptances = await self._acceptor.accept_all(publications)
            for acceptance in acceptances:
                if isinstance(acceptance, UnknownChannel):
                    raise NotFound("channel", acceptance.channel)
            for acceptance in acceptances:
                if isinstance(acceptance, Accepted):
                    self._start(acceptance)
        return [_outcome(acceptance, index) for index, acceptance in enumerate(acceptances)]

    async def publish_transactional(
        self,
        scope: TenantScope,
        actor: Actor,
        new: Sequence[tuple[str, NewMessage]],
        parent: TraceParent | None = None,
        quotas: list[Quota] | None = None,
    ) -> Sequence[Accepted]:
        """Publish messages, each with its channel, all or none. `quotas` as for `publish_all`.

        Raises ReservedChannel, InvalidField, MalformedPayload, PayloadTooLarge, PayloadDoesNotFit, UnknownEventType,
        IdempotencyKeyReused, BacklogFull and RateLimited; then nothing is published.
        """
        for index, (channel, _) in enumerate(new):
            _require_open(channel, f"messages[{index}].channel: ")
            if "\0" in channel:  # PostgreSQL takes no text with it
                raise InvalidField(f"messages[{index}].channel", "has a NUL character (U+0000)", PATTERN)
        self._backlog.refuse_if_full()
        gids = await self._counted(scope, actor, [message for _, message in new], quotas)
        with _traced(parent) as trace:
            publications = [
                self._publication(actor, channel, message, gids[message.tenant], trace, f"messages[{index}].")
                for index, (channel, message) in enumerate(new)
            ]
            with self._dispatcher.traffic.in_progress():
                acceptances = await self._acceptor.accept_all_or_none(publications)
            for acceptance in acceptances:
                self._start(acceptance)
        return acceptances

    async def _counted(
        self, scope: TenantScope, actor: Actor, new: Sequence[NewMessage], quotas: list[Quota] | None
    ) -> Mapping[str | None, str | None]:
        """Count the messages of one call, for their key and for their tenants, all or none. Returns the tenants' gids
        by what the messages name."""
        left = await self._rate.take(self._rate.of_key(_rate_key(actor)), len(new))
        first = {message.tenant: index for index, message in reversed(list(enumerate(new)))}
        found = {
            tenant: await self._tenant(scope, actor, tenant, f"messages[{index}].tenant")
            for tenant, index in first.items()
        }
        of_endpoints = await self._endpoint_limits(scope, new)
        limits = (found[message.tenant][1] or of_endpoints.get(message.endpoint_gid) for message in new)
        limited = Counter(limit for limit in limits if limit is not None)
        for limit, count in limited.items():
            await self._rate.refuse_if_spent(limit, count)
        for limit, count in limited.items():
            left += await self._rate.take(limit, count)
        if quotas is not None:
            quotas += left
        return {tenant: gid for tenant, (gid, _) in found.items()}

    def _start(self, accepted: Accepted) -> None:
        self._dispatcher.dispatch(accepted.new)
        self.schedules.start_soon(accepted)

    async def cancel(self, scope: TenantScope, actor: Actor, gid: str, published_by: str | None = None) -> None:
        """Cancel a message that waits for its time of delivery; with `published_by`, only one that was published with
        this key. Raises NotFound and NotScheduled."""
        await self.schedules.cancel(scope, actor, gid, published_by)

    async def page(self, session: Session, query: MessageQuery, *, after: str | None, limit: int) -> Page[MessageView]:
        """Newest first, without payloads."""
        tenant_gids = await tenants.chosen_gids(session, query.tenants)
        chosen = MessageFilter(
            tenant_gids, any_of(query.channels), any_of(query.types), query.since, query.until, query.unrouted
        )
        page = await messages.page(session, chosen, after=after, limit=limit)
        names = await tenants.names(session, {row.tenant_gid for row in page.rows if row.tenant_gid})
        return Page([MessageView(row, names.get(row.tenant_gid or "")) for row in page.rows], page.next_key)

    async def get(self, session: Session, gid: str, *, max_deliveries: int) -> MessageDetail:
        """Raises NotFound."""
        row = await messages.get(session, gid)
        if row is None:
            raise NotFound("message", gid)
        names = await tenants.names(session, {row.tenant_gid} if row.tenant_gid else set())
        page = await deliveries.page(session, DeliveryFilter(message_gid=gid), after=None, limit=max_deliveries)
        return MessageDetail(
            message=row,
            tenant=names.get(row.tenant_gid or ""),
            counts=await deliveries.counts_of_message(session, gid),
            deliveries=page.rows,
            has_more_deliveries=page.next_key is not None,
            gate=await gates.view(session, gid),
            waits=row.deliver_at is not None and await schedules.is_scheduled(await session.connection(), gid),
        )

    async def erase_payload(self, scope: TenantScope, actor: Actor, gid: str) -> None:
        """Erase a message's payload and the responses to it, and wake its deliveries, which become dead letters. Those
        that wait for a gate are discarded. Raises NotFound."""
        async with scope.writing() as session:
            if not await erasure.erase_payload(session, gid):
                raise NotFound("message", gid)
            await gates.decline_message(session, gid, Ending(DeadLetterReason.PAYLOAD_ERASED, actor, ERASED))
            record_audit(session, actor, "message.payload_erased", gid)
        await erasure.erase_responses(Bulk(self._database), [gid])
        await self._wake(gid)

    async def _wake(self, message_gid: str) -> None:
        """Have a message's deliveries find out now that its payload was erased, instead of at their next step."""
        async with self._database.read_connection() as connection:
            waiting = await load_inputs(connection, self._defaults, erasure.still_to_send(message_gid), WOKEN)
        try:
            async with asyncio.timeout(WAKE_TIMEOUT_S):
                results: Sequence[BaseException | None] = await asyncio.gather(
                    *(wake_delivery(self._temporal, input) for input in waiting), return_exceptions=True
                )
        except TimeoutError as error:
            results = [error]
        if failed := [result for result in results if result is not None]:
            log.info("some deliveries find out later that their payload was erased", error=str(failed[0]))

    async def _tenant(
        self, scope: TenantScope, actor: Actor, named: str | None, field: str
    ) -> tuple[str | None, Limit | None]:
        """Whom a message is for, and how much may be published for it. What a tenant's key publishes is for that
        tenant."""
        if named is None:
            return scope.tenant_gid, self._rate.of_tenant(scope.tenant_gid, actor.tenant_rate)
        async with scope.reading() as session:
            tenant = await tenants.named_tenant(session, named, field)
        return tenant.gid, self._rate.of_tenant(tenant.gid, tenant.publish_rate)

    async def _endpoint_limits(
        self, scope: TenantScope, new: Sequence[NewMessage]
    ) -> Mapping[str | None, Limit | None]:
        """By endpoint, how much may be published for its tenant: of endpoints of messages that name no tenant."""
        named = {each.endpoint_gid for each in new if each.tenant is None and each.endpoint_gid is not None}
        gids = {gid for gid in named if is_gid(gid, Kind.ENDPOINT)}  # others are refused later
        if not gids or scope.tenant_gid is not None:  # the limit of a tenant's key is the one of its tenant
            return {}
        async with scope.reading() as session:
            rates = await tenants.publish_rates(session, gids)
        return {gid: self._rate.of_tenant(tenant_gid, rate) for gid, (tenant_gid, rate) in rates.items()}

    async def _read_rate(self, tenant_gid: str) -> str | None:
        async with self._database.reading() as session:
            return await tenants.publish_rate(session, tenant_gid)

    def _publication(
        self,
        actor: Actor,
        channel: str,
        message: NewMessage,
        tenant_gid: str | None,
        trace: TraceParent | None,
        at: str = "",
    ) -> Publication:
        """Check a message. `at` is where it stands in its request, for the names of fields in errors."""
        payload, limit = message.payload, self._max_payload_bytes
        if len(payload) > limit:
            raise PayloadTooLarge(
                f"{at}payload", f"has {len(payload)} bytes; at most {limit} are accepted", "too_large"
            )
        content = _parsed(payload, f"{at}payload")
        event_type = _event_type(message.type, content, f"{at}type")
        task = parse_spec(message.task, f"{at}task").document() if message.task is not None else {}
        body = event_type.encode() + b"\0" + payload
        if task:
            body += b"\0" + orjson.dumps(task, option=orjson.OPT_SORT_KEYS)
        steps = parse_gates(message.gates, f"{at}gates") if message.gates is not None else None
        if steps is not None:
            body += b"\0gates" + json.dumps([step.document for step in steps], sort_keys=True).encode()
        attributes = parse_attributes(message.metadata, f"{at}metadata") if message.metadata else None
        deliver_at = delivery_time(message.deliver_at, message.delay_seconds, now(), at)
        if options := message.options:
            body += b"\0options" + json.dumps(options, sort_keys=True).encode()
        return Publication(
            message_gid=new_gid(Kind.MESSAGE),
            channel=channel,
            event_type=event_type,
            payload=payload,
            content=content,
            body_sha256=hashlib.sha256(body).hexdigest(),
            published_at=_published_at(message.published_at, f"{at}publishedAt"),
            tenant_gid=tenant_gid,
            idempotency_key=_key(message.idempotency_key, f"{at}idempotencyKey"),
            traceparent=str(trace) if trace is not None else None,
            task=task,
            publisher=Publisher(actor.key_gid, actor.name),
            gates=steps,
            attributes=attributes,
            endpoint_gid=_endpoint_gid(message.endpoint_gid, f"{at}endpointGid"),
            single_attempt=not message.retry,
            deliver_at=deliver_at,
            group_key=_group_key(message.group_key, f"{at}groupKey"),
        )


@contextmanager
def _traced(parent: TraceParent | None) -> Iterator[TraceParent | None]:
    """The trace that what is published here belongs to: the caller's, with a span of its own where spans are sent."""
    with span("publish", parent, serves=True) as current:
        yield current.traceparent or parent


def _require_open(channel: str, at: str = "") -> None:
    if is_reserved(channel):
        raise ReservedChannel(f"{at}Only Everhook itself publishes to {channel}.")


def _rate_key(actor: Actor) -> str:
    return actor.key_gid or actor.name


def _outcome(acceptance: Acceptance, index: int) -> Accepted | IdempotencyKeyReused:
    if isinstance(acceptance, Accepted):
        return acceptance
    assert isinstance(acceptance, KeyReused)
    return _key_reused(acceptance, f"messages[{index}].idempotencyKey", "This message was not published.")


def _refusal(
    acceptance: UnknownChannel | KeyReused | Refused | PayloadRefused, field: str, consequence: str
) -> NotFound | IdempotencyKeyReused | InvalidField:
    if isinstance(acceptance, UnknownChannel):
        return NotFound("channel", acceptance.channel)
    if isinstance(acceptance, Refused):
        return InvalidField(acceptance.field, acceptance.message)
    if isinstance(acceptance, PayloadRefused):
        return acceptance.fault.error()
    return _key_reused(acceptance, field, consequence)


def _key_reused(acceptance: KeyReused, field: str, consequence: str) -> IdempotencyKeyReused:
    return IdempotencyKeyReused(f"{field}: was used for {acceptance.message_gid} with another body. {consequence}")


def _parsed(payload: bytes, field: str) -> Any:
    """Parse for filters and the type. What cannot be parsed here, such as a nesting bomb, no receiver could parse."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        with suppress(ValueError, RecursionError):
            return parse_exactly(payload)  # `1e400` is JSON, and kept as it came; orjson alone refuses it
        raise MalformedPayload(field, why_not_json(payload, error), "malformed") from error


def _event_type(given: str | None, content: Any, field: str) -> str:
    if given is None and isinstance(content, dict) and isinstance(content.get("event"), str):
        given = content["event"]
    if given is None:
        raise InvalidField(field, "is required where the payload has no text `event`", MISSING)
    if not _EVENT_TYPE.fullmatch(given):
        raise InvalidField(field, "takes letters, digits and . _ / : - (128 at most)", PATTERN)
    return given


def _published_at(given: datetime | None, field: str) -> datetime:
    if given is None:
        return datetime.now(UTC)
    if given.tzinfo is None:
        raise InvalidField(field, "must name its offset from UTC, such as `Z`")
    try:
        return given.astimezone(UTC)
    except OverflowError as error:
        raise InvalidField(field, "lies outside the years 1 to 9999 in UTC") from error


def _endpoint_gid(given: str | None, field: str) -> str | None:
    """PostgreSQL takes no text with NUL, so what can be no gid is not looked up."""
    if given is not None and not is_gid(given, Kind.ENDPOINT):
        raise InvalidField(field, NO_ENDPOINT)
    return given


def _group_key(given: str | None, field: str) -> str | None:
    if given is not None and not _GROUP_KEY.fullmatch(given):
        raise InvalidField(field, "takes 1 to 128 characters, none of them a control character", PATTERN)
    return given


def _key(given: str | None, field: str) -> str | None:
    if given is not None and not _KEY.fullmatch(given):
        raise InvalidField(field, "takes 1 to 255 characters, none of them a control character", PATTERN)
    return given
