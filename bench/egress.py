"""The egress transport compared with plain httpx: requests per second and CPU per request, over many hosts.

Hosts are loopback addresses. The receiver is a separate process with very little overhead. No stack is needed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network

import httpx

from bench.receiver import receiver
from bench.tables import Progress, Table, target
from everhook.egress import EgressClient, EgressRules

HOSTS = (1, 100, 1_000)
CONCURRENCY = 50
REQUESTS = 3_000
FEWER = 200
"""Of plain httpx: with 1,000 connections kept it takes 10 to 35 ms of CPU a request."""
REPEATS = 2

TIMEOUT = timedelta(seconds=15)
RULES = EgressRules((ip_network("127.0.0.0/8"),), http=True)
BODY = b"x" * 1024
HEADERS = [
    ("content-type", "application/json"),
    ("user-agent", "Everhook/bench"),
    ("webhook-id", "msg_01m83prhbfe23sdyzab24cmhby"),
    ("webhook-timestamp", "1795500000"),
    ("webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]

Post = Callable[[str], Awaitable[int | None]]
"""One request to a URL; its status."""
Client = Callable[[], AbstractAsyncContextManager[Post]]


@dataclass(frozen=True)
class Speed:
    """`cpu_us`: microseconds of the client's process for one request."""

    rate: float
    cpu_us: float

    def __str__(self) -> str:
        return f"{self.rate:,.0f}/s, {self.cpu_us:,.0f} µs"


async def transport(progress: Progress) -> Table:
    speeds: dict[str, list[Speed]] = {name: [] for name in CLIENTS}
    async with receiver() as sink:
        for hosts in HOSTS:
            urls = [f"http://127.0.{1 + host // 250}.{1 + host % 250}:{sink.port}/hook" for host in range(hosts)]
            for name, (client, count) in CLIENTS.items():
                progress(f"{hosts:,} hosts, {name}")
                speeds[name].append(await _best(client, urls, count))
    ours, *others = speeds.values()
    flat = ours[-1].cpu_us / ours[0].cpu_us
    lead = min(mine.rate / max(theirs.rate for theirs in rest) for mine, *rest in zip(ours, *others, strict=True))
    return Table(
        f"The guarded transport ({CONCURRENCY} requests at a time, best of {REPEATS})",
        ("hosts", *speeds),
        [(f"{hosts:,}", *map(str, row)) for hosts, *row in zip(HOSTS, *speeds.values(), strict=True)],
        [
            target(f"CPU a request, {HOSTS[-1]:,} hosts / 1 host", flat, flat <= 1.3, "at most 1.3"),
            target("rate, ours / the faster httpx, where that is least", lead, lead > 1, "more than 1"),
            "Guarded: with all that a delivery asks of it (rules, judged addresses, deadline, caps).",
        ],
    )


@asynccontextmanager
async def _guarded() -> AsyncIterator[Post]:
    client = EgressClient(RULES)

    async def post(url: str) -> int | None:
        return (await client.post(url, HEADERS, BODY, TIMEOUT)).status

    yield post
    await client.aclose()


@asynccontextmanager
async def _httpx(limits: httpx.Limits) -> AsyncIterator[Post]:
    async with httpx.AsyncClient(limits=limits, timeout=TIMEOUT.total_seconds(), trust_env=False) as client:

        async def post(url: str) -> int | None:
            return (await client.post(url, headers=HEADERS, content=BODY)).status_code

        yield post


CLIENTS: dict[str, tuple[Client, int]] = {
    "guarded": (_guarded, REQUESTS),
    "httpx as it comes": (lambda: _httpx(httpx.Limits(max_connections=100, max_keepalive_connections=20)), FEWER),
    "httpx, every connection kept": (lambda: _httpx(httpx.Limits(keepalive_expiry=60)), FEWER),
}


async def _best(client: Client, urls: Sequence[str], count: int) -> Speed:
    """The fastest of several rounds, after one round that opens all connections."""
    async with client() as post:
        await _round(post, urls, max(len(urls), CONCURRENCY))
        return max([await _round(post, urls, count) for _ in range(REPEATS)], key=lambda speed: speed.rate)


async def _round(post: Post, urls: Sequence[str], count: int) -> Speed:
    numbers = iter(range(count))

    async def run() -> None:
        for number in numbers:
            if await post(urls[number % len(urls)]) != 200:
                raise RuntimeError("a request failed")

    cpu, began = time.process_time(), time.monotonic()
    await asyncio.gather(*(run() for _ in range(CONCURRENCY)))
    return Speed(count / (time.monotonic() - began), (time.process_time() - cpu) / count * 1e6)
