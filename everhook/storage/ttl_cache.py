"""Answers that are kept for a moment, for questions that many ask and that need no newer answer."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class TtlCache(Generic[Key, Value]):
    """What `load` answered, for so many seconds. Of callers at once one asks, and the others wait for its answer."""

    def __init__(self, load: Callable[[Key], Awaitable[Value]], seconds: float, *, at_most: int = 100) -> None:
        self._load = load
        self._seconds = seconds
        self._at_most = at_most
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()

    async def get(self, key: Key) -> Value:
        """Raises what `load` raised; an error is not kept."""
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        if len(self._entries) > self._at_most:
            self._entries.popitem(last=False)
        async with entry.lock:
            if not entry.answer or time.monotonic() >= entry.until:
                entry.answer = (await self._load(key),)
                entry.until = time.monotonic() + self._seconds
            return entry.answer[0]


@dataclass
class _Entry(Generic[Value]):
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    answer: tuple[Value, ...] = ()
    until: float = 0.0
