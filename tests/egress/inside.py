"""Everhook against the whole corpus, in a room where every connection is seen; prints the results as JSON.

Run by `conftest.py` through `room.inside`. The processes are real, the egress rules those of production.

The API is asked to create an endpoint with each URL, and the egress client, with which all requests leave, is asked to
post to each. What becomes of a message to a URL that the client refuses is the same for all of one rule, and takes a
workflow: a message is sent to one URL of each rule, and to each name that plays a trick.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from everhook.egress import EgressClient, EgressRules
from testing.certificates import Authority
from testing.stack import Stack
from testing.waiting import assert_eventually
from tests.egress.corpus import FLIPS, NAMES, ONE_OF_EACH_RULE, PUBLIC, TRICKS, URLS, Answer
from tests.egress.name_server import NameServer
from tests.egress.receivers import EMPTY, TIMEOUT, Receiver, hostile_handshakes, hostile_responses, responding

CANARY_PORTS = (443, 8443, 8080, 65535)
SMALL = b'{"event":"test.small"}'
LARGE = b'{"event":"test.large","text":"%s"}' % (b"x" * 64 * 1024)
ONE_ATTEMPT = {"delaysSeconds": [], "timeoutSeconds": TIMEOUT}
MIN_HONEST_ROUNDS, MAX_HONEST_ROUNDS = 2, 20
STEADY_MB = 4.0

REPORT = "report.json"

EVERY_URL = (*(url for url, _ in URLS), *(name.url for name in NAMES))
SENT_TO = (*ONE_OF_EACH_RULE, *(name.url for name in TRICKS))
COUNTS = ("connections", "raw_bytes", "app_bytes")

Outcomes = dict[str, dict[str, Any]]

_ENDPOINTS = "SELECT endpoint_gid FROM subscription WHERE channel = :channel ORDER BY gid"
_AIM = "UPDATE endpoint SET url = :url, version = version + 1 WHERE gid = :gid"
_OUTCOMES = """
    SELECT e.url, d.status, d.reason, d.attempts, c.failures AS counted, a.status_code, a.error, a.error_detail,
           a.peer_address, length(a.response_body) AS kept, length(a.response_headers) AS kept_headers, a.duration_ms
    FROM delivery d JOIN endpoint e ON e.gid = d.endpoint_gid JOIN circuit c ON c.endpoint_gid = e.gid
    LEFT JOIN attempt a ON a.delivery_gid = d.gid WHERE d.message_gid = :message_gid
"""


class Canary:
    """Takes every connection to `CANARY_PORTS`, on any address, and remembers the address."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            for port in CANARY_PORTS:
                for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                    server = await asyncio.start_server(self._sing, everywhere, port, family=family)
                    await opened.enter_async_context(server)
            yield

    async def _sing(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._seen.append(writer.get_extra_info("sockname")[0])
        writer.transport.abort()

    def take(self) -> list[str]:
        """The addresses seen since the last call."""
        seen, self._seen = self._seen, []
        return seen

    async def test(self) -> list[str]:
        """Check that it sees connections: the addresses that connections to these record."""
        addresses = ("127.0.0.1", "::1", "169.254.169.254")
        for address in addresses:
            _, writer = await asyncio.open_connection(address, CANARY_PORTS[0])
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await assert_eventually(lambda: _assert_all(self._seen, addresses))
        return self.take()


def _assert_all(seen: Sequence[str], addresses: Sequence[str]) -> None:
    assert len(seen) == len(addresses)


async def exercise(directory: Path) -> dict[str, Any]:
    authority = Authority()
    (directory / "ca.pem").write_text(authority.pem)
    tls = authority.issue("receiver.test").server_context(directory)
    honest = Receiver(responding(b"HTTP/1.1 404 Not Found" + EMPTY), tls)
    hostile = {**hostile_responses(tls), **hostile_handshakes(authority, directory)}
    names, canary = NameServer(_zone()), Canary()
    async with AsyncExitStack() as opened:
        opened.callback((await names.listen()).close)
        await opened.enter_async_context(canary.listening())
        for receiver in (honest, *hostile.values()):
            await opened.enter_async_context(receiver.listening())
        stack = await opened.enter_async_context(Stack(directory / "stack", extra_env=_production(directory)))
        return await Exercise(stack, canary, honest, hostile).report()


def _zone() -> dict[str, Sequence[Answer]]:
    zone = {name.host: name.answers for name in (*NAMES, FLIPS) if name.answers}
    return {**zone, "receiver.test": [(("A", PUBLIC),)]}


def _production(directory: Path) -> dict[str, str]:
    return {
        "EVERHOOK_EGRESS_ALLOW": "",
        "EVERHOOK_EGRESS_HTTP": "false",
        "SSL_CERT_FILE": str(directory / "ca.pem"),
    }


class Exercise:
    def __init__(self, stack: Stack, canary: Canary, honest: Receiver, hostile: Mapping[str, Receiver]) -> None:
        self._stack, self._canary = stack, canary
        self._honest, self._hostile = honest, hostile
        self._publisher = stack.publisher()

    async def report(self) -> dict[str, Any]:
        heard = await self._canary.test()
        created = {url: await self._try_to_create(url) for url in (*EVERY_URL, FLIPS.url)}
        posted = await _post_to_every_url()
        await self._open("hooks", len(self._hostile))
        async with self._memory() as before:
            sent = await self._send_to_urls()
            seen = self._canary.take()
            await self._send_to_honest_ones(before)
        async with self._memory() as hostile:
            receivers = await self._send_to_receivers()
            redirected = self._canary.take()
        await self._open("flips", 1)
        flipped = await self._send("flips", [FLIPS.url], SMALL)
        return {
            "heard": heard,
            "created": created,
            "posted": posted,
            "sent": sent,
            "seen": seen,
            "receivers": receivers,
            "redirected": redirected,
            "flipped": flipped[FLIPS.url],
            "flipped_seen": self._canary.take(),
            "memory_mb": {"before": max(before), "hostile": max(hostile)},
        }

    async def _send_to_urls(self) -> Outcomes:
        sent: Outcomes = {}
        wave = len(self._hostile)
        for at in range(0, len(SENT_TO), wave):
            sent |= await self._send("hooks", SENT_TO[at : at + wave], SMALL)
        return sent

    async def _send_to_honest_ones(self, memory: Sequence[float]) -> None:
        """The same to honest receivers, for comparison, until the memory is steady: caches fill slowly."""
        for done in range(1, MAX_HONEST_ROUNDS + 1):
            peak = max(memory)
            await self._send("hooks", [self._honest.url] * len(self._hostile), LARGE)
            if done >= MIN_HONEST_ROUNDS and max(memory) - peak < STEADY_MB:
                break

    async def _send_to_receivers(self) -> Outcomes:
        """The outcomes, and the counts of the receivers."""
        outcomes = await self._send("hooks", [one.url for one in self._hostile.values()], LARGE)
        return {
            name: {**outcomes[one.url], **{count: getattr(one, count) for count in COUNTS}}
            for name, one in self._hostile.items()
        }

    async def _try_to_create(self, url: str) -> dict[str, Any]:
        """What the API returns."""
        response = await self._stack.client.post("/v1/endpoints", json={"url": url})
        return {"status": response.status_code, "body": response.json()}

    async def _open(self, channel: str, endpoints: int) -> None:
        await self._publisher.create_channel(channel, ONE_ATTEMPT)
        for _ in range(endpoints):
            await self._publisher.create_endpoint(self._honest.url, channel)

    async def _send(self, channel: str, urls: Sequence[str], payload: bytes) -> Outcomes:
        """One message to all of them; the outcomes by URL. The API would refuse the URLs: they are written to the
        database. Where the channel has more endpoints than there are URLs, the last one is sent to more than once."""
        async with self._stack.engine.begin() as connection:
            gids = (await connection.execute(text(_ENDPOINTS), {"channel": channel})).scalars().all()
            pairs = [{"url": url, "gid": gid} for url, gid in zip_longest(urls, gids, fillvalue=urls[-1])]
            assert len(pairs) == len(gids)
            await connection.execute(text(_AIM), pairs)
        message = await self._publisher.publish(channel, payload)
        assert message is not None
        await self._stack.drained()
        async with self._stack.engine.connect() as connection:
            rows = await connection.execute(text(_OUTCOMES), {"message_gid": message.message_gid})
            return {row.url: dict(row._mapping) for row in rows}

    @asynccontextmanager
    async def _memory(self) -> AsyncIterator[list[float]]:
        """The memory of the API, which makes first attempts, and the worker meanwhile, in MB, as a series."""
        senders = [psutil.Process(process.pid) for process in (self._stack.api, self._stack.worker)]
        samples = list[float]()

        async def watch() -> None:
            while True:
                samples.append(sum(sender.memory_info().rss for sender in senders) / 1e6)
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        try:
            yield samples
        finally:
            watching.cancel()


async def _post_to_every_url() -> Outcomes:
    """What the egress client makes of each, with the rules of production."""
    client = EgressClient(EgressRules())
    try:
        return {url: await _post(client, url) for url in EVERY_URL}
    finally:
        await client.aclose()


async def _post(client: EgressClient, url: str) -> dict[str, Any]:
    exchange = await client.post(url, [], SMALL, timedelta(seconds=TIMEOUT))
    return {"failure": exchange.failure, "detail": exchange.detail, "peer_address": exchange.peer_address}


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    (directory / REPORT).write_text(json.dumps(asyncio.run(exercise(directory))))
