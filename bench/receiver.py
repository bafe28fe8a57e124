"""`bench.sink` in a separate process, and what has arrived there."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from bench.connection import Connection
from cli.dev.temporal import die_with_parent

POLL_S = 0.1


class Receiver:
    """Paths are as `bench.sink` describes them."""

    def __init__(self, port: int, process: psutil.Process, connection: Connection) -> None:
        self.port = port
        self.process = process
        self._connection = connection
        self._asking = asyncio.Lock()

    def url_for(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def count(self, path: str) -> int:
        """How many requests have arrived at this path."""
        return int(await self._get(f"/_count?{path}"))

    async def arrivals(self, path: str) -> dict[str, float]:
        """When each message first arrived, by its gid, in seconds of the monotonic clock."""
        first: dict[str, float] = {}
        for line in (await self._get(f"/_arrivals?{path}")).decode().splitlines():
            message_gid, moment = line.split(" ")
            first.setdefault(message_gid, float(moment))
        return first

    async def wait_for(self, count: int, path: str, timeout: float = 300.0) -> int:
        """Wait until this many requests have arrived; returns how many had when the time was over."""
        give_up_at = time.monotonic() + timeout
        while True:
            seen = await self.count(path)
            if seen >= count or time.monotonic() > give_up_at:
                return seen
            await asyncio.sleep(POLL_S)

    async def _get(self, target: str) -> bytes:
        async with self._asking:
            _, body = await self._connection.send(f"GET {target} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        return body


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that responds on every loopback address."""
    command = die_with_parent([sys.executable, "-m", "bench.sink"])
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        connection = await Connection.open("127.0.0.1", port)
        yield Receiver(port, psutil.Process(process.pid), connection)
        connection.close()
    finally:
        process.kill()
        await process.wait()
