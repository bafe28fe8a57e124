"""Polls and streams: what a healthy pull costs, how fast messages arrive, how many are taken, and idle streams."""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import httpx
import orjson

from bench.cost import ITEMS, TURNS, Baseline, Cost, in_turns
from bench.driver import CONNECTIONS, seconds_to_arrival
from bench.flow import PATIENCE_S, RATE, RATE_S, latencies, latency_row
from bench.meters import Cpu
from bench.stack import API_KEY, EVERHOOK, TEMPORAL, BenchStack, embedded_stack
from bench.tables import Progress, Table, percentile, target
from cli.dev.temporal import die_with_parent
from testing.publisher import create_channel

AT_ONCE, CONSUMERS = 100, 4
TAKEN = 10_000
STREAMS = 500
MOST_OF_EMPTY, MOST_OF_WEBHOOK = 1.15, 1.0
LATENCY_TURNS = 8
"""On a noisy machine the p95 of a turn is between half and twice that of the next."""

TIMEOUT_S = 300.0


async def pulled(progress: Progress) -> Table:
    """The cost of a healthy pull next to an empty workflow; publish to stream next to publish to webhook; polls with
    acknowledgements a second; the memory of idle streams."""
    async with embedded_stack("all") as stack, Baseline.started(stack) as baseline:
        pulls = await Pulls.prepared(stack, "cost")
        progress("the cost of a pull")
        empty, pull = await in_turns(progress, "all", baseline.empty, pulls.deliver)
        webhook, stream = await _latencies(stack, progress)
        progress(f"{TAKEN:,} messages, {CONSUMERS} consumers")
        rate = await (await Pulls.prepared(stack, "rate")).rate(TAKEN)
        progress(f"{STREAMS} idle streams")
        memory = await _memory_of_streams(stack)
    engine = pull.ms(TEMPORAL) / empty.ms(TEMPORAL)
    arrival = percentile(stream, 0.95) / percentile(webhook, 0.95)
    return Table(
        f"Polls and streams ({TURNS} turns of {ITEMS} pulls; {LATENCY_TURNS} turns of {RATE} a second for {RATE_S} s)",
        ("what", "figure"),
        [
            ("empty workflow, Temporal CPU ms", f"{empty.ms(TEMPORAL):.1f}"),
            ("healthy pull, Temporal CPU ms", f"{pull.ms(TEMPORAL):.1f}"),
            ("healthy pull, Everhook CPU ms", f"{pull.ms(EVERHOOK):.1f}"),
            ("publish to webhook: p50, p95, p99", ", ".join(latency_row("", webhook)[1:])),
            ("publish to stream: p50, p95, p99", ", ".join(latency_row("", stream)[1:])),
            (f"taken and acknowledged a second, {AT_ONCE} at a time, {CONSUMERS} consumers", f"{rate:,.0f}"),
            (f"memory of an idle stream, with {STREAMS} of them", f"{memory:.0f} KB"),
        ],
        [
            target("Temporal CPU of a healthy pull ÷ empty workflow", engine, engine <= MOST_OF_EMPTY,
                   f"at most {MOST_OF_EMPTY}"),
            target("p95 publish to stream ÷ publish to webhook", arrival, arrival <= MOST_OF_WEBHOOK,
                   f"at most {MOST_OF_WEBHOOK:g}"),
        ],
    )  # fmt: skip


class Pulls:
    """Deliveries that consumers take from one endpoint."""

    def __init__(self, stack: BenchStack, gid: str, channel: str, idle: Cpu) -> None:
        self._stack, self.gid, self.channel, self._idle = stack, gid, channel, idle

    @classmethod
    async def prepared(cls, stack: BenchStack, name: str) -> Self:
        channel = f"pull-{name}"
        gid = await _pulled_endpoint(stack, channel)
        await stack.drained()
        return cls(stack, gid, channel, await stack.idle())

    async def deliver(self, count: int) -> Cost:
        before, began = self._stack.meter.cpu(), time.monotonic()
        driver = time.process_time()
        await self._stack.driver.publish(self.channel, count, CONNECTIONS)
        await self._take(count)
        seconds, driver = time.monotonic() - began, time.process_time() - driver
        await self._stack.drained()
        used = self._stack.meter.cpu() - before - self._idle * (time.monotonic() - began)
        return Cost(count, seconds, used, driver, 0.0, 0)

    async def rate(self, count: int) -> float:
        """Messages a second that wait, are taken and are acknowledged."""
        await self._stack.driver.publish_batches(self.channel, count)
        await self._stack.drained()
        began = time.monotonic()
        await self._take(count)
        return count / (time.monotonic() - began)

    async def _take(self, count: int) -> None:
        """Take messages with competing consumers. Raises RuntimeError if two of them were given the same one."""
        taken: set[str] = set()

        async def consume() -> None:
            while len(taken) < count:
                items = await self._poll()
                gids = {item["deliveryGid"] for item in items}
                if twice := gids & taken:
                    raise RuntimeError(f"taken twice: {sorted(twice)[:3]}")
                taken.update(gids)
                await acknowledge(self._stack.client, self.gid, items)

        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*(consume() for _ in range(CONSUMERS)))

    async def _poll(self) -> list[dict[str, Any]]:
        response = await self._stack.client.get(
            f"/v1/endpoints/{self.gid}/poll", params={"limit": AT_ONCE, "waitSeconds": 1}
        )
        items: list[dict[str, Any]] = orjson.loads(response.raise_for_status().content)["data"]
        return items


async def acknowledge(client: httpx.AsyncClient, gid: str, items: list[dict[str, Any]]) -> None:
    if items:
        acks = [{"lease": item["lease"]} for item in items]
        (await client.post(f"/v1/endpoints/{gid}/acks", json={"acks": acks})).raise_for_status()


async def _pulled_endpoint(stack: BenchStack, channel: str) -> str:
    await create_channel(stack.client, channel)
    created = await stack.client.post("/v1/endpoints", json={"mode": "stream", "channel": channel})
    gid: str = created.raise_for_status().json()["endpointGid"]
    return gid


async def _latencies(stack: BenchStack, progress: Progress) -> tuple[list[float], list[float]]:
    """Seconds from when messages were due to be published to their arrival: at a webhook and on a stream, in turns.

    Messages come at random times, as from many publishers. At even intervals, what follows an attempt (its record and
    its history workflow) falls between two messages, and what follows an acknowledgement of several does not.
    """
    webhook: list[float] = []
    stream: list[float] = []
    for turn in range(1, LATENCY_TURNS + 1):
        progress(f"publish to webhook, turn {turn} of {LATENCY_TURNS}")
        webhook += await latencies(stack, f"hooked-{turn}", RATE, at_random=True)
        progress(f"publish to stream, turn {turn} of {LATENCY_TURNS}")
        stream += await _latencies_of_stream(stack, f"streamed-{turn}")
    return webhook, stream


async def _latencies_of_stream(stack: BenchStack, channel: str) -> list[float]:
    gid = await _pulled_endpoint(stack, channel)
    count = RATE * RATE_S
    async with _consumer(stack, gid, count) as arrived:
        await stack.drained()
        published = await stack.driver.publish_at(channel, RATE, count, at_random=True)
        async with asyncio.timeout(PATIENCE_S):
            return list(seconds_to_arrival(published, await arrived()))


@asynccontextmanager
async def _consumer(
    stack: BenchStack, gid: str, count: int
) -> AsyncIterator[Callable[[], Awaitable[dict[str, float]]]]:
    """`bench.consumer` with its stream open; a function that waits for its arrivals."""
    [(_, port)] = stack.addresses
    command = die_with_parent([sys.executable, "-m", "bench.consumer", str(port), gid, str(count)])
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None and process.stdout is not None
    output = process.stdout

    async def arrived() -> dict[str, float]:
        lines = (await output.read()).decode().splitlines()
        return {gid: float(moment) for gid, moment in (line.split(" ") for line in lines)}

    try:
        process.stdin.write(f"{API_KEY}\n".encode())
        if await output.readline() != b"open\n":
            raise RuntimeError("the consumer could not open its stream")
        yield arrived
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def _stream(client: httpx.AsyncClient, gid: str, prefetch: int) -> AsyncIterator[httpx.Response]:
    async with client.stream("GET", f"/v1/endpoints/{gid}/stream", params={"prefetch": prefetch}) as response:
        response.raise_for_status()
        yield response


async def _memory_of_streams(stack: BenchStack) -> float:
    """Kilobytes that one more idle stream takes in the process that has them."""
    gids = [await _pulled_endpoint(stack, f"idle-{number}") for number in range(STREAMS // 100)]
    await stack.drained()
    before = stack.meter.private_mb()[EVERHOOK]
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(
            base_url=stack.client.base_url, headers=stack.client.headers, timeout=60, trust_env=False, limits=limits
        ) as client,
        AsyncExitStack() as streams,
    ):
        for number in range(STREAMS):
            await streams.enter_async_context(_stream(client, gids[number % len(gids)], prefetch=16))
        await asyncio.sleep(2)
        return (stack.meter.private_mb()[EVERHOOK] - before) * 1_000 / STREAMS
