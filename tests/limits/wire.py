"""A malicious or faulty HTTP client, which sends raw bytes over a real socket."""

import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from everhook.serving.limits import DEFAULT_LIMITS, Limits
from everhook.serving.server import serving

HEAD = b"GET / HTTP/1.1\r\nhost: test\r\n"
GET = HEAD + b"\r\n"
POST = b"POST / HTTP/1.1\r\nhost: test\r\n"
PATIENCE_S = 30.0


class Client:
    """One connection. Writing after the server has closed it is not an error."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.sent = 0

    @classmethod
    async def connected(cls, port: int, address: str = "127.0.0.1") -> Self:
        """`address` is the source address: all of 127.0.0.0/8 is this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)))

    async def send(self, data: bytes) -> bool:
        """False if the server has closed the connection."""
        try:
            self._writer.write(data)
            await asyncio.wait_for(self._writer.drain(), PATIENCE_S)
        except ConnectionError:
            return False
        self.sent += len(data)
        return not self._writer.is_closing()

    async def flood(self, piece: bytes, *, pause: float = 0.0, at_most: float = math.inf) -> None:
        """Send the piece repeatedly until the server has closed the connection, or `at_most` bytes are sent."""
        while self.sent < at_most:
            if not await self.send(piece):
                return
            await asyncio.sleep(pause)

    async def drip(self, piece: bytes) -> None:
        """Send the piece repeatedly and slowly, without end."""
        await self.flood(piece, pause=0.1)

    async def response(self) -> httpx.Response:
        """The next response, with its body."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        status_line, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = int(dict(headers).get("content-length", "0"))
        content = await asyncio.wait_for(self._reader.readexactly(length), PATIENCE_S)
        return httpx.Response(int(status_line.split(" ")[1]), headers=headers, content=content)

    async def rest(self) -> bytes:
        """All bytes until the server closes the connection."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.wait_for(self._reader.read(65536), PATIENCE_S):
                received += data
        return received

    def close(self) -> None:
        self._writer.close()

    async def closed(self) -> None:
        self.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@dataclass
class App:
    """Records the requests that reach it. `/slow` waits, `/waits` does so until its client leaves, `/early` reads
    nothing, `/large` has a large response."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    body_bytes: int = 0
    disconnects: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def reset(self) -> None:
        """Forget what it received. `/slow` waits again."""
        self.requests.clear()
        self.body_bytes = self.disconnects = 0
        self.go_on.clear()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.requests.append(scope)
        if scope["path"] == "/slow":
            await self.go_on.wait()
        if scope["path"] != "/early":
            await self._read(receive, scope["path"] == "/waits")
        body = b"x" * 50_000_000 if scope["path"] == "/large" else b"ok"
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _read(self, receive: Any, until_left: bool) -> None:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                self.disconnects += 1
                return
            self.body_bytes += len(message["body"])
            if not message["more_body"] and not until_left:
                return


@dataclass
class Server:
    app: App
    port: int
    clients: list[Client] = field(default_factory=list)

    async def connect(self, address: str = "127.0.0.1") -> Client:
        self.clients.append(await Client.connected(self.port, address))
        return self.clients[-1]

    async def close_clients(self) -> None:
        self.app.go_on.set()
        for client in self.clients:
            await client.closed()
        self.clients.clear()

    async def ask(self, request: bytes = GET, address: str = "127.0.0.1") -> httpx.Response:
        client = await self.connect(address)
        await client.send(request)
        response = await client.response()
        client.close()
        return response


@contextlib.asynccontextmanager
async def serving_app(limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[Server]:
    app = App()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        async with serving(app, listener, limits=limits):
            server = Server(app, listener.getsockname()[1])
            try:
                yield server
            finally:
                await server.close_clients()
