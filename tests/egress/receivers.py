"""Malicious receivers, with TLS done by hand: they count the bytes on the wire and the decrypted bytes."""

import asyncio
import gzip
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from testing.certificates import Authority, Pair, self_signed

Result = TypeVar("Result")

ENOUGH = 1 << 30
"""Bytes after which a flood ends: a client that has read that many has no limit."""

EMPTY = b"\r\ncontent-length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class HungUp(Exception):
    """The client hung up, or TLS failed."""


class Line:
    """One connection, as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, receiver: "Receiver") -> None:
        self._reader, self._writer, self._receiver = reader, writer, receiver
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = receiver.tls
        self._tls = None if tls is None else tls.wrap_bio(self._in, self._out, server_side=True)

    async def shake_hands(self) -> None:
        if self._tls is not None:
            await self._call(self._tls.do_handshake)

    async def request(self) -> None:
        """Take one whole request."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += await self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(body) < length:
            body += await self._receive()

    async def send(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.write(data)
            data = self._out.read()
        self._writer.write(data)
        await self._writer.drain()

    async def flood(self, data: bytes, every: float = 0.0) -> None:
        """Send it until the client hangs up, or has taken `ENOUGH`."""
        for _ in range(ENOUGH // len(data)):
            await self.send(data)
            await asyncio.sleep(every)

    async def hear(self) -> bytes:
        """The next bytes on the wire."""
        data = await self._reader.read(65536)
        self._receiver.raw_bytes += len(data)
        if not data:
            raise HungUp
        return data

    async def silence(self) -> None:
        while True:
            await self.hear()

    def reset(self) -> None:
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def _receive(self) -> bytes:
        tls = self._tls
        data = await self.hear() if tls is None else await self._call(lambda: tls.read(65536))
        self._receiver.app_bytes += len(data)
        if not data:
            raise HungUp
        return data

    async def _call(self, step: Callable[[], Result]) -> Result:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await self._flush()
                self._in.write(await self.hear())
            except ssl.SSLError as error:
                await self._flush()
                raise HungUp from error
            finally:
                await self._flush()

    async def _flush(self) -> None:
        if self._out.pending:
            self._writer.write(self._out.read())
            await self._writer.drain()


Act = Callable[[Line], Awaitable[None]]


@dataclass
class Receiver:
    """`raw_bytes` are the bytes on the wire, `app_bytes` those after decryption."""

    act: Act
    tls: ssl.SSLContext | None = None
    host: str = "receiver.test"
    connections: int = 0
    raw_bytes: int = 0
    app_bytes: int = 0
    port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}/hook"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "0.0.0.0", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(HungUp, ConnectionError, asyncio.CancelledError):
            await self.act(Line(reader, writer, self))
        writer.close()


def responding(*pieces: bytes) -> Act:
    """Requests on one connection, each of which gets all the pieces as its response."""

    async def act(line: Line) -> None:
        await line.shake_hands()
        while True:
            await line.request()
            for piece in pieces:
                await line.send(piece)

    return act


def flooding(first: bytes, data: bytes, every: float = 0.0) -> Act:
    async def act(line: Line) -> None:
        await line.shake_hands()
        await line.request()
        await line.send(first)
        await line.flood(data, every)

    return act


async def never_responding(line: Line) -> None:
    await line.shake_hands()
    await line.request()
    await line.silence()


async def resetting(line: Line) -> None:
    await line.shake_hands()
    await line.request()
    line.reset()


async def resetting_in_the_handshake(line: Line) -> None:
    await line.hear()
    line.reset()


async def silent_in_the_handshake(line: Line) -> None:
    await line.silence()


async def speaking_plainly(line: Line) -> None:
    await line.hear()
    await line.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await line.silence()


def bomb() -> bytes:
    """50 MB of zeros in 50 KB."""
    squeezed = gzip.compress(b"\0" * 50_000_000, 9)
    return b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(squeezed) + squeezed


TIMEOUT = 2
"""Seconds that a request may take, for those that would take for ever."""

RESPONSES: Mapping[str, int | str] = {
    "gzip bomb": 200,
    "100 KB in one header": 200,
    "100 KB of headers": 200,
    "300 KB in one header": "protocol",
    "headers without end": "protocol",
    "endless 103s": "protocol",
    "endless 103s, slowly": "timeout_total",
    "endless body": 200,
    "a gigabyte": 200,
    "endless chunks": 200,
    "a chunk of 16 EiB": 200,
    "drips headers": "timeout_total",
    "drips its body": "timeout_total",
    "never responds": "timeout_total",
    "resets": "reset",
    "garbage": "protocol",
    "redirects inward": "http_302",
    "redirects to the metadata": "http_307",
}
"""The expected result of each: a status, or the name of a failure."""

HANDSHAKES: Mapping[str, int | str] = {
    "expired": "tls",
    "not yet valid": "tls",
    "wrong name": "tls",
    "self-signed": "tls",
    "unknown authority": "tls",
    "client certificate required, TLS 1.2": "tls",
    "client certificate required, TLS 1.3": "tls",
    "reset in the handshake": "tls",
    "no TLS at all": "tls",
    "silent in the handshake": "timeout_total",
}


def hostile_responses(tls: ssl.SSLContext) -> Mapping[str, Receiver]:
    """Receivers with valid TLS and hostile HTTP."""
    start, early = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"
    to = "HTTP/1.1 {} Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n"
    acts = {
        "gzip bomb": responding(bomb()),
        "100 KB in one header": responding(start + b"x-big: " + b"a" * 102_000 + EMPTY),
        "100 KB of headers": responding(start + b"x-some: %s\r\n" % (b"a" * 90) * 1_000 + EMPTY[2:]),
        "300 KB in one header": responding(start + b"x-big: " + b"a" * 300_000 + EMPTY),
        "headers without end": flooding(start, b"x-more: y\r\n" * 100),
        "endless 103s": flooding(b"", early * 100),
        "endless 103s, slowly": flooding(b"", early, 0.05),
        "endless body": flooding(start + b"\r\n", b"z" * 65_536),
        "a gigabyte": flooding(start + b"content-length: 1073741824\r\n\r\n", b"z" * 65_536),
        "endless chunks": flooding(start + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nz\r\n" * 1_000),
        "a chunk of 16 EiB": flooding(start + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n", b"z" * 4096),
        "drips headers": flooding(start + b"x-drip: ", b"a", 0.05),
        "drips its body": flooding(start + b"content-length: 9999\r\n\r\n", b"a", 0.05),
        "never responds": never_responding,
        "resets": resetting,
        "garbage": responding(b"\0\xff" * 50_000),
        "redirects inward": responding(to.format(302, "http://127.0.0.1:8080/").encode()),
        "redirects to the metadata": responding(to.format(307, "http://169.254.169.254/").encode()),
    }
    return {name: Receiver(act, tls) for name, act in acts.items()}


def hostile_handshakes(authority: Authority, directory: Path) -> Mapping[str, Receiver]:
    """Receivers with invalid TLS: no byte of a request may reach them."""
    ours, day = "receiver.test", timedelta(days=1)

    def served(name: str, pair: Pair, client_ca: str | None = None) -> ssl.SSLContext:
        place = directory / name
        place.mkdir()
        return pair.server_context(place, client_ca)

    def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
        context.minimum_version = context.maximum_version = version
        return context

    unknown = Authority("An unknown CA")
    good = authority.issue(ours)
    contexts = {
        "expired": served("expired", authority.issue(ours, (-2 * day, -day))),
        "not yet valid": served("early", authority.issue(ours, (day, 2 * day))),
        "wrong name": served("wrong", authority.issue("elsewhere.test")),
        "self-signed": served("self", self_signed(ours)),
        "unknown authority": served("unknown", unknown.issue(ours)),
        "client certificate required, TLS 1.2": only(served("c12", good, unknown.pem), ssl.TLSVersion.TLSv1_2),
        "client certificate required, TLS 1.3": only(served("c13", good, unknown.pem), ssl.TLSVersion.TLSv1_3),
    }
    receivers = {name: Receiver(responding(OK), context) for name, context in contexts.items()}
    receivers["reset in the handshake"] = Receiver(resetting_in_the_handshake)
    receivers["no TLS at all"] = Receiver(speaking_plainly)
    receivers["silent in the handshake"] = Receiver(silent_in_the_handshake)
    return receivers
