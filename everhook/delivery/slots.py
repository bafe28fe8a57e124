"""Who may take a worker's slots: an endpoint whose attempts hang takes no more of them than it leaves free.

Temporal's queue is fair in the order it hands attempts out. It does not see that those of one endpoint do not end: they
would take all slots of a worker for a whole timeout, until the endpoint's circuit opens.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from everhook.temporal.postponing import back_off, postponed

HANGS_S = 1.0
"""An attempt that takes longer than this hangs: its end says nothing good of the others. And an endpoint none of whose
attempts ended for so long hangs, whatever it usually takes."""

LEAST_QUIET_S = 0.25
"""Shorter pauses between the ends of attempts are nothing unusual: a group commit, a garbage collection."""

SHORT_S, LEAST_BEGUN = 0.05, 10
"""Nor is it that fewer attempts than this begin while none ends, or for no longer than this. What is beyond both must
leave as many slots free: a burst to endpoints that turn out to hang would else take all slots before it is known."""

DURATION_WEIGHT = 0.3
MAX_ENDPOINTS = 10_000
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 10.0

Clock = Callable[[], float]


@dataclass
class _Endpoint:
    """Attempts in flight by their begin, oldest first; and since when, and for how many of them, none has ended."""

    began: dict[int, float] = field(default_factory=dict)
    ended_at: float = 0.0
    begun_since: int = 0
    usual_s: float = 0.0


class SlotShare:
    """The slots of one worker, and which endpoints hold them.

    An endpoint may always take a slot while it holds fewer than are free: the dynamic threshold of switches that share
    a memory. So a lone one gets half of the slots, two get a third each, and one slot is left for another. An endpoint
    whose attempts end as usual may take more, all of them if it comes to that.
    """

    def __init__(self, slots: int, clock: Clock = time.monotonic) -> None:
        self._slots = slots
        self._clock = clock
        self._held = 0
        self._number = 0
        self._endpoints: OrderedDict[str, _Endpoint] = OrderedDict()

    @contextmanager
    def taken(self, endpoint_gid: str, tries: int) -> Iterator[None]:
        """Hold a slot for an attempt. Raises an error that has Temporal ask again later, if the endpoint may have none;
        `tries` counts how often it was asked already, this time included."""
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
        if endpoint is None or not endpoint.began:
            return True
        free = self._slots - self._held
        return len(endpoint.began) < free or not self._hangs(endpoint, free)

    def take(self, endpoint_gid: str) -> int:
        """Take a slot; returns its number, for `release`."""
        endpoint = self._endpoints.setdefault(endpoint_gid, _Endpoint())
        self._endpoints.move_to_end(endpoint_gid)
        self._number += 1
        self._held += 1
        endpoint.began[self._number] = self._clock()
        endpoint.begun_since += 1
        self._forget_idle()
        return self._number

    def release(self, endpoint_gid: str, number: int, *, completed: bool) -> None:
        """Give a slot back. `completed`: the attempt was made, and did not fail by a fault on our side."""
        endpoint = self._endpoints[endpoint_gid]
        self._held -= 1
        moment = self._clock()
        took = moment - endpoint.began.pop(number)
        if completed and took <= HANGS_S:
            endpoint.ended_at, endpoint.begun_since = moment, 0
            endpoint.usual_s += DURATION_WEIGHT * (took - endpoint.usual_s)
        elif not completed:
            endpoint.begun_since = max(endpoint.begun_since - 1, 0)

    def _hangs(self, endpoint: _Endpoint, free: int) -> bool:
        """Whether no attempt has ended for longer than they usually take, or while as many began as slots are free."""
        oldest = next(iter(endpoint.began.values()))
        quiet_s = self._clock() - max(endpoint.ended_at, oldest)
        if quiet_s > min(max(2 * endpoint.usual_s, LEAST_QUIET_S), HANGS_S):
            return True
        # On a machine that is overloaded attempts end late, and seldom: that is usual then.
        return quiet_s > max(endpoint.usual_s, SHORT_S) and endpoint.begun_since >= max(free, LEAST_BEGUN)

    def _forget_idle(self) -> None:
        """Bound the memory: endpoints that hold nothing are forgotten, those that were used least recently first."""
        while len(self._endpoints) > MAX_ENDPOINTS:
            idle = next((gid for gid, endpoint in self._endpoints.items() if not endpoint.began), None)
            if idle is None:
                return
            del self._endpoints[idle]
