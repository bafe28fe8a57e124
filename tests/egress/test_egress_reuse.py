"""When a connection serves a second request, against real servers: never with unread bytes in it."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from everhook.contracts import FailureCode
from everhook.egress import EgressClient, Exchange
from testing.certificates import Authority
from tests.egress.test_egress import (
    BODY,
    HEADERS,
    LOOPBACK,
    OK,
    SECOND,
    Handler,
    Receiver,
    client,
    receiving,
    resolving,
)

HOST = "hooks.test"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

SURPLUS = {
    "a body with a 204 that announces it": (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", b"hi"),
    "a body with a 204 that does not": (b"HTTP/1.1 204 No Content\r\n\r\n", b"hi"),
    "a chunked body with a 204": (
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"2\r\nhi\r\n0\r\n\r\n",
    ),
    "a body with a 304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", b"hi"),
    "more body than announced": (OK, b", really"),
    "a body where none is announced": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"ok"),
    "a line break": (OK, b"\r\n"),
    "several line breaks": (OK, b"\r\n\r\n\n"),
    "a second response": (OK, OK),
    "a second response that fails": (OK, b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
    "the head of a second response": (OK, b"HTTP/1.1 200 OK\r\n"),
    "a 100 after it": (OK, b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a 103 after it": (OK, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "the last chunk again": (CHUNKED, b"0\r\n\r\n"),
    "another chunk": (CHUNKED, b"2\r\nhi\r\n0\r\n\r\n"),
    "trailers after the trailers": (CHUNKED[:-2] + b"X-Trailer: 1\r\n\r\n", b"X-More: 1\r\n\r\n"),
    "a body after a head that fills one read": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Fill: %s\r\n\r\n" % (b"a" * (64 * 1024 - 50)),
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    "more than fills several reads": (OK, b"z" * 300_000),
}

AMBIGUOUS = {
    "a 204 that announces a body": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
    "a 304 that announces a body": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
    "two framings": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "Connection: close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
}

IN_ORDER = {
    "a body": OK,
    "chunks": CHUNKED,
    "chunks and trailers": CHUNKED[:-2] + b"X-Trailer: 1\r\n\r\n",
    "no body": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a 204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a 204 of length 0": b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    "a 304": b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n",
    "a 100 before it": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "two 103s before it": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2 + OK,
    "an error": b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno",
}


def responding(first: bytes, rest: bytes = b"", after: float = 0) -> Callable[[Receiver], Handler]:
    """Each request of a connection gets `first`, and `rest` at once or so many seconds later."""

    def bind(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await receiver.read(reader):
                writer.write(first)
                if after:
                    await writer.drain()
                    await asyncio.sleep(after)
                writer.write(rest)
                await writer.drain()

        return handle

    return bind


async def post_thrice(egress: EgressClient, url: str, pause: float = 0) -> list[Exchange]:
    exchanges = []
    for _ in range(3):
        exchanges.append(await egress.post(url, HEADERS, BODY, 5 * SECOND))
        await asyncio.sleep(pause)
    return exchanges


def assert_each_arrived_once(receiver: Receiver, exchanges: list[Exchange], first: bytes) -> None:
    """The given response to each, one request for each, and no failure that could be charged."""
    assert [(one.status, one.failure) for one in exchanges] == [(int(first[9:12]), None)] * 3
    assert not any(one.redialed for one in exchanges)
    assert len(receiver.requests) == 3


@pytest.mark.parametrize(("first", "rest"), SURPLUS.values(), ids=SURPLUS)
async def test_a_connection_with_unread_bytes_is_closed_and_the_attempt_counts(first: bytes, rest: bytes) -> None:
    async with receiving(responding(first, rest)) as receiver, client() as egress:
        exchanges = await post_thrice(egress, receiver.url)
    assert_each_arrived_once(receiver, exchanges, first)
    assert receiver.connections == 3


async def test_a_connection_whose_surplus_arrives_while_it_is_idle_is_closed() -> None:
    async def exercise(egress: EgressClient, first: bytes, rest: bytes) -> None:
        async with receiving(responding(first, rest, after=0.05)) as receiver:
            exchanges = await post_thrice(egress, receiver.url, pause=0.15)
        assert_each_arrived_once(receiver, exchanges, first)
        assert receiver.connections == 3

    async with client() as egress:
        await asyncio.gather(*(exercise(egress, *surplus) for surplus in SURPLUS.values()))


async def test_a_tls_connection_with_unread_bytes_is_closed(tmp_path: Path) -> None:
    authority = Authority()
    server = authority.issue(HOST).server_context(tmp_path)
    trust = ssl.create_default_context(cadata=authority.pem)
    async with client(LOOPBACK, resolving(("127.0.0.1",)), trust) as egress:
        for first, rest in SURPLUS.values():
            async with receiving(responding(first, rest), server) as receiver:
                exchanges = await post_thrice(egress, f"https://{HOST}:{receiver.port}/")
            assert_each_arrived_once(receiver, exchanges, first)
            assert receiver.connections == 3


@pytest.mark.parametrize("response", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_a_connection_is_closed_if_more_of_the_response_may_come_later(response: bytes) -> None:
    async with receiving(responding(response)) as receiver, client() as egress:
        exchanges = await post_thrice(egress, receiver.url)
    assert_each_arrived_once(receiver, exchanges, response)
    assert receiver.connections == 3


@pytest.mark.parametrize("response", IN_ORDER.values(), ids=IN_ORDER)
async def test_a_connection_whose_response_is_over_is_used_again(response: bytes) -> None:
    async with receiving(responding(response)) as receiver, client() as egress:
        exchanges = await post_thrice(egress, receiver.url)
    assert [(one.status, one.failure) for one in exchanges] == [(exchanges[0].status, None)] * 3
    assert [one.reused for one in exchanges] == [False, True, True]
    assert (receiver.connections, len(receiver.requests)) == (1, 3)


async def test_a_line_break_that_arrives_with_the_next_response_is_not_part_of_it() -> None:
    def late(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            left_over = b""
            while await receiver.read(reader):
                for piece in (left_over[:2], left_over[2:], OK):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.01)
                left_over = b"\r\n\r\n"

        return handle

    async with receiving(late) as receiver, client() as egress:
        exchanges = await post_thrice(egress, receiver.url)
    assert_each_arrived_once(receiver, exchanges, OK)
    assert receiver.connections == 1


async def test_line_breaks_without_end_are_no_response() -> None:
    def flooding(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await receiver.read(reader)
            writer.write(OK)
            await receiver.read(reader)
            while True:
                writer.write(b"\r\n" * 10_000)
                await writer.drain()

        return handle

    async with receiving(flooding) as receiver, client() as egress:
        await egress.post(receiver.url, HEADERS, BODY, 5 * SECOND)
        exchange = await egress.post(receiver.url, HEADERS, BODY, 5 * SECOND)
    assert (exchange.failure, exchange.detail) == (
        FailureCode.PROTOCOL,
        "more than 256 KiB without a usable response",
    )


async def test_a_server_that_speaks_before_it_is_asked_is_not_asked_again_on_that_connection() -> None:
    def eager(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OK)
            while await receiver.read(reader):
                writer.write(OK)

        return handle

    async with receiving(eager) as receiver, client() as egress:
        exchanges = await post_thrice(egress, receiver.url, pause=0.02)
    assert_each_arrived_once(receiver, exchanges, OK)
    assert receiver.connections == 3
