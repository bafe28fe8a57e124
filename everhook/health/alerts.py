"""Thresholds that tell when they are crossed, once each way. Pure."""

from dataclasses import dataclass

from everhook.notifications.events import EventKind


@dataclass(frozen=True)
class AlertRule:
    """Raised when a value reaches `raise_at`, and cleared when it is back at `clear_at`: in between nothing changes, so
    that a value on the edge does not raise it again and again. With `low` small values are the bad ones."""

    kind: EventKind
    raise_at: float
    clear_at: float
    low: bool = False

    def transition(self, raised: bool, value: float | None) -> bool | None:
        """Whether it is raised now, where that changed; None where it did not, or nothing is known."""
        if value is None:
            return None
        sign = -1 if self.low else 1
        if not raised and sign * value >= sign * self.raise_at:
            return True
        if raised and sign * value <= sign * self.clear_at:
            return False
        return None
