"""The egress client against real sockets on loopback, most of them hostile."""

import asyncio
import gzip
import itertools
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from everhook.contracts import FailureCode
from everhook.egress import (
    EgressClient,
    EgressRules,
    Exchange,
    LocalError,
    UrlRefused,
    normalise_url,
    parse_retry_after,
)
from everhook.egress.dial import NOT_PUBLIC, Guard, Line
from everhook.egress.errors import EndpointFailure
from everhook.egress.resolver import CachingResolver, Resolver
from everhook.egress.tcp import TcpBackend
from testing.processes import free_port, refusing_port

LOOPBACK = EgressRules((ip_network("127.0.0.0/8"),), http=True)
SECOND = timedelta(seconds=1)
HEADERS = [("User-Agent", "Everhook/test"), ("Content-Type", "application/json"), ("webhook-id", "msg_1")]
BODY = b'{"hello":"world"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    """A raw server: `requests` are the exact bytes of each POST, `connections` counts accepts."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def read(self, reader: asyncio.StreamReader) -> bool:
        """Take one whole request; False once the client has hung up."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.requests.append(head + await reader.readexactly(length))
        return True


@asynccontextmanager
async def receiving(
    handler: Callable[[Receiver], Handler], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        receiver.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(ConnectionError):
                await handler(receiver)(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def responding(*pieces: bytes, every: float = 0.0, hang: bool = False) -> Callable[[Receiver], Handler]:
    """One request a connection, with `pieces` as its response, then closed (or held open)."""

    def bind(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await receiver.read(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(every)
            if hang:
                await reader.read()

        return handle

    return bind


def streaming(first: bytes, chunk: bytes, every: float = 0.0) -> Callable[[Receiver], Handler]:
    """A response without an end: `first`, then `chunk` until the client hangs up."""

    def bind(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await receiver.read(reader)
            writer.write(first)
            while True:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(every)

        return handle

    return bind


def keeping_alive(response: bytes = OK) -> Callable[[Receiver], Handler]:
    def bind(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await receiver.read(reader):
                writer.write(response)
                await writer.drain()

        return handle

    return bind


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def resetting(first: bytes = b"") -> Callable[[Receiver], Handler]:
    def bind(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await receiver.read(reader)
            writer.write(first)
            await writer.drain()
            await asyncio.sleep(0.05)
            _reset(writer)

        return handle

    return bind


@asynccontextmanager
async def client(
    rules: EgressRules = LOOPBACK, resolver: Resolver | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[EgressClient]:
    egress = EgressClient(rules, resolver=resolver, ssl_context=tls)
    try:
        yield egress
    finally:
        await egress.aclose()


def resolving(*addresses: tuple[str, ...]) -> Resolver:
    """Each lookup gets the next addresses; the last ones stay."""
    left = itertools.chain(addresses, itertools.repeat(addresses[-1]))

    async def resolve(name: str, tenant: str) -> tuple[str, ...]:
        return next(left)

    return resolve


async def post(url: str, within: timedelta = 5 * SECOND, resolver: Resolver | None = None) -> Exchange:
    async with client(resolver=resolver) as egress:
        return await egress.post(url, HEADERS, BODY, within)


async def exchange_with(handler: Callable[[Receiver], Handler], within: timedelta = 5 * SECOND) -> Exchange:
    async with receiving(handler) as receiver:
        return await post(receiver.url, within)


# --- a normal exchange


async def test_the_request_carries_the_given_headers_and_no_others() -> None:
    async with receiving(keeping_alive()) as receiver:
        exchange = await post(receiver.url)
    head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /hook HTTP/1.1"
    assert sorted(lines[1:]) == sorted(
        [
            f"Host: 127.0.0.1:{receiver.port}".encode(),
            b"User-Agent: Everhook/test",
            b"Content-Type: application/json",
            b"webhook-id: msg_1",
            b"Content-Length: 17",
            b"Accept-Encoding: identity",
        ]
    )
    assert body == BODY
    assert (exchange.status, exchange.failure, exchange.body, exchange.body_truncated) == (200, None, b"ok", False)
    assert (exchange.peer_address, exchange.reused, exchange.redialed) == ("127.0.0.1", False, False)
    assert timedelta(0) < exchange.duration < SECOND


async def test_a_kept_alive_connection_is_used_again() -> None:
    async with receiving(keeping_alive()) as receiver, client() as egress:
        exchanges = [await egress.post(receiver.url, HEADERS, BODY, SECOND) for _ in range(5)]
    assert receiver.connections == 1
    assert [exchange.reused for exchange in exchanges] == [False, True, True, True, True]


async def test_at_most_eight_idle_connections_are_kept_for_an_origin() -> None:
    all_in = asyncio.Event()

    def together(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await receiver.read(reader):
                if len(receiver.requests) == 20:
                    all_in.set()
                await all_in.wait()
                writer.write(OK)

        return handle

    async with receiving(together) as receiver, client() as egress:
        await asyncio.gather(*(egress.post(receiver.url, HEADERS, BODY, 5 * SECOND) for _ in range(20)))
        again = [egress.post(receiver.url, HEADERS, BODY, 5 * SECOND) for _ in range(20)]
        assert sum(exchange.reused for exchange in await asyncio.gather(*again)) == 8


async def test_set_cookie_is_dropped_and_headers_are_capped() -> None:
    many = b"".join(b"x-%d: y\r\n" % number for number in range(60))
    exchange = await exchange_with(
        responding(b"HTTP/1.1 204 No Content\r\nSet-Cookie: secret=1\r\nX-First: 1\r\n" + many + b"\r\n")
    )
    assert exchange.headers[0] == ("x-first", "1")
    assert len(exchange.headers) == 50
    assert "set-cookie" not in dict(exchange.headers)


async def test_a_header_beyond_8_kb_is_not_kept() -> None:
    big = b"HTTP/1.1 204 No Content\r\nX-First: 1\r\nX-Big: " + b"a" * 9000 + b"\r\n\r\n"
    assert (await exchange_with(responding(big))).headers == (("x-first", "1"),)


async def test_retry_after_is_parsed() -> None:
    exchange = await exchange_with(responding(b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"))
    assert (exchange.status, exchange.retry_after) == (429, 7 * SECOND)


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"Retry-After:\r\n",
        b"Retry-After: 1.5\r\n",
        b"Retry-After: 3s\r\n",
        b"Retry-After: 2026-11-23T12:01:00Z\r\n",
        b"Retry-After: 7\r\nRetry-After: 9\r\n",
        b"Retry-After: 7, 9\r\n",
        b"Retry-After: \xff\r\n",
    ],
)
async def test_a_429_with_an_unreadable_retry_after_has_none(headers: bytes) -> None:
    exchange = await exchange_with(responding(b"HTTP/1.1 429 Slow\r\n" + headers + b"Content-Length: 0\r\n\r\n"))
    assert (exchange.status, exchange.failure, exchange.retry_after) == (429, None, None)


async def test_a_redirect_is_a_response_and_is_not_followed() -> None:
    async with receiving(keeping_alive()) as target:
        redirect = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {target.url}\r\nContent-Length: 0\r\n\r\n".encode()
        exchange = await exchange_with(responding(redirect))
        assert exchange.status == 307
        assert ("location", target.url) in exchange.headers
        assert target.connections == 0


# --- slow receivers


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(responding(hang=True), id="never responds"),
        pytest.param(streaming(b"HTTP/1.1 200 OK\r\nX-Drip: ", b"a", 0.05), id="drips headers"),
        pytest.param(streaming(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"a", 0.05), id="drips its body"),
        pytest.param(streaming(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.05), id="endless 103"),
    ],
)
async def test_the_deadline_is_for_everything_together(handler: Callable[[Receiver], Handler]) -> None:
    exchange = await exchange_with(handler, within=0.3 * SECOND)
    assert (exchange.status, exchange.failure) == (None, FailureCode.TIMEOUT_TOTAL)
    assert 0.3 * SECOND <= exchange.duration < 0.6 * SECOND
    assert exchange.peer_address == "127.0.0.1"


async def test_cancellation_passes_and_hangs_up() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    def waiting(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await receiver.read(reader)
            arrived.set()
            await reader.read()
            gone.set()

        return handle

    async with receiving(waiting) as receiver, client() as egress:
        task = asyncio.create_task(egress.post(receiver.url, HEADERS, BODY, 60 * SECOND))
        await asyncio.wait_for(arrived.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 30)


async def test_a_dead_host_does_not_disturb_another() -> None:
    async with receiving(responding(hang=True)) as dead, receiving(keeping_alive()) as alive, client() as egress:
        stuck = [asyncio.create_task(egress.post(dead.url, HEADERS, BODY, 0.5 * SECOND)) for _ in range(50)]
        await asyncio.sleep(0.1)
        exchange = await egress.post(alive.url, HEADERS, BODY, SECOND)
        assert exchange.status == 200
        assert exchange.duration < 0.3 * SECOND
        assert {(await task).failure for task in stuck} == {FailureCode.TIMEOUT_TOTAL}


# --- receivers that send too much, or nonsense


@pytest.mark.parametrize("framing", [b"Content-Length: 1073741824\r\n", b""])
async def test_only_16_kib_of_a_huge_body_are_read_and_kept(framing: bytes) -> None:
    exchange = await exchange_with(streaming(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n", b"z" * 65536))
    assert (exchange.status, exchange.body, exchange.body_truncated) == (200, b"z" * 16384, True)
    assert exchange.duration < SECOND


async def test_a_body_of_exactly_16_kib_is_whole() -> None:
    exchange = await exchange_with(keeping_alive(b"HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n" + b"z" * 16384))
    assert (len(exchange.body), exchange.body_truncated) == (16384, False)


async def test_a_gzip_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    exchange = await exchange_with(responding(head + bomb))
    assert exchange.body == bomb[:16384]
    assert ("content-encoding", "gzip") in exchange.headers


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", id="garbage status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Big: " + b"a" * 2_000_000 + b"\r\n\r\n", id="2 MB header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", id="short body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad chunk"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", id="unasked upgrade"),
    ],
)
async def test_a_response_that_is_not_http_is_a_protocol_failure(response: bytes) -> None:
    exchange = await exchange_with(responding(response))
    assert (exchange.status, exchange.failure) == (None, FailureCode.PROTOCOL)
    assert len(exchange.detail) < 200


async def test_a_flood_of_103s_is_cut_long_before_the_deadline() -> None:
    exchange = await exchange_with(streaming(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100))
    assert (exchange.failure, exchange.detail) == (
        FailureCode.PROTOCOL,
        "more than 256 KiB without a usable response",
    )


async def test_only_50_of_12000_headers_are_kept() -> None:
    headers = b"".join(b"a%x:\r\n" % (number % 256) for number in range(12_000))
    exchange = await exchange_with(
        responding(b"HTTP/1.1 200 OK\r\n" + headers[:90_000].rpartition(b"\r\n")[0] + b"\r\n\r\n")
    )
    assert (exchange.status, len(exchange.headers)) == (200, 50)
    over = await exchange_with(responding(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n"))
    assert over.failure is FailureCode.PROTOCOL or len(over.headers) == 50


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(resetting(), id="before headers"),
        pytest.param(resetting(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), id="after headers"),
        pytest.param(responding(), id="closes without a response"),
    ],
)
async def test_a_connection_that_dies_is_a_reset(handler: Callable[[Receiver], Handler]) -> None:
    exchange = await exchange_with(handler)
    assert (exchange.status, exchange.failure) == (None, FailureCode.RESET)
    assert not exchange.redialed


# --- stale connections


async def test_a_server_that_silently_closes_after_each_response_causes_no_failure() -> None:
    async with receiving(responding(OK)) as receiver, client() as egress:
        exchanges = [await egress.post(receiver.url, HEADERS, b"%d" % number, SECOND) for number in range(20)]
    assert [exchange.status for exchange in exchanges] == [200] * 20
    assert sorted(int(request.rpartition(b"\r\n")[2]) for request in receiver.requests) == list(range(20))


async def test_a_reused_connection_that_dies_before_a_byte_is_redialled_once() -> None:
    def dying_on_the_second(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await receiver.read(reader)
            writer.write(OK)
            if await reader.read(1):
                _reset(writer)

        return handle

    async with receiving(dying_on_the_second) as receiver, client() as egress:
        first = await egress.post(receiver.url, HEADERS, BODY, SECOND)
        second = await egress.post(receiver.url, HEADERS, BODY, SECOND)
    assert (first.status, second.status) == (200, 200)
    assert (second.reused, second.redialed) == (False, True)
    assert (receiver.connections, len(receiver.requests)) == (2, 2)


async def test_a_redial_that_fails_too_is_a_failure() -> None:
    def once(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if receiver.connections == 1:
                await receiver.read(reader)
                writer.write(OK)
            await receiver.read(reader)
            _reset(writer)

        return handle

    async with receiving(once) as receiver, client() as egress:
        await egress.post(receiver.url, HEADERS, BODY, SECOND)
        exchange = await egress.post(receiver.url, HEADERS, BODY, SECOND)
    assert (exchange.failure, exchange.redialed) == (FailureCode.RESET, True)
    assert receiver.connections == 2


# --- names and addresses


async def test_a_port_without_a_listener_is_refused() -> None:
    exchange = await post(f"http://127.0.0.1:{refusing_port()}/")
    assert (exchange.failure, exchange.detail) == (FailureCode.REFUSED, "connection refused")


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    async with receiving(keeping_alive()) as receiver:
        resolver = resolving(("127.0.0.2", "127.0.0.1"))
        exchange = await post(f"http://hooks.test:{receiver.port}/", resolver=resolver)
    assert (exchange.status, exchange.peer_address) == (200, "127.0.0.1")
    assert f"Host: hooks.test:{receiver.port}".encode() in receiver.requests[0]


def _unknown(name: str) -> tuple[str, ...]:
    raise socket.gaierror(socket.EAI_NONAME, "unknown")


async def test_a_name_that_does_not_resolve_is_a_dns_failure_but_may_be_stored() -> None:
    async with client(resolver=CachingResolver(_unknown)) as egress:
        exchange = await egress.post("https://unknown.invalid/", HEADERS, BODY, SECOND)
        assert exchange.failure is FailureCode.DNS
        assert await egress.check_url("https://unknown.invalid") == "https://unknown.invalid/"


async def test_a_name_that_turns_inward_after_the_check_is_not_dialled() -> None:
    async with receiving(keeping_alive()) as receiver:
        rules = EgressRules()
        async with client(rules, resolving(("93.184.215.14",), ("127.0.0.1",))) as egress:
            url = await egress.check_url(f"https://rebind.test:{receiver.port}/")
            exchange = await egress.post(url, HEADERS, BODY, SECOND)
        assert (exchange.failure, exchange.detail) == (FailureCode.BLOCKED, f"the URL {NOT_PUBLIC}")
        assert receiver.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [("93.184.215.14", "127.0.0.1"), ("10.0.0.1",), ("::ffff:93.184.215.14",), ("169.254.169.254",), ("fe80::1%lo",)],
)
async def test_one_internal_address_refuses_the_whole_name_and_is_not_shown(addresses: tuple[str, ...]) -> None:
    async with client(EgressRules(), resolving(addresses)) as egress:
        with pytest.raises(UrlRefused) as refused:
            await egress.check_url("https://mixed.test/")
        exchange = await egress.post("https://mixed.test/", HEADERS, BODY, SECOND)
    assert (refused.value.rule, exchange.detail) == (NOT_PUBLIC, f"the URL {NOT_PUBLIC}")
    assert (exchange.failure, exchange.peer_address) == (FailureCode.BLOCKED, None)


async def test_plain_http_to_a_public_address_is_blocked_though_http_is_on() -> None:
    async with client(resolver=resolving(("127.0.0.1", "93.184.215.14"))) as egress:
        exchange = await egress.post("http://hooks.test:8080/", HEADERS, BODY, SECOND)
    assert exchange.failure is FailureCode.BLOCKED


async def test_a_stored_url_is_judged_by_the_rules_of_today() -> None:
    async with receiving(keeping_alive()) as receiver, client(EgressRules()) as egress:
        exchange = await egress.post(receiver.url, HEADERS, BODY, SECOND)
        assert (exchange.failure, receiver.connections) == (FailureCode.BLOCKED, 0)


@asynccontextmanager
async def black_hole(address: str, port: int) -> AsyncIterator[None]:
    """A listener whose queue is full: Linux then drops what asks to connect, as a firewall would."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind((address, port))
        listener.listen(0)
        filler.setblocking(False)
        await loop.sock_connect(filler, (address, port))
        yield


def _line(rules: EgressRules, resolver: Resolver, inner: httpcore.AsyncNetworkBackend) -> Line:
    return Line(Guard(rules, resolver), inner, plain=False, limit=0.4 * SECOND)


async def test_a_silent_address_is_a_connect_timeout() -> None:
    port = free_port()
    async with black_hole("127.0.0.2", port):
        with pytest.raises(EndpointFailure) as failure:
            await _line(LOOPBACK, resolving(("127.0.0.2",)), TcpBackend()).connect("a.test", port)
    assert failure.value.code is FailureCode.TIMEOUT_CONNECT


async def test_a_silent_address_leaves_time_for_the_next() -> None:
    async with receiving(keeping_alive()) as receiver, black_hole("127.0.0.2", receiver.port):
        line = _line(LOOPBACK, resolving(("127.0.0.2", "127.0.0.1")), TcpBackend())
        stream = await line.connect("a.test", receiver.port)
        await stream.aclose()
    assert line.peer_address == "127.0.0.1"


async def test_the_address_of_the_connected_peer_is_checked_again() -> None:
    class Diverting(TcpBackend):
        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
        ) -> httpcore.AsyncNetworkStream:
            return await super().connect_tcp("127.0.0.1", port, timeout)

    async with receiving(keeping_alive()) as receiver:
        line = _line(EgressRules(), resolving(("93.184.215.14",)), Diverting())
        with pytest.raises(EndpointFailure, match=NOT_PUBLIC):
            await line.connect("a.test", receiver.port)


# --- our own faults


async def test_running_out_of_sockets_is_our_fault() -> None:
    async with receiving(keeping_alive()) as receiver, client() as egress:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        held = [socket.socket() for _ in range(100)]  # fill the gaps, so that none is left below the limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(one.fileno() for one in held) + 1, hard))
        try:
            with pytest.raises(LocalError, match="EMFILE"):
                await egress.post(receiver.url, HEADERS, BODY, SECOND)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for one in held:
                one.close()
        assert receiver.connections == 0


@pytest.mark.parametrize("header", [("Host", "evil"), ("x-note", "é"), ("x-split", "a\r\nb: c"), ("bad name", "a")])
async def test_a_header_that_cannot_be_sent_is_our_fault(header: tuple[str, str]) -> None:
    async with receiving(keeping_alive()) as receiver, client() as egress:
        with pytest.raises(LocalError):
            await egress.post(receiver.url, [header], BODY, SECOND)
        assert receiver.requests == []


# --- TLS


def _certificate(directory: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a self-signed certificate for `name`, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "server.pem").write_bytes(secret + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "server.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


async def _post_tls(name: str, server: ssl.SSLContext, trust: ssl.SSLContext) -> tuple[Exchange, Exchange, Receiver]:
    rules, resolver = EgressRules(LOOPBACK.allow), resolving(("127.0.0.1",))
    async with receiving(keeping_alive(), server) as receiver, client(rules, resolver, trust) as egress:
        url = f"https://{name}:{receiver.port}/"
        exchanges = [await egress.post(url, HEADERS, BODY, 2 * SECOND) for _ in range(2)]
    return exchanges[0], exchanges[1], receiver


async def test_tls_checks_the_endpoints_name_although_an_address_is_dialled(tmp_path: Path) -> None:
    server, trust = _certificate(tmp_path, "hooks.test")
    names: list[str | None] = []
    server.sni_callback = lambda _sock, name, _context: names.append(name)
    first, second, receiver = await _post_tls("hooks.test", server, trust)
    assert (first.status, second.status, second.reused) == (200, 200, True)
    assert names == ["hooks.test"]
    assert f"Host: hooks.test:{receiver.port}".encode() in receiver.requests[0]


async def test_a_certificate_for_another_name_is_a_tls_failure(tmp_path: Path) -> None:
    server, trust = _certificate(tmp_path, "other.test")
    exchange, _, receiver = await _post_tls("hooks.test", server, trust)
    assert exchange.failure is FailureCode.TLS
    assert "certificate refused" in exchange.detail
    assert receiver.requests == []


async def test_a_self_signed_certificate_is_a_tls_failure(tmp_path: Path) -> None:
    server, _ = _certificate(tmp_path, "hooks.test")
    exchange, _, receiver = await _post_tls("hooks.test", server, ssl.create_default_context())
    assert exchange.failure is FailureCode.TLS
    assert receiver.requests == []


async def test_a_plain_http_server_at_an_https_url_is_a_tls_failure() -> None:
    def talking_first(receiver: Receiver) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read()

        return handle

    async with receiving(talking_first) as receiver:
        exchange = await post(receiver.url.replace("http:", "https:"))
    assert exchange.failure is FailureCode.TLS
    assert exchange.detail == "the server speaks plain HTTP on this port, not TLS"


async def test_a_handshake_without_end_is_cut_by_the_deadline() -> None:
    async with receiving(responding(hang=True)) as receiver:
        exchange = await post(receiver.url.replace("http:", "https:"), within=0.3 * SECOND)
    assert exchange.failure is FailureCode.TIMEOUT_TOTAL
    assert exchange.duration < 0.6 * SECOND


# --- URLs


@pytest.mark.parametrize(
    ("url", "normalised"),
    [
        ("https://Example.COM", "https://example.com/"),
        ("HTTPS://example.com:443/a?b=c", "https://example.com/a?b=c"),
        ("https://example.com?a=b", "https://example.com/?a=b"),
        ("https://example.com:8443/", "https://example.com:8443/"),
        ("https://bücher.example/ok", "https://xn--bcher-kva.example/ok"),
        ("https://example.com/a%20b", "https://example.com/a%20b"),
        ("https://93.184.215.14/", "https://93.184.215.14/"),
        ("https://[2606:4700:4700:0:0:0:0:1111]/", "https://[2606:4700:4700::1111]/"),
        ("https://my_service.example:5000/", "https://my_service.example:5000/"),
    ],
)
def test_a_url_is_normalised_once(url: str, normalised: str) -> None:
    assert normalise_url(url, EgressRules()) == normalised
    assert normalise_url(normalised, EgressRules()) == normalised


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com:8080/", "ftp://example.com/", "file:///etc/passwd", "example.com", "", "https://", "https:///a",
        "https://user@example.com/", "https://user:pw@example.com/", "https://example.com/#top", "https://example.com:22/",
        "https://example.com:0/", "https://example.com:99999/", "https://example.com:/", "https://example.com:80/",
        "https://exa mple.com/", "https://example.com/\n", "\thttps://example.com/", "https://example.com\\@evil.test/",
        "https://example.com/é", "https://example.com./", "https://exa%6dple.com/", "https://-a.test/", "https://a..b/",
        "https://" + "a" * 64 + ".test/", "https://example.com/" + "a" * 2048, "https://example.com/\x85",
        "https://127.0.0.1/", "https://127.1/", "https://127.0.1/", "https://2130706433/", "https://0x7f000001/",
        "https://0x7f.1/", "https://0177.0.0.1/", "https://017700000001/", "https://0/", "https://127.0.0.1./",
        "https://127.000.000.001/", "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://\uff11\uff12\uff17.0.0.1/",
        "https://93.184.215.014/", "https://1.2.3.4.5/", "https://256.1.1.1/", "https://[::1]/", "https://[::]/",
        "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[64:ff9b::7f00:1]/", "https://[::7f00:1]/",
        "https://[2002:7f00:1::]/", "https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/", "https://[fd00:ec2::254]/",
        "https://169.254.169.254/latest/meta-data", "https://168.63.129.16/", "https://192.0.0.192/", "https://[::1/",
        "https://::1/", "https://10.0.0.1/", "https://[v1.a]/", "https://a.0x7f/", "https://example.com:٤٤٣/",
    ],
)  # fmt: skip
async def test_a_url_that_is_not_plain_and_public_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused) as refused:
        normalise_url(url, EgressRules())
    assert refused.value.rule
    async with client(EgressRules(), resolving(("93.184.215.14",))) as egress:
        assert (await egress.post(url, HEADERS, BODY, SECOND)).failure is FailureCode.BLOCKED


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://example.com/", "must use https, not plain http"),
        ("ftp://example.com/", "must use https"),
        ("https://user:pw@example.com/", "must not contain a user name or password"),
        ("https://example.com/#top", "must not have a fragment (`#…`)"),
        ("https://example.com:22/", "has port 22, which is not allowed; use 443, 8443 or one above 1023"),
        ("https://example.com./", "has a host that ends with a dot"),
        (
            "https://0177.0.0.1/",
            "has a host that ends with a number but is not an IPv4 address such as 198.51.100.7",
        ),
        ("https://10.0.0.1/", "has an address that is not allowed: private (RFC 1918)"),
        ("https://[::ffff:8.8.8.8]/", "has an address that is not allowed: IPv4-mapped"),
        ("https://example.com/é", "has characters outside ASCII in its path or query; percent-encode them"),
        ("https://xn--a.example/", "has a host that is not a valid international domain name (IDNA 2008)"),
        ("https://xn--ls8h.la/", "has a host that is not a valid international domain name (IDNA 2008)"),
    ],
)
def test_a_refusal_names_its_rule(url: str, rule: str) -> None:
    with pytest.raises(UrlRefused) as refused:
        normalise_url(url, EgressRules())
    assert refused.value.rule == rule


def test_a_configured_list_of_ports_is_exhaustive() -> None:
    rules = EgressRules(ports=frozenset({444}))
    assert normalise_url("https://example.com:444/", rules)
    with pytest.raises(UrlRefused, match="port 443"):
        normalise_url("https://example.com/", rules)


# --- Retry-After


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("120", timedelta(minutes=2)),
        (" 0 ", timedelta(0)),
        ("-5", timedelta(0)),
        ("86401", timedelta(hours=24)),
        ("9" * 5000, timedelta(hours=24)),
        ("Mon, 23 Nov 2026 12:01:00 GMT", timedelta(minutes=1)),
        ("Monday, 23-Nov-26 12:01:00 GMT", timedelta(minutes=1)),
        ("Mon, 23 Nov 2026 11:00:00 GMT", timedelta(0)),
        ("Mon, 23 Nov 2026 12:01:00 -0000", timedelta(minutes=1)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", timedelta(hours=24)),
        ("1.5", None),
        ("3s", None),
        ("2026-11-23T12:01:00Z", None),
        ("7, 9", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Mon, 99 Nov 2026 12:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_from_zero_to_a_day(value: str, wait: timedelta | None) -> None:
    assert parse_retry_after(value, datetime(2026, 11, 23, 12, tzinfo=UTC)) == wait
