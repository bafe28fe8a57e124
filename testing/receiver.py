"""A scripted HTTP receiver on loopback: records exactly what arrives, responds (or misbehaves) as scripted.

Raw asyncio, no framework: it must see the very bytes, break the protocol on purpose, and keep up with benchmarks.
In a test: `async with Receiver() as receiver`. As a separate process, with a ledger that survives `kill -9` of
anything: `python -m testing.receiver --port 0 --ledger FILE`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast

from testing.arrivals import Arrival, ArrivalLine
from testing.script import WITH_STATUS, Fault, Response, Script, Step, redirect, step_from_json
from testing.waiting import PATIENCE_S

__all__ = ["Arrival", "Fault", "Receiver", "Response", "Step", "redirect"]

CONTROL_PATH = "/_control"
DRIP_SECONDS = 0.1
HUGE_BYTES = 1024**3
_CHUNK = b"x" * 65536
_HEAD_END = b"\r\n\r\n"
_TRICKLE = b"HTTP/1.1 200 OK\r\nx-drip: " + b"." * 4096


@dataclass
class _Waiter:
    count: int
    path: str | None
    future: asyncio.Future[None]


class Receiver:
    """The endpoint under everyone's test. It returns 200 until a test scripts it.

    With `ledger`, each arrival is appended to that file before its response is sent; with `keep=False` nothing is kept
    in memory (benchmarks), so that `arrivals` stays empty and only counts are known.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        ledger: Path | None = None,
        keep: bool = True,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.port = port
        self.arrivals: list[Arrival] = []
        self.count = 0
        self.connections = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self.delay = 0.0
        self._keep = keep
        self._ssl = ssl_context
        self._run = f"{os.getpid()}-{time.time_ns()}"
        self._ledger = _open_ledger(ledger) if ledger else None
        self._default = Script((Response(),))
        self._scripts: dict[str, Script] = {}
        self._by_path: Counter[str] = Counter()
        self._waiters: list[_Waiter] = []
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, ssl=self._ssl, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        if self._ledger is not None:
            os.close(self._ledger)
            self._ledger = None

    async def stop(self) -> None:
        """Refuse connections from now on and drop those that are open; `start` takes the same port again."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._open):
                connection.abort()
            await self._server.wait_closed()
            self._server = None

    async def start(self) -> None:
        """Listen again after `stop`."""
        await self.__aenter__()

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    def url_for(self, path: str) -> str:
        return self.url + path

    def respond(self, *steps: Step, path: str | None = None, each_message: bool = False) -> None:
        """Respond to the next requests with `steps` in order (the last repeats): all of them, or those to `path`.

        With `each_message` every message id goes through the steps by itself, so `respond(500, 200,
        each_message=True)` fails each message once.
        """
        script = Script(tuple(Response(s) if isinstance(s, int) else s for s in steps) or (Response(),), each_message)
        if path is None:
            self._default = script
        else:
            self._scripts[path] = script

    async def wait_for(self, n: int, timeout: float = PATIENCE_S, *, path: str | None = None) -> list[Arrival]:
        """Wait until `n` requests have arrived in all (at `path`) and return them. TimeoutError: how many did."""
        if self._count(path) < n:
            waiter = _Waiter(n, path, asyncio.get_running_loop().create_future())
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout(timeout):
                    await waiter.future
            except TimeoutError:
                raise TimeoutError(f"{self._count(path)} of {n} requests arrived within {timeout:g} s") from None
            finally:
                self._waiters.remove(waiter)
        return self.at(path) if path is not None else list(self.arrivals)

    def at(self, path: str) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.path == path]

    def lines(self) -> list[ArrivalLine]:
        """What the checker compares; the same that a ledger file would hold."""
        return [arrival.line(self._run) for arrival in self.arrivals]

    def status(self) -> dict[str, int]:
        return {
            "arrivals": self.count,
            "connections": self.connections,
            "inFlight": self.in_flight,
            "peakInFlight": self.peak_in_flight,
        }

    def _count(self, path: str | None) -> int:
        return self.count if path is None else self._by_path[path]

    def _arrive(self, arrival: Arrival) -> Step:
        """Count a request, wake those who wait for it, and say what to do with it."""
        self.count += 1
        self._by_path[arrival.path] += 1
        if self._keep:
            self.arrivals.append(arrival)
        for waiter in self._waiters:
            if self._count(waiter.path) >= waiter.count and not waiter.future.done():
                waiter.future.set_result(None)
        step = self._scripts.get(arrival.path.partition("?")[0], self._default).next(arrival.id)
        if self.delay and isinstance(step, Response):
            return replace(step, delay=step.delay + self.delay)
        return step

    def _write(self, arrival: Arrival) -> None:
        """Append to the ledger: one unbuffered write, so it is the kernel's before the response is sent."""
        if self._ledger is not None:
            os.write(self._ledger, arrival.line(self._run).to_json())


def _open_ledger(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


@dataclass
class _Head:
    method: str
    path: str
    headers: list[tuple[str, str]]
    length: int | None

    @classmethod
    def parse(cls, raw: bytes) -> "_Head":
        """Raises ValueError if it is not HTTP/1."""
        request_line, *lines = raw.decode("latin-1").split("\r\n")
        method, path, _version = request_line.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        given = {name.lower(): value for name, value in headers}
        chunked = given.get("transfer-encoding", "").lower() == "chunked"
        return cls(method, path, headers, None if chunked else int(given.get("content-length", "0")))


class _Connection(asyncio.Protocol):
    """One client connection: takes requests off the wire one after the other and acts out a step for each."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._busy = False
        self._stale = False
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._receiver.connections += 1
        self._receiver._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver._open.discard(self)
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._stale:
            return _reset(self._transport)
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        while not self._busy and not self._transport.is_closing():
            try:
                request = self._take_request()
            except ValueError:
                return self._send(Response(400, close=True))
            if request is None:
                return None
            self._handle(*request)

    def _take_request(self) -> tuple[_Head, bytes] | None:
        if self._head is None:
            end = self._buffer.find(_HEAD_END)
            if end < 0:
                return None
            self._head = _Head.parse(bytes(self._buffer[:end]))
            del self._buffer[: end + len(_HEAD_END)]
        body = self._take_body(self._head.length)
        if body is None:
            return None
        head, self._head = self._head, None
        return head, body

    def _take_body(self, length: int | None) -> bytes | None:
        if length is None:
            return self._take_chunks()
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _take_chunks(self) -> bytes | None:
        """The whole of a chunked body, once it is there. Trailers are not expected."""
        at, body = 0, bytearray()
        while (line_end := self._buffer.find(b"\r\n", at)) >= 0:
            size = int(bytes(self._buffer[at:line_end]).partition(b";")[0], 16)
            start = line_end + 2
            if len(self._buffer) < start + size + 2:
                return None
            body += self._buffer[start : start + size]
            at = start + size + 2
            if size == 0:
                del self._buffer[:at]
                return bytes(body)
        return None

    def _handle(self, head: _Head, body: bytes) -> None:
        if head.path == CONTROL_PATH:
            return self._spawn(self._control(head.method, body), counted=0)
        receiver = self._receiver
        arrival = Arrival(
            receiver.count + 1, head.method, head.path, head.headers, body, time.monotonic(), datetime.now(UTC)
        )
        step = receiver._arrive(arrival)
        if isinstance(step, Response) and not step.delay and step.until is None:
            return self._respond(arrival, step)
        return self._spawn(self._act(arrival, step))

    def _spawn(self, acting: Coroutine[Any, Any, None], counted: int = 1) -> None:
        """Take no further request of this connection until `acting` is over."""
        self._busy = True
        self._task = asyncio.get_running_loop().create_task(self._acting(acting, counted))

    async def _acting(self, acting: Coroutine[Any, Any, None], counted: int) -> None:
        receiver = self._receiver
        receiver.in_flight += counted
        receiver.peak_in_flight = max(receiver.peak_in_flight, receiver.in_flight)
        try:
            await acting
        finally:
            receiver.in_flight -= counted
            self._busy = False
            self._task = None
        self._advance()

    def _respond(self, arrival: Arrival, response: Response) -> None:
        arrival.status = response.status
        self._receiver._write(arrival)
        self._send(response)

    def _send(self, response: Response) -> None:
        self._transport.write(response.wire)
        if response.close:
            self._transport.close()

    async def _act(self, arrival: Arrival, step: Step) -> None:
        if isinstance(step, Fault):
            arrival.fault = step
            arrival.status = 200 if step in WITH_STATUS else None
            self._receiver._write(arrival)
            await self._misbehave(step)
        elif isinstance(step, Response):
            self._receiver._write(arrival)
            await asyncio.sleep(step.delay)
            if step.until is not None:
                await step.until.wait()
            self._respond(arrival, step)

    async def _misbehave(self, fault: Fault) -> None:
        match fault:
            case Fault.HANG:
                await asyncio.get_running_loop().create_future()
            case Fault.DRIP_HEADERS:
                await self._drip(_TRICKLE)
            case Fault.DRIP_BODY:
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
                await self._drip(b"." * 100_000)
            case Fault.RESET:
                _reset(self._transport)
            case Fault.RESET_MIDWAY:
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"." * 50)
                _reset(self._transport)
            case Fault.CLOSE:
                self._transport.close()
            case Fault.GARBAGE:
                self._transport.write(b"\x00\xffSSH-2.0-not http at all\r\n\r\n" * 8)
                self._transport.close()
            case Fault.HUGE_BODY:
                await self._flood(f"HTTP/1.1 200 OK\r\ncontent-length: {HUGE_BYTES}\r\n\r\n".encode(), HUGE_BYTES)
            case Fault.HUGE_HEADERS:
                await self._flood(b"HTTP/1.1 200 OK\r\nx-huge: ", 2 * 1024**2)
                self._transport.write(b"\r\ncontent-length: 0\r\n\r\n")
            case Fault.CLOSE_SILENTLY:
                self._transport.write(Response().wire)
                self._transport.close()
            case Fault.CLOSE_ON_REUSE:
                self._transport.write(Response().wire)
                self._stale = True

    async def _drip(self, data: bytes) -> None:
        for byte in data:
            self._transport.write(bytes([byte]))
            await asyncio.sleep(DRIP_SECONDS)

    async def _flood(self, head: bytes, size: int) -> None:
        self._transport.write(head)
        for _ in range(size // len(_CHUNK)):
            await self._writable.wait()
            self._transport.write(_CHUNK)
            await asyncio.sleep(0)

    async def _control(self, method: str, body: bytes) -> None:
        status, content = 200, b""
        try:
            if method == "POST":
                await _apply(self._receiver, json.loads(body))
            content = json.dumps(self._receiver.status()).encode()
        except TimeoutError as error:
            status, content = 408, str(error).encode()
        except (ValueError, TypeError, KeyError) as error:
            status, content = 400, repr(error).encode()
        self._send(Response(status, content, (("content-type", "application/json"),)))


def _reset(transport: asyncio.Transport) -> None:
    """Close with a TCP reset instead of an orderly end: linger of zero seconds."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _apply(receiver: Receiver, order: Mapping[str, Any]) -> None:
    """Do what a control request asks: change the delay, the script, or wait for arrivals (in that order)."""
    if "delay_ms" in order:
        receiver.delay = float(order["delay_ms"]) / 1000
    if "respond" in order:
        steps = [step_from_json(step) for step in order["respond"]]
        receiver.respond(*steps, path=order.get("path"), each_message=bool(order.get("each_message", False)))
    if "wait_for" in order:
        timeout = float(order.get("timeout_ms", 10_000)) / 1000
        await receiver.wait_for(int(order["wait_for"]), timeout, path=order.get("path"))


async def _serve(port: int, ledger: Path | None) -> None:
    async with Receiver(port=port, ledger=ledger, keep=False) as receiver:
        sys.stdout.write(f"receiver listening on {receiver.url}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().create_future()


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted webhook receiver on loopback.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ledger", type=Path, default=None)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.port, options.ledger))


if __name__ == "__main__":
    main()
