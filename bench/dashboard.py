"""What it costs deliveries that somebody watches: the same messages, with the overview opened all the while and not."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from statistics import median

from bench.publishing import publish
from bench.stack import API_KEY, EmbeddedStack
from bench.tables import Table, Tell, target

OPENINGS_A_SECOND = 10
ROUNDS = 6
MESSAGES = 400
CONCURRENCY = 20
MOST_LOST = 0.05


async def watched(stack: EmbeddedStack, tell: Tell) -> Table:
    """Deliveries a second with the overview opened ten times a second, against without; taken in turns."""
    publisher = stack.publisher()
    await publisher.create_channel("watched")
    await publisher.create_endpoint(stack.receiver.url_for("/watched"), "watched")
    sent = await _deliver(stack, 0)
    alone: list[float] = []
    looked_at: list[float] = []
    opened: list[float] = []
    for number in range(ROUNDS):
        tell(f"round {number + 1} of {ROUNDS}")
        began = time.monotonic()
        sent = await _deliver(stack, sent)
        alone.append(MESSAGES / (time.monotonic() - began))
        async with _opening(stack) as seconds:
            began = time.monotonic()
            sent = await _deliver(stack, sent)
            looked_at.append(MESSAGES / (time.monotonic() - began))
        opened += seconds
    lost = 1 - median(looked_at) / median(alone)
    rows = [
        ("nobody looks", f"{median(alone):.0f}", ""),
        (f"{OPENINGS_A_SECOND} openings a second", f"{median(looked_at):.0f}", f"{median(opened) * 1000:.0f}"),
    ]
    notes = [target("deliveries lost to the overview, %", lost * 100, lost < MOST_LOST, f"< {MOST_LOST * 100:.0f}")]
    return Table(
        f"The dashboard ({ROUNDS} rounds of {MESSAGES} deliveries, in turns)",
        ("overview", "deliveries/s", "opened in ms"),
        rows,
        notes,
    )


async def _deliver(stack: EmbeddedStack, sent: int) -> int:
    await publish(stack, "watched", MESSAGES, connections=CONCURRENCY)
    await stack.receiver.wait_for(sent + MESSAGES, 300, path="/watched")
    return sent + MESSAGES


@contextlib.asynccontextmanager
async def _opening(stack: EmbeddedStack) -> AsyncIterator[list[float]]:
    """Open the overview at a steady rate while the block runs; how long each took is in what it yields."""
    signed_in = await stack.client.post("/sign-in", data={"key": API_KEY})
    cookie = signed_in.cookies["everhook_session"]
    seconds: list[float] = []
    task = asyncio.create_task(_open_steadily(stack, cookie, seconds))
    try:
        yield seconds
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _open_steadily(stack: EmbeddedStack, cookie: str, seconds: list[float]) -> None:
    """Over one bare connection: a client library would cost as much as what it asks."""
    reader, writer = await asyncio.open_connection(stack.client.base_url.host, stack.client.base_url.port)
    request = f"GET / HTTP/1.1\r\nhost: bench\r\ncookie: everhook_session={cookie}\r\n\r\n".encode()
    due = time.monotonic()
    while True:
        began = time.monotonic()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if " 200 " not in head.splitlines()[0]:
            raise RuntimeError(f"not opened: {head.splitlines()[0]}")
        length = next(line for line in head.splitlines() if line.startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
        seconds.append(time.monotonic() - began)
        due += 1 / OPENINGS_A_SECOND
        await asyncio.sleep(max(0.0, due - time.monotonic()))
