"""Groups: what a message in order costs, and whether it costs more in a long group."""

import time
from dataclasses import dataclass
from itertools import pairwise

from bench.stack import EVERHOOK, BenchStack, embedded_stack
from bench.tables import Progress, Table, target

COUNT, SHORT, LONG = 10_000, 100, 5_000
PLAIN = 4_000
"""As many as wait in the express lane: more would be started as workflows, which groups need not be."""

BATCH = 500
PART = 500
MOST_OF_FIRST = 1.2
PATIENCE_S = 600.0


@dataclass(frozen=True)
class _Run:
    """`first_ms`, `last_ms`: from arrival to arrival, in the first and the last `PART` messages of the first group."""

    cpu_ms: float
    per_second: float
    is_in_order: bool
    first_ms: float
    last_ms: float


async def ordered(progress: Progress) -> Table:
    """The CPU of Everhook for a message, in many groups and in a long one, and whether the order was kept."""
    async with embedded_stack("exceptions") as stack:
        runs: dict[str, _Run] = {}
        for title, count, size in (
            (f"no groups, {PLAIN:,} messages", PLAIN, 1),
            (f"{COUNT // SHORT} groups of {SHORT}", COUNT, SHORT),
            (f"one group of {LONG:,}", LONG, LONG),
        ):
            progress(title)
            runs[title] = await _run(stack, f"order-{size}", count, size)
    _, short, long = runs.values()
    is_in_order = short.is_in_order and long.is_in_order
    return Table(
        f"{COUNT:,} messages in groups, history `exceptions`",
        ("groups", "Everhook CPU a message", "messages a second"),
        [(title, f"{run.cpu_ms:.1f} ms", f"{run.per_second:.0f}") for title, run in runs.items()],
        [
            target(f"the last {PART} of the long group ÷ its first {PART}, time for a message",
                   long.last_ms / long.first_ms, long.last_ms <= MOST_OF_FIRST * long.first_ms,
                   f"at most {MOST_OF_FIRST}"),
            target("first arrivals are in order", int(is_in_order), is_in_order, "1"),
            "Messages of one group share no transaction, so a single long group takes more CPU a message than many.",
        ],
    )  # fmt: skip


async def _run(stack: BenchStack, name: str, count: int, size: int) -> _Run:
    endpoint = await stack.endpoint(name)
    await stack.drained()
    idle = await stack.idle()
    groups: list[list[str]] = [[] for _ in range(count // size)]
    before, began = stack.meter.cpu(), time.monotonic()
    for start in range(0, count, BATCH):
        bodies = [
            {"payload": number, "type": "bench", **({"groupKey": f"group-{number % len(groups)}"} if size > 1 else {})}
            for number in range(start, start + BATCH)
        ]
        path = f"/v1/channels/{endpoint.channel}/messages/batch"
        response = (await stack.client.post(path, json={"messages": bodies})).raise_for_status()
        for number, message in enumerate(response.json()["data"], start):
            groups[number % len(groups)].append(message["messageGid"])
    await stack.receiver.wait_for(count, endpoint.path, PATIENCE_S)
    seconds = time.monotonic() - began
    await stack.drained()
    used = stack.meter.cpu() - before - idle * (time.monotonic() - began)
    arrivals = await stack.receiver.arrivals(endpoint.path)
    is_in_order = all(arrivals[one] <= arrivals[other] for group in groups for one, other in pairwise(group))
    times = [arrivals[gid] for gid in groups[0]]
    part = min(PART, len(times) - 1)
    return _Run(
        1000 * used.groups[EVERHOOK] / count,
        count / seconds,
        is_in_order,
        1000 * (times[part] - times[0]) / part if part else 0.0,
        1000 * (times[-1] - times[-1 - part]) / part if part else 0.0,
    )
