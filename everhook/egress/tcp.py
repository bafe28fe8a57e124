"""TCP connections on asyncio's transports.

httpcore's backend over anyio would be enough, but it does not show received data that is not read yet. A connection
with unread data must not be reused, because the data would be taken for the next response.
"""

import asyncio
import select
from collections.abc import Iterable
from typing import Any, cast

import httpcore

MAX_UNREAD = 64 * 1024
"""Above this, a stream stops receiving until it is read."""


class TcpBackend(httpcore.AsyncNetworkBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to `host`, a literal address. Raises `httpcore.ConnectTimeout`, `OSError`."""
        try:
            async with asyncio.timeout(timeout):
                _, stream = await asyncio.get_running_loop().create_connection(TcpStream, host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout from error
        return stream


class TcpStream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection, for one reader and one writer at a time. It also receives data while it is not being read."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._unread = bytearray()
        self._held_up = False
        self._ended = False
        self._lost = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > MAX_UNREAD and not self._held_up:
            self._transport.pause_reading()
            self._held_up = True
        _wake(self._reader)

    def eof_received(self) -> None:
        """The transport closes itself after this, so a closed connection frees its file descriptor at once."""
        self._ended = True
        _wake(self._reader)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = self._lost = True
        self._error = error
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._writer)
        self._writer = None

    # --- httpcore.AsyncNetworkStream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most `max_bytes`; empty at the end of the stream. Raises `httpcore.ReadError` and `ReadTimeout`."""
        if not self._unread and not self._ended:
            await self._more(timeout)
        if not self._unread and self._error is not None:
            raise httpcore.ReadError from self._error
        data = bytes(self._unread[:max_bytes])
        del self._unread[:max_bytes]
        if self._held_up and not self._ended and len(self._unread) <= MAX_UNREAD:
            self._transport.resume_reading()
            self._held_up = False
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write; returns when nearly all of it is with the operating system. Raises `httpcore.WriteError` and
        `WriteTimeout`."""
        if self._lost or self._transport.is_closing():
            raise httpcore.WriteError from self._error
        self._transport.write(buffer)
        if self._writer is not None:
            try:
                async with asyncio.timeout(timeout):
                    await self._writer
            except TimeoutError as error:
                raise httpcore.WriteTimeout from error
            if self._lost:
                raise httpcore.WriteError from self._error

    async def aclose(self) -> None:
        """Close at once. Unsent data is dropped, because a receiver that does not read would keep the socket open."""
        self._transport.abort()

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "server_addr":
                return self._transport.get_extra_info("peername")
            case "is_readable":
                return bool(self._unread) or self._ended or _has_input(self._transport.get_extra_info("socket"))
        return None

    async def _more(self, timeout: float | None) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._reader
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error
        finally:
            self._reader = None


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _has_input(sock: Any) -> bool:
    """Whether the operating system has data, or the end of the stream, that the event loop has not seen yet."""
    if sock is None or not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
