"""A quiet endpoint next to one that fails: slow responses, messages that cannot be sent, a long queue."""

import asyncio
import math
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing

from bench.flow import arrived, latency_row
from bench.stack import EmbeddedStack, Endpoint, embedded_stack
from bench.tables import Progress, Table, percentile, target

QUIET_RATE, QUIET_MESSAGES = 10.0, 200
PATIENCE_S = 60.0
"""A quiet message that has not arrived this long after the last publish counts as not in time."""

MOST_RATIO, MOST_S = 2.0, 0.1
SLOW_MESSAGES, SLOW_MS = 500, 2_000
POISON_MESSAGES, POISON_PATH = 600, "/poison"
PAUSED_MESSAGES = 50_000

Load = Callable[[EmbeddedStack, Endpoint], Coroutine[None, None, None]]
"""Publishes the load of the other endpoint, and returns when all of it is accepted."""


async def slow(progress: Progress) -> Table:
    """500 messages to an endpoint that responds after 2 s."""
    title = f"Noisy neighbour: {SLOW_MESSAGES} messages to an endpoint that responds after {SLOW_MS / 1000:.0f} s"

    async def load(stack: EmbeddedStack, endpoint: Endpoint) -> None:
        await stack.driver.publish_batches(endpoint.channel, SLOW_MESSAGES)

    return await _next_to(progress, title, f"/after-{SLOW_MS}/noisy", load)


async def poison(progress: Progress) -> Table:
    """600 messages that cannot be signed: the endpoint's secret cannot be decrypted."""
    title = f"Poison neighbour: {POISON_MESSAGES} messages to an endpoint whose stored secret does not decrypt"

    async def load(stack: EmbeddedStack, endpoint: Endpoint) -> None:
        _corrupt_secret(stack, endpoint)
        await stack.driver.publish_batches(endpoint.channel, POISON_MESSAGES)

    return await _next_to(progress, title, POISON_PATH, load)


async def paused(progress: Progress) -> Table:
    """A burst of 50,000 messages to a paused endpoint."""
    title = f"Burst of {PAUSED_MESSAGES:,} to a paused endpoint"

    async def load(stack: EmbeddedStack, endpoint: Endpoint) -> None:
        await stack.command(endpoint, "pause")
        await stack.driver.publish_batches(endpoint.channel, PAUSED_MESSAGES)

    return await _next_to(progress, title, "/paused", load)


async def _next_to(progress: Progress, title: str, path: str, load: Load) -> Table:
    """Quiet traffic alone, then during and after the load of the other endpoint."""
    async with embedded_stack() as stack:
        neighbour = await stack.endpoint("neighbour", path)
        await stack.endpoint("warm-up")
        await stack.driver.publish("warm-up", 100)
        progress("the quiet endpoint alone")
        alone = await _quiet(stack, "alone")
        progress("the quiet endpoint next to the other")
        making = asyncio.create_task(load(stack, neighbour))
        loaded = await _quiet(stack, "loaded", drained=False)
        accepted = making.done()
        await making
        if await stack.receiver.count(POISON_PATH):
            raise RuntimeError("messages were sent that should not be sendable")
    ratio = percentile(loaded, 0.99) / percentile(alone, 0.99)
    worst = percentile(loaded, 0.99)
    late = sum(math.isinf(seconds) for seconds in loaded)
    return Table(
        title,
        ("quiet endpoint", "p50", "p95", "p99"),
        [latency_row("alone", alone), latency_row("next to it", loaded)],
        [
            target("p99 next to it / alone", ratio, ratio <= MOST_RATIO or worst <= MOST_S,
                   f"at most {MOST_RATIO:.0f}, or at most {MOST_S * 1000:.0f} ms"),
            *([f"{late} of {QUIET_MESSAGES} quiet messages had not arrived {PATIENCE_S:.0f} s later."] if late else []),
            *([] if accepted else ["The other messages were still being accepted when the quiet ones had arrived."]),
        ],
    )  # fmt: skip


async def _quiet(stack: EmbeddedStack, name: str, *, drained: bool = True) -> list[float]:
    endpoint = await stack.endpoint(f"quiet-{name}")
    if drained:
        await stack.drained()
    published = await stack.driver.publish_at(endpoint.channel, QUIET_RATE, QUIET_MESSAGES)
    return await arrived(stack, endpoint.path, published, PATIENCE_S)


def _corrupt_secret(stack: EmbeddedStack, endpoint: Endpoint) -> None:
    """Change the end of the endpoint's encrypted secrets, so that none can be decrypted."""
    with closing(sqlite3.connect(stack.database, timeout=30)) as connection, connection:
        connection.execute(
            "UPDATE endpoint_secret SET secret = substr(secret, 1, length(secret) - 12) || 'AAAAAAAAAAA=' "
            "WHERE endpoint_gid = ?",
            (endpoint.gid,),
        )
