"""Use case: send a message again after its deliveries have ended.

All of it is one transaction, which opens the next rounds in the database. Their workflows are started after the commit;
if the process dies before that, the reconciler starts them once they are due.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from everhook.audit.store import Actor, record_audit
from everhook.contracts import DeliveryInput, DeliveryStatus
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.inputs_store import InputDefaults, load_inputs_of
from everhook.delivery.policy import resolve
from everhook.endpoints import store as endpoints
from everhook.errors import (
    EndpointDeleted,
    GateNotPassed,
    InvalidField,
    NotFound,
    NotReleased,
    PayloadErased,
    TooManyDeliveries,
)
from everhook.lifecycle.service import Viewer
from everhook.notifications.events import is_reserved
from everhook.publishing.publication import Accepted, Publication
from everhook.publishing.routing import Audience, Route
from everhook.publishing.schedules_store import is_scheduled
from everhook.publishing.store import Acceptor
from everhook.redelivery import store
from everhook.redelivery.rounds import CAN_BE_REPLAYED, MAX_REASON, is_addressed, open_round, publication_of
from everhook.redelivery.store import Leg, MessageGate
from everhook.storage.engine import Connection, Session
from everhook.storage.tables import DeliveryRound, GateState, Message, now
from everhook.storage.tenant_scope import tenant_bound

MAX_DELIVERIES = 1_000
"""In one call: it is one transaction."""


class RedeliveryResult(StrEnum):
    """What a replay of a message did with a delivery.

    `ROUND_OPENED`: its next round begins. `CREATED`: the endpoint had no delivery of the message. `LEFT_OPEN`: it is
    in progress, so nothing was changed. `ENDPOINT_DELETED`: there is nowhere to send to.
    """

    ROUND_OPENED = "round_opened"
    CREATED = "created"
    LEFT_OPEN = "left_open"
    ENDPOINT_DELETED = "endpoint_deleted"


@dataclass(frozen=True)
class Redelivered:
    delivery_gid: str
    endpoint_gid: str
    status: DeliveryStatus
    round: int
    result: RedeliveryResult


@dataclass(frozen=True)
class Redelivery:
    """A replay of a message, for `start` after its commit. `inputs` are those of the workflows to be started, `queued`
    the endpoints whose queues have new deliveries."""

    message_gid: str
    tenant_gid: str | None
    deliveries: Sequence[Redelivered]
    inputs: Sequence[DeliveryInput]
    queued: frozenset[str]

    def count(self, result: RedeliveryResult) -> int:
        return sum(each.result is result for each in self.deliveries)


class RedeliveryService:
    def __init__(
        self,
        acceptor: Acceptor,
        dispatcher: Dispatcher,
        defaults: InputDefaults,
        on_change: Callable[[Collection[str]], None],
    ) -> None:
        """`on_change` is called with the message, after the commit."""
        self._acceptor = acceptor
        self._dispatcher = dispatcher
        self._defaults = defaults
        self._on_change = on_change

    async def redeliver(
        self,
        session: Session,
        actor: Actor,
        gid: str,
        *,
        endpoint_gid: str | None = None,
        reason: str = "",
        viewer: Viewer | None = None,
    ) -> Redelivery:
        """Open the next round of each delivery of a message that has ended, and create deliveries for endpoints that
        match now and had none; with `endpoint_gid` only for this endpoint, whether it matches or not. Call `start`
        after the commit.

        Raises NotFound, InvalidField, PayloadErased, EndpointDeleted, NotReleased, GateNotPassed and
        TooManyDeliveries.
        """
        if len(reason) > MAX_REASON:
            raise InvalidField("reason", f"takes at most {MAX_REASON} characters", "string_too_long")
        message = await store.lock_message(session, gid)
        if message is None or not _may_see(viewer, message):
            raise NotFound("message", gid)
        if message.payload is None:
            raise PayloadErased(f"{gid} cannot be sent again: its payload was erased.")
        connection = await session.connection()
        await _require_released(connection, message)
        gate = (await store.gates_of(connection, [gid])).get(gid)
        _require_passed(gid, gate)
        found = await store.lock_deliveries(session, gid, MAX_DELIVERIES + 1, endpoint_gid)
        known = {leg.delivery.endpoint_gid for leg in found}
        asked = gate.asked if gate is not None else frozenset()
        legs = [leg for leg in found if leg.delivery.gid not in asked]
        if endpoint_gid is not None:
            _require_sendable(gid, endpoint_gid, found, legs)
        publication = await self._publication(session, message, gate)
        further = await self._further(session, message, publication, endpoint_gid, known)
        if len(found) + len(further) > MAX_DELIVERIES:
            raise TooManyDeliveries(
                f"{gid} goes to more than {MAX_DELIVERIES} endpoints. Name one with `endpointGid`, or replay its dead "
                "letters."
            )
        moment = now()
        done = [await self._reopen(session, leg, actor, reason, moment) for leg in legs]
        created = await self._create(session, publication, further, moment)
        if created is not None and created.deliveries:
            message.is_unrouted = None
        await session.flush()
        redelivery = await self._found(session, message, [*done, *_created(created)], legs, created)
        detail = {
            "endpointGid": endpoint_gid,
            "reason": reason,
            "opened": redelivery.count(RedeliveryResult.ROUND_OPENED),
            "created": redelivery.count(RedeliveryResult.CREATED),
        }
        record_audit(session, actor, "message.redelivered", gid, tenant_gid=redelivery.tenant_gid, detail=detail)
        return redelivery

    def start(self, redelivery: Redelivery) -> None:
        """Start what was committed. Returns at once."""
        self._dispatcher.start(redelivery.inputs)
        self._acceptor.wake_queues(redelivery.queued)
        self._on_change([redelivery.message_gid])

    async def _publication(self, session: Session, message: Message, gate: MessageGate | None) -> Publication:
        """The message as it was published, for the endpoints that the session's tenant may send to."""
        known = [message.published_by] if message.published_by is not None else []
        publishers = await store.key_names(await session.connection(), known)
        return publication_of(message, gate, publishers, tenant_bound(session))

    async def _further(
        self, session: Session, message: Message, publication: Publication, named: str | None, known: Collection[str]
    ) -> Sequence[Route]:
        """The routes to endpoints that are to get the message now, and had no delivery of it."""
        if named in known:
            return ()
        if named is not None:
            return [await self._route(session, message, publication, named)]
        if is_addressed(message):
            return ()
        taking = await self._acceptor.matching(await session.connection(), publication)
        return [route for route in taking if route.endpoint_gid not in known]

    async def _route(self, session: Session, message: Message, publication: Publication, gid: str) -> Route:
        """The route to an endpoint that a caller named. Raises InvalidField."""
        view = await endpoints.view(session, gid)
        if view is None:
            raise InvalidField("endpointGid", "there is no such endpoint")
        if not Audience.of(publication.tenant_gid).has(gid, view.endpoint.tenant_gid):
            raise InvalidField("endpointGid", "belongs to another tenant than the message")
        if is_reserved(message.channel):
            raise InvalidField("endpointGid", "was not sent this message, which is one of Everhook's own")
        policy = resolve(await store.channel_policy(session, message.channel), view.endpoint.policy)
        return replace(endpoints.route_to(view), policy=policy)

    async def _reopen(
        self, session: Session, leg: Leg, actor: Actor, reason: str, moment: datetime
    ) -> tuple[str, RedeliveryResult]:
        """Open the next round of a delivery that has ended."""
        row = leg.delivery
        if leg.endpoint_deleted:
            return row.gid, RedeliveryResult.ENDPOINT_DELETED
        if row.status not in CAN_BE_REPLAYED:
            return row.gid, RedeliveryResult.LEFT_OPEN
        await open_round(session, self._defaults, leg, actor.name, reason, moment)
        return row.gid, RedeliveryResult.ROUND_OPENED

    async def _create(
        self, session: Session, publication: Publication, routes: Sequence[Route], moment: datetime
    ) -> Accepted | None:
        """Create the deliveries to further endpoints. Their rounds begin now, with the policies of now."""
        if not routes:
            return None
        accepted = await self._acceptor.deliver_further(await session.connection(), publication, routes)
        session.add_all(
            DeliveryRound(delivery_gid=each.delivery_gid, round=1, began_at=moment) for each in accepted.deliveries
        )
        return accepted

    async def _found(
        self,
        session: Session,
        message: Message,
        done: Sequence[tuple[str, RedeliveryResult]],
        legs: Sequence[Leg],
        created: Accepted | None,
    ) -> Redelivery:
        """What was done, as the rows are now."""
        rows = {leg.delivery.gid: leg for leg in legs}
        opened = [gid for gid, result in done if result is RedeliveryResult.ROUND_OPENED]
        inputs = await load_inputs_of(await session.connection(), self._defaults, opened) if opened else []
        queued = {rows[gid].delivery.endpoint_gid for gid in opened if rows[gid].mode.is_pulled}
        new = {each.delivery_gid: each for each in created.deliveries} if created is not None else {}
        if created is not None:
            inputs = [*inputs, *(each.input for each in created.new)]
            queued |= created.queued
        shown = []
        for gid, result in done:
            if gid in new:
                shown.append(Redelivered(gid, new[gid].endpoint_gid, new[gid].status, 1, result))
            else:
                row = rows[gid].delivery
                shown.append(Redelivered(gid, row.endpoint_gid, row.status, row.round, result))
        owner = message.tenant_gid or tenant_bound(session)
        return Redelivery(message.gid, owner, shown, inputs, frozenset(queued))


def _created(accepted: Accepted | None) -> list[tuple[str, RedeliveryResult]]:
    return (
        [(each.delivery_gid, RedeliveryResult.CREATED) for each in accepted.deliveries] if accepted is not None else []
    )


def _may_see(viewer: Viewer | None, message: Message) -> bool:
    return viewer is None or viewer.publisher_gid is None or message.published_by == viewer.publisher_gid


async def _require_released(connection: Connection, message: Message) -> None:
    """A scheduled message gets its deliveries at its time, and one that was cancelled gets none."""
    if message.cancelled_at is not None:
        raise NotReleased(f"{message.gid} was cancelled before it had deliveries.")
    if message.deliver_at is not None and await is_scheduled(connection, message.gid):
        raise NotReleased(f"{message.gid} waits for the time of its delivery.")


def _require_passed(gid: str, gate: MessageGate | None) -> None:
    """A replay must not bypass the people who decide about a message."""
    if gate is None or gate.state is GateState.PASSED:
        return
    if gate.state is GateState.OPEN:
        raise GateNotPassed(f"{gid} waits for the decisions of its gate, so there is nothing to send again.")
    reason = f" ({gate.reason})" if gate.reason is not None else ""
    raise GateNotPassed(f"{gid} did not pass its gate{reason}. Publish it again to have it decided again.")


def _require_sendable(gid: str, endpoint_gid: str, found: Sequence[Leg], legs: Sequence[Leg]) -> None:
    """For an endpoint that a caller named: `legs` are those deliveries to it that are no steps of the gate."""
    if found and not legs:
        raise InvalidField("endpointGid", "is an inbox of the message's gate, which is not asked again")
    if any(leg.endpoint_deleted for leg in legs):
        raise EndpointDeleted(f"{gid} cannot be sent again to {endpoint_gid}: the endpoint was deleted.")
