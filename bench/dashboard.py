"""The cost of an open dashboard for deliveries: the same messages with the overview open, and without."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from statistics import median

from bench.connection import Connection
from bench.stack import API_KEY, EmbeddedStack, Endpoint, embedded_stack
from bench.tables import Progress, Table, target

OPENINGS_A_SECOND = 10
ROUNDS = 6
MESSAGES = 400
MOST_LOST = 0.05


async def watched(progress: Progress) -> Table:
    """Deliveries a second with the overview opened ten times a second, against without; taken in turns."""
    alone: list[float] = []
    looked_at: list[float] = []
    opened: list[float] = []
    async with embedded_stack() as stack:
        endpoint = await stack.endpoint("watched")
        sent = await _deliver(stack, endpoint, 0)
        for number in range(ROUNDS):
            progress(f"round {number + 1} of {ROUNDS}")
            began = time.monotonic()
            sent = await _deliver(stack, endpoint, sent)
            alone.append(MESSAGES / (time.monotonic() - began))
            async with _opening(stack) as seconds:
                began = time.monotonic()
                sent = await _deliver(stack, endpoint, sent)
                looked_at.append(MESSAGES / (time.monotonic() - began))
            opened += seconds
    lost = 1 - median(looked_at) / median(alone)
    rows = [
        ("no openings", f"{median(alone):.0f}", ""),
        (f"{OPENINGS_A_SECOND} openings a second", f"{median(looked_at):.0f}", f"{median(opened) * 1000:.0f}"),
    ]
    notes = [target("deliveries lost to the overview, %", lost * 100, lost < MOST_LOST, f"< {MOST_LOST * 100:.0f}")]
    return Table(
        f"The dashboard ({ROUNDS} rounds of {MESSAGES} deliveries, in turns)",
        ("overview", "deliveries/s", "opened in ms"),
        rows,
        notes,
    )


async def _deliver(stack: EmbeddedStack, endpoint: Endpoint, sent: int) -> int:
    await stack.driver.publish(endpoint.channel, MESSAGES)
    await stack.receiver.wait_for(sent + MESSAGES, endpoint.path)
    return sent + MESSAGES


@contextlib.asynccontextmanager
async def _opening(stack: EmbeddedStack) -> AsyncIterator[list[float]]:
    """Open the overview at a steady rate during the block; yields the list of response times."""
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
    connection = await Connection.open(*stack.addresses[0])
    request = f"GET / HTTP/1.1\r\nhost: bench\r\ncookie: everhook_session={cookie}\r\n\r\n".encode()
    due = time.monotonic()
    while True:
        began = time.monotonic()
        status, _ = await connection.send(request)
        if status != HTTPStatus.OK:
            raise RuntimeError(f"the overview: {status}")
        seconds.append(time.monotonic() - began)
        due += 1 / OPENINGS_A_SECOND
        await asyncio.sleep(max(0.0, due - time.monotonic()))
