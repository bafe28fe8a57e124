"""A publisher with very little overhead, so that a benchmark measures Everhook and not its HTTP client."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from bench.connection import Connection

CONNECTIONS = 20
BATCH = 500
SEED = 40
TEXT = "x" * 400


@dataclass(frozen=True)
class Published:
    """An accepted message. Times are seconds of the monotonic clock; `due` is when the schedule wanted it sent."""

    message_gid: str
    delivery_gid: str
    due: float
    sent: float
    responded: float


class Driver:
    """Publishes over HTTP to one API process or several in turn. Raises RuntimeError on any response but 202."""

    def __init__(self, addresses: Sequence[tuple[str, int]], api_key: str) -> None:
        self._addresses = itertools.cycle(addresses)
        self._api_key = api_key
        self._idle: list[Connection] = []

    async def publish(self, channel: str, count: int, connections: int = CONNECTIONS) -> list[Published]:
        """Publish `count` messages one by one, as fast as this many connections can."""
        numbers = iter(range(count))
        published: list[Published] = []

        async def run() -> None:
            for number in numbers:
                published.append(await self._publish(channel, number))

        await asyncio.gather(*(run() for _ in range(min(connections, count))))
        return published

    async def publish_at(self, channel: str, rate: float, count: int, *, at_random: bool = False) -> list[Published]:
        """Open loop: message i is sent i / rate seconds from now, whether or not earlier ones have been accepted.
        `at_random`: at the times of a Poisson process of this rate, the same in each call."""
        start = time.monotonic()
        source = random.Random(SEED)
        gaps = [source.expovariate(rate) if at_random else 1 / rate for _ in range(count)]

        async def one(number: int, after: float) -> Published:
            due = start + after
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            return await self._publish(channel, number, due)

        return await asyncio.gather(*(one(number, after) for number, after in enumerate(itertools.accumulate(gaps))))

    async def publish_batches(self, channel: str, count: int, connections: int = 2) -> None:
        """Publish `count` messages in batches, as fast as this many connections can."""
        starts = iter(range(0, count, BATCH))

        async def run() -> None:
            for start in starts:
                numbers = range(start, min(start + BATCH, count))
                messages = b",".join(_message(number) for number in numbers)
                await self.post(f"/v1/channels/{channel}/messages/batch", b'{"messages":[%s]}' % messages)

        await asyncio.gather(*(run() for _ in range(connections)))

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _publish(self, channel: str, number: int, due: float | None = None) -> Published:
        sent = time.monotonic()
        response = orjson.loads(await self.post(f"/v1/channels/{channel}/messages", _message(number)))
        (delivery,) = response["deliveries"]
        return Published(
            response["messageGid"], delivery["deliveryGid"], sent if due is None else due, sent, time.monotonic()
        )

    async def post(self, path: str, body: bytes, expected: HTTPStatus = HTTPStatus.ACCEPTED) -> bytes:
        """The body of the response. Raises RuntimeError on any status but the expected one."""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {self._api_key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        connection = await self._connection()
        status, response = await connection.send(head.encode() + body)
        self._idle.append(connection)
        if status != expected:
            raise RuntimeError(f"POST {path}: {status} {response[:300].decode(errors='replace')}")
        return response

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed:
                return connection
        return await Connection.open(*next(self._addresses))


def _message(number: int) -> bytes:
    return orjson.dumps({"type": "bench.published", "payload": {"number": number, "text": TEXT}})


def seconds_to_arrival(published: Sequence[Published], arrivals: dict[str, float]) -> Iterator[float]:
    """For each message the time from its scheduled publication to its first arrival; infinity if it has not arrived."""
    return (arrivals.get(message.message_gid, float("inf")) - message.due for message in published)
