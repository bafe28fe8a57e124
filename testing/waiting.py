"""Waiting without guessing how long: try until it holds or a deadline passes."""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

PATIENCE_S = 45.0
"""Tests run together on few cores: what takes milliseconds alone may take many seconds."""


@overload
async def assert_eventually(
    fn: Callable[[], Coroutine[Any, Any, T]], timeout: float = PATIENCE_S, *, interval: float = 0.025
) -> T: ...


@overload
async def assert_eventually(fn: Callable[[], T], timeout: float = PATIENCE_S, *, interval: float = 0.025) -> T: ...


async def assert_eventually(fn: Callable[[], Any], timeout: float = PATIENCE_S, *, interval: float = 0.025) -> Any:
    """Call `fn` (plain or async) until it raises no AssertionError, and return its result.

    Any other exception is a fault of the test and passes straight through. After `timeout` seconds the last
    AssertionError is raised, so that the failure says what did not hold.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            result = fn()
            return await result if inspect.isawaitable(result) else result
        except AssertionError as error:
            if time.monotonic() >= deadline:
                error.add_note(f"did not hold within {timeout:g} s")
                raise
        await asyncio.sleep(interval)
