"""The error of an attempt says why it failed, for operators of the receiver, without internals of Everhook."""

import asyncio
import ssl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everhook.contracts import FailureCode
from everhook.egress import EgressClient, Exchange
from tests.egress.test_egress import (
    HEADERS,
    LOOPBACK,
    OK,
    SECOND,
    Handler,
    Receiver,
    exchange_with,
    post,
    receiving,
    responding,
)

INTERNALS = ("bytearray", "b'", 'b"', "_SWITCH", "WRONG_VERSION", "event type", "ERROR", "Sentinel", "Traceback")
MAX_DETAIL = 200
NO_TLS = ssl.create_default_context()
"""Created once: one takes 16 ms."""


@pytest.mark.parametrize(
    ("response", "detail"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 'the response is not HTTP: it begins with "SSH-2.0-OpenSSH_9.6\\r\\n\\r\\n"'),
        (b"\x00\xff\r\n\r\n", 'the response is not HTTP: it begins with "\\x00\\xff\\r\\n\\r\\n"'),
        (b"\r\n\r\n", 'the response is not HTTP: it begins with "\\r\\n\\r\\n"'),
        (b"\x15\x03\x01\x00\x02\x02\x46", "the server speaks TLS on this port, not plain HTTP: use https"),
        (
            b"HTTP/1.1 2OO OK\r\n\r\n",
            'the response is not valid HTTP/1.1: illegal status line: "HTTP/1.1 2OO OK"',
        ),
        (
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            'the response is not valid HTTP/1.1: illegal header line: "no colon"',
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
            "the response is not valid HTTP/1.1: conflicting Content-Length headers",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            'the response is not valid HTTP/1.1: illegal chunk header: "zz\\r\\n"',
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay",
            'the response is not valid HTTP/1.1: malformed chunk footer: "ay" (expected "\\r\\n")',
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
            "the response is not valid HTTP/1.1: peer closed connection without sending complete message body "
            "(received 5 bytes, expected 10)",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "the response is 101 Switching Protocols, which the request did not ask for",
        ),
        (b"HTTP/1.1 101\n\n", "the response is 101 Switching Protocols, which the request did not ask for"),
        (
            b"HTTP/1.1 200 OK\r\nX-Big: " + b"a" * 200_000 + b"\r\n\r\n",
            "the response has more than 100 KiB of headers",
        ),
        (b"HTTP/1.1 200 OK\r\n", "connection closed in the middle of the response's headers"),
        (b"", "connection closed without a response"),
    ],
)
async def test_a_response_that_cannot_be_read_is_explained(response: bytes, detail: str) -> None:
    assert (await exchange_with(responding(response))).detail == detail


async def test_a_response_that_comes_byte_by_byte_is_explained_as_one_that_comes_at_once() -> None:
    pieces = [bytes([byte]) for byte in b"SSH-2.0-OpenSSH_9.6\r\n\r\n"]
    exchange = await exchange_with(responding(*pieces, every=0.002))
    assert exchange.detail.startswith('the response is not HTTP: it begins with "SSH-2.0')


@pytest.mark.parametrize(
    ("greeting", "detail"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server speaks plain HTTP on this port, not TLS"),
        (b"SSH-2.0-OpenSSH\r\n", 'the server does not speak TLS on this port: it begins with "SSH-2.0-OpenSSH\\r\\n"'),
        (b"\x00nope", 'the server does not speak TLS on this port: it begins with "\\x00nope"'),
        (b"\x15\x03\x01\x00\x02\x02\x28", "TLS failed: the server refused the handshake; it may require a client cert"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS failed: the server accepts none of our TLS versions (1.2 and 1.3)"),
        (b"", "the connection ended during the TLS handshake"),
    ],
)  # fmt: skip
async def test_a_handshake_that_fails_is_explained(greeting: bytes, detail: str) -> None:
    def greeting_with(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(greeting)
            if greeting:
                await reader.read()

        return handle

    async with receiving(greeting_with) as receiver:
        exchange = await post(receiver.url.replace("http:", "https:"))
    assert exchange.failure is FailureCode.TLS
    assert exchange.detail.startswith(detail)


BROKEN = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda status, lines, body: b"\r\n".join([status, *lines, b"", body]),
        st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200", b"HTTP/1.1 204 No", b"HTTP/1.1 100", b"HTTP/1.1 101 Up"])
        | st.binary(max_size=20).map(lambda rest: b"HTTP/1.1 " + rest),
        st.lists(
            st.sampled_from(
                [
                    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 5, 6", b"Transfer-Encoding: chunked",
                    b"Transfer-Encoding: gzip", b"Connection: close", b" folded", b"Retry-After: 1", b"Upgrade: a",
                ]
            )
            | st.binary(max_size=12)
            | st.binary(max_size=12).map(lambda value: b"X-A: " + value),
            max_size=4,
        ),
        st.sampled_from([b"", b"12345", b"5\r\n12345\r\n0\r\n\r\n", b"x\r\n", OK]) | st.binary(max_size=30),
    ),
)  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(responses=st.lists(BROKEN, min_size=10, max_size=10))
def test_any_bytes_of_a_server_are_a_status_or_an_explained_failure(responses: list[bytes]) -> None:
    for exchange in asyncio.run(_exchanges(responses)):
        assert (exchange.status is None) != (exchange.failure is None)
        assert len(exchange.detail) < MAX_DETAIL
        assert exchange.detail.isascii()
        assert exchange.detail.isprintable()
        assert "bytearray(" not in exchange.detail
        unquoted = exchange.detail.partition('"')[0]
        assert not any(internal in unquoted for internal in INTERNALS), exchange.detail


async def _exchanges(responses: list[bytes]) -> list[Exchange]:
    """Each response twice, all at once: as the first on a connection and, if that is kept, as the second."""

    def by_number(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                if await receiver.read(reader):
                    writer.write(responses[int(receiver.requests[-1].rpartition(b"\r\n")[2])])
                    await writer.drain()

        return handle

    async def twice(egress: EgressClient, url: str, number: int) -> list[Exchange]:
        return [await egress.post(url, HEADERS, b"%d" % number, 0.05 * SECOND) for _ in range(2)]

    egress = EgressClient(LOOPBACK, ssl_context=NO_TLS)
    async with receiving(by_number) as receiver:
        pairs = await asyncio.gather(*(twice(egress, receiver.url, number) for number in range(len(responses))))
        await egress.aclose()
    return [exchange for pair in pairs for exchange in pair]
