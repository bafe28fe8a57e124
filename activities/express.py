"""The express lane: which first attempts may run on the workflow's own worker."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

MAX_LATENCIES = 10_000
LATENCY_WEIGHT = 0.3
"""How much one answer counts in an endpoint's moving latency: three slow answers in a row leave the lane."""


class ExpressLane:
    """Keeps slow and busy endpoints off the express lane, so that they cannot hold the workers' slots.

    What it turns away takes the fair queue. It knows this process only, and nothing depends on it knowing more.
    """

    def __init__(self, in_flight: int, slow: timedelta) -> None:
        self._limit = in_flight
        self._slow = slow.total_seconds()
        self._in_flight: Counter[str] = Counter()
        self._latencies: OrderedDict[str, float] = OrderedDict()

    def admits(self, endpoint_gid: str) -> bool:
        return self._in_flight[endpoint_gid] < self._limit and self._latencies.get(endpoint_gid, 0.0) < self._slow

    @contextmanager
    def occupied(self, endpoint_gid: str) -> Iterator[None]:
        """Count one attempt as in flight."""
        self._in_flight[endpoint_gid] += 1
        try:
            yield
        finally:
            self._in_flight[endpoint_gid] -= 1
            if not self._in_flight[endpoint_gid]:
                del self._in_flight[endpoint_gid]

    def note(self, endpoint_gid: str, duration: timedelta) -> None:
        """Learn from an answer, on whichever lane it came."""
        seconds = duration.total_seconds()
        before = self._latencies.pop(endpoint_gid, seconds)
        self._latencies[endpoint_gid] = before + LATENCY_WEIGHT * (seconds - before)
        if len(self._latencies) > MAX_LATENCIES:
            self._latencies.popitem(last=False)
