"""Steady traffic for minutes, and whether the memory of any process grows."""

import asyncio
import time

from bench.flow import arrived, latency_row
from bench.stack import BenchStack, embedded_stack
from bench.tables import Progress, Table, target

AN_HOUR = 100_000
MINUTES = 10
SAMPLE_S = 5.0
MOST_SHARE, MOST_MB = 0.05, 8.0
"""Growth beyond both counts; less is normal between garbage collections."""


async def embedded(progress: Progress) -> Table:
    async with embedded_stack() as stack:
        return await soak(stack, progress, "embedded")


async def soak(stack: BenchStack, progress: Progress, shape: str) -> Table:
    """100,000 messages an hour. The first minute does not count: caches fill.

    Compared is the least memory of minutes 2 and 3 with the least of the last 2: between its collections, a process
    holds more than it needs.
    """
    endpoint = await stack.endpoint("soak")
    rate, seconds = AN_HOUR / 3600, MINUTES * 60
    samples: list[dict[str, float]] = []
    publishing = asyncio.create_task(stack.driver.publish_at(endpoint.channel, rate, round(rate * seconds)))
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        await asyncio.sleep(SAMPLE_S)
        samples.append(stack.meter.private_mb())
        progress(f"minute {(time.monotonic() - began) / 60:.1f} of {MINUTES}: " + _shown(samples[-1]))
    reached = await arrived(stack, endpoint.path, await publishing)
    a_minute = round(60 / SAMPLE_S)
    early, late = _least(samples[a_minute : 3 * a_minute]), _least(samples[-2 * a_minute :])
    return Table(
        f"{AN_HOUR:,} messages an hour for {MINUTES} minutes, {shape}",
        ("process", "memory in minutes 2 and 3", "memory in the last 2", "growth"),
        [
            (name, f"{early[name]:.0f} MB", f"{late[name]:.0f} MB", f"{late[name] - early[name]:+.0f} MB")
            for name in early
        ],
        [
            *(
                target(f"growth of {name} in MB", grown, grown <= max(MOST_MB, MOST_SHARE * early[name]),
                       f"none, that is at most {MOST_MB:.0f} or {100 * MOST_SHARE:.0f} %")
                for name, grown in ((name, late[name] - early[name]) for name in early)
            ),
            "Publish to arrival: {}, p50; {}, p95; {}, p99.".format(*latency_row("", reached)[1:]),
        ],
    )  # fmt: skip


def _least(samples: list[dict[str, float]]) -> dict[str, float]:
    return {name: min(sample[name] for sample in samples) for name in samples[0]}


def _shown(sample: dict[str, float]) -> str:
    return ", ".join(f"{name} {mb:.0f} MB" for name, mb in sample.items())
