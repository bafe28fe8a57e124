"""A bounded pool of asyncio tasks that is fair between keys, such as endpoints."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

Job = TypeVar("Job")

log = structlog.get_logger()


@dataclass(frozen=True)
class _Waiting(Generic[Job]):
    """`context` is that of the caller, so that logs and traces of a job belong to the call that offered it."""

    job: Job
    since: float
    context: Context


class FairPool(Generic[Job]):
    """Runs jobs, at most `at_most` at a time and `per_key` at a time for each key.

    Jobs that find no room wait: at most `waiting` in all and `waiting_per_key` for each key, oldest first within a key.
    Keys with waiting jobs take turns, so that one key with thousands of jobs delays another key by one job. Adding,
    starting and finishing a job cost O(1).
    """

    def __init__(
        self,
        run: Callable[[Job], Coroutine[Any, Any, None]],
        *,
        at_most: int,
        per_key: int,
        waiting: int,
        waiting_per_key: int,
    ) -> None:
        """`run` handles its own errors. An exception that leaves it is logged and ends only that job."""
        self._run = run
        self._at_most = at_most
        self._per_key = per_key
        self._max_waiting = waiting
        self._max_waiting_per_key = waiting_per_key
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Waiting[Job]]] = {}
        self._turns: deque[str] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting_count = 0

    @property
    def running(self) -> int:
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        return self._waiting_count

    @property
    def is_idle(self) -> bool:
        return not self._tasks and not self._waiting_count

    def waiting_of(self, key: str) -> int:
        return len(self._waiting.get(key, ()))

    def offer(self, key: str, job: Job) -> bool:
        """Start a job, or let it wait. False if there is no room for it to wait."""
        if len(self._tasks) < self._at_most and self._running[key] < self._per_key and key not in self._waiting:
            self._start(key, job)
            return True
        if self._waiting_count >= self._max_waiting or self.waiting_of(key) >= self._max_waiting_per_key:
            return False
        if key not in self._waiting:
            self._waiting[key] = deque()
            if self._running[key] < self._per_key:
                self._turns.append(key)
        self._waiting[key].append(_Waiting(job, time.monotonic(), copy_context()))
        self._waiting_count += 1
        return True

    def withdraw(self, longer_than_s: float = 0.0) -> list[Job]:
        """Remove and return the jobs that have waited for at least this many seconds."""
        before = time.monotonic() - longer_than_s
        withdrawn: list[Job] = []
        for key in list(self._waiting):
            jobs = self._waiting[key]
            while jobs and jobs[0].since <= before:
                withdrawn.append(jobs.popleft().job)
            if not jobs:
                self._forget(key)
        self._waiting_count -= len(withdrawn)
        return withdrawn

    async def drain(self) -> None:
        """Wait until nothing runs and nothing waits."""
        while not self.is_idle:
            await asyncio.wait(self._tasks)

    def _start(self, key: str, job: Job, context: Context | None = None) -> None:
        self._running[key] += 1
        task = asyncio.create_task(self._run(job), context=context)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finished(key, done))

    def _finished(self, key: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background job failed", exc_info=error)
        if key in self._waiting and self._running[key] == self._per_key - 1:
            self._turns.append(key)  # it took no turns while it ran its full share
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._turns and len(self._tasks) < self._at_most:
            key = self._turns.popleft()
            jobs = self._waiting.get(key)
            if jobs is None:
                continue
            next_ = jobs.popleft()
            self._waiting_count -= 1
            self._start(key, next_.job, next_.context)
            if not jobs:
                del self._waiting[key]
            elif self._running[key] < self._per_key:
                self._turns.append(key)

    def _forget(self, key: str) -> None:
        del self._waiting[key]
        if key in self._turns:
            self._turns.remove(key)
