"""Lifecycle events, derived from rows that exist anyway: a message, its deliveries, their rounds, attempts and tasks.
Pure.

Nothing is written for them. The id of an event is that of its row; where one row has several events, the round and the
status follow. Deriving an event again gives the same id, so readers can ignore what they know.

To add kinds, add their rows to `DeliveryHistory` and a function to `_SOURCES`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus, Verdict
from everhook.delivery.body_formats import timestamp
from everhook.ids import moment_of

Position = tuple[int, int]
"""Where an event is within its delivery: the round, and a step in it."""

OPENED, DECIDED, ENDED, DISCARDED = 0, 900_000, 1_000_000, 1_000_001
"""The first step of a round, and its last ones. Attempt `n` is step `n`. In a round of a task, the steps before its
decision are its opening and its notes, and the decision's attempt comes after it."""

SETTLED_STATUSES = frozenset({DeliveryStatus.DELIVERED, DeliveryStatus.DEAD_LETTERED, DeliveryStatus.DISCARDED})
"""Statuses of deliveries that a sender waits for no longer. A dead letter is settled until it is replayed."""


class LifecycleKind(StrEnum):
    MESSAGE_ACCEPTED = "message.accepted"
    MESSAGE_GATED = "message.gated"
    MESSAGE_RELEASED = "message.released"
    MESSAGE_DECLINED = "message.declined"
    MESSAGE_CANCELLED = "message.cancelled"
    MESSAGE_SETTLED = "message.settled"
    AVAILABLE = "delivery.available"
    ATTEMPTED = "delivery.attempted"
    DELIVERED = "delivery.delivered"
    DEAD_LETTERED = "delivery.dead_lettered"
    REPLAYED = "delivery.replayed"
    DISCARDED = "delivery.discarded"
    TASK_OPENED = "task.opened"
    TASK_REMINDED = "task.reminded"
    TASK_ESCALATED = "task.escalated"
    TASK_DELEGATED = "task.delegated"
    TASK_DECIDED = "task.decided"
    TASK_EXPIRED = "task.expired"


@dataclass(frozen=True)
class LifecycleEvent:
    """`delivery_gid` and `endpoint_gid` are None for events of the message. `data` depends on the kind.

    `recorded_at` is at least the `at` of this event and of those before it in its delivery: an attempt may be recorded
    long after it ended.
    """

    id: str
    kind: LifecycleKind
    at: datetime
    message_gid: str
    delivery_gid: str | None = None
    endpoint_gid: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    position: Position = (0, 0)
    recorded_at: datetime | None = None

    @property
    def order(self) -> tuple[datetime, str, Position]:
        """The order in which a stream has events."""
        return self.recorded_at or self.at, self.delivery_gid or "", self.position


@dataclass(frozen=True)
class MessageRow:
    gid: str
    accepted_at: datetime
    published_by: str | None
    deliver_at: datetime | None = None


@dataclass(frozen=True)
class GateRow:
    """A gate. `asked` are the deliveries of its steps. `reason` is set if it was declined."""

    gid: str
    message_gid: str
    steps: int
    asked: frozenset[str]
    created_at: datetime
    ended_at: datetime | None
    reason: DeadLetterReason | None


@dataclass(frozen=True)
class DeliveryRow:
    """The columns of a delivery that events are derived from."""

    gid: str
    message_gid: str
    endpoint_gid: str
    mode: DeliveryMode
    status: DeliveryStatus
    round: int
    attempts: int
    accepted_at: datetime
    dead_lettered_at: datetime | None
    completed_at: datetime | None
    reason: DeadLetterReason | None
    decided_by: str | None
    decided_why: str | None

    @property
    def state(self) -> tuple[DeliveryStatus, int, int]:
        """What differs once a delivery has other events than before."""
        return self.status, self.round, self.attempts

    @property
    def never_released(self) -> bool:
        """Whether it waits for a gate, or was discarded while it did: then it has a reason, but was no dead letter."""
        is_discarded = self.status is DeliveryStatus.DISCARDED and self.dead_lettered_at is None
        return self.status is DeliveryStatus.GATED or (is_discarded and self.reason is not None)


@dataclass(frozen=True)
class AttemptRow:
    gid: str
    delivery_gid: str
    round: int
    number: int
    verdict: Verdict
    started_at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    next_attempt_at: datetime | None

    @property
    def ended_at(self) -> datetime:
        return self.started_at + timedelta(milliseconds=self.duration_ms)


@dataclass(frozen=True)
class TaskRow:
    """The columns of a task that events are derived from. `is_decided`: by a person, or by its due date."""

    gid: str
    delivery_gid: str
    notes: Sequence[Mapping[str, Any]]
    is_decided: bool
    outcome: str | None
    decided_by: str | None
    decided_at: datetime | None


@dataclass(frozen=True)
class DeliveryHistory:
    """A delivery with its attempts, its task, and the times of its replays, by round; round 1 has a time if a gate
    released it. The delivery was read first: what is of a later round than its own is left out."""

    delivery: DeliveryRow
    attempts: Sequence[AttemptRow] = ()
    replays: Mapping[int, datetime] = field(default_factory=dict)
    task: TaskRow | None = None


def of_message(row: MessageRow) -> LifecycleEvent:
    data = {"deliverAt": timestamp(row.deliver_at)} if row.deliver_at is not None else {}
    return LifecycleEvent(row.gid, LifecycleKind.MESSAGE_ACCEPTED, row.accepted_at, row.gid, data=data)


def cancelled(message_gid: str, at: datetime) -> LifecycleEvent:
    """It was cancelled while it waited for its time of delivery."""
    return LifecycleEvent(f"{message_gid}.cancelled", LifecycleKind.MESSAGE_CANCELLED, at, message_gid)


def gated(gate: GateRow) -> LifecycleEvent:
    """The deliveries of a message wait for decisions."""
    data = {"gateGid": gate.gid, "steps": gate.steps}
    return LifecycleEvent(gate.gid, LifecycleKind.MESSAGE_GATED, gate.created_at, gate.message_gid, data=data)


def gate_ended(gate: GateRow) -> LifecycleEvent | None:
    """The last decision released or discarded what waited. None while the gate is open."""
    if gate.ended_at is None:
        return None
    data: dict[str, Any] = {"gateGid": gate.gid}
    if gate.reason is None:
        kind = LifecycleKind.MESSAGE_RELEASED
    else:
        kind, data = LifecycleKind.MESSAGE_DECLINED, {**data, "reason": gate.reason.value}
    return LifecycleEvent(f"{gate.gid}.ended", kind, gate.ended_at, gate.message_gid, data=data)


def settled(message_gid: str, at: datetime, outcome: str | None) -> LifecycleEvent:
    """All deliveries are settled since `at`. After a replay it happens again, with another id."""
    milliseconds = round(at.timestamp() * 1_000)
    data = {"outcome": outcome} if outcome is not None else {}
    return LifecycleEvent(
        f"{message_gid}.settled.{milliseconds}", LifecycleKind.MESSAGE_SETTLED, at, message_gid, data=data
    )


def of_delivery(history: DeliveryHistory, after: Position | None = None) -> Iterator[LifecycleEvent]:
    """The events of a delivery in their order, which is total; only those after a position, if it is given."""
    found = [event for source in _SOURCES for event in source(history)]
    latest = history.delivery.accepted_at
    for event in sorted(found, key=lambda each: each.position):
        latest = max(latest, event.recorded_at or event.at)
        if after is None or event.position > after:
            yield LifecycleEvent(**{**vars(event), "recorded_at": latest})


def _rounds(history: DeliveryHistory) -> Iterator[LifecycleEvent]:
    delivery = history.delivery
    if delivery.mode.is_pulled and not delivery.never_released:
        at = history.replays.get(1, delivery.accepted_at)
        yield _event(delivery, LifecycleKind.AVAILABLE, at, (1, OPENED), f"{delivery.gid}.1")
    for number, began_at in history.replays.items():
        if 1 < number <= delivery.round:
            data = {"by": delivery.decided_by, "reason": delivery.decided_why} if number == delivery.round else {}
            yield _event(delivery, LifecycleKind.REPLAYED, began_at, (number, OPENED), f"{delivery.gid}.{number}", data)


def _attempts(history: DeliveryHistory) -> Iterator[LifecycleEvent]:
    for attempt in history.attempts:
        if attempt.round <= history.delivery.round:
            data = {
                "verdict": attempt.verdict.value,
                "number": attempt.number,
                "statusCode": attempt.status_code,
                "error": attempt.error,
                "nextAttemptAt": attempt.next_attempt_at,
            }
            yield _event(
                history.delivery,
                LifecycleKind.ATTEMPTED,
                attempt.ended_at,
                (attempt.round, attempt.number + (DECIDED if history.task is not None else 0)),
                attempt.gid,
                data,
                recorded_at=max(attempt.ended_at, moment_of(attempt.gid)),
            )


def _ends(history: DeliveryHistory) -> Iterator[LifecycleEvent]:
    delivery = history.delivery
    yield from _earlier_ends(history)
    number = delivery.round
    if delivery.dead_lettered_at is not None:
        reason = {"reason": delivery.reason.value if delivery.reason is not None else None}
        yield _end(delivery, LifecycleKind.DEAD_LETTERED, delivery.dead_lettered_at, (number, ENDED), reason)
    if delivery.completed_at is not None and delivery.status is DeliveryStatus.DELIVERED:
        yield _end(delivery, LifecycleKind.DELIVERED, delivery.completed_at, (number, ENDED))
    if delivery.completed_at is not None and delivery.status is DeliveryStatus.DISCARDED:
        data = {"by": delivery.decided_by, "reason": delivery.decided_why}
        yield _end(delivery, LifecycleKind.DISCARDED, delivery.completed_at, (number, DISCARDED), data)


def _earlier_ends(history: DeliveryHistory) -> Iterator[LifecycleEvent]:
    """A round that was replayed had ended as delivered, or as a dead letter. Its row no longer says when and why; it
    was at its last attempt or later. If a person decided it, its receipt says how."""
    last = {attempt.round: attempt for attempt in history.attempts}
    for number, began_at in history.replays.items():
        if 1 < number <= history.delivery.round:
            attempt = last.get(number - 1)
            at = attempt.ended_at if attempt is not None else began_at
            if attempt is None or attempt.verdict is not Verdict.DELIVERED:
                yield _end(history.delivery, LifecycleKind.DEAD_LETTERED, at, (number - 1, ENDED))
            elif history.task is None:
                yield _end(history.delivery, LifecycleKind.DELIVERED, at, (number - 1, ENDED))


_OF_NOTES = {
    "reminded": (LifecycleKind.TASK_REMINDED, ("number",)),
    "escalated": (LifecycleKind.TASK_ESCALATED, ("to", "error")),
    "delegated": (LifecycleKind.TASK_DELEGATED, ("by", "to")),
}
"""The kinds of notes that are events, with the fields that these show. Comments are none."""


def _task(history: DeliveryHistory) -> Iterator[LifecycleEvent]:
    """What was asked, in each round, and what followed. A round that is over without a decision expired."""
    delivery, task = history.delivery, history.task
    if task is None:
        return
    replays = {number: at for number, at in history.replays.items() if 1 < number <= delivery.round}
    for number, at in {1: delivery.accepted_at, **replays}.items():
        yield _event(delivery, LifecycleKind.TASK_OPENED, at, (number, 1), _in_round(task, number), _of(task))
    for attempt in history.attempts:
        if attempt.round < delivery.round and attempt.verdict is Verdict.DELIVERED:
            at, id = attempt.ended_at, f"{_in_round(task, attempt.round)}.decided"
            yield _event(delivery, LifecycleKind.TASK_DECIDED, at, (attempt.round, DECIDED), id, _of(task))
    yield from _notes(delivery, task, replays)
    for event in _ends(history):
        if event.kind is LifecycleKind.DEAD_LETTERED:
            number = event.position[0]
            id = f"{_in_round(task, number)}.expired"
            yield _event(delivery, LifecycleKind.TASK_EXPIRED, event.at, (number, DECIDED), id, _of(task))
    if task.is_decided and task.decided_at is not None:
        data = _of(task) | {"outcome": task.outcome, "by": task.decided_by}
        id = f"{_in_round(task, delivery.round)}.decided"
        yield _event(delivery, LifecycleKind.TASK_DECIDED, task.decided_at, (delivery.round, DECIDED), id, data)


def _notes(delivery: DeliveryRow, task: TaskRow, replays: Mapping[int, datetime]) -> Iterator[LifecycleEvent]:
    for index, note in enumerate(task.notes):
        kind, shown = _OF_NOTES.get(note["kind"], (None, ()))
        if kind is not None:
            at = datetime.fromisoformat(note["at"])
            number = max((number for number, began_at in replays.items() if began_at <= at), default=1)
            data = _of(task) | {name: note[name] for name in shown if name in note}
            yield _event(delivery, kind, at, (number, 2 + index), f"{task.gid}.note.{index}", data)


def _in_round(task: TaskRow, number: int) -> str:
    return task.gid if number == 1 else f"{task.gid}.{number}"


def _of(task: TaskRow) -> dict[str, Any]:
    return {"taskGid": task.gid}


_SOURCES: tuple[Callable[[DeliveryHistory], Iterator[LifecycleEvent]], ...] = (_rounds, _attempts, _ends, _task)


def _end(
    delivery: DeliveryRow,
    kind: LifecycleKind,
    at: datetime,
    position: Position,
    data: Mapping[str, Any] | None = None,
) -> LifecycleEvent:
    status = kind.value.partition(".")[2]
    return _event(delivery, kind, at, position, f"{delivery.gid}.{position[0]}.{status}", data)


def _event(
    delivery: DeliveryRow,
    kind: LifecycleKind,
    at: datetime,
    position: Position,
    id: str,
    data: Mapping[str, Any] | None = None,
    *,
    recorded_at: datetime | None = None,
) -> LifecycleEvent:
    return LifecycleEvent(
        id=id,
        kind=kind,
        at=at,
        message_gid=delivery.message_gid,
        delivery_gid=delivery.gid,
        endpoint_gid=delivery.endpoint_gid,
        data={"round": position[0], **(data or {})},
        position=position,
        recorded_at=recorded_at,
    )
