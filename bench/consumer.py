"""A consumer of a stream that costs next to nothing, in a process of its own, as receivers of webhooks are.

`python -m bench.consumer PORT ENDPOINT_GID COUNT` with the API key on standard input: prints a line when the stream is
open, acknowledges what it received every `ACK_EVERY_S`, as `everhook consume` does, and ends after so many messages. It
prints a line for each of them: the gid, and when it first arrived by this machine's monotonic clock.
"""

import asyncio
import sys
import time
from http import HTTPStatus

import orjson

from bench.driver import Driver
from everhook import event_loop

ACK_EVERY_S = 0.1
PREFETCH = 500
_DATA = b'data: {"lease"'


async def consume(port: int, gid: str, count: int, api_key: str) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    target = f"/v1/endpoints/{gid}/stream?prefetch={PREFETCH}"
    writer.write(f"GET {target} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {api_key}\r\n\r\n".encode())
    status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
    if int(status) != HTTPStatus.OK:
        raise RuntimeError(f"the stream responded with {status.decode()}")
    print("open", flush=True)

    arrivals: dict[str, float] = {}
    leases: list[str] = []
    client = Driver([("127.0.0.1", port)], api_key)

    async def acknowledge() -> None:
        if leases:
            body = orjson.dumps({"acks": [{"lease": lease} for lease in leases]})
            leases.clear()
            await client.post(f"/v1/endpoints/{gid}/acks", body, HTTPStatus.OK)

    all_arrived = asyncio.Event()

    async def acknowledge_all() -> None:
        while not all_arrived.is_set():
            await event_loop.sleep_unless(all_arrived, ACK_EVERY_S)
            await acknowledge()

    acknowledging = asyncio.create_task(acknowledge_all())
    while len(arrivals) < count:
        line = await reader.readuntil(b"\n")  # no event is in two chunks
        if line.startswith(_DATA):
            item = orjson.loads(line.removeprefix(b"data: "))
            arrivals.setdefault(item["messageGid"], time.monotonic())
            leases.append(item["lease"])
    all_arrived.set()
    await acknowledging
    client.close()
    writer.close()
    return arrivals


def main() -> None:
    port, gid, count = sys.argv[1:]
    api_key = sys.stdin.readline().strip()
    arrivals = event_loop.run(consume(int(port), gid, int(count), api_key))
    for message_gid, moment in arrivals.items():
        print(message_gid, moment)


if __name__ == "__main__":
    main()
