"""Hints between processes: PostgreSQL's `NOTIFY` and `LISTEN`, on one connection that each process opens for them.

`NOTIFY` takes a lock on the whole database at commit, so it is never part of another transaction. A hint may be lost:
receivers check by themselves from time to time.
"""

import asyncio
import random
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import asyncpg
import structlog
from sqlalchemy import text

from everhook.event_loop import end_task, sleep_unless
from everhook.storage.engine import Database, is_unavailable

COALESCE_S = 0.02
"""A process notifies at most once in this time."""

MAX_PAYLOAD_BYTES = 7_900
"""PostgreSQL refuses payloads of 8,000 bytes."""

CHECK_EVERY_S = 30.0
CHECK_TIMEOUT_S = 2.0
RECONNECT_S = (0.1, 0.5)

_WORD = re.compile(r"[0-9A-Za-z_]{1,100}")
_CHECK = "check:"

log = structlog.get_logger()


class Notifications:
    """Sends words to all processes that listen, and receives theirs. For PostgreSQL only."""

    def __init__(self, database: Database, channel: str, receive: Callable[[Sequence[str]], None]) -> None:
        """`receive` is called with the words of other processes."""
        self._database = database
        self._channel = channel
        self._receive = receive
        self._pending: dict[str, None] = {}
        self._listens = False
        self._awaited: tuple[str, asyncio.Event] | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._was_reported = False
        self.arrive = False
        """Whether notifications arrive. A pooler in transaction mode swallows `LISTEN`."""

    def send(self, words: Iterable[str]) -> None:
        """Send words soon. Returns at once."""
        self._pending.update(dict.fromkeys(words))
        if self._pending:
            self._start()

    def listen(self) -> None:
        """Receive from now on."""
        if not self._listens:
            self._listens = True
            self._start()

    async def close(self) -> None:
        if self._task is not None:
            await end_task(self._task)
            self._task = None

    def _start(self) -> None:
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                async with self._database.dedicated_connection() as connection:
                    connection.add_termination_listener(lambda _: self._wake.set())
                    await self._serve(connection)
            except Exception as error:
                if not (is_unavailable(error) or isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError)):
                    log.exception("notifications between processes failed")
            self.arrive = False
            await asyncio.sleep(random.uniform(*RECONNECT_S))  # noqa: S311 - spreads load

    async def _serve(self, connection: Any) -> None:
        """Use a connection until it is closed."""
        is_listening = False
        check_at = 0.0
        clock = asyncio.get_running_loop().time
        while not connection.is_closed():
            self._wake.clear()
            if self._listens and not is_listening:
                await connection.add_listener(self._channel, self._received)
                is_listening = True
            if self._pending:
                await self._send(connection)
                await asyncio.sleep(COALESCE_S)
            if is_listening and clock() >= check_at:
                await self._check()
                check_at = clock() + CHECK_EVERY_S
            if not self._pending:
                await sleep_unless(self._wake, CHECK_EVERY_S)

    async def _send(self, connection: Any) -> None:
        words = list(self._pending)
        for payload in payloads(words):
            await connection.execute(f"NOTIFY {self._channel}, '{payload}'")
        for word in words:
            self._pending.pop(word, None)

    async def _check(self) -> None:
        """Find out whether what another connection sends arrives."""
        token = secrets.token_hex(8)
        self._awaited = token, asyncio.Event()
        async with self._database.read_connection() as other:
            payload = {"channel": self._channel, "payload": _CHECK + token}
            await other.execute(text("SELECT pg_notify(:channel, :payload)"), payload)
        await sleep_unless(self._awaited[1], CHECK_TIMEOUT_S)
        self.arrive = self._awaited[1].is_set()
        if not (self.arrive or self._was_reported):
            log.warning(
                "notifications of the database do not arrive; does a pooler in transaction mode swallow LISTEN? "
                "The queues are checked more often instead"
            )
        self._was_reported = not self.arrive

    def _received(self, connection: Any, pid: int, _channel: str, payload: str) -> None:
        if payload.startswith(_CHECK):
            if self._awaited is not None and payload == _CHECK + self._awaited[0]:
                self._awaited[1].set()
        elif pid != connection.get_server_pid():
            self._receive(payload.split())


def payloads(words: Iterable[str]) -> Iterator[str]:
    """Words in as few payloads as they fit into. Others than `_WORD` are left out: they would need quotes."""
    line = ""
    for word in filter(_WORD.fullmatch, words):
        if line and len(line) + 1 + len(word) > MAX_PAYLOAD_BYTES:
            yield line
            line = ""
        line = f"{line} {word}" if line else word
    if line:
        yield line
