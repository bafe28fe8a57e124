"""How fast messages arrive: bursts, publish to arrival at a steady rate, and the same without Temporal."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

from bench.driver import CONNECTIONS, Published, seconds_to_arrival
from bench.meters import cpu_seconds
from bench.stack import BenchStack, EmbeddedStack, History, embedded_stack
from bench.tables import Progress, Table, milliseconds, percentile, target
from cli.dev.temporal import die_with_parent

BURST, BURSTS = 2_000, 3
BURST_TIMEOUT_S = 300.0
LEAST_RATE, LEAST_SHARE = 400, 0.8

RATES, RATE, RATE_S = (10, 20, 40), 40, 15
PATIENCE_S = 60.0
QUIET_P95_S, BUSY_P95_S = 0.010, 0.070
BUSY_SHARE = 0.5

OUTAGE_RATE, OUTAGE_S, OUTAGE_TURNS = 20, 15, 3
MOST_WITHOUT_TEMPORAL = 1.1


async def burst(progress: Progress) -> Table:
    """Deliveries a second of bursts to one endpoint, with each kind of history."""
    rates: dict[History, list[float]] = {"exceptions": [], "all": []}
    own_ms: list[float] = []
    for history, found in rates.items():
        async with embedded_stack(history) as stack:
            for number in range(BURSTS):
                progress(f"history {history}, burst {number + 1} of {BURSTS}")
                rate, ms = await burst_rate(stack, f"burst-{number}")
                found.append(rate)
                own_ms.append(ms)
    exceptions, everything = (median(found) for found in rates.values())
    return Table(
        f"Burst of {BURST:,} to one endpoint, {CONNECTIONS} publishers, one process",
        ("history", "deliveries/s until the last arrival", "each of the bursts"),
        [
            (f"`{history}`", f"{median(found):.0f}", ", ".join(f"{rate:.0f}" for rate in found))
            for history, found in rates.items()
        ],
        [
            target("deliveries/s, `exceptions`", exceptions, exceptions >= LEAST_RATE, f"at least {LEAST_RATE}"),
            target("`all` / `exceptions`", everything / exceptions, everything >= LEAST_SHARE * exceptions,
                   f"at least {LEAST_SHARE}"),
            f"Driver and receiver take {median(own_ms):.2f} ms of CPU a message, on the same cores.",
        ],
    )  # fmt: skip


async def burst_rate(stack: BenchStack, name: str, count: int = BURST) -> tuple[float, float]:
    """Deliveries a second from the first publish to the last arrival, and CPU milliseconds that driver and receiver
    took for each. The stack is drained before."""
    endpoint = await stack.endpoint(name)
    await stack.drained()
    own = time.process_time() + cpu_seconds(stack.receiver.process)
    published = await stack.driver.publish(endpoint.channel, count)
    await stack.receiver.wait_for(count, endpoint.path, BURST_TIMEOUT_S)
    own = time.process_time() + cpu_seconds(stack.receiver.process) - own
    arrivals = await stack.receiver.arrivals(endpoint.path)
    last = max(arrivals.get(message.message_gid, float("inf")) for message in published)
    return count / (last - published[0].sent), 1000 * own / count


async def latency(progress: Progress) -> Table:
    """Publish to arrival at steady rates, on a quiet machine and on one that is half busy."""
    measured: dict[str, list[float]] = {}
    async with embedded_stack() as stack:
        for rate in RATES:
            progress(f"{rate} messages a second")
            measured[f"{rate}/s"] = await latencies(stack, f"at-{rate}", rate)
            await stack.drained()
        progress(f"{RATE} messages a second, both cores half busy")
        async with half_busy():
            measured[f"{RATE}/s, every core kept half busy"] = await latencies(stack, "busy", RATE)
    quiet, busy = (percentile(measured[name], 0.95) for name in (f"{RATE}/s", f"{RATE}/s, every core kept half busy"))
    return Table(
        f"Publish to arrival, open loop, {RATE_S} s each",
        ("rate", "p50", "p95", "p99"),
        [latency_row(name, seconds) for name, seconds in measured.items()],
        [
            target(f"p95 at {RATE}/s, ms", quiet * 1000, quiet <= QUIET_P95_S, f"at most {QUIET_P95_S * 1000:.0f}"),
            target("the same on half busy cores, ms", busy * 1000, busy <= BUSY_P95_S,
                   f"at most {BUSY_P95_S * 1000:.0f}"),
        ],
    )  # fmt: skip


async def latencies(
    stack: BenchStack, name: str, rate: float, seconds: float = RATE_S, *, at_random: bool = False
) -> list[float]:
    """Seconds from when each message was due to be published to its arrival, at a new endpoint."""
    endpoint = await stack.endpoint(name)
    await stack.drained()
    published = await stack.driver.publish_at(endpoint.channel, rate, round(rate * seconds), at_random=at_random)
    return await arrived(stack, endpoint.path, published)


async def arrived(
    stack: BenchStack, path: str, published: list[Published], patience: float = PATIENCE_S
) -> list[float]:
    """Wait for the messages for some time at most; seconds to each arrival, infinity for what has not arrived."""
    await stack.receiver.wait_for(len(published), path, patience)
    return list(seconds_to_arrival(published, await stack.receiver.arrivals(path)))


def latency_row(name: str, seconds: list[float]) -> tuple[str, ...]:
    return (name, *(milliseconds(percentile(seconds, share)) for share in (0.5, 0.95, 0.99)))


@asynccontextmanager
async def half_busy(share: float = BUSY_SHARE) -> AsyncIterator[None]:
    """Keep every core busy for this share of the time, with a process for each."""
    burners = []
    for core in sorted(os.sched_getaffinity(0)):
        command = die_with_parent([sys.executable, "-m", "bench.burner", str(core), str(share)])
        burners.append(await asyncio.create_subprocess_exec(*command))
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            await burner.wait()


async def outage(progress: Progress) -> Table:
    """Publish to 202 and publish to arrival, with Temporal running and suspended, in turns."""
    published: dict[str, list[Published]] = {"running": [], "suspended": []}
    async with embedded_stack() as stack:
        endpoint = await stack.endpoint("outage")
        await stack.driver.publish(endpoint.channel, 100)
        count = 100
        for turn in range(1, OUTAGE_TURNS + 1):
            for state, found in published.items():
                progress(f"Temporal {state}, turn {turn} of {OUTAGE_TURNS}")
                await stack.receiver.wait_for(count, endpoint.path)
                await stack.drained()
                async with _suspended(stack, state == "suspended"):
                    found += await stack.driver.publish_at(endpoint.channel, OUTAGE_RATE, OUTAGE_RATE * OUTAGE_S)
                count += OUTAGE_RATE * OUTAGE_S
        seen = await stack.receiver.wait_for(count, endpoint.path)
        arrivals = await stack.receiver.arrivals(endpoint.path)
    seconds = {state: list(seconds_to_arrival(found, arrivals)) for state, found in published.items()}
    ratio = median(seconds["suspended"]) / median(seconds["running"])
    return Table(
        f"Without Temporal ({OUTAGE_RATE}/s, open loop, {OUTAGE_TURNS} turns of {OUTAGE_S} s each)",
        ("Temporal", "publish to 202, p50", "p95", "publish to arrival, p50", "p95"),
        [
            (state, *(milliseconds(percentile(values, share)) for values in (accepted, seconds[state])
                      for share in (0.5, 0.95)))
            for state, found in published.items()
            for accepted in ([message.responded - message.sent for message in found],)
        ],
        [
            target("publish to arrival, p50, suspended / running", ratio, ratio <= MOST_WITHOUT_TEMPORAL,
                   f"at most {MOST_WITHOUT_TEMPORAL}"),
            f"{min(seen, count):,} of {count:,} messages had arrived in the end, with no action by anyone.",
        ],
    )  # fmt: skip


@asynccontextmanager
async def _suspended(stack: EmbeddedStack, wanted: bool) -> AsyncIterator[None]:
    """Suspend Temporal for the time of the block: connections stay open, and it does not respond."""
    engine = stack.engine()
    if wanted:
        engine.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.send_signal(signal.SIGCONT)
