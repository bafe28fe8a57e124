"""Alert rules: thresholds with hysteresis. Pure."""

from dataclasses import dataclass

from everhook.notifications.events import EventKind


@dataclass(frozen=True)
class AlertRule:
    """An alert is raised when its value reaches `raise_at`, and cleared when it is back at `clear_at`. In between
    nothing changes, so that a value near the threshold does not raise it again and again. `low`: small values are
    bad."""

    kind: EventKind
    raise_at: float
    clear_at: float
    low: bool = False

    def transition(self, raised: bool, value: float | None) -> bool | None:
        """The new state, if it changed; None if it did not change or if the value is unknown."""
        if value is None:
            return None
        sign = -1 if self.low else 1
        if not raised and sign * value >= sign * self.raise_at:
            return True
        if raised and sign * value <= sign * self.clear_at:
            return False
        return None
