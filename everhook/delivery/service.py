"""Use cases of deliveries: list and show them, and ask for the next attempt now.

Methods that take a session read the database alone, in the caller's transaction; those that take a scope also talk to
Temporal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from everhook.audit.store import Actor, on_record
from everhook.contracts import TERMINAL_STATUSES, DeliveryInput, DeliveryState, DeliveryStatus
from everhook.delivery import attempts_store, policy_history_store
from everhook.delivery import store as deliveries
from everhook.delivery.attempts_store import Position, position_of
from everhook.delivery.body_formats import Content, find_body
from everhook.delivery.dead_payloads_store import is_about_dead_letter, ways_to_send
from everhook.delivery.inputs_store import InputDefaults, load_input
from everhook.delivery.policy import DeliveryPolicy
from everhook.delivery.starts import delivery_state, wake_delivery
from everhook.delivery.store import DeliveryFilter
from everhook.endpoints.choice import chosen_endpoints, endpoints_subscribed
from everhook.errors import BodyUnavailable, InvalidField, NoAttemptDue, NotFound
from everhook.pulling.queue_store import back_offs, make_available
from everhook.storage.engine import Database, Session
from everhook.storage.paging import Page, any_of
from everhook.storage.tables import Attempt, Delivery, Message, Receipt, now
from everhook.storage.tenant_scope import TenantScope
from everhook.temporal.client import TemporalClient
from everhook.tenants import store as tenants

NOTHING = "nothing"
A_GATE = "the decisions of a gate"
ITS_GROUP = "those before it in its group"


@dataclass(frozen=True)
class DeliveryQuery:
    """Which deliveries: every part given must hold, by any of its values. `tenants` are names, `endpoints` gids or
    parts of URLs or descriptions, `subscriptions` gids. `since` and `until` bound the time of acceptance: from,
    and before."""

    tenants: Sequence[str] | None = None
    endpoints: Sequence[str] | None = None
    subscriptions: Sequence[str] | None = None
    messages: Sequence[str] | None = None
    channels: Sequence[str] | None = None
    types: Sequence[str] | None = None
    statuses: Sequence[DeliveryStatus] | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class AttemptsPage:
    """Attempts, newest first, and their receipts by the gids of the attempts. `next_key` is None on the last page."""

    attempts: Sequence[Attempt]
    receipts: Mapping[str, Receipt]
    next_key: str | None


@dataclass(frozen=True)
class DeliveryView:
    """A delivery with a page of its attempts. `rounds`: when the current round and those of the attempts began, and
    the policy of each; a round that a release without this history opened is left out. `next_attempt_at`: see
    `DeliveryService.next_attempts`."""

    delivery: Delivery
    page: AttemptsPage
    rounds: Mapping[int, tuple[datetime, DeliveryPolicy]]
    next_attempt_at: datetime | None


@dataclass(frozen=True)
class SentBody:
    """The body of an attempt's request, byte for byte."""

    attempt: Attempt
    content: bytes


class DeliveryService:
    def __init__(self, database: Database, temporal: TemporalClient, defaults: InputDefaults) -> None:
        self._database = database
        self._temporal = temporal
        self._defaults = defaults

    async def page(self, session: Session, query: DeliveryQuery, *, after: str | None, limit: int) -> Page[Delivery]:
        """Newest first. Raises InvalidField for an endpoint that is not clear."""
        endpoints = await chosen_endpoints(session, query.endpoints)
        if query.subscriptions and not endpoints:  # there is an index on endpoints, and none on subscriptions
            endpoints = await endpoints_subscribed(session, query.subscriptions)
        chosen = DeliveryFilter(
            tenant_gid=await tenants.chosen_gids(session, query.tenants),
            message_gid=any_of(query.messages),
            endpoint_gid=endpoints,
            subscription_gid=any_of(query.subscriptions),
            channel=any_of(query.channels),
            event_type=any_of(query.types),
            status=any_of(query.statuses),
            since=query.since,
            until=query.until,
        )
        return await deliveries.page(session, chosen, after=after, limit=limit)

    async def find(self, session: Session, gid: str) -> Delivery:
        """The delivery alone. Raises NotFound."""
        delivery = await deliveries.get(session, gid)
        if delivery is None:
            raise NotFound("delivery", gid)
        return delivery

    async def find_with_message(self, session: Session, gid: str) -> tuple[Delivery, Message]:
        """Raises NotFound."""
        found = await deliveries.with_message(session, gid)
        if found is None:
            raise NotFound("delivery", gid)
        return found

    async def view(self, session: Session, delivery: Delivery, *, after: str | None = None, limit: int) -> DeliveryView:
        """A delivery with at most `limit` of its attempts, newest first. Raises InvalidField for a foreign cursor."""
        page = await self.attempts(session, delivery, after=after, limit=limit)
        numbers = {delivery.round, *(attempt.round for attempt in page.attempts)}
        rounds = await policy_history_store.policies_of(session, delivery, numbers)
        next_attempts = await self.next_attempts(session, [delivery])
        return DeliveryView(delivery, page, rounds, next_attempts.get(delivery.gid))

    async def next_attempts(self, session: Session, rows: Sequence[Delivery]) -> Mapping[str, datetime]:
        """When the next attempt of each is due, of those that wait for one. One that is pulled can be handed out again
        then; before its first lease, and after that time, it waits for a consumer."""
        retrying = {
            row.gid: row.due_at for row in rows if row.status is DeliveryStatus.RETRYING and row.due_at is not None
        }
        failed = [row.gid for row in rows if row.status is DeliveryStatus.AVAILABLE and row.attempts]
        return {**retrying, **await back_offs(session, failed)}

    async def attempts(
        self, session: Session, delivery: Delivery, *, after: str | None = None, limit: int
    ) -> AttemptsPage:
        """Attempts of all rounds, newest first. Raises InvalidField for a foreign cursor."""
        found = await attempts_store.newest_attempts(session, delivery.gid, before=attempt_position(after), limit=limit)
        receipts = await attempts_store.receipts_of(session, delivery.gid, found.rows)
        return AttemptsPage(found.rows, receipts, found.next_key)

    async def find_attempt(self, session: Session, gid: str) -> Attempt | None:
        """One attempt, of any delivery."""
        found = await attempts_store.find(session, gid)
        return found[0] if found is not None else None

    async def sent_body(self, session: Session, attempt_gid: str) -> SentBody:
        """What an attempt sent. Bodies are not stored: the message is rendered again, and counts only if its SHA-256 is
        the recorded one. Raises NotFound, and BodyUnavailable once the payload was erased."""
        found = await attempts_store.find(session, attempt_gid)
        if found is None:
            raise NotFound("attempt", attempt_gid)
        attempt, message = found
        content = await rendered_body(session, message, attempt)
        if content is None:
            erased = message.payload is None
            reason = "its payload was erased" if erased else "rendering the message again gives other bytes"
            raise BodyUnavailable(attempt_gid, reason)
        return SentBody(attempt, content)

    async def live(self, scope: TenantScope, gid: str) -> DeliveryState:
        """What the delivery's workflow waits for. A delivery that is over, or waits for a gate, needs no workflow.
        Raises NotFound, also where there is no workflow at this moment."""
        async with scope.reading() as session:
            row = await self.find(session, gid)
        if row.status in TERMINAL_STATUSES:
            return DeliveryState(row.status, row.round, row.attempts, NOTHING, dead_letter_reason=row.reason)
        if row.status in (DeliveryStatus.GATED, DeliveryStatus.QUEUED):
            waits_for = A_GATE if row.status is DeliveryStatus.GATED else ITS_GROUP
            return DeliveryState(row.status, row.round, row.attempts, waits_for)
        state = await delivery_state(self._temporal, gid)
        if state is None:
            raise NotFound("workflow for delivery", gid)
        if state.status in TERMINAL_STATUSES:  # a workflow that has ended reports what it last waited for
            return replace(state, waiting_for=NOTHING, next_attempt_at=None)
        return state

    async def attempt_now(self, scope: TenantScope, actor: Actor, gid: str) -> Delivery:
        """Make the next attempt now instead of at its time; a delivery that is pulled can be handed out now. During an
        attempt, or while a consumer has it, this changes nothing. Raises NotFound and NoAttemptDue."""
        async with scope.reading() as session:
            row = await self.find(session, gid)
        if row.status in TERMINAL_STATUSES or row.status is DeliveryStatus.DEAD_LETTERED:
            raise NoAttemptDue(f"{gid} is {row.status}: no attempt is due. A dead letter can be replayed instead.")
        if row.status in (DeliveryStatus.AWAITING_DECISION, DeliveryStatus.GATED):
            raise NoAttemptDue(f"{gid} waits for a person: no attempt is due.")
        if row.status is DeliveryStatus.QUEUED:
            raise NoAttemptDue(f"{gid} waits for those before it in its group: no attempt is due.")
        async with on_record(scope, actor, "delivery.attempt_requested", gid, tenant_gid=row.tenant_gid):
            if row.status is DeliveryStatus.AVAILABLE:
                async with scope.writing() as session:
                    await make_available(session, gid)
            elif not _is_under_way(row):
                await wake_delivery(self._temporal, await self.input(gid))
        return row

    async def input(self, gid: str) -> DeliveryInput:
        """What the delivery's workflow is started with. Raises NotFound while its tenant is being erased."""
        async with self._database.read_connection() as connection:
            found = await load_input(connection, self._defaults, gid)
        if found is None:
            raise NotFound("delivery", gid)
        return found


def attempt_position(key: str | None) -> Position | None:
    """The attempt that a cursor names. Raises InvalidField for the cursor of another list."""
    try:
        return position_of(key) if key is not None else None
    except ValueError as error:
        raise InvalidField("cursor", "is not a cursor of this list; send `nextCursor` unchanged") from error


async def rendered_body(session: Session, message: Message, attempt: Attempt) -> bytes | None:
    """The body of an attempt's request, rendered again. None if that does not give the bytes that were sent."""
    if message.payload is None:
        return None
    payloads = [message.payload]
    if is_about_dead_letter(message.channel, message.event_type):
        delivery = await deliveries.get(session, attempt.delivery_gid)
        payloads = await ways_to_send(session, delivery, message.payload) if delivery is not None else payloads
    for payload in payloads:
        content = Content(
            message.gid,
            message.channel,
            message.event_type,
            payload,
            message.published_at,
            attempt.number,
            attempt.round,
            message.attributes,
        )
        if (found := find_body(content, attempt.request_sha256)) is not None:
            return found[1]
    return None


def _is_under_way(row: Delivery) -> bool:
    """Whether the process that accepted it is making its first attempt."""
    return row.status is DeliveryStatus.ACCEPTED and row.due_at is not None and row.due_at > now()
