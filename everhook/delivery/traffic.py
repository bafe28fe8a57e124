"""Fresh traffic of a process: work that can wait gives way to it."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from everhook.event_loop import sleep_unless

GIVE_WAY_S = 0.5
"""How long work waits for the process to be idle. After that it goes on anyway, so that it never stops."""

FLOWS_S = 1.0
"""Fresh messages flow until none has arrived for this long."""

PASS_S = 0.05
"""How long an acknowledgement waits for publishes that are in progress."""

REST_S = 1.0
"""The rest between two pieces of work for a replay while fresh messages flow."""

STEP_S = 0.02
"""How often those who wait look."""


class Traffic:
    """The publishes, and the first attempts of fresh messages, that are in progress here. Replays do not count."""

    def __init__(self, is_starting: Callable[[], bool]) -> None:
        """`is_starting`: whether workflows are being started."""
        self._is_starting = is_starting
        self._in_progress = 0
        self._publishes = 0
        self._no_publish = asyncio.Event()
        self._no_publish.set()
        self._flows_until = 0.0

    def began(self) -> None:
        self._in_progress += 1
        self._flows_until = time.monotonic() + FLOWS_S

    def ended(self) -> None:
        self._in_progress -= 1

    @contextmanager
    def in_progress(self) -> Iterator[None]:
        """Count a publish for the time of the block: what waits for its commit is a fresh message."""
        self.began()
        self._publishes += 1
        self._no_publish.clear()
        try:
            yield
        finally:
            self._publishes -= 1
            if not self._publishes:
                self._no_publish.set()
            self.ended()

    @property
    def is_busy(self) -> bool:
        return self._in_progress > 0 or self._is_starting()

    @property
    def flows(self) -> bool:
        return time.monotonic() < self._flows_until

    async def give_way(self, closing: asyncio.Event) -> None:
        """Wait for a moment in which the process is idle, but not for long."""
        await _wait_while(lambda: self.is_busy, GIVE_WAY_S, closing)

    async def let_publishes_pass(self) -> None:
        """Wait for a moment in which no publish is in progress, but not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PASS_S):
                await self._no_publish.wait()

    async def rest(self, closing: asyncio.Event) -> None:
        """Rest if fresh messages flow, until they do not or `REST_S` have passed."""
        await _wait_while(lambda: self.flows, REST_S, closing)


async def _wait_while(holds: Callable[[], bool], seconds: float, closing: asyncio.Event) -> None:
    until = time.monotonic() + seconds
    while holds() and time.monotonic() < until and not closing.is_set():
        await sleep_unless(closing, STEP_S)
