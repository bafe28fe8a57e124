"""A publisher that costs next to nothing, so that a benchmark measures Everhook and not its own HTTP client.

httpx takes 2-3 ms of CPU a request, as much as a whole delivery's share of the machine.
"""

import asyncio
from http import HTTPStatus

import orjson

from bench.stack import API_KEY, EmbeddedStack


async def publish(stack: EmbeddedStack, channel: str, count: int, connections: int) -> list[str]:
    """Publish `count` messages one by one over kept-alive connections; returns the gids of their deliveries."""
    numbers = iter(range(count))
    gids: list[str] = []

    async def run() -> None:
        reader, writer = await asyncio.open_connection(stack.client.base_url.host, stack.client.base_url.port)
        for number in numbers:
            writer.write(_request(channel, number))
            gids.extend(d["deliveryGid"] for d in orjson.loads(await _answer(reader))["deliveries"])
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(run() for _ in range(connections)))
    return gids


def _request(channel: str, number: int) -> bytes:
    body = orjson.dumps({"type": "bench.published", "payload": {"number": number, "text": "x" * 400}})
    head = (
        f"POST /v1/channels/{channel}/messages HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {API_KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if int(head.split(" ", 2)[1]) != HTTPStatus.ACCEPTED:
        raise RuntimeError(f"not accepted: {head.splitlines()[0]}")
    length = next(line for line in head.splitlines() if line.startswith("content-length:"))
    return await reader.readexactly(int(length.partition(":")[2]))
