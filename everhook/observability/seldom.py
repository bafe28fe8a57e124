"""Rate limit for log lines: one of each kind in an interval, with the number of suppressed ones since the last."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

MAX_KINDS = 1_000


@dataclass
class _Kind:
    last: float
    left_out: int = 0


class Seldom:
    """Decides for each kind of line whether to write it. Remembers `MAX_KINDS` kinds at most."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}

    def due(self, kind: Hashable) -> int | None:
        """How many lines of the kind were suppressed since the last one; None: suppress this one too."""
        now = self._clock()
        known = self._kinds.get(kind)
        if known is not None and now - known.last < self._seconds:
            known.left_out += 1
            return None
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = _Kind(now)
        return known.left_out if known is not None else 0
