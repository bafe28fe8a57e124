"""Which endpoints are fit for the express lane, as far as this process has seen them."""

from dataclasses import dataclass
from datetime import timedelta

from cachetools import LRUCache

from everhook.delivery.classify import Classification

MAX_ENDPOINTS = 10_000
LATENCY_WEIGHT = 0.3
"""How much one response counts in an endpoint's moving latency: three slow responses in a row leave the lane."""

UNFIT_FAILURES = 3
"""So many failures in a row leave the lane: one failure among many must not send a whole burst to the engine."""


@dataclass
class _Seen:
    """Moving averages, in seconds: of responses, and of whole turns in the lane, recording included."""

    latency_s: float = 0.0
    turn_s: float = 0.0
    failures: int = 0


class EndpointFitness:
    """Latencies and failures in a row, by endpoint. Nothing depends on it knowing more than this process saw."""

    def __init__(self, slow: timedelta) -> None:
        self._slow_s = slow.total_seconds()
        self._seen: LRUCache[str, _Seen] = LRUCache(MAX_ENDPOINTS)

    def is_fit(self, endpoint_gid: str) -> bool:
        """Whether the endpoint is neither slow nor failing."""
        seen = self._seen.get(endpoint_gid)
        return seen is None or (seen.latency_s < self._slow_s and seen.failures < UNFIT_FAILURES)

    def turn_s(self, endpoint_gid: str) -> float:
        """How many seconds a delivery to the endpoint takes in the lane; 0 where nothing is known."""
        seen = self._seen.get(endpoint_gid)
        return seen.turn_s if seen is not None else 0.0

    def note(self, endpoint_gid: str, duration: timedelta, classification: Classification) -> None:
        """Learn from an attempt of the lane or of a workflow. A fault on our side says nothing about the endpoint."""
        if classification.healthy is None:
            return
        seen = self._of(endpoint_gid)
        seen.latency_s = _moved(seen.latency_s, duration.total_seconds())
        seen.failures = 0 if classification.healthy else seen.failures + 1

    def note_turn(self, endpoint_gid: str, seconds: float) -> None:
        """Learn how long a delivery took in the lane: what waits there moves at this pace."""
        seen = self._of(endpoint_gid)
        seen.turn_s = _moved(seen.turn_s, seconds)

    def _of(self, endpoint_gid: str) -> _Seen:
        return self._seen.setdefault(endpoint_gid, _Seen())


def _moved(average: float, seconds: float) -> float:
    return average + LATENCY_WEIGHT * (seconds - average) if average else seconds
