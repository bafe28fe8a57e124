"""Which endpoints are fit for the express lane, as seen by this process."""

from dataclasses import dataclass
from datetime import timedelta

from cachetools import LRUCache

from everhook.delivery.classify import Classification

MAX_ENDPOINTS = 10_000
LATENCY_WEIGHT = 0.3
"""Weight of one response in the moving average: after three slow responses in a row an endpoint leaves the lane."""

UNFIT_FAILURES = 3
"""An endpoint leaves the lane after this many failures in a row: one failure must not move a whole burst to Temporal.
"""


@dataclass
class _Seen:
    """Moving averages in seconds: of responses, and of whole turns in the lane including the recording."""

    latency_s: float = 0.0
    turn_s: float = 0.0
    failures: int = 0


class EndpointFitness:
    """Latencies and failures in a row by endpoint, for the endpoints that were used most recently."""

    def __init__(self, slow: timedelta) -> None:
        self._slow_s = slow.total_seconds()
        self._seen: LRUCache[str, _Seen] = LRUCache(MAX_ENDPOINTS)

    def is_fit(self, endpoint_gid: str) -> bool:
        """Whether the endpoint is neither slow nor failing."""
        seen = self._seen.get(endpoint_gid)
        return seen is None or (seen.latency_s < self._slow_s and seen.failures < UNFIT_FAILURES)

    def turn_s(self, endpoint_gid: str) -> float:
        """How many seconds a delivery to the endpoint takes in the lane; 0 if nothing is known."""
        seen = self._seen.get(endpoint_gid)
        return seen.turn_s if seen is not None else 0.0

    def note(self, endpoint_gid: str, duration: timedelta, classification: Classification) -> None:
        """Take an attempt into account. A local error says nothing about the endpoint."""
        if classification.healthy is None:
            return
        seen = self._of(endpoint_gid)
        seen.latency_s = _moved(seen.latency_s, duration.total_seconds())
        seen.failures = 0 if classification.healthy else seen.failures + 1

    def note_turn(self, endpoint_gid: str, seconds: float) -> None:
        """Take into account how long a delivery took in the lane."""
        seen = self._of(endpoint_gid)
        seen.turn_s = _moved(seen.turn_s, seconds)

    def _of(self, endpoint_gid: str) -> _Seen:
        return self._seen.setdefault(endpoint_gid, _Seen())


def _moved(average: float, seconds: float) -> float:
    return average + LATENCY_WEIGHT * (seconds - average) if average else seconds
