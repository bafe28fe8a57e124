"""50,000 deliveries to a paused endpoint: how fast they are parked, their memory, and how they are released."""

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass

from bench.stack import EVERHOOK, TEMPORAL, EmbeddedStack, Endpoint, embedded_stack
from bench.tables import Progress, Table, target

PARKED = 50_000
PARK_TIMEOUT_S = 240.0
RAMP_S = 40
FULL_AFTER_S = 8
"""The ramp begins at 5 a second and doubles every second: at this second it has reached its most."""

MOST_PARK_S = 30
FULL_RATE, HOLDS = 100, 0.95
MOST_EVERHOOK_MB = 400
MOST_TEMPORAL_MB = 32
"""What counts as no growth: the garbage collector of an idle server moves by as much."""


@dataclass
class _Memory:
    """In MB: of Temporal before anything was parked and the most since; the most of API and worker."""

    before: float
    peak: float
    everhook: float

    def look(self, stack: EmbeddedStack) -> None:
        self.peak = max(self.peak, stack.meter.private_mb()[TEMPORAL])
        self.everhook = max(self.everhook, stack.meter.resident_mb(EVERHOOK))


async def parked(progress: Progress) -> Table:
    """Accept and park them, then resume the endpoint and watch the ramp."""
    async with embedded_stack() as stack:
        endpoint = await stack.endpoint("parked")
        await stack.command(endpoint, "pause")
        await stack.drained()
        memory = _Memory(stack.meter.private_mb()[TEMPORAL], 0.0, 0.0)
        began = time.monotonic()
        await stack.driver.publish_batches(endpoint.channel, PARKED)
        accepted_s = time.monotonic() - began
        count = await _until_parked(stack, endpoint, memory, progress)
        parked_s = time.monotonic() - began if count >= PARKED else float("inf")
        grown = memory.peak - memory.before  # what was parked; released deliveries may take memory
        progress("resumed")
        await stack.command(endpoint, "resume")
        ramp = await _ramp(stack, endpoint, memory, progress)
    full = ramp[FULL_AFTER_S:]
    rate = sum(full) / len(full)
    return Table(
        f"{PARKED:,} parked deliveries",
        ("what", "figure"),
        [
            ("accepted in", f"{accepted_s:.1f} s"),
            ("parked", f"{count:,} after {min(parked_s, PARK_TIMEOUT_S):.0f} s"),
            ("memory of Temporal before, growth while parked", f"{memory.before:.0f} MB, {grown:+.0f} MB"),
            ("memory of API and worker, at most", f"{memory.everhook:.0f} MB"),
            (f"arrivals in seconds 1 to {FULL_AFTER_S} after the first", ", ".join(map(str, ramp[:FULL_AFTER_S]))),
            (f"arrivals a second after that, until second {RAMP_S}", f"{rate:.0f} ({min(full)} to {max(full)})"),
        ],
        [
            target("seconds until all were accepted and parked", parked_s, parked_s <= MOST_PARK_S,
                   f"at most {MOST_PARK_S}"),
            target("growth of Temporal's memory in MB", grown, grown <= MOST_TEMPORAL_MB,
                   f"none, that is at most {MOST_TEMPORAL_MB}"),
            target("arrivals a second at the end of the ramp", rate, rate >= HOLDS * FULL_RATE, f"{FULL_RATE}"),
            target("memory of API and worker in MB", memory.everhook, memory.everhook <= MOST_EVERHOOK_MB,
                   f"under {MOST_EVERHOOK_MB}"),
        ],
    )  # fmt: skip


async def _until_parked(stack: EmbeddedStack, endpoint: Endpoint, memory: _Memory, progress: Progress) -> int:
    """Wait until every delivery is parked, for some time at most; returns how many are."""
    give_up_at = time.monotonic() + PARK_TIMEOUT_S
    while True:
        memory.look(stack)
        count = _parked(stack, endpoint)
        progress(f"{count:,} parked, Temporal {memory.peak:.0f} MB, Everhook {memory.everhook:.0f} MB")
        if count >= PARKED or time.monotonic() > give_up_at:
            return count
        await asyncio.sleep(1)


def _parked(stack: EmbeddedStack, endpoint: Endpoint) -> int:
    with closing(sqlite3.connect(f"file:{stack.database}?mode=ro", uri=True, timeout=30)) as connection:
        query = "SELECT count(*) FROM delivery WHERE endpoint_gid = ? AND status = 'parked'"
        (count,) = connection.execute(query, (endpoint.gid,)).fetchone()
    return int(count)


async def _ramp(stack: EmbeddedStack, endpoint: Endpoint, memory: _Memory, progress: Progress) -> list[int]:
    """Arrivals by second, from the first arrival on."""
    await stack.receiver.wait_for(1, endpoint.path, PARK_TIMEOUT_S)
    for second in range(RAMP_S):
        memory.look(stack)
        progress(f"resumed {second} s ago")
        await asyncio.sleep(1)
    times = sorted((await stack.receiver.arrivals(endpoint.path)).values())
    by_second = Counter(int(moment - times[0]) for moment in times)
    return [by_second[second] for second in range(RAMP_S)]
