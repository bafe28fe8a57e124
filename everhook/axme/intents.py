"""Intents: a message with one delivery, in AXME's terms. Pure.

Statuses and events are derived from the rows of the delivery, so nothing is written for them. The number of an event
follows from the round and the number of its attempt: deriving it again gives the same number.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus, Verdict
from everhook.ids import uuid_of
from everhook.lifecycle.events import AttemptRow, DeliveryHistory

CHANNEL = "axme"
"""The channel of all intents. They go to the endpoint of their agent alone, so nothing subscribes to it."""

COMPLETION_TYPE = "intent.completion.v1"
"""The type of the intent that an agent at `reply_to` receives."""

_ROUND = 100_000
"""Numbers of events that one round may use. An attempt uses four of them, and has a number up to 100."""


class IntentStatus(StrEnum):
    CREATED = "CREATED"
    SUBMITTED = "SUBMITTED"
    DELIVERED = "DELIVERED"
    IN_PROGRESS = "IN_PROGRESS"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL

    @property
    def event(self) -> str:
        """The name of the event that an intent got this status."""
        return f"intent.{self.value.lower()}"


_TERMINAL = frozenset({IntentStatus.COMPLETED, IntentStatus.FAILED, IntentStatus.CANCELED, IntentStatus.TIMED_OUT})
_OUT_OF_TIME = frozenset({DeadLetterReason.UNCLAIMED, DeadLetterReason.EXPIRED})

FOR_AGENT, FOR_HUMAN = "WAITING_FOR_AGENT", "WAITING_FOR_HUMAN"


@dataclass(frozen=True)
class IntentEvent:
    """An intent got a status. `waiting_for` is set for `WAITING` alone."""

    seq: int
    status: IntentStatus
    at: datetime
    waiting_for: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lease:
    """The open lease of an intent's delivery."""

    round: int
    number: int
    leased_at: datetime


@dataclass(frozen=True)
class LastResponse:
    """The response to the newest attempt of the current round. `body` is JSON."""

    reason: str | None = None
    body: bytes | None = None


@dataclass(frozen=True)
class Envelope:
    """What a sender said of an intent. `payload` is JSON; None once it was erased."""

    correlation_id: str = ""
    from_agent: str = ""
    to_agent: str = ""
    reply_to: str | None = None
    deadline_at: datetime | None = None
    payload: bytes | None = None


@dataclass(frozen=True)
class Intent:
    """`asked_at` is when it was read: an intent past its deadline is out of time, even if nothing noted it yet."""

    message_gid: str
    tenant_gid: str | None
    published_by: str | None
    intent_type: str
    envelope: Envelope
    history: DeliveryHistory
    asked_at: datetime
    lease: Lease | None = None
    last_response: LastResponse = LastResponse()
    task_gid: str | None = None
    task_version: int | None = None

    @property
    def id(self) -> UUID:
        return uuid_of(self.message_gid)

    @property
    def endpoint_gid(self) -> str:
        return self.history.delivery.endpoint_gid

    @property
    def is_for_people(self) -> bool:
        return self.history.delivery.mode is DeliveryMode.INBOX

    def events(self) -> list[IntentEvent]:
        """All events, in order."""
        return sorted(_events(self), key=lambda event: event.seq)

    @property
    def latest(self) -> IntentEvent:
        """The event that gave it its status."""
        return self.events()[-1]

    @property
    def deadline_passed(self) -> bool:
        """Whether its deadline has ended it. A task ends at its due date, which an escalation may extend."""
        deadline = self.envelope.deadline_at
        return deadline is not None and deadline <= self.asked_at and not self.is_for_people


def _events(intent: Intent) -> Iterator[IntentEvent]:
    delivery = intent.history.delivery
    yield IntentEvent(1, IntentStatus.CREATED, delivery.accepted_at)
    yield IntentEvent(2, IntentStatus.SUBMITTED, delivery.accepted_at)
    for number in range(1, delivery.round + 1):
        yield from _of_round(intent, number)


def _of_round(intent: Intent, number: int) -> Iterator[IntentEvent]:
    delivery = intent.history.delivery
    began_at = delivery.accepted_at if number == 1 else intent.history.replays.get(number, delivery.accepted_at)
    yield IntentEvent(_seq(number, 0, 0), IntentStatus.DELIVERED, began_at)
    if intent.is_for_people:
        yield IntentEvent(_seq(number, 0, 1), IntentStatus.WAITING, began_at, FOR_HUMAN)
    attempts = _attempts(intent, number)
    ended = None
    for attempt in attempts:
        if not intent.is_for_people:
            yield IntentEvent(_seq(number, attempt.number, 1), IntentStatus.IN_PROGRESS, attempt.started_at)
        ended = _of_attempt(intent, attempt)
        yield ended
    last = attempts[-1].number if attempts else 0
    lease = intent.lease
    if lease is not None and (lease.round, lease.number) > (number, last) and lease.round == number:
        yield IntentEvent(_seq(number, lease.number, 1), IntentStatus.IN_PROGRESS, lease.leased_at)
    elif number < delivery.round:
        if ended is None or not ended.status.is_terminal:
            until = intent.history.replays.get(number + 1, began_at)
            yield IntentEvent(_seq(number, last, 3), _given_up(intent, number, until), until)
    else:
        yield from _end_of_last_round(intent, ended, _seq(number, last, 3))


def _attempts(intent: Intent, number: int) -> list[AttemptRow]:
    """The attempts of a round. One that was recorded after the delivery was read is left out: its response is not
    known."""
    delivery = intent.history.delivery
    until = delivery.attempts if number == delivery.round else _ROUND
    found = (each for each in intent.history.attempts if each.round == number and each.number <= until)
    return sorted(found, key=lambda each: each.number)


def _of_attempt(intent: Intent, attempt: AttemptRow) -> IntentEvent:
    seq, at = _seq(attempt.round, attempt.number, 2), attempt.ended_at
    delivery = intent.history.delivery
    is_last = (attempt.round, attempt.number) == (delivery.round, delivery.attempts)
    response = intent.last_response if is_last else LastResponse()
    if attempt.verdict is Verdict.DELIVERED:
        declined = delivery.reason is DeadLetterReason.DECLINED and delivery.status is DeliveryStatus.DISCARDED
        status = IntentStatus.FAILED if declined else IntentStatus.COMPLETED
        details: dict[str, Any] = {"reason": DeadLetterReason.DECLINED.value} if declined else {}
        return IntentEvent(seq, status, at, details=details | _result(response))
    details = {"error": attempt.error} | ({"reason": response.reason} if response.reason else {})
    if attempt.verdict is Verdict.REJECTED:
        return IntentEvent(seq, IntentStatus.FAILED, at, details=details)
    if attempt.next_attempt_at is None:
        return IntentEvent(seq, _given_up(intent, attempt.round, at), at, details=details)
    return IntentEvent(seq, IntentStatus.WAITING, at, FOR_AGENT, details | {"next_attempt_at": attempt.next_attempt_at})


def _result(response: LastResponse) -> dict[str, Any]:
    return {"result": response.body} if response.body is not None else {}


def _given_up(intent: Intent, round: int, at: datetime) -> IntentStatus:
    """The status of an intent whose round ended at a time without a response. The deadline bounds the first round; a
    replay opens one without."""
    deadline = intent.envelope.deadline_at
    is_out_of_time = round == 1 and deadline is not None and at >= deadline
    return IntentStatus.TIMED_OUT if is_out_of_time else IntentStatus.FAILED


def _end_of_last_round(intent: Intent, ended: IntentEvent | None, seq: int) -> Iterator[IntentEvent]:
    """What ended the current round without an attempt: a person, the window, or the deadline."""
    delivery = intent.history.delivery
    has_ended = ended is not None and ended.status.is_terminal
    if delivery.status is DeliveryStatus.DISCARDED and delivery.completed_at is not None:
        if delivery.reason is not DeadLetterReason.DECLINED:
            details = {"by": delivery.decided_by, "reason": delivery.decided_why}
            yield IntentEvent(seq, IntentStatus.CANCELED, delivery.completed_at, details=details)
        elif not has_ended:  # no one decided in time
            details = {"reason": DeadLetterReason.DECLINED.value}
            yield IntentEvent(seq, IntentStatus.FAILED, delivery.completed_at, details=details)
    elif has_ended:
        return
    elif delivery.status is DeliveryStatus.DELIVERED and delivery.completed_at is not None:
        yield IntentEvent(seq, IntentStatus.COMPLETED, delivery.completed_at, details=_result(intent.last_response))
    elif delivery.status is DeliveryStatus.DEAD_LETTERED and delivery.dead_lettered_at is not None:
        details = {"reason": delivery.reason.value if delivery.reason is not None else None}
        at = delivery.dead_lettered_at
        is_unclaimed = delivery.reason in _OUT_OF_TIME
        status = IntentStatus.TIMED_OUT if is_unclaimed else _given_up(intent, delivery.round, at)
        yield IntentEvent(seq, status, at, details=details)
    elif intent.deadline_passed and intent.envelope.deadline_at is not None and delivery.round == 1:
        details = {"reason": DeadLetterReason.UNCLAIMED.value}
        yield IntentEvent(seq, IntentStatus.TIMED_OUT, intent.envelope.deadline_at, details=details)


def _seq(round: int, number: int, step: int) -> int:
    """The number of an event: steps 0 and 1 begin an attempt, 2 ends it, 3 ends the round."""
    return (round - 1) * _ROUND + 3 + 4 * number + step
