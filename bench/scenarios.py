"""The measurements. Each returns the rows of its table, and says what was measured and against which target."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from uuid import uuid4

import psutil
from temporalio.client import Client

from bench import receipts as receipt_costs
from bench.publishing import publish
from bench.stack import EmbeddedStack, cpu_seconds, latencies, percentile
from bench.tables import Table, Tell, target
from everhook.ids import delivery_workflow_id
from everhook.temporal import connect
from tests.support.script import Response

CONCURRENCY = 20
COST_TURNS, COST_ITEMS = 4, 250
WARM_UP = 50
RATES = (10, 20, 40)
RATE_SECONDS = 15
ACCEPTS = 600
NOISY_QUEUE = 500
NOISY_DELAY_S = 2.0
QUIET_RATE, QUIET_MESSAGES = 5.0, 100
PARKED = 10_000
SEALED = 100_000
SEALING_S = 20
BATCH = 500


@dataclass(frozen=True)
class Cost:
    """Of `items`: seconds until the last was through, and CPU seconds in engine and worker until all was written off.
    `events` is the length of one's history."""

    items: int
    seconds: float
    engine: float
    worker: float
    events: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.items + other.items,
            self.seconds + other.seconds,
            self.engine + other.engine,
            self.worker + other.worker,
            other.events,
        )

    @property
    def rate(self) -> float:
        return self.items / self.seconds

    @property
    def engine_ms(self) -> float:
        return 1000 * self.engine / self.items

    @property
    def worker_ms(self) -> float:
        return 1000 * self.worker / self.items

    def row(self, name: str) -> tuple[str, ...]:
        return (name, f"{self.rate:.0f}", f"{self.engine_ms:.1f}", f"{self.worker_ms:.1f}", str(self.events))


NOTHING = Cost(0, 0.0, 0.0, 0.0, 0)


async def cost(stack: EmbeddedStack, tell: Tell) -> Table:
    """(a), (b), (c): what the engine costs without us, and with us.

    In turns, since its cost grows with its store, and each until it has come to rest: much of what it does for an
    item, it does behind its end.
    """
    empty = naive = ours = NOTHING
    async with Baseline.started(stack) as baseline:
        deliveries = await Deliveries.opened(stack)
        for measure in (baseline.empty, baseline.naive, deliveries.deliver):
            await measure(WARM_UP)
        for turn in range(1, COST_TURNS + 1):
            tell(f"turn {turn} of {COST_TURNS}")
            empty += await baseline.empty(COST_ITEMS)
            naive += await baseline.naive(COST_ITEMS)
            ours += await deliveries.deliver(COST_ITEMS)
    engine, rate = ours.engine_ms / empty.engine_ms, ours.rate / naive.rate
    return Table(
        f"Cost of a delivery ({COST_TURNS} turns of {COST_ITEMS} each, {CONCURRENCY} at a time)",
        ("what", "items/s", "engine CPU ms", "worker CPU ms", "history events"),
        [
            empty.row("(a) empty workflow, eager"),
            naive.row("(b) naive workflow, one no-op activity"),
            ours.row("(c) Everhook delivery, publish to receiver"),
        ],
        [
            target("engine CPU c/a", engine, engine <= 1.3, "at most 1.3"),
            target("rate c/b", rate, rate >= 1.3, "at least 1.3"),
            target("history events of (c)", ours.events, ours.events <= 7, "at most 7"),
            "(a) and (b) run in a process that does nothing else. (c) includes the HTTP publish, three database "
            "transactions, three signatures, the POST and its receiver, on the same cores.",
        ],
    )


class Baseline:
    """`bench.baseline`, the process that runs (a) and (b)."""

    def __init__(self, stack: EmbeddedStack, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stack = stack
        self._process = psutil.Process(process.pid)
        self._orders, self._answers = process.stdin, process.stdout

    @classmethod
    @asynccontextmanager
    async def started(cls, stack: EmbeddedStack) -> AsyncIterator[Self]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.baseline", env=os.environ | {"TEMPORAL_ADDRESS": stack.temporal},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        baseline = cls(stack, process)
        await baseline._answers.readline()
        try:
            yield baseline
        finally:
            process.kill()
            await process.wait()

    async def empty(self, count: int) -> Cost:
        return await self._run("BenchEmpty", count)

    async def naive(self, count: int) -> Cost:
        return await self._run("BenchNaive", count)

    async def _run(self, name: str, count: int) -> Cost:
        before, mine = self._stack.usage(), cpu_seconds(self._process)
        order = {"name": name, "run": uuid4().hex, "count": count, "concurrency": CONCURRENCY}
        self._orders.write(json.dumps(order).encode() + b"\n")
        await self._orders.drain()
        result = json.loads(await self._answers.readline())
        await self._stack.settled()
        used = self._stack.usage() - before
        return Cost(count, result["seconds"], used.engine, cpu_seconds(self._process) - mine, result["history_events"])


class Deliveries:
    """(c), to one endpoint."""

    def __init__(self, stack: EmbeddedStack, temporal: Client) -> None:
        self._stack = stack
        self._temporal = temporal
        self._expected = 0

    @classmethod
    async def opened(cls, stack: EmbeddedStack) -> Self:
        publisher = stack.publisher()
        await publisher.create_channel("cost")
        await publisher.create_endpoint(stack.receiver.url_for("/cost"), "cost")
        return cls(stack, await connect(target_host=stack.temporal))

    async def deliver(self, count: int) -> Cost:
        before, began = self._stack.usage(), time.monotonic()
        gids = await publish(self._stack, "cost", count, connections=CONCURRENCY)
        self._expected += count
        await self._stack.receiver.wait_for(self._expected, 300, path="/cost")
        seconds = time.monotonic() - began
        await self._stack.settled()
        used = self._stack.usage() - before
        history = await self._temporal.get_workflow_handle(delivery_workflow_id(gids[0])).fetch_history()
        return Cost(count, seconds, used.engine, used.worker, len(history.events))


async def receipts(stack: EmbeddedStack, tell: Tell) -> Table:
    """What a receipt adds to the worker's CPU a delivery, and how long sealing takes."""
    tell("deliveries")
    deliveries = await Deliveries.opened(stack)
    await deliveries.deliver(WARM_UP)
    delivery = await deliveries.deliver(COST_ITEMS)
    tell("recording without and with receipts")
    async with receipt_costs.sqlite() as database:
        without, with_receipt = await receipt_costs.recording_ms(database)
    added = with_receipt - without
    share = added / (delivery.worker_ms - added)
    seals = []
    for name, opened in (("SQLite", receipt_costs.sqlite), ("PostgreSQL", receipt_costs.postgres)):
        tell(f"sealing on {name}")
        async with opened() as database:
            seals.append((name, (await receipt_costs.sealing_time(database, SEALED)).total_seconds()))
    return Table(
        "Receipts",
        ("what", "figure"),
        [
            ("worker CPU a delivery, receipt included", f"{delivery.worker_ms:.2f} ms"),
            ("CPU to record an attempt, receipts off", f"{without:.3f} ms"),
            ("CPU to record an attempt, receipts on", f"{with_receipt:.3f} ms"),
            *((f"{SEALED:,} receipts sealed on {name} in", f"{seconds:.1f} s") for name, seconds in seals),
        ],
        [
            target("percent that a receipt adds to worker CPU", 100 * share, share <= 0.05, "at most 5"),
            *(
                target(f"seconds to seal on {name}", took, took <= SEALING_S, f"at most {SEALING_S}")
                for name, took in seals
            ),
        ],
    )


async def latency(stack: EmbeddedStack, tell: Tell) -> Table:
    """Publish to arrival, open loop."""
    rows = []
    for rate in RATES:
        tell(f"{rate} messages a second")
        path, channel = f"/latency-{rate}", f"latency-{rate}"
        publisher = stack.publisher()
        await publisher.create_channel(channel)
        await publisher.create_endpoint(stack.receiver.url_for(path), channel)
        count = rate * RATE_SECONDS
        await publisher.publish_many(channel, count, rate=float(rate))
        await stack.receiver.wait_for(count, 120, path=path)
        seconds = await latencies(stack, publisher, path)
        rows.append((f"{rate}/s", *(_ms(percentile(seconds, share)) for share in (0.5, 0.95, 0.99))))
    return Table("Publish to arrival, open loop", ("rate", "p50", "p95", "p99"), rows)


async def accept(stack: EmbeddedStack, tell: Tell) -> Table:
    """How long a publish takes to be answered, with Temporal running and suspended."""
    publisher = stack.publisher()
    await publisher.create_channel("accept")
    await publisher.create_endpoint(stack.receiver.url_for("/accept"), "accept")
    tell("accepting with Temporal running")
    running = await _accept_times(stack, "accept")
    await stack.settled()
    engine = stack.engine()
    tell("accepting with Temporal suspended")
    engine.send_signal(signal.SIGSTOP)
    try:
        stopped = await _accept_times(stack, "accept")
    finally:
        engine.send_signal(signal.SIGCONT)
    await stack.receiver.wait_for(2 * ACCEPTS, 300, path="/accept")
    await stack.settled()
    rows = [
        (name, _ms(percentile(times, 0.5)), _ms(percentile(times, 0.95)))
        for name, times in (("Temporal running", running), ("Temporal suspended", stopped))
    ]
    return Table(
        "Publish to 202 (20/s, open loop)",
        ("state", "p50", "p95"),
        rows,
        [f"All {2 * ACCEPTS} messages arrived after Temporal was back, with no action by anyone."],
    )


async def _accept_times(stack: EmbeddedStack, channel: str) -> list[float]:
    publisher = stack.publisher()
    publisher.endpoints.update(await _known_endpoints(stack))
    acks = await publisher.publish_many(channel, ACCEPTS, rate=20.0)
    return [ack.answered - ack.sent for ack in acks]


async def _known_endpoints(stack: EmbeddedStack) -> dict[str, str]:
    answer = await stack.client.get("/v1/endpoints", params={"limit": 500})
    return {endpoint["endpointGid"]: endpoint["url"] for endpoint in answer.json()["data"]}


async def neighbours(stack: EmbeddedStack, tell: Tell) -> Table:
    """A quiet endpoint alone, and beside one that answers after 2 s and has 500 messages queued."""
    await stack.receiver.respond(Response(200, delay=NOISY_DELAY_S), path="/noisy")
    tell("the quiet endpoint alone")
    alone = await _quiet(stack, "alone")
    tell("the quiet endpoint beside a noisy one")
    noisy = stack.publisher()
    await noisy.create_channel("noisy")
    await noisy.create_endpoint(stack.receiver.url_for("/noisy"), "noisy")
    await _publish_in_batches(stack, "noisy", NOISY_QUEUE)
    beside = await _quiet(stack, "beside")
    done = sum(arrival.path == "/noisy" for arrival in stack.receiver.arrivals())
    await stack.receiver.wait_for(NOISY_QUEUE, 300, path="/noisy")
    ratio = percentile(beside, 0.99) / percentile(alone, 0.99)
    rows = [
        (name, *(_ms(percentile(seconds, share)) for share in (0.5, 0.95, 0.99)))
        for name, seconds in (("alone", alone), ("beside the noisy one", beside))
    ]
    return Table(
        f"Noisy neighbour: {NOISY_QUEUE} messages to an endpoint that answers after {NOISY_DELAY_S:.0f} s",
        ("quiet endpoint", "p50", "p95", "p99"),
        rows,
        [
            target("p99 beside/alone", ratio, ratio <= 2, "at most 2"),
            f"{done} of the {NOISY_QUEUE} had arrived when the last quiet message had.",
        ],
    )


async def _quiet(stack: EmbeddedStack, name: str) -> list[float]:
    publisher = stack.publisher()
    await publisher.create_channel(f"quiet-{name}")
    await publisher.create_endpoint(stack.receiver.url_for(f"/quiet-{name}"), f"quiet-{name}")
    await publisher.publish_many(f"quiet-{name}", QUIET_MESSAGES, rate=QUIET_RATE)
    await stack.receiver.wait_for(QUIET_MESSAGES, 120, path=f"/quiet-{name}")
    return await latencies(stack, publisher, f"/quiet-{name}")


async def parked(stack: EmbeddedStack, tell: Tell) -> Table:
    """10,000 open deliveries behind a paused endpoint: memory, and the ramp when it is resumed."""
    publisher = stack.publisher()
    await publisher.create_channel("parked")
    endpoint = await publisher.create_endpoint(stack.receiver.url_for("/parked"), "parked")
    idle_mb = stack.memory_mb()
    (await stack.client.post(f"/v1/endpoints/{endpoint.gid}/pause")).raise_for_status()
    began = time.monotonic()
    await _publish_in_batches(stack, "parked", PARKED)
    accepted_s = time.monotonic() - began
    peak = await _until_all_parked(stack, endpoint.gid, tell)
    parked_s = time.monotonic() - began
    tell("released")
    (await stack.client.post(f"/v1/endpoints/{endpoint.gid}/resume")).raise_for_status()
    peak = max(peak, await _until_arrived(stack, PARKED, tell))
    times = sorted(arrival.monotonic for arrival in stack.receiver.arrivals() if arrival.path == "/parked")
    by_second = Counter(int(moment - times[0]) for moment in times)
    ramp = [by_second[second] for second in range(8)]
    return Table(
        f"{PARKED:,} parked deliveries",
        ("what", "figure"),
        [
            ("accepted in", f"{accepted_s:.1f} s"),
            ("all parked after", f"{parked_s:.0f} s"),
            ("memory of API and worker, idle", f"{idle_mb:.0f} MB"),
            ("memory of API and worker, peak", f"{peak:.0f} MB"),
            ("arrivals in seconds 1 to 8 after the first", ", ".join(map(str, ramp))),
            ("most arrivals in one second", str(max(by_second.values()))),
            ("all delivered after", f"{times[-1] - times[0]:.0f} s"),
        ],
        [
            target("peak memory in MB", peak, peak <= 400, "under 400"),
            "The ramp begins at 5 a second and doubles to 100; how far the machine follows is seen above.",
        ],
    )


async def _until_all_parked(stack: EmbeddedStack, endpoint_gid: str, tell: Tell) -> float:
    """Peak memory until the last delivery of the endpoint is parked."""
    peak = 0.0
    client = await connect(target_host=stack.temporal)
    query = f'Endpoint="{endpoint_gid}" AND DeliveryStatus="parked"'
    while True:
        count = (await client.count_workflows(query)).count
        peak = max(peak, stack.memory_mb())
        tell(f"{count} parked, {peak:.0f} MB")
        if count >= PARKED:
            return peak
        await asyncio.sleep(1)


async def _until_arrived(stack: EmbeddedStack, count: int, tell: Tell) -> float:
    peak, arrived = 0.0, 0
    while arrived < count:
        await asyncio.sleep(1)
        arrived = sum(arrival.path == "/parked" for arrival in stack.receiver.arrivals())
        peak = max(peak, stack.memory_mb())
        tell(f"{arrived} arrived, {peak:.0f} MB")
    return peak


async def _publish_in_batches(stack: EmbeddedStack, channel: str, count: int) -> None:
    for start in range(0, count, BATCH):
        messages = [{"type": "bench.queued", "payload": {"number": n}} for n in range(start, min(start + BATCH, count))]
        answer = await stack.client.post(f"/v1/channels/{channel}/messages/batch", json={"messages": messages})
        answer.raise_for_status()


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
