"""Gates in the database: advanced in the transaction of a decision.

A gate may hold deliveries of several tenants, so its statements run on plain connections, which no tenant's scope
restricts. Rows are locked in this order: task, delivery of the step, gate, deliveries that wait.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.audit.store import Actor, audit_entry
from everhook.contracts import DeadLetterReason, DeliveryInput, DeliveryMode, DeliveryStatus
from everhook.delivery.inputs_store import InputDefaults, first_input, load_inputs
from everhook.publishing.gates import StepState, following, task_of
from everhook.publishing.gates_store import asking, inboxes
from everhook.publishing.rows import Publisher, new_task, opened_events
from everhook.pulling.queue_store import enqueue, queue_row
from everhook.storage.statements import insert_into, table_of
from everhook.storage.tables import (
    AuditEntry,
    Delivery,
    DeliveryRound,
    Endpoint,
    Gate,
    GateState,
    OperationalEvent,
    Task,
    now,
)

_GATE, _DELIVERY = table_of(Gate), table_of(Delivery)
UPKEEP = Actor("everhook")
AT_MOST = 1_000_000
"""More deliveries than one message can have."""

GATES_AT_ONCE = 500
_IS_DEAD = _DELIVERY.c.status == literal(
    DeliveryStatus.DEAD_LETTERED, type_=_DELIVERY.c.status.type, literal_execute=True
)
"""The status as a literal in the statement: the planner uses a partial index only if it sees the value."""


@dataclass(frozen=True)
class OpenGate:
    """A gate that is open, and locked."""

    gid: str
    message_gid: str
    steps: Sequence[Mapping[str, Any]]
    step: int
    delivery_gid: str
    task: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Ending:
    """Why a gate ends without passing, for its deliveries and the audit trail."""

    reason: DeadLetterReason
    by: Actor
    why: str


@dataclass(frozen=True)
class Released:
    """What a gate released. `inputs` are those of deliveries that are to be started, `queued` the endpoints whose
    queues have new deliveries."""

    inputs: Sequence[DeliveryInput]
    queued: frozenset[str]


async def pass_step(session: AsyncSession, task: Task, defaults: InputDefaults, moment: datetime) -> Released | None:
    """Open the next step of the gate that a task was a step of, or, after the last one, release what waits. Returns
    what is to be started; None if the task was no step of an open gate, and if the gate was declined."""
    connection = await session.connection()
    gate = await _open_gate(connection, _GATE.c.delivery_gid == task.delivery_gid)
    if gate is None:
        return None
    publisher = Publisher(task.requester_key_gid, task.requested_by)
    index = following(gate.steps, gate.step)
    if index is None:
        await _end(connection, [gate], GateState.PASSED, None, moment)
        return await _release(connection, gate, publisher, defaults, moment)
    step = gate.steps[index]
    inbox = (await inboxes(connection, [step["inbox"]])).get(step["inbox"])
    if inbox is None:
        why = f"step {index + 1} of {gate.gid} cannot be asked: its inbox was deleted"
        await _decline(connection, [gate], Ending(DeadLetterReason.ENDPOINT_DELETED, UPKEEP, why), moment)
        return None
    delivery_gid = step["deliveryGid"]
    names = await _names(connection, task.delivery_gid)
    delivery = first_input(delivery_gid, task.message_gid, *names, inbox, defaults)
    asked = asking(delivery, inbox, task_of(step, gate.task), publisher, defaults, moment, gate.created_at)
    await connection.execute(insert_into(Delivery), [asked.delivery])
    await _open_tasks(connection, [asked.task], asked.events)
    await connection.execute(update(_GATE).where(_GATE.c.gid == gate.gid).values(step=index, delivery_gid=delivery_gid))
    return Released([asked.input], frozenset())


async def _open_tasks(
    connection: AsyncConnection, tasks: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]
) -> None:
    await connection.execute(insert_into(Task), list(tasks))
    if events:
        await connection.execute(insert_into(OperationalEvent), list(events))


async def decline_step(session: AsyncSession, delivery_gid: str, ending: Ending) -> None:
    """Discard what waits for a gate because its current step, this delivery, will not pass. Does nothing for a delivery
    that is no step of an open gate."""
    await decline_steps(await session.connection(), [delivery_gid], ending)


async def decline_steps(
    connection: AsyncConnection, delivery_gids: Sequence[str], ending: Ending, *, erased_tenant: str | None = None
) -> None:
    """The same for the steps of several gates. Gates for which only deliveries of `erased_tenant` waited leave no audit
    entry."""
    theirs = _OPEN_GATES.where(_GATE.c.delivery_gid.in_(delivery_gids))
    rows = await connection.execute(theirs.order_by(_GATE.c.gid).with_for_update())
    await _decline(connection, [OpenGate(**row._mapping) for row in rows], ending, now(), erased_tenant)


async def decline_discarded(session: AsyncSession, delivery_gid: str, by: str, why: str) -> None:
    """The same after the delivery of the step was discarded, for the reason that it has. Does nothing for one that was
    decided before."""
    connection = await session.connection()
    columns = (_DELIVERY.c.status, _DELIVERY.c.reason)
    row = (await connection.execute(select(*columns).where(_DELIVERY.c.gid == delivery_gid))).one_or_none()
    if row is not None and row.status is DeliveryStatus.DISCARDED:
        await decline_step(session, delivery_gid, Ending(row.reason or DeadLetterReason.DECLINED, Actor(by), why))


async def decline_message(session: AsyncSession, message_gid: str, ending: Ending) -> None:
    """Discard what waits for the gate of a message, if it has an open one."""
    connection = await session.connection()
    gate = await _open_gate(connection, _GATE.c.message_gid == message_gid)
    if gate is not None:
        await _decline(connection, [gate], ending, now())


async def decline_dead_steps(session: AsyncSession, endpoint_gid: str, ending: Ending) -> None:
    """Discard what waits for the steps of an inbox that are dead letters, because no replay will ask again."""
    connection = await session.connection()
    statement = (
        _OPEN_GATES.join(_DELIVERY, _DELIVERY.c.gid == _GATE.c.delivery_gid)
        .where(_DELIVERY.c.endpoint_gid == endpoint_gid, _IS_DEAD)
        .limit(GATES_AT_ONCE)
        .with_for_update(of=_GATE)
    )
    while rows := (await connection.execute(statement)).all():
        await _decline(connection, [OpenGate(**row._mapping) for row in rows], ending, now())


_OPEN_GATES = select(*(_GATE.c[name] for name in OpenGate.__dataclass_fields__)).where(_GATE.c.state == GateState.OPEN)


async def _open_gate(connection: AsyncConnection, condition: Any) -> OpenGate | None:
    row = (await connection.execute(_OPEN_GATES.where(condition).with_for_update())).one_or_none()
    return OpenGate(**row._mapping) if row is not None else None


async def _names(connection: AsyncConnection, delivery_gid: str) -> tuple[str, str]:
    """The channel and the type of a delivery's message."""
    columns = (_DELIVERY.c.channel, _DELIVERY.c.event_type)
    row = (await connection.execute(select(*columns).where(_DELIVERY.c.gid == delivery_gid))).one()
    return row.channel, row.event_type


async def _end(
    connection: AsyncConnection,
    gates: Sequence[OpenGate],
    state: GateState,
    reason: DeadLetterReason | None,
    moment: datetime,
) -> None:
    ended = _GATE.c.gid.in_([gate.gid for gate in gates])
    await connection.execute(update(_GATE).where(ended).values(state=state, reason=reason, ended_at=moment))


def _waiting(*message_gids: str) -> tuple[Any, ...]:
    return _DELIVERY.c.message_gid.in_(message_gids), _DELIVERY.c.status == DeliveryStatus.GATED


async def _decline(
    connection: AsyncConnection,
    gates: Sequence[OpenGate],
    ending: Ending,
    moment: datetime,
    erased_tenant: str | None = None,
) -> None:
    if not gates:
        return
    await _end(connection, gates, GateState.DECLINED, ending.reason, moment)
    discarded = await connection.execute(
        update(_DELIVERY)
        .where(*_waiting(*(gate.message_gid for gate in gates)))
        .values(
            status=DeliveryStatus.DISCARDED,
            reason=ending.reason,
            completed_at=moment,
            decided_by=ending.by.name,
            decided_why=ending.why,
        )
        .returning(_DELIVERY.c.message_gid, _DELIVERY.c.tenant_gid)
    )
    rows = discarded.all()
    counts = Counter(row.message_gid for row in rows)
    of_others = {row.message_gid for row in rows if row.tenant_gid != erased_tenant}
    entries = [
        audit_entry(
            ending.by,
            "gate.declined",
            gate.gid,
            detail={
                "messageGid": gate.message_gid,
                "reason": ending.reason.value,
                "discarded": counts[gate.message_gid],
            },
        )
        for gate in gates
        if erased_tenant is None or gate.message_gid in of_others
    ]
    if entries:
        await connection.execute(insert_into(AuditEntry), [entry.model_dump() for entry in entries])


async def _release(
    connection: AsyncConnection, gate: OpenGate, publisher: Publisher, defaults: InputDefaults, moment: datetime
) -> Released:
    """Let the deliveries that waited begin their first round, as if their message had been accepted now: with the
    policies, rate limits and circuits of now."""
    inputs = await load_inputs(connection, defaults, _waiting(gate.message_gid), AT_MOST)
    pulled = [each for each in inputs if each.mode.is_pulled]
    asked = [each for each in inputs if each.mode is DeliveryMode.INBOX]
    sent = [each for each in inputs if not each.mode.is_pulled and each.mode is not DeliveryMode.INBOX]
    freed = [
        _freed(each, DeliveryStatus.ACCEPTED, moment + defaults.first_attempt_bound(each.policy), None) for each in sent
    ]
    freed += [_freed(each, DeliveryStatus.AVAILABLE, moment + each.policy.max_window, moment) for each in pulled]
    freed += await _ask(connection, gate, asked, publisher, defaults, moment)
    if pulled:
        rows = [queue_row(each.delivery_gid, each.endpoint_gid, moment, each.policy) for each in pulled]
        await enqueue(connection, rows)
    if freed:
        await connection.execute(_FREED, freed)
        rounds = [{"delivery_gid": each.delivery_gid, "round": 1, "began_at": moment} for each in inputs]
        await connection.execute(insert_into(DeliveryRound), rounds)
    return Released([*sent, *asked], frozenset(each.endpoint_gid for each in pulled))


async def _ask(
    connection: AsyncConnection,
    gate: OpenGate,
    asked: Sequence[DeliveryInput],
    publisher: Publisher,
    defaults: InputDefaults,
    moment: datetime,
) -> list[dict[str, Any]]:
    """Open the tasks of released deliveries to inboxes. If the inbox was deleted meanwhile, the workflow ends it."""
    if not asked:
        return []
    found = await inboxes(connection, {each.endpoint_gid for each in asked})
    found |= await inboxes(connection, {each.endpoint_gid for each in asked} - found.keys(), deleted=True)
    freed: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for each in asked:
        inbox, due_at = found[each.endpoint_gid], moment + defaults.first_attempt_bound(each.policy)
        task = new_task(each, inbox, gate.task, publisher, moment)
        freed.append(_freed(each, DeliveryStatus.AWAITING_DECISION, due_at, None))
        tasks.append(task)
        events += opened_events(task, each, inbox.options)
    await _open_tasks(connection, tasks, events)
    return freed


def _freed(
    delivery: DeliveryInput, status: DeliveryStatus, due_at: datetime, dispatched_at: datetime | None
) -> dict[str, Any]:
    return {"b_gid": delivery.delivery_gid, "b_status": status, "b_due_at": due_at, "b_dispatched_at": dispatched_at}


_FREED = (
    update(_DELIVERY)
    .where(_DELIVERY.c.gid == bindparam("b_gid"), _DELIVERY.c.status == DeliveryStatus.GATED)
    .values(
        status=bindparam("b_status", type_=_DELIVERY.c.status.type),
        due_at=bindparam("b_due_at", type_=_DELIVERY.c.due_at.type),
        dispatched_at=bindparam("b_dispatched_at", type_=_DELIVERY.c.dispatched_at.type),
    )
)


@dataclass(frozen=True)
class ShownStep:
    """`inbox` and `task_gid` are None for those of another tenant."""

    inbox: str | None
    state: StepState
    task_gid: str | None


@dataclass(frozen=True)
class GateView:
    """`step` is the number of the current step, from 1."""

    gate: Gate
    steps: Sequence[ShownStep]

    @property
    def step(self) -> int:
        return self.gate.step + 1


async def view(session: AsyncSession, message_gid: str) -> GateView | None:
    """The gate of a message; None if it has none. In a session that is scoped to a tenant, only the inboxes of that
    tenant are named."""
    gate = (await session.execute(select(Gate).where(col(Gate.message_gid) == message_gid))).scalar_one_or_none()
    if gate is None:
        return None
    named = {step["inbox"] for step in gate.steps}
    endpoints = await session.execute(select(col(Endpoint.gid)).where(col(Endpoint.gid).in_(named)))
    visible = set(endpoints.scalars())
    rows = await session.execute(
        select(col(Task.delivery_gid), col(Task.gid)).where(col(Task.message_gid) == message_gid)
    )
    tasks = {row[0]: row[1] for row in rows}
    return GateView(
        gate,
        [
            ShownStep(
                step["inbox"] if step["inbox"] in visible else None,
                _state_of(gate, index),
                tasks.get(step.get("deliveryGid", "")),
            )
            for index, step in enumerate(gate.steps)
        ],
    )


def _state_of(gate: Gate, index: int) -> StepState:
    if gate.steps[index].get("skipped"):
        return StepState.SKIPPED
    if index < gate.step:
        return StepState.PASSED
    if index > gate.step:
        return StepState.WAITING if gate.state is GateState.OPEN else StepState.SKIPPED
    return {
        GateState.OPEN: StepState.OPEN,
        GateState.PASSED: StepState.PASSED,
        GateState.DECLINED: StepState.DECLINED,
    }[gate.state]
