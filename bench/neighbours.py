"""A quiet endpoint while another one causes trouble: slow responses, messages that cannot be sent, a long queue."""

import asyncio
import math
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing

from bench.flow import arrived, latency_row
from bench.stack import EmbeddedStack, Endpoint, embedded_stack
from bench.tables import Table, Tell, percentile, target

QUIET_RATE, QUIET_MESSAGES = 10.0, 200
PATIENCE_S = 60.0
"""A quiet message that has not arrived this long after the last publish counts as not in time."""

MOST_RATIO, MOST_S = 2.0, 0.1
SLOW_MESSAGES, SLOW_MS = 500, 2_000
POISON_MESSAGES, POISON_PATH = 600, "/poison"
PAUSED_MESSAGES = 50_000

Trouble = Callable[[EmbeddedStack, Endpoint], Coroutine[None, None, None]]
"""Publishes what makes trouble, and returns when all of it is accepted."""


async def slow(tell: Tell) -> Table:
    """500 messages to an endpoint that responds after 2 s."""
    title = f"Noisy neighbour: {SLOW_MESSAGES} messages to an endpoint that responds after {SLOW_MS / 1000:.0f} s"

    async def trouble(stack: EmbeddedStack, endpoint: Endpoint) -> None:
        await stack.driver.publish_batches(endpoint.channel, SLOW_MESSAGES)

    return await _beside(tell, title, f"/after-{SLOW_MS}/noisy", trouble)


async def poison(tell: Tell) -> Table:
    """600 messages that cannot be signed: the endpoint's secret cannot be decrypted."""
    title = f"Poison neighbour: {POISON_MESSAGES} messages to an endpoint whose stored secret does not decrypt"

    async def trouble(stack: EmbeddedStack, endpoint: Endpoint) -> None:
        _corrupt_secret(stack, endpoint)
        await stack.driver.publish_batches(endpoint.channel, POISON_MESSAGES)

    return await _beside(tell, title, POISON_PATH, trouble)


async def paused(tell: Tell) -> Table:
    """A burst of 50,000 messages to a paused endpoint."""
    title = f"Burst of {PAUSED_MESSAGES:,} to a paused endpoint"

    async def trouble(stack: EmbeddedStack, endpoint: Endpoint) -> None:
        await stack.command(endpoint, "pause")
        await stack.driver.publish_batches(endpoint.channel, PAUSED_MESSAGES)

    return await _beside(tell, title, "/paused", trouble)


async def _beside(tell: Tell, title: str, path: str, trouble: Trouble) -> Table:
    """Quiet traffic alone, then during and after the trouble."""
    async with embedded_stack() as stack:
        neighbour = await stack.endpoint("neighbour", path)
        await stack.endpoint("warm-up")
        await stack.driver.publish("warm-up", 100)
        tell("the quiet endpoint alone")
        alone = await _quiet(stack, "alone")
        tell("the quiet endpoint beside the other")
        making = asyncio.create_task(trouble(stack, neighbour))
        beside = await _quiet(stack, "beside", settled=False)
        accepted = making.done()
        await making
        if await stack.receiver.count(POISON_PATH):
            raise RuntimeError("messages were sent that should not be sendable")
    ratio = percentile(beside, 0.99) / percentile(alone, 0.99)
    worst = percentile(beside, 0.99)
    late = sum(math.isinf(seconds) for seconds in beside)
    return Table(
        title,
        ("quiet endpoint", "p50", "p95", "p99"),
        [latency_row("alone", alone), latency_row("beside it", beside)],
        [
            target("p99 beside / alone", ratio, ratio <= MOST_RATIO or worst <= MOST_S,
                   f"at most {MOST_RATIO:.0f}, or at most {MOST_S * 1000:.0f} ms"),
            *([f"{late} of {QUIET_MESSAGES} quiet messages had not arrived {PATIENCE_S:.0f} s later."] if late else []),
            *([] if accepted else ["The other messages were still being accepted when the quiet ones had arrived."]),
        ],
    )  # fmt: skip


async def _quiet(stack: EmbeddedStack, name: str, *, settled: bool = True) -> list[float]:
    endpoint = await stack.endpoint(f"quiet-{name}")
    if settled:
        await stack.settled()
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
