"""TLS over any network stream, with Python's `ssl`.

httpcore's and anyio's streams would be enough without client certificates. In TLS 1.3 the client finishes the handshake
before the server has checked the client's certificate, so a whole request would be sent to a server that refuses it,
and the refusal would often arrive as a plain reset. OpenSSL puts each handshake message into its own record, so the
number of records in the client's last flight shows whether the server requested a certificate. If it did, the server's
first message after the handshake (a session ticket or an alert) is awaited before anything is sent.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import httpcore

from everhook.egress.errors import quoted

Result = TypeVar("Result")

RECORD_BYTES = 16 * 1024
_ENCRYPTED_RECORD = 23
_HEADER_BYTES = 5
_SHOWN_BYTES = 40
TLS_RECORD = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")
"""The beginning of TLS data: the type and version of a record."""


class HandshakeEnded(Exception):
    """The server closed the connection during the handshake, or instead of its first message after it."""


class NotTls(Exception):
    """The server does not speak TLS. The message says what it sent, for people."""


class TlsStream(httpcore.AsyncNetworkStream):
    """A TLS stream for one reader and one writer that take turns, as in HTTP/1.1."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, context: ssl.SSLContext, name: str | None) -> None:
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._early = b""
        self._beginning = b""

    async def shake_hands(self, limit: float) -> None:
        """Do the handshake, within `limit` seconds. It comes before anything else.

        Raises `ssl.SSLError`, `NotTls`, `HandshakeEnded`, `TimeoutError` and `httpcore.NetworkError`.
        """
        began = time.monotonic()
        async with asyncio.timeout(limit):
            last_flight = await self._shake_hands()
            if self._tls.version() == "TLSv1.3" and _encrypted_records(last_flight) > 1:
                await self._await_first_message(patience=2 * (time.monotonic() - began) + 0.1)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._early:
            early, self._early = self._early[:max_bytes], self._early[max_bytes:]
            return early
        try:
            return await self._call(lambda: self._tls.read(max_bytes))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""  # many servers send no close_notify; HTTP's framing shows what is complete
        except ssl.SSLError as error:
            if "UNEXPECTED_EOF_WHILE_READING" in (error.reason or ""):
                return b""
            raise

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        while view:
            view = view[await self._call(lambda part=view: self._tls.write(part)) :]  # type: ignore[misc]
            await self._flush()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "ssl_object":
                return self._tls
            case "is_readable" if self._early or self._tls.pending() or self._incoming.pending:
                return True
        return self._inner.get_extra_info(info)

    async def _call(self, step: Callable[[], Result]) -> Result:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()

    async def _shake_hands(self) -> bytes:
        """Do the handshake. Returns the client's last flight, which was sent."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._feed():
                    raise HandshakeEnded from None
            except ssl.SSLError:
                with suppress(httpcore.NetworkError):
                    await self._flush()  # the alert that says why
                if not TLS_RECORD.match(self._beginning):
                    raise NotTls(_not_tls(self._beginning)) from None
                raise
        last_flight = self._outgoing.read()
        await self._inner.write(last_flight)
        return last_flight

    async def _await_first_message(self, patience: float) -> None:
        """Wait for the server's first message. A server without session tickets sends none; it then had time to refuse.

        Raises `ssl.SSLError` for a refusal. Data that arrives before any request is kept for HTTP to reject.
        """
        try:
            async with asyncio.timeout(patience):
                heard = await self._feed()
        except TimeoutError:
            return
        if not heard:
            raise HandshakeEnded
        with suppress(ssl.SSLWantReadError):
            self._early = self._tls.read(RECORD_BYTES)

    async def _feed(self) -> int:
        data = await self._inner.read(RECORD_BYTES)
        if not self._beginning:
            self._beginning = data[:_SHOWN_BYTES]
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return len(data)

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._inner.write(self._outgoing.read())


def _not_tls(beginning: bytes) -> str:
    if beginning.startswith(b"HTTP/"):
        return "the server speaks plain HTTP on this port, not TLS"
    return f"the server does not speak TLS on this port: it begins with {quoted(beginning)}"


def _encrypted_records(flight: bytes) -> int:
    count = position = 0
    while position + _HEADER_BYTES <= len(flight):
        count += flight[position] == _ENCRYPTED_RECORD
        position += _HEADER_BYTES + int.from_bytes(flight[position + 3 : position + 5], "big")
    return count
