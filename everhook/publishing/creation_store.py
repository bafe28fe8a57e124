"""Creating the deliveries of accepted messages, in the transaction that accepts them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from everhook.circuit.store import EndpointState, endpoint_states
from everhook.contracts import DeliveryInput, DeliveryMode, DeliveryStatus
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.inputs_store import InputDefaults, first_input
from everhook.delivery.policy import one_attempt
from everhook.delivery.snapshot_store import DeliverySnapshot
from everhook.ids import Kind, new_gid
from everhook.ordering.store import Group, Positions, insert_grouped, is_ordered, take_positions
from everhook.publishing.gates import Step, task_of
from everhook.publishing.gates_store import Asking, asking, insert_gates
from everhook.publishing.publication import Accepted, AcceptedDelivery, Publication
from everhook.publishing.routing import Route
from everhook.publishing.rows import (
    asked_row,
    delivery_row,
    gated_row,
    new_task,
    opened_events,
    pulled_row,
    queued_row,
)
from everhook.pulling.direct import DirectHandOut
from everhook.pulling.leases import Content
from everhook.pulling.queue_store import enqueue, queue_row
from everhook.storage.statements import insert_into
from everhook.storage.tables import Delivery, GateState, OperationalEvent, Task, now

Leg = tuple[Publication, Route]
"""A new message and a route that takes it."""


class DeliveryCreator:
    """Inserts the deliveries of messages, with what belongs to them."""

    def __init__(self, defaults: InputDefaults, direct: DirectHandOut) -> None:
        self._defaults = defaults
        self._direct = direct

    async def create(
        self,
        connection: AsyncConnection,
        publications: Sequence[Publication],
        legs: Sequence[Leg],
        chains: Mapping[str, "Chain"],
        columns: Mapping[str, Any] | None = None,
    ) -> list[Accepted]:
        """Insert one delivery for each leg, and return what became of each message. `columns` are further ones of the
        deliveries.

        Deliveries to an endpoint that cannot receive now are parked at once; those that consumers pull are queued.
        Those of a message with a gate wait for it; its first step is opened.
        """
        states = await self._states(connection, legs)
        moment = now()
        may_probe = {gid for gid, state in states.items() if state.may_probe(moment)}
        turns = await _Turns.taken(connection, [leg for leg in legs if leg[1].endpoint_gid in states])
        rows = _Rows(publications)
        for publication, route in legs:
            state = states.get(route.endpoint_gid)
            if state is None:
                continue  # deleted meanwhile
            chain = chains.get(publication.message_gid)
            delivery = self._input(publication, route)
            place = (delivery, route.tenant_gid, moment, route.subscription_gid)
            if turns.has_to_wait(publication, route, delivery):
                rows.add(publication, queued_row(*place))
            elif chain is not None:
                if route.endpoint_gid not in chain.asked:  # otherwise it gets the message as a step
                    rows.add(publication, gated_row(*place))
            elif route.mode is DeliveryMode.INBOX:
                self._ask(rows, publication, route, delivery, moment)
            elif route.mode.is_pulled:
                rows.add(publication, pulled_row(*place))
                queued = queue_row(delivery.delivery_gid, route.endpoint_gid, moment, delivery.policy)
                leased = await self._direct.lease(connection, state, delivery, _content(publication), queued)
                rows.queue(publication, queued, is_leased=leased)
            else:
                goes_out = state.sends or route.endpoint_gid in may_probe
                may_probe.discard(route.endpoint_gid)
                self._send(rows, publication, route, delivery, moment, state if goes_out else None)
        for publication in publications if chains else ():
            if (chain := chains.get(publication.message_gid)) is not None:
                rows.open_gate(publication, *chain.rows(publication, moment, self._defaults))
        await rows.insert(connection, turns, columns)
        return rows.accepted()

    async def _states(self, connection: AsyncConnection, legs: Sequence[Leg]) -> dict[str, EndpointState]:
        """The states of the endpoints that exist, by their gids. Those that do not allow sending stay locked."""
        if not legs:
            return {}
        gids = sorted({route.endpoint_gid for _, route in legs})
        count_leases = self._direct.is_offered(gids)
        found = await endpoint_states(connection, gids, lock_held=True, count_leases=count_leases)
        return {gid: state for gid, state in found.items() if not state.is_deleted}

    def _ask(
        self, rows: "_Rows", publication: Publication, route: Route, delivery: DeliveryInput, moment: datetime
    ) -> None:
        due_at = moment + self._defaults.first_attempt_bound(delivery.policy)
        row = asked_row(delivery, route.tenant_gid, moment, due_at, route.subscription_gid)
        rows.add(publication, row, NewDelivery(delivery))
        task = new_task(delivery, route, publication.task, publication.publisher, moment)
        rows.ask(task, opened_events(task, delivery, route.options))

    def _send(
        self,
        rows: "_Rows",
        publication: Publication,
        route: Route,
        delivery: DeliveryInput,
        moment: datetime,
        state: EndpointState | None,
    ) -> None:
        """`state` is that of an endpoint that can receive now; None: the delivery is parked."""
        policy = delivery.policy
        row = delivery_row(
            delivery,
            route.tenant_gid,
            moment,
            due_at=moment + (policy.max_window if state is None else self._defaults.first_attempt_bound(policy)),
            parked=state is None,
            subscription_gid=route.subscription_gid,
        )
        if state is None:
            rows.add(publication, row)
        else:
            rows.add(publication, row, NewDelivery(delivery, _snapshot(delivery, publication, state, moment)))

    def _input(self, publication: Publication, route: Route) -> DeliveryInput:
        if publication.single_attempt:
            route = replace(route, policy=one_attempt(route.policy))
        return first_input(
            publication.new_delivery_gid(),
            publication.message_gid,
            publication.channel,
            publication.event_type,
            route,
            self._defaults,
        )


@dataclass(frozen=True)
class _Share:
    """What one message has of new rows. `new` are to be started; `to_claim` are the endpoints whose consumers have to
    claim a delivery."""

    publication: Publication
    deliveries: list[AcceptedDelivery] = field(default_factory=list)
    new: list[NewDelivery] = field(default_factory=list)
    to_claim: set[str] = field(default_factory=set)

    def accepted(self) -> Accepted:
        return replace(
            Accepted.without_deliveries(self.publication),
            deliveries=tuple(self.deliveries),
            new=tuple(self.new),
            queued=frozenset(self.to_claim),
        )


class _Rows:
    """The rows that a transaction inserts."""

    def __init__(self, publications: Sequence[Publication]) -> None:
        self._shares = {publication.message_gid: _Share(publication) for publication in publications}
        self._deliveries: list[dict[str, Any]] = []
        self._queued: list[dict[str, Any]] = []
        self._tasks: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._gates: list[dict[str, Any]] = []

    def add(self, publication: Publication, row: dict[str, Any], new: NewDelivery | None = None) -> None:
        """Add a delivery, with what it has of its message. All deliveries of a message have gids and times of the time
        at which it was accepted: queries and retention rely on it."""
        row["accepted_at"] = publication.accepted_at or row["accepted_at"]
        row["single_attempt"] = publication.single_attempt or None
        row["group_key"] = publication.group_key
        self._deliveries.append(row)
        share = self._shares[publication.message_gid]
        share.deliveries.append(AcceptedDelivery(row["gid"], row["endpoint_gid"], row["status"]))
        if new is not None:
            share.new.append(new)

    def queue(self, publication: Publication, row: dict[str, Any], *, is_leased: bool) -> None:
        self._queued.append(row)
        if not is_leased:
            self._shares[publication.message_gid].to_claim.add(row["endpoint_gid"])

    def ask(self, task: dict[str, Any], events: Sequence[dict[str, Any]]) -> None:
        self._tasks.append(task)
        self._events += events

    def open_gate(self, publication: Publication, opened: Asking, gate: dict[str, Any]) -> None:
        self.add(publication, opened.delivery, NewDelivery(opened.input))
        self.ask(opened.task, opened.events)
        self._gates.append(gate)

    async def insert(
        self, connection: AsyncConnection, turns: "_Turns", columns: Mapping[str, Any] | None = None
    ) -> None:
        if columns:
            self._deliveries = [{**row, **columns} for row in self._deliveries]
        if self._deliveries:
            await connection.execute(insert_into(Delivery), self._deliveries)
        if turns.rows:
            await insert_grouped(connection, turns.rows)
        if self._gates:
            await insert_gates(connection, self._gates)
        if self._queued:
            await enqueue(connection, self._queued)
        if self._tasks:
            await connection.execute(insert_into(Task), self._tasks)
        if self._events:
            await connection.execute(insert_into(OperationalEvent), self._events)

    def accepted(self) -> list[Accepted]:
        """The messages with their deliveries, in order."""
        return [share.accepted() for share in self._shares.values()]


class _Turns:
    """The turns of new deliveries in their groups. `rows` are their positions, for `insert_grouped`."""

    def __init__(self, positions: Mapping[Group, Positions]) -> None:
        self._free = {group for group, each in positions.items() if each.is_free}
        self._next = {group: each.first for group, each in positions.items()}
        self.rows: list[dict[str, Any]] = []

    @classmethod
    async def taken(cls, connection: AsyncConnection, legs: Sequence[Leg]) -> "_Turns":
        """Take positions for deliveries that are to be created. Reads and writes nothing unless some have a group."""
        groups = Counter(_group(publication, route) for publication, route in legs if publication.group_key is not None)
        del groups[None]
        return cls(await take_positions(connection, {group: n for group, n in groups.items() if group is not None}))

    def has_to_wait(self, publication: Publication, route: Route, delivery: DeliveryInput) -> bool:
        """Whether a delivery waits for others. Asked once for each, in their order."""
        group = _group(publication, route)
        if group is None:
            return False
        position, self._next[group] = self._next[group], self._next[group] + 1
        self.rows.append(
            {
                "delivery_gid": delivery.delivery_gid,
                "endpoint_gid": group[0],
                "group_key": group[1],
                "position": position,
            }
        )
        is_first, self._free = group in self._free, self._free - {group}
        return not is_first


def _group(publication: Publication, route: Route) -> Group | None:
    """The group of a delivery. A further delivery of a message that was accepted before goes out of order."""
    if publication.group_key is None or not is_ordered(route.mode):
        return None
    return route.endpoint_gid, publication.group_key


@dataclass(frozen=True)
class Chain:
    """The steps of a gate, of which at least one is asked. `inboxes` are those of the steps that are asked."""

    steps: Sequence[Step]
    matching: frozenset[int]
    inboxes: Mapping[str, Route]

    @property
    def asked(self) -> Collection[str]:
        """The inboxes of the steps that are asked."""
        return {self.steps[index].inbox for index in self.matching}

    def rows(
        self, publication: Publication, moment: datetime, defaults: InputDefaults
    ) -> tuple[Asking, dict[str, Any]]:
        """The rows of the first step, and that of the gate.

        The deliveries of later steps have their gids from the beginning: all deliveries of a message have gids of the
        time at which it was accepted.
        """
        first = min(self.matching)
        steps = [
            {
                **step.document,
                **({"deliveryGid": publication.new_delivery_gid()} if at in self.matching else {"skipped": True}),
            }
            for at, step in enumerate(self.steps)
        ]
        inbox, delivery_gid = self.inboxes[self.steps[first].inbox], steps[first]["deliveryGid"]
        delivery = first_input(
            delivery_gid, publication.message_gid, publication.channel, publication.event_type, inbox, defaults
        )
        task = task_of(steps[first], publication.task)
        gate = {
            "gid": new_gid(Kind.GATE),
            "message_gid": publication.message_gid,
            "steps": steps,
            "step": first,
            "delivery_gid": delivery_gid,
            "task": dict(publication.task),
            "state": GateState.OPEN,
            "created_at": moment,
        }
        return asking(delivery, inbox, task, publication.publisher, defaults, moment, moment), gate


def _content(publication: Publication) -> Content:
    return Content(
        publication.message_gid,
        publication.channel,
        publication.event_type,
        publication.payload,
        publication.published_at,
        publication.attributes,
    )


def _snapshot(
    delivery: DeliveryInput, publication: Publication, state: EndpointState, moment: datetime
) -> DeliverySnapshot:
    return DeliverySnapshot(
        gid=delivery.delivery_gid,
        status=DeliveryStatus.ACCEPTED,
        round=delivery.round,
        attempts=0,
        message_gid=publication.message_gid,
        channel=publication.channel,
        event_type=publication.event_type,
        payload=publication.payload,
        published_at=publication.published_at,
        accepted_at=moment,
        traceparent=publication.traceparent,
        attributes=publication.attributes,
        group_key=publication.group_key,
        is_scheduled=publication.accepted_at is not None,
        endpoint_version=state.version,
        endpoint_deleted=False,
        state=state.state,
        hold=state.hold,
        failures=state.failures,
    )
