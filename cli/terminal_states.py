"""Names of states in a terminal, with marks and styles, for the command line and `everhook dev`."""

from collections.abc import Mapping

from rich.text import Text

from cli.terminal_text import printable
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeliveryStatus, Verdict

Shown = tuple[str, str]
"""A name with its mark, and its style."""

DELIVERIES: Mapping[str, Shown] = {
    DeliveryStatus.ACCEPTED: ("• accepted", ""),
    DeliveryStatus.SENDING: ("• sending", ""),
    DeliveryStatus.RETRYING: ("↻ retrying", "yellow"),
    DeliveryStatus.PARKED: ("‖ parked", "yellow"),
    DeliveryStatus.AVAILABLE: ("○ available", ""),
    DeliveryStatus.AWAITING_DECISION: ("? awaiting decision", ""),
    DeliveryStatus.GATED: ("‖ gated", "yellow"),
    DeliveryStatus.QUEUED: ("‖ queued", "yellow"),
    DeliveryStatus.DEAD_LETTERED: ("■ dead letter", "bold red"),
    DeliveryStatus.DELIVERED: ("✓ delivered", "green"),
    DeliveryStatus.DISCARDED: ("✗ discarded", "dim"),
}
ATTEMPTS: Mapping[str, Shown] = {
    Verdict.DELIVERED: ("✓ delivered", "green"),
    Verdict.RETRY: ("↻ failed", "yellow"),
    Verdict.REJECTED: ("✗ rejected", "red"),
    Verdict.PARKED: ("‖ parked", "yellow"),
}
_CIRCUITS: Mapping[str, Shown] = {
    CircuitState.CLOSED: ("closed", ""),
    CircuitState.OPEN: ("◌ open", "bold yellow"),
    CircuitState.HALF_OPEN: ("◌ half-open", "yellow"),
}
HOLDS: Mapping[str, Shown] = {Hold.PAUSED: ("‖ paused", "yellow"), Hold.DISABLED: ("■ disabled", "bold red")}
_STATES: Mapping[str, Shown] = {
    **DELIVERIES, **ATTEMPTS, **_CIRCUITS, **HOLDS, "enabled": ("● enabled", "green"),
}  # fmt: skip


def state(name: str) -> Text:
    """A state of a delivery, an attempt, a circuit or an endpoint. A state that this version does not know is shown
    unchanged."""
    shown, style = _STATES.get(name, (printable(name), ""))
    return Text(shown, style=style)
