"""A pool of tasks: bounded in all and for each key, and fair between keys."""

import asyncio
from collections import Counter
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from everhook.delivery import fair_pool
from everhook.delivery.fair_pool import FairPool


class Workshop:
    """A pool whose jobs, named `<key><number>`, end when `end` is called."""

    def __init__(self, *, at_most: int = 2, per_key: int = 2, waiting: int = 10_000, waiting_per_key: int = 10_000):
        self.began: list[str] = []
        self.ended: list[str] = []
        self.running: dict[str, asyncio.Event] = {}
        self.pool: FairPool[str] = FairPool(
            self._work, at_most=at_most, per_key=per_key, waiting=waiting, waiting_per_key=waiting_per_key
        )

    async def _work(self, job: str) -> None:
        self.began.append(job)
        self.running[job] = asyncio.Event()
        await self.running[job].wait()
        del self.running[job]
        self.ended.append(job)

    async def offer(self, *jobs: str) -> list[bool]:
        taken = [self.pool.offer(job[0], job) for job in jobs]
        await _settle()
        return taken

    async def end(self, job: str) -> None:
        self.running[job].set()
        await _settle()

    async def end_all(self) -> None:
        while self.running:
            await self.end(next(iter(self.running)))


async def _settle() -> None:
    """Let tasks that may begin or end do so."""
    for _ in range(4):
        await asyncio.sleep(0)


def named(key: str, count: int) -> list[str]:
    return [f"{key}{number}" for number in range(count)]


async def test_running_jobs_are_limited_in_total_and_for_each_key() -> None:
    shop = Workshop(at_most=3, per_key=2)
    await shop.offer("a0", "a1", "a2", "b0", "b1")
    assert list(shop.running) == ["a0", "a1", "b0"]
    assert (shop.pool.running, shop.pool.waiting, shop.pool.waiting_of("a"), shop.pool.waiting_of("c")) == (3, 2, 1, 0)
    await shop.end("a0")
    assert list(shop.running) == ["a1", "b0", "b1"]
    await shop.end_all()
    assert shop.pool.is_idle


async def test_jobs_of_one_key_run_in_the_order_in_which_they_came() -> None:
    shop = Workshop(at_most=5, per_key=1)
    await shop.offer(*named("a", 9))
    await shop.end_all()
    assert shop.began == shop.ended == named("a", 9)


async def test_a_job_that_finds_no_room_to_wait_is_refused() -> None:
    shop = Workshop(at_most=1, per_key=1, waiting=3, waiting_per_key=2)
    assert await shop.offer("a0", "a1", "a2", "a3", "b0", "b1") == [True, True, True, False, True, False]
    await shop.end("a0")
    assert await shop.offer("b1") == [True]
    await shop.end_all()
    assert sorted(shop.ended) == ["a0", "a1", "a2", "b0", "b1"]


async def test_without_a_queue_jobs_run_as_long_as_slots_are_free() -> None:
    shop = Workshop(at_most=1, per_key=1, waiting=0, waiting_per_key=0)
    assert await shop.offer("a0", "a1") == [True, False]
    await shop.end_all()
    assert await shop.offer("a1") == [True]
    await shop.end_all()


async def test_keys_with_waiting_jobs_take_turns() -> None:
    shop = Workshop(at_most=1, per_key=1)
    await shop.offer(*named("a", 3), *named("b", 3), "c0")
    await shop.end_all()
    assert shop.began == ["a0", "b0", "c0", "a1", "b1", "a2", "b2"]


@pytest.mark.parametrize("per_key", [1, 2, 4])
async def test_a_key_with_a_thousand_waiting_jobs_delays_another_by_one_job(per_key: int) -> None:
    shop = Workshop(at_most=4, per_key=per_key)
    await shop.offer(*named("a", 1_000), *named("b", 1_000))
    before = len(shop.began)
    await shop.offer("z0")
    while "z0" not in shop.began:
        await shop.end(next(iter(shop.running)))
    assert len(shop.began) - before <= 3  # one of each other key, and it
    shop.pool.withdraw()
    await shop.end_all()


async def test_a_key_whose_share_is_running_does_not_hold_up_the_others() -> None:
    shop = Workshop(at_most=3, per_key=1)
    await shop.offer(*named("a", 100), "b0", "c0", "c1")
    assert list(shop.running) == ["a0", "b0", "c0"]
    await shop.end("c0")
    assert list(shop.running) == ["a0", "b0", "c1"]
    shop.pool.withdraw()
    await shop.end_all()


async def test_jobs_that_have_waited_for_long_are_withdrawn_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(fair_pool, "time", SimpleNamespace(monotonic=lambda: clock.now))
    shop = Workshop(at_most=1, per_key=1)
    await shop.offer("a0", "a1", "b0")
    clock.now = 103.0
    await shop.offer("a2", "c0")
    clock.now = 105.0
    assert sorted(shop.pool.withdraw(5.0)) == ["a1", "b0"]
    assert shop.pool.withdraw(5.0) == []
    assert (shop.pool.waiting, shop.pool.waiting_of("a"), shop.pool.waiting_of("b")) == (2, 1, 0)
    await shop.end_all()
    assert sorted(shop.ended) == ["a0", "a2", "c0"]


async def test_a_key_whose_jobs_were_withdrawn_has_its_turn_again() -> None:
    shop = Workshop(at_most=1, per_key=1)
    await shop.offer("a0", "a1", "b0")
    assert sorted(shop.pool.withdraw()) == ["a1", "b0"]
    assert await shop.offer("b1", "a2", "b2") == [True, True, True]
    await shop.end_all()
    assert shop.ended == ["a0", "b1", "a2", "b2"]


async def test_draining_waits_for_what_runs_and_what_waits() -> None:
    shop = Workshop(at_most=1, per_key=1)
    await shop.offer("a0", "a1")
    draining = asyncio.create_task(shop.pool.drain())
    await shop.end("a0")
    assert not draining.done()
    await shop.end("a1")
    await draining
    assert shop.ended == ["a0", "a1"]
    await shop.pool.drain()


async def test_a_job_that_raises_ends_alone_and_is_logged() -> None:
    async def work(job: str) -> None:
        if job == "bad":
            raise ValueError("no")
        ended.append(job)

    ended: list[str] = []
    pool: FairPool[str] = FairPool(work, at_most=1, per_key=1, waiting=9, waiting_per_key=9)
    with capture_logs() as logs:
        assert [pool.offer("a", job) for job in ("bad", "a1", "a2")] == [True, True, True]
        await pool.drain()
    assert ended == ["a1", "a2"]
    assert [line["log_level"] for line in logs] == ["error"]


async def test_a_job_belongs_to_the_call_that_offered_it_also_where_it_waited() -> None:
    """By its context: what it logs and traces is that call's."""
    caller = ContextVar("caller", default="none")
    seen: list[tuple[str, str]] = []

    async def work(job: str) -> None:
        seen.append((job, caller.get()))
        await asyncio.sleep(0)

    pool: FairPool[str] = FairPool(work, at_most=1, per_key=1, waiting=9, waiting_per_key=9)
    for job in ("a", "b", "c"):
        caller.set(job)
        pool.offer("key", job)
    await pool.drain()
    assert seen == [("a", "a"), ("b", "b"), ("c", "c")]


# Any sequence of offered, ended and withdrawn jobs

KEYS = "abc"
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from(KEYS)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("withdraw"), st.none()),
    ),
    max_size=60,
)


@given(steps=STEPS, at_most=st.integers(1, 4), per_key=st.integers(1, 4), waiting=st.integers(0, 8))
def test_every_job_runs_once_or_is_withdrawn_and_no_more_run_than_may(
    steps: list[tuple[str, Any]], at_most: int, per_key: int, waiting: int
) -> None:
    asyncio.run(_go_through(steps, at_most, per_key, waiting))


async def _go_through(steps: list[tuple[str, Any]], at_most: int, per_key: int, waiting: int) -> None:
    shop = Workshop(at_most=at_most, per_key=per_key, waiting=waiting, waiting_per_key=max(1, waiting // 2))
    offered: list[str] = []
    withdrawn: list[str] = []
    for number, (step, argument) in enumerate(steps):
        if step == "offer":
            job = f"{argument}{number}"
            if (await shop.offer(job))[0]:
                offered.append(job)
        elif step == "withdraw":
            withdrawn += shop.pool.withdraw()
        elif shop.running:
            await shop.end(list(shop.running)[argument % len(shop.running)])
        _assert_bounded(shop, at_most, per_key, waiting)
        _assert_nothing_waits_in_vain(shop, at_most, per_key)
    await shop.end_all()
    assert shop.pool.is_idle
    assert Counter(offered) == Counter(shop.ended) + Counter(withdrawn)
    for key in KEYS:
        of_key = [job for job in shop.began if job[0] == key]
        assert of_key == [job for job in offered if job in of_key]


def _assert_bounded(shop: Workshop, at_most: int, per_key: int, waiting: int) -> None:
    assert shop.pool.running == len(shop.running) <= at_most
    assert all(count <= per_key for count in Counter(job[0] for job in shop.running).values())
    assert shop.pool.waiting == sum(shop.pool.waiting_of(key) for key in KEYS) <= waiting


def _assert_nothing_waits_in_vain(shop: Workshop, at_most: int, per_key: int) -> None:
    if len(shop.running) < at_most:
        for key in KEYS:
            if shop.pool.waiting_of(key):
                assert sum(job[0] == key for job in shop.running) == per_key
