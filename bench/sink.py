"""A receiver that costs next to nothing: 200 to every POST, on every address of this machine.

Run as a separate process, so that its CPU is not the client's: `python -m bench.sink` prints its port.

- `/after-2000/name` gets its response after 2,000 ms.
- `GET /_count?PATH` returns how many POSTs to PATH have arrived.
- `GET /_arrivals?PATH` returns a line for each of them: `webhook-id`, and when it arrived by this machine's monotonic
  clock, which is the same in all processes.
"""

import asyncio
import sys
import time
from collections import defaultdict
from typing import cast

from everhook import event_loop

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_LENGTH = b"content-length:"
_ID = b"\r\nwebhook-id:"
_AFTER = b"/after-"

arrivals: defaultdict[bytes, list[tuple[bytes, float]]] = defaultdict(list)


class Sink(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (head_end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:head_end].lower()
            end = head_end + 4 + int(_header(head, _LENGTH) or 0)
            if len(self._buffer) < end:
                return
            self._buffer = self._buffer[end:]
            self._respond(head)

    def _respond(self, head: bytes) -> None:
        method, path, _ = head.split(b" ", 2)
        if method == b"get":
            self._transport.write(_report(path))
            return
        arrivals[path].append((_header(head, _ID), time.monotonic()))
        if path.startswith(_AFTER):
            delay_ms = int(path[len(_AFTER) : path.index(b"/", 1)])
            asyncio.get_running_loop().call_later(delay_ms / 1000, self._transport.write, RESPONSE)
        else:
            self._transport.write(RESPONSE)


def _header(head: bytes, name: bytes) -> bytes:
    start = head.find(name)
    return head[start + len(name) :].split(b"\r\n", 1)[0].strip() if start >= 0 else b""


def _report(target: bytes) -> bytes:
    what, _, path = target.partition(b"?")
    seen = arrivals[path]
    body = str(len(seen)).encode() if what == b"/_count" else b"".join(b"%s %.6f\n" % arrival for arrival in seen)
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "0.0.0.0", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    event_loop.run(main())
