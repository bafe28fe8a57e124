"""Limits of a connection, and of the number of connections. They apply to all clients, with or without a key.

The tests compare times only with each other: late requests are ended, and other requests continue.
"""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
import pytest_asyncio

from everhook.serving import protocol as http_protocol
from everhook.serving.limits import DEFAULT_LIMITS, MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED, Connections, Limits
from everhook.settings import Settings
from testing.waiting import assert_eventually
from tests.limits.wire import GET, HEAD, POST, Client, Server, serving_app

pytestmark = pytest.mark.asyncio(loop_scope="module")

A_READ = 256 * 1024
"""Bytes that the event loop reads in one call."""
KERNEL = 8 * 1024 * 1024
"""More bytes than the socket buffers of both sides hold: the server has read what was sent beyond that."""

CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running() -> AsyncIterator[Server]:
    async with serving_app() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def server(running: Server) -> AsyncIterator[Server]:
    """A server of the module; its application has received nothing yet."""
    running.app.reset()
    yield running
    await running.close_clients()


# Headers


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        pytest.param(HEAD + b"x-long: ", b"x" * 16_384, 431, id="one header without end"),
        pytest.param(HEAD, b"x-a: " + b"x" * 100 + b"\r\n", 431, id="headers without end"),
        pytest.param(b"GET /", b"x" * 16_384, 431, id="an address without end"),
        pytest.param(b"", b"x" * 16_384, 400, id="a method without end"),
        pytest.param(CHUNKED + b"5;", b"x" * 16_384, 400, id="a chunk extension without end"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\nx-long: ", b"x" * 16_384, 400, id="a trailer without end"),
        pytest.param(CHUNKED + b"0\r\n", b"x-a: b\r\n", 400, id="trailers without end"),
    ],
)
async def test_endless_headers_trailers_and_chunk_extensions_are_refused(
    server: Server, start: bytes, piece: bytes, status: int
) -> None:
    client = await server.connect()
    await client.send(start)

    flood = asyncio.create_task(client.flood(piece, at_most=100 * KERNEL))
    response = await client.response()

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["status"] == status
    assert await client.rest() == b""
    flood.cancel()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"x: y\r\n" * (MAX_HEADERS - 1), 200),
        (b"x: y\r\n" * MAX_HEADERS, 431),
        (b"x: " + b"y" * (MAX_HEAD_BYTES - 100) + b"\r\n", 200),
        (b"x: " + b"y" * MAX_HEAD_BYTES + b"\r\n", 431),
        ((b"x: " + b"y" * (MAX_HEAD_BYTES // 50) + b"\r\n") * 51, 431),
    ],
    ids=["as many", "too many", "as long", "too long", "too long together"],
)
async def test_headers_are_bounded_in_number_and_size_even_if_they_arrive_at_once(
    server: Server, headers: bytes, status: int
) -> None:
    assert (await server.ask(HEAD + headers + b"\r\n")).status_code == status
    assert len(server.app.requests) == (status == 200)


async def test_trailers_are_not_taken_for_headers(server: Server) -> None:
    response = await server.ask(CHUNKED + b"2\r\nok\r\n0\r\nauthorization: Bearer x\r\n\r\n")

    assert response.status_code == 200
    assert b"authorization" not in dict(server.app.requests[0]["headers"])


# Bodies


async def test_a_body_is_read_no_faster_than_the_application_reads_it(server: Server) -> None:
    client = await server.connect()
    await client.send(b"POST /slow HTTP/1.1\r\nhost: test\r\ncontent-length: 100000000\r\n\r\n")

    flood = asyncio.create_task(client.flood(b"x" * 65_536, at_most=100_000_000))
    await assert_eventually(lambda: _assert_stuck(client))

    assert client.sent <= KERNEL + A_READ
    flood.cancel()


def _assert_stuck(client: Client) -> None:
    before, client.seen = getattr(client, "seen", -1), client.sent  # type: ignore[attr-defined]
    assert client.sent == before


@pytest.mark.parametrize("connection", [b"", b"connection: close\r\n"])
async def test_an_unread_body_is_dropped_for_a_short_time_and_the_response_arrives(
    monkeypatch: pytest.MonkeyPatch, connection: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_S", 0.2)
    async with serving_app() as server:
        client = await server.connect()
        await client.send(b"POST /early HTTP/1.1\r\nhost: test\r\n%stransfer-encoding: chunked\r\n\r\n" % connection)
        drip = asyncio.create_task(client.drip(b"5\r\nhello\r\n"))

        assert (await client.response()).status_code == 200
        assert await client.rest() == b""
        drip.cancel()


async def test_a_connection_whose_body_ended_after_the_response_is_used_again(server: Server) -> None:
    client = await server.connect()
    await client.send(b"POST /early HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhello")
    assert (await client.response()).status_code == 200

    await client.send(b"world" + GET)

    assert (await client.response()).status_code == 200


# Time


SHORT = Limits(keep_alive=0.4, head_timeout=0.4, body_timeout=0.4)


LATE = {
    "nothing": (b"", b"", b""),
    "half of the headers": (HEAD, b"", b"HTTP/1.1 408 "),
    "headers bit by bit": (HEAD, b"x: y\r\n", b"HTTP/1.1 408 "),
    "no body": (POST + b"content-length: 100000\r\n\r\n", b"", b"HTTP/1.1 408 "),
    "a body bit by bit": (POST + b"content-length: 100000\r\n\r\n", b"x", b"HTTP/1.1 408 "),
    "a body in chunks without end": (CHUNKED, b"1\r\nx\r\n", b"HTTP/1.1 408 "),
}


async def test_a_request_that_takes_too_long_to_arrive_is_ended_even_if_bytes_keep_coming() -> None:
    async def responded(server: Server, start: bytes, piece: bytes) -> bytes:
        client = await server.connect()
        await client.send(start)
        drip = asyncio.create_task(client.drip(piece)) if piece else None
        try:
            return (await client.rest())[:13]
        finally:
            if drip is not None:
                drip.cancel()

    async with serving_app(SHORT) as server:
        found = await asyncio.gather(*(responded(server, start, piece) for start, piece, _ in LATE.values()))

    assert dict(zip(LATE, found, strict=True)) == {name: expected for name, (_, _, expected) in LATE.items()}


async def test_a_running_request_has_no_deadline_except_that_of_the_application() -> None:
    async with serving_app(SHORT) as server:
        slow, idle = await server.connect(), await server.connect()
        await slow.send(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n")
        await idle.send(GET)
        await idle.response()

        assert await idle.rest() == b""  # long after the deadlines of both
        server.app.go_on.set()

        assert (await slow.response()).status_code == 200


async def test_a_client_that_does_not_read_its_response_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "STALLED_S", 0.2)
    async with serving_app() as server:
        client = await server.connect()
        await client.send(b"GET /large HTTP/1.1\r\nhost: test\r\n\r\n")
        await asyncio.sleep(0.6)  # longer than STALLED_S: no more data comes after that

        assert len(await client.rest()) < 50_000_000


async def test_an_idle_connection_is_kept_as_long_as_the_setting_says() -> None:
    settings = Settings(dev=True)
    assert Limits.from_settings(settings) == DEFAULT_LIMITS
    assert settings.keep_alive_seconds == 75, "longer than load balancers keep theirs"
    async with serving_app(Limits(keep_alive=0.4)) as shorter, serving_app(Limits(keep_alive=60)) as longer:
        kept, ended = await longer.connect(), await shorter.connect()
        for client in (kept, ended):
            await client.send(GET)
            await client.response()

        assert await ended.rest() == b""
        await kept.send(GET)
        assert (await kept.response()).status_code == 200


# Number


async def test_connections_of_one_address_are_limited_and_others_are_served() -> None:
    async with serving_app(Limits(connections_per_address=3)) as server:
        held = [await server.connect("127.0.0.2") for _ in range(3)]

        refused = await server.ask(address="127.0.0.2")

        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert (await server.ask(address="127.0.0.3")).status_code == 200
        held[0].close()
        await assert_eventually(lambda: _assert_served(server, "127.0.0.2"))


async def _assert_served(server: Server, address: str) -> None:
    assert (await server.ask(address=address)).status_code == 200


async def test_connections_of_a_trusted_proxy_are_not_limited() -> None:
    limits = Limits(connections_per_address=3, trusted=(ip_network("127.0.0.2/32"),))
    async with serving_app(limits) as server:
        held = [await server.connect("127.0.0.2") for _ in range(10)]
        for client in held:
            await client.send(GET)
            assert (await client.response()).status_code == 200


async def test_at_the_connection_limit_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async with serving_app(Limits(connections=3)) as server:
        slow, idle, younger = [await server.connect() for _ in range(3)]
        await slow.send(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n")
        for client in (idle, younger):
            await client.send(GET)
            await client.response()

        newcomer = await server.connect()
        await newcomer.send(HEAD)  # an incomplete request: the connection is not idle
        assert await idle.rest() == b""
        await younger.send(HEAD)
        await asyncio.sleep(0.1)
        assert (await server.ask()).status_code == 503

        await younger.send(b"\r\n")
        await newcomer.send(b"\r\n")
        server.app.go_on.set()
        for client in (slow, younger, newcomer):
            assert (await client.response()).status_code == 200


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "::ffff:203.0.113.7"),
        ("2001:db8:1:2:3::4", "2001:0db8:0001:0002"),
        ("2001:db8:1:2:ffff::9", "2001:0db8:0001:0002"),
        ("fe80::1%eth0", "fe80:0000:0000:0000"),
        ("10.1.2.3", None),
        ("::ffff:10.1.2.3", None),
        (None, None),
    ],
)
async def test_an_ipv6_network_counts_as_one_address_and_a_proxy_is_not_counted(
    address: str | None, key: str | None
) -> None:
    assert Connections(Limits(trusted=(ip_network("10.0.0.0/8"),))).key_of(address) == key


# Requests on one connection


async def test_pipelined_requests_are_limited(server: Server) -> None:
    client = await server.connect()
    await client.send(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n" + GET * 10_000)
    await assert_eventually(lambda: _assert_requests(server, 1))
    server.app.go_on.set()

    received = await client.rest()

    assert received.count(b"HTTP/1.1 200") == 1 + MAX_PIPELINED == len(server.app.requests)


def _assert_requests(server: Server, count: int) -> None:
    assert len(server.app.requests) == count


async def test_a_request_before_others_notices_that_its_client_has_left(server: Server) -> None:
    client = await server.connect()
    await client.send(b"GET /waits HTTP/1.1\r\nhost: test\r\n\r\n" + GET)
    await assert_eventually(lambda: _assert_requests(server, 1))
    await client.closed()

    await assert_eventually(lambda: _assert_disconnected(server))
    _assert_requests(server, 1)


def _assert_disconnected(server: Server) -> None:
    assert server.app.disconnects == 1


async def test_an_invalid_request_does_not_affect_the_one_before_it(server: Server) -> None:
    client = await server.connect()
    await client.send(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n" + b"\x00\x01\x02\r\n\r\n")
    await asyncio.sleep(0.1)
    server.app.go_on.set()

    assert (await client.response()).status_code == 200
    assert await client.rest() == b""


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
async def test_an_upgrade_is_ignored_and_does_not_lose_a_body(server: Server, upgrade: bytes) -> None:
    wish = b"connection: upgrade\r\nupgrade: %s\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n" % upgrade
    assert (await server.ask(HEAD + wish + b"\r\n")).status_code == 200

    client = await server.connect()
    await client.send(POST + wish + b"content-length: 50\r\n\r\n" + GET.ljust(50))

    assert (await client.response()).status_code == 400
    assert await client.rest() == b""
    assert len(server.app.requests) == 1, "a body was taken for a request"
