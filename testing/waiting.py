"""Waiting without guessing how long: try until it holds or a deadline passes."""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

PATIENCE_S = 45.0
"""Tests run together on few cores: what takes milliseconds alone may take many seconds."""

LONGEST_INTERVAL_S = 0.25


@overload
async def assert_eventually(
    fn: Callable[[], Coroutine[Any, Any, T]], timeout: float = PATIENCE_S, *, interval: float = 0.025
) -> T: ...


@overload
async def assert_eventually(fn: Callable[[], T], timeout: float = PATIENCE_S, *, interval: float = 0.025) -> T: ...


async def assert_eventually(fn: Callable[[], Any], timeout: float = PATIENCE_S, *, interval: float = 0.025) -> Any:
    """Call `fn` (plain or async) until it raises no AssertionError, and return its result.

    It is called every `interval` seconds at first, and less and less often during a long wait, which would otherwise
    consist of calls: it is never late by more than a tenth of the wait.
    Any other exception is a fault of the test and passes straight through. After `timeout` seconds the last
    AssertionError is raised, so that the failure says what did not hold.
    """
    started = time.monotonic()
    while True:
        try:
            result = fn()
            return await result if inspect.isawaitable(result) else result
        except AssertionError as error:
            waited = time.monotonic() - started
            if waited >= timeout:
                error.add_note(f"did not hold within {timeout:g} s")
                raise
        await asyncio.sleep(max(interval, min(waited / 10, LONGEST_INTERVAL_S)))
