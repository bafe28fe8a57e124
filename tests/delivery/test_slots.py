"""Which endpoints may take a worker's slots, by a clock that the tests move."""

from collections import deque
from contextlib import ExitStack

import pytest
from temporalio.exceptions import ApplicationError

from everhook.delivery import slots
from everhook.delivery.slots import HANGS_S, SHORT_S, SlotShare

SLOTS = 60
TICK_S = 0.001


class Worker:
    """Slots, and a clock."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.moment = 1000.0
        self.share = SlotShare(slots, lambda: self.moment)
        self.held: dict[str, list[int]] = {}

    def offer(self, endpoint: str, attempts: int) -> int:
        """Attempts of an endpoint come one after the other; how many may begin."""
        begun = 0
        for _ in range(attempts):
            if self.is_full or not self.share.may_take(endpoint):
                break
            self.held.setdefault(endpoint, []).append(self.share.take(endpoint))
            begun += 1
        return begun

    def hang(self, endpoint: str) -> None:
        """Have an endpoint hold as many slots as it gets."""
        for _ in range(100):
            self.moment += SHORT_S / 5
            self.offer(endpoint, 1)

    def end(self, endpoint: str, attempts: int = 1, *, completed: bool = True) -> None:
        """The oldest of them end."""
        for _ in range(attempts):
            self.share.release(endpoint, self.held[endpoint].pop(0), completed=completed)

    @property
    def is_full(self) -> bool:
        return sum(map(len, self.held.values())) >= self.share._slots


def test_an_endpoint_whose_attempts_never_end_gets_half_of_the_slots() -> None:
    worker = Worker()
    worker.offer("hangs", 5)
    worker.moment += 2 * SHORT_S
    assert worker.offer("hangs", 1000) == SLOTS / 2 - 5
    assert worker.offer("well", 20) == 20


def test_endpoints_that_hang_share_what_they_leave_free() -> None:
    worker = Worker()
    for _ in range(1000):
        worker.moment += 0.01
        for endpoint in ("a", "b", "c"):
            worker.offer(endpoint, 1)
    assert {len(numbers) for numbers in worker.held.values()} == {SLOTS / 4}
    assert worker.offer("well", 1) == 1


@pytest.mark.parametrize("takes", [0.001, 0.02, 0.1, 0.4, 0.9])
@pytest.mark.parametrize("together", [1, 40])
def test_an_endpoint_whose_attempts_end_takes_all_slots(takes: float, together: int) -> None:
    """One alone with a long queue, from which attempts come as fast as there are slots; their ends come one by one, or
    in groups, as a group commit has them. Some may be turned away until the first ones have ended."""
    worker = Worker()
    began: deque[float] = deque()
    refused_at = 0.0
    most = 0
    for _ in range(int((4 * takes + 1) / TICK_S)):
        worker.moment += TICK_S
        due = sum(at <= worker.moment - takes for at in began)
        if due >= min(together, len(began)):
            worker.end("well", due)
            for _ in range(due):
                began.popleft()
        for _ in range(2):
            if worker.offer("well", 1):
                began.append(worker.moment)
            elif not worker.is_full:
                refused_at = worker.moment
        most = max(most, len(began))
    assert most == SLOTS or most >= int(2 * takes / TICK_S)
    assert refused_at < 1000 + 2 * takes + 0.1, "an attempt of an endpoint that responds was turned away"


def test_an_endpoint_that_responded_and_now_hangs_gets_half_of_the_slots() -> None:
    worker = Worker()
    for _ in range(100):
        worker.offer("turns", 2)
        worker.moment += 0.02
        worker.end("turns", 2)
    worker.offer("turns", 10)
    worker.moment += 2 * SHORT_S
    assert worker.offer("turns", SLOTS) == SLOTS / 2 - 10
    worker.moment += HANGS_S
    assert worker.offer("turns", SLOTS) == 0


def test_the_end_of_an_attempt_that_hung_does_not_allow_more_attempts() -> None:
    worker = Worker()
    worker.hang("hangs")
    worker.moment += 30
    worker.end("hangs", 5)
    assert worker.offer("hangs", SLOTS) == 5


def test_attempts_that_were_not_made_are_not_counted() -> None:
    worker = Worker()
    worker.hang("hangs")
    worker.end("hangs", completed=False)
    assert worker.offer("hangs", SLOTS) == 1


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_one_attempt_may_always_be_made(slots: int) -> None:
    worker = Worker(slots)
    assert worker.offer("hangs", slots) >= 1
    worker.moment += 30
    worker.end("hangs", len(worker.held["hangs"]))
    assert worker.offer("hangs", slots) >= 1


def test_few_slots_are_all_used_by_an_endpoint_that_responds() -> None:
    worker = Worker(2)
    for _ in range(100):
        assert worker.offer("well", 2 - len(worker.held.get("well", ()))) > 0
        worker.moment += 0.05
        worker.end("well")


def test_an_attempt_is_asked_for_again_later_and_later_and_gives_its_slot_back() -> None:
    moment = 1000.0
    share = SlotShare(10, lambda: moment)
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(share.taken("hangs", 1))
        moment += HANGS_S
        delays = []
        for tries in (1, 3, 100):
            with pytest.raises(ApplicationError) as refusal, share.taken("hangs", tries):
                pytest.fail("it took a slot")
            assert refusal.value.type == "SlotsHeld"
            assert refusal.value.next_retry_delay is not None
            delays.append(refusal.value.next_retry_delay.total_seconds())
        assert 0.5 <= delays[0] <= 1 < delays[1] <= 4 < delays[2] <= 10
    assert share._held == 0


def test_endpoints_that_hold_nothing_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MAX_ENDPOINTS", 100)
    worker = Worker()
    worker.offer("hangs", 5)
    for number in range(110):
        worker.offer(f"well-{number}", 1)
        worker.end(f"well-{number}")
    assert len(worker.share._endpoints) == 100
    assert "hangs" in worker.share._endpoints
