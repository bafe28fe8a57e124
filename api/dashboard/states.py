"""How states read and look: words, and tones that the stylesheet colours.

Each table names every member of its enumeration, or every one of those that can occur there; `tests/test_tables.py`
finds one that is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeadLetterReason, DeliveryStatus, Verdict
from everhook.health.endpoint_alerts import AlertName
from everhook.health.score import Level
from everhook.inbox.tasks import OnDue
from everhook.notifications.events import EventKind
from everhook.publishing.gates import StepState
from everhook.storage.tables import BatchState, CircuitRow, TaskState

OK, INFO, WARN, PARK, BAD, IDLE = "ok", "info", "warn", "park", "bad", "idle"

DELIVERY_TONES = {
    DeliveryStatus.ACCEPTED: INFO,
    DeliveryStatus.SENDING: INFO,
    DeliveryStatus.RETRYING: WARN,
    DeliveryStatus.PARKED: PARK,
    DeliveryStatus.AVAILABLE: INFO,
    DeliveryStatus.AWAITING_DECISION: INFO,
    DeliveryStatus.GATED: PARK,
    DeliveryStatus.QUEUED: PARK,
    DeliveryStatus.DELIVERED: OK,
    DeliveryStatus.DEAD_LETTERED: BAD,
    DeliveryStatus.DISCARDED: IDLE,
}
VERDICT_TONES = {
    Verdict.DELIVERED: OK,
    Verdict.RETRY: WARN,
    Verdict.REJECTED: BAD,
    Verdict.PARKED: PARK,
}
LEVEL_TONES = {Level.HEALTHY: OK, Level.DEGRADED: WARN, Level.FAILING: BAD, Level.IDLE: IDLE}
HOLD_TONES = {Hold.PAUSED: PARK, Hold.DISABLED: BAD}
STEP_TONES = {
    StepState.SKIPPED: IDLE,
    StepState.WAITING: PARK,
    StepState.OPEN: INFO,
    StepState.PASSED: OK,
    StepState.DECLINED: BAD,
}
"""Of steps of gates, and of gates."""

TASK_TONES = {
    TaskState.OPEN: INFO,
    TaskState.DECIDED: OK,
    TaskState.EXPIRED: IDLE,
    TaskState.CANCELLED: IDLE,
}
BATCH_TONES = {
    BatchState.RUNNING: INFO,
    BatchState.COMPLETED: OK,
    BatchState.CANCELLED: IDLE,
    BatchState.FAILED: BAD,
}
OTHER_TONES = {"active": OK, "expired": IDLE, "revoked": BAD}
"""Of keys."""

_TABLES: tuple[Mapping[Any, str], ...] = (
    DELIVERY_TONES,
    VERDICT_TONES,
    LEVEL_TONES,
    HOLD_TONES,
    STEP_TONES,
    TASK_TONES,
    BATCH_TONES,
    OTHER_TONES,
)
TONES: Mapping[str, str] = {str(state): tone for table in _TABLES for state, tone in table.items()}

WORDS: Mapping[str, str] = {
    DeliveryStatus.DEAD_LETTERED: "dead letter",
    DeliveryStatus.AWAITING_DECISION: "awaiting decision",
    Verdict.RETRY: "failed",
}
"""Of states that go by another name in pages."""

CIRCUIT_WORDS = {CircuitState.CLOSED: "closed", CircuitState.OPEN: "open", CircuitState.HALF_OPEN: "half-open"}

REASONS = {
    DeadLetterReason.EXHAUSTED: "every attempt failed",
    DeadLetterReason.REJECTED: "the endpoint refused it",
    DeadLetterReason.BLOCKED: "the address is not allowed",
    DeadLetterReason.CIRCUIT_OPEN: "the circuit stayed open",
    DeadLetterReason.ENDPOINT_DISABLED: "the endpoint is disabled",
    DeadLetterReason.ENDPOINT_DELETED: "the endpoint was deleted",
    DeadLetterReason.PAYLOAD_ERASED: "the payload was erased",
    DeadLetterReason.UNSENDABLE: "an internal error of Everhook",
    DeadLetterReason.UNCLAIMED: "no consumer took it",
    DeadLetterReason.EXPIRED: "no decision in time",
    DeadLetterReason.DECLINED: "a person declined it",
}

WAITING_FOR = {
    DeliveryStatus.ACCEPTED: "Its attempt is under way.",
    DeliveryStatus.SENDING: "An attempt is being made.",
    DeliveryStatus.RETRYING: "The last attempt failed; the next is on the schedule.",
    DeliveryStatus.PARKED: "The endpoint's circuit is open, or it is paused or disabled. It is sent when that ends.",
    DeliveryStatus.AVAILABLE: "It is in the queue of the endpoint until a consumer takes and acknowledges it.",
    DeliveryStatus.AWAITING_DECISION: "A person has to decide.",
    DeliveryStatus.GATED: "It is sent when the decisions before it are made.",
    DeliveryStatus.QUEUED: "It is sent when those before it in its group are settled.",
    DeliveryStatus.DELIVERED: "",
    DeliveryStatus.DEAD_LETTERED: "No attempt is due. Replay it to begin a new round, or discard it.",
    DeliveryStatus.DISCARDED: "",
}


LATE = "Its attempt is late. If this lasts, Temporal or its workers are away."
"""Of an accepted delivery, for operators."""


@dataclass(frozen=True)
class CircuitEvent:
    """What happened to an endpoint; `state` is that of its circuit from then on."""

    what: str
    state: str
    tone: str


CIRCUIT_EVENTS = {
    EventKind.CIRCUIT_OPENED: CircuitEvent("Circuit opened", "open", BAD),
    EventKind.CIRCUIT_CLOSED: CircuitEvent("Circuit closed", "closed", OK),
    EventKind.ENDPOINT_PAUSED: CircuitEvent("Paused", "paused", PARK),
    EventKind.ENDPOINT_RESUMED: CircuitEvent("Resumed", "closed", OK),
    EventKind.ENDPOINT_DISABLED: CircuitEvent("Disabled", "disabled", BAD),
    EventKind.ENDPOINT_ENABLED: CircuitEvent("Enabled", "closed", OK),
}


ON_DUE = {
    OnDue.EXPIRE: "then the step is a dead letter, and the message waits",
    OnDue.DECLINE: "then it is declined",
    OnDue.PASS: "then it passes",
}
"""What happens to a step of a gate that no one decides."""

ALERTS = {
    AlertName.SUCCESS_RATE: "too many attempts fail",
    AlertName.DEAD_LETTERS: "many dead letters wait",
    AlertName.LATENCY: "responses take long",
}


def tone(state: str) -> str:
    return TONES.get(state, IDLE)


def word(state: str) -> str:
    return WORDS.get(state, state)


def endpoint_state(circuit: CircuitRow, level: Level) -> str:
    """One word for an endpoint: what an operator did to it; else `failing` while its circuit does not let messages
    through; else how well it does."""
    if circuit.hold is not None:
        return circuit.hold.value
    return (level if circuit.state is CircuitState.CLOSED else Level.FAILING).value
