"""The parts of a page that keep themselves up to date: server-sent events, one look at the database for all tabs.

A look returns regions of a page as markup. They contain nothing of a single session, so all clients with the same
view receive the same markup. No look runs while no client listens.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import orjson
import structlog
from sse_starlette import ServerSentEvent

from everhook.event_loop import sleep_unless

LOOK_EVERY_S = 2.0
PING_EVERY_S = 15
STREAM_FOR_S = 60.0
"""Then the browser connects again, and the server refuses a client that is no longer signed in."""

RETRY_MS = 2_000

Regions = Mapping[str, str]
Look = Callable[[], Awaitable[Regions]]

log = structlog.get_logger()


@dataclass
class _Watch:
    """One scope that is looked at, and what was seen last. `number` grows with each change."""

    look: Look
    listeners: int = 0
    number: int = 0
    regions: Regions = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Broadcaster:
    def __init__(self, every_seconds: float = LOOK_EVERY_S) -> None:
        self._every = every_seconds
        self._watches: dict[str, _Watch] = {}
        self._run = secrets.token_hex(4)
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def scopes(self) -> int:
        """How many are being looked at."""
        return len(self._watches)

    def end(self) -> None:
        """End all streams now, and new ones at once: the server waits for clients that still listen."""
        self._ended.set()
        for watch in self._watches.values():
            watch.changed.set()

    async def close(self) -> None:
        """End all streams, and wait for the looks in progress: they use the database, which is closed next."""
        self.end()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stream(self, scope: str, look: Look, last_event_id: str | None) -> AsyncGenerator[ServerSentEvent]:
        """What changes in `scope`, for a minute. A client that has the newest state gets nothing until it changes."""
        watch = self._join(scope, look)
        sent: Regions = watch.regions if last_event_id == self._id(watch) else {}
        ends_at = asyncio.get_running_loop().time() + STREAM_FOR_S
        try:
            while not self._ended.is_set():
                changed = watch.changed
                if fresh := {name: html for name, html in watch.regions.items() if sent.get(name) != html}:
                    sent = watch.regions
                    yield ServerSentEvent(
                        orjson.dumps(fresh).decode(), event="regions", id=self._id(watch), retry=RETRY_MS
                    )
                async with asyncio.timeout_at(ends_at):  # around the wait alone: a timeout ends no sending
                    await changed.wait()
        except TimeoutError:
            return
        finally:
            self._leave(scope, watch)

    def _id(self, watch: _Watch) -> str:
        return f"{self._run}-{watch.number}"

    def _join(self, scope: str, look: Look) -> _Watch:
        watch = self._watches.setdefault(scope, _Watch(look))
        watch.listeners += 1
        if watch.task is None:
            watch.task = asyncio.create_task(self._watch(watch))
            self._tasks.add(watch.task)
            watch.task.add_done_callback(self._tasks.discard)
        return watch

    def _leave(self, scope: str, watch: _Watch) -> None:
        watch.listeners -= 1
        if not watch.listeners:
            self._watches.pop(scope, None)

    async def _watch(self, watch: _Watch) -> None:
        """Not cancelled: a query that is cut off would leak its connection."""
        while watch.listeners and not self._ended.is_set():
            try:
                regions = await watch.look()
            except Exception as error:
                log.warning("could not look for the dashboard", error=str(error))
            else:
                if regions != watch.regions:
                    watch.regions, watch.number = regions, watch.number + 1
                    watch.changed.set()
                    watch.changed = asyncio.Event()
            await sleep_unless(self._ended, self._every)
