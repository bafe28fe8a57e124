"""Shares of a worker's slots: an endpoint whose attempts hang holds no more slots than it leaves free.

Temporal's queue is fair in the order in which it dispatches attempts. It does not know which attempts hang: those of
one endpoint would hold all slots of a worker for a whole timeout, until the circuit of the endpoint opens.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from everhook.temporal.postponing import back_off, postponed

HANGS_S = 1.0
"""An attempt that takes longer than this hangs, and does not count as a sign of health when it ends. An endpoint with
no finished attempt for this long hangs, no matter how long its attempts usually take."""

LEAST_QUIET_S = 0.25
"""Shorter pauses between finished attempts are normal: a group commit, a garbage collection."""

SHORT_S, LEAST_STARTED = 0.05, 10
"""It is also normal that fewer attempts than this start while none finishes, or that none finishes for this long.
Beyond both, an endpoint must leave as many slots free as it holds: otherwise a burst to endpoints that turn out to hang
would take all slots before this is known."""

DURATION_WEIGHT = 0.3
MAX_ENDPOINTS = 10_000
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 10.0

Clock = Callable[[], float]


@dataclass
class _Endpoint:
    """Attempts in flight with their start time, oldest first; when the last one finished; how many started since."""

    started: dict[int, float] = field(default_factory=dict)
    ended_at: float = 0.0
    started_since: int = 0
    usual_s: float = 0.0


class SlotShare:
    """The slots of one worker, and which endpoints hold them.

    An endpoint may always take a slot while it holds fewer than are free. This is the dynamic threshold of switches
    with shared memory: one endpoint gets half of the slots, two get a third each, and one slot is left for another
    endpoint. An endpoint whose attempts finish as usual may take more, up to all of them.
    """

    def __init__(self, slots: int, clock: Clock = time.monotonic) -> None:
        self._slots = slots
        self._clock = clock
        self._held = 0
        self._number = 0
        self._endpoints: OrderedDict[str, _Endpoint] = OrderedDict()

    @contextmanager
    def taken(self, endpoint_gid: str, tries: int) -> Iterator[None]:
        """Hold a slot for an attempt. Raises an error with a retry delay if the endpoint may not take one.

        `tries` counts the calls for this attempt, including this one.
        """
        if not self.may_take(endpoint_gid):
            delay = back_off(tries, first_s=FIRST_BACK_OFF_S, longest_s=LONGEST_BACK_OFF_S)
            raise postponed("earlier attempts of the endpoint hang, and hold its share of slots", "SlotsHeld", delay)
        number = self.take(endpoint_gid)
        completed = False
        try:
            yield
            completed = True
        finally:
            self.release(endpoint_gid, number, completed=completed)

    def may_take(self, endpoint_gid: str) -> bool:
        """Whether the endpoint may take one more slot now."""
        endpoint = self._endpoints.get(endpoint_gid)
        if endpoint is None or not endpoint.started:
            return True
        free = self._slots - self._held
        return len(endpoint.started) < free or not self._hangs(endpoint, free)

    def take(self, endpoint_gid: str) -> int:
        """Take a slot. Returns its number, for `release`."""
        endpoint = self._endpoints.setdefault(endpoint_gid, _Endpoint())
        self._endpoints.move_to_end(endpoint_gid)
        self._number += 1
        self._held += 1
        endpoint.started[self._number] = self._clock()
        endpoint.started_since += 1
        self._forget_idle()
        return self._number

    def release(self, endpoint_gid: str, number: int, *, completed: bool) -> None:
        """Release a slot. `completed`: the attempt was made, and did not end in a local error."""
        endpoint = self._endpoints[endpoint_gid]
        self._held -= 1
        moment = self._clock()
        took = moment - endpoint.started.pop(number)
        if completed and took <= HANGS_S:
            endpoint.ended_at, endpoint.started_since = moment, 0
            endpoint.usual_s += DURATION_WEIGHT * (took - endpoint.usual_s)
        elif not completed:
            endpoint.started_since = max(endpoint.started_since - 1, 0)

    def _hangs(self, endpoint: _Endpoint, free: int) -> bool:
        """Whether no attempt has finished for longer than they usually take, or while as many started as slots are
        free."""
        oldest = next(iter(endpoint.started.values()))
        quiet_s = self._clock() - max(endpoint.ended_at, oldest)
        if quiet_s > min(max(2 * endpoint.usual_s, LEAST_QUIET_S), HANGS_S):
            return True
        # On an overloaded machine attempts finish late and rarely; that is usual then.
        return quiet_s > max(endpoint.usual_s, SHORT_S) and endpoint.started_since >= max(free, LEAST_STARTED)

    def _forget_idle(self) -> None:
        """Bound the memory: drop the least recently used endpoints that hold no slot.

        Not `cachetools.LRUCache`, which would also drop endpoints that hold slots.
        """
        while len(self._endpoints) > MAX_ENDPOINTS:
            idle = next((gid for gid, endpoint in self._endpoints.items() if not endpoint.started), None)
            if idle is None:
                return
            del self._endpoints[idle]
