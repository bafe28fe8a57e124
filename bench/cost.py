"""The CPU cost of a delivery, compared with the cost of Temporal without Everhook."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from uuid import uuid4

import psutil
from temporalio.service import RPCError, RPCStatusCode

from bench.driver import CONNECTIONS
from bench.meters import Cpu, cpu_seconds
from bench.stack import EVERHOOK, TEMPORAL, BenchStack, Endpoint, embedded_stack
from bench.tables import Progress, Table, target
from cli.dev.temporal import die_with_parent
from everhook.ids import delivery_workflow_id
from everhook.temporal.client import connect

TURNS, ITEMS, WARM_UP = 3, 500, 100
ARRIVAL_TIMEOUT_S = 300.0
CLIENT = "client"
REFERENCE_MS = 5.9 + 2.1
"""CPU of an empty eager workflow on the machine that the targets were set for: in Temporal, and in its client."""

EXCEPTIONS_MS = 3.5


@dataclass(frozen=True)
class Cost:
    """The cost of `items`: seconds until the last was done, and CPU seconds until everything was written, minus what
    the idle stack uses.

    `driver`, `receiver`: CPU seconds of the benchmark itself. `events`: the length of one history.
    """

    items: int
    seconds: float
    cpu: Cpu
    driver: float
    receiver: float
    events: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.items + other.items,
            self.seconds + other.seconds,
            self.cpu + other.cpu,
            self.driver + other.driver,
            self.receiver + other.receiver,
            other.events,
        )

    @property
    def rate(self) -> float:
        return self.items / self.seconds

    @property
    def total_ms(self) -> float:
        """CPU milliseconds of the product for one item."""
        return 1000 * self.cpu.total / self.items

    def ms(self, group: str) -> float:
        return 1000 * self.cpu.groups.get(group, 0.0) / self.items

    @property
    def bench_ms(self) -> float:
        """CPU milliseconds of driver and receiver for one item."""
        return 1000 * (self.driver + self.receiver) / self.items


Measure = Callable[[int], Awaitable[Cost]]
"""Runs this many items and returns their cost."""


async def cost(progress: Progress) -> Table:
    """An empty workflow, a naive one, and deliveries with each kind of history, in turns.

    In turns, because the cost of Temporal grows with its store, and each until the stack is idle: much of the work for
    an item is done after its end.
    """
    async with embedded_stack("all") as stack, Baseline.started(stack) as baseline:
        deliveries = await Deliveries.prepared(stack)
        empty, naive, everything = await in_turns(progress, "all", baseline.empty, baseline.naive, deliveries.deliver)
    async with embedded_stack("exceptions") as stack, Baseline.started(stack) as baseline:
        deliveries = await Deliveries.prepared(stack)
        empty_again, exceptions = await in_turns(progress, "exceptions", baseline.empty, deliveries.deliver)
    idle = deliveries.idle.total * 1000
    empty += empty_again
    allowed = EXCEPTIONS_MS * empty.total_ms / REFERENCE_MS
    allowed_all = allowed + empty.total_ms
    return Table(
        f"Cost of a delivery ({TURNS} turns of {ITEMS} each, {CONNECTIONS} at a time)",
        ("what", "items/s", "Temporal CPU ms", "client or Everhook CPU ms", "together", "history events"),
        [
            _row("(a) empty workflow, eager", empty),
            _row("(b) naive workflow, one no-op activity", naive),
            _row("(c) delivery, history `all`", everything),
            _row("(d) delivery, history `exceptions`", exceptions),
        ],
        [
            target("CPU ms of (d)", exceptions.total_ms, exceptions.total_ms <= allowed, f"at most {allowed:.1f}"),
            target("CPU ms of (c)", everything.total_ms, everything.total_ms <= allowed_all,
                   f"at most {allowed_all:.1f}, that and one (a)"),
            target("history events of (c)", everything.events, everything.events <= 7, "at most 7"),
            f"The targets follow the machine: {EXCEPTIONS_MS} ms for (d) where (a) takes {REFERENCE_MS:.1f} ms.",
            f"Without what an idle stack uses: {idle:.0f} ms of CPU a second.",
            f"Not counted: {exceptions.bench_ms:.2f} ms of CPU a delivery for the benchmark's own driver and receiver, "
            "on the same cores. (a) and (b) run in a process that does nothing else.",
        ],
    )  # fmt: skip


async def in_turns(progress: Progress, history: str, *measures: Measure) -> list[Cost]:
    for measure in measures:
        await measure(WARM_UP)
    totals: list[Cost] = []
    for turn in range(1, TURNS + 1):
        progress(f"history {history}, turn {turn} of {TURNS}")
        costs = [await measure(ITEMS) for measure in measures]
        totals = [total + one for total, one in zip(totals, costs, strict=True)] if totals else costs
    return totals


def _row(name: str, cost: Cost) -> tuple[str, ...]:
    figures = (cost.ms(TEMPORAL), cost.ms(EVERHOOK) + cost.ms(CLIENT), cost.total_ms)
    return (name, f"{cost.rate:.0f}", *(f"{ms:.1f}" for ms in figures), str(cost.events or "none"))


class Baseline:
    """`bench.baseline`, the process that runs (a) and (b): the group `client` of their costs."""

    def __init__(self, stack: BenchStack, process: asyncio.subprocess.Process, idle: Cpu) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stack = stack
        self._idle = idle
        self._process = psutil.Process(process.pid)
        self._orders, self._results = process.stdin, process.stdout

    @classmethod
    @asynccontextmanager
    async def started(cls, stack: BenchStack) -> AsyncIterator[Self]:
        process = await asyncio.create_subprocess_exec(
            *die_with_parent([sys.executable, "-m", "bench.baseline"]),
            env=os.environ | {"TEMPORAL_ADDRESS": stack.temporal},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        await process.stdout.readline()
        await stack.drained()
        baseline = cls(stack, process, await stack.idle())
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
        before, mine, began = self._stack.meter.cpu(), cpu_seconds(self._process), time.monotonic()
        order = {"name": name, "run": uuid4().hex, "count": count, "concurrency": CONNECTIONS}
        self._orders.write(json.dumps(order).encode() + b"\n")
        await self._orders.drain()
        result = json.loads(await self._results.readline())
        await self._stack.drained()
        used = self._stack.meter.cpu() - before - self._idle * (time.monotonic() - began)
        # What Everhook does meanwhile is not part of these workflows.
        engine = {group: used.groups[group] for group in self._stack.engine_groups}
        cpu = Cpu({**engine, CLIENT: cpu_seconds(self._process) - mine})
        return Cost(count, result["seconds"], cpu, 0.0, 0.0, result["history_events"])


class Deliveries:
    """Deliveries to one endpoint."""

    def __init__(self, stack: BenchStack, endpoint: Endpoint, idle: Cpu) -> None:
        self._stack = stack
        self._endpoint = endpoint
        self._expected = 0
        self.idle = idle

    @classmethod
    async def prepared(cls, stack: BenchStack) -> Self:
        endpoint = await stack.endpoint("cost")
        await stack.drained()
        return cls(stack, endpoint, await stack.idle())

    async def deliver(self, count: int) -> Cost:
        receiver = self._stack.receiver
        before, began = self._stack.meter.cpu(), time.monotonic()
        driver, received = time.process_time(), cpu_seconds(receiver.process)
        published = await self._stack.driver.publish(self._endpoint.channel, count)
        self._expected += count
        await receiver.wait_for(self._expected, self._endpoint.path, ARRIVAL_TIMEOUT_S)
        driver, received = time.process_time() - driver, cpu_seconds(receiver.process) - received
        arrivals = await receiver.arrivals(self._endpoint.path)
        last = max(arrivals[message.message_gid] for message in published)
        await self._stack.drained()
        used = self._stack.meter.cpu() - before - self.idle * (time.monotonic() - began)
        events = await _history_events(self._stack, published[0].delivery_gid)
        return Cost(count, last - published[0].sent, used, driver, received, events)


async def _history_events(stack: BenchStack, delivery_gid: str) -> int:
    """The length of the history of a delivery's workflow; 0 if it has no workflow."""
    client = await connect(target_host=stack.temporal)
    try:
        history = await client.get_workflow_handle(delivery_workflow_id(delivery_gid)).fetch_history()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return 0
    return len(history.events)
