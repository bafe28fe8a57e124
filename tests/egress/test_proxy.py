"""The egress proxy: what it is asked, what it is never asked, and who is charged when there is no tunnel."""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text

from everhook.contracts import FailureCode
from everhook.egress import EgressClient, EgressRules, Exchange, LocalError
from everhook.egress.dial import NOT_PUBLIC
from everhook.egress.proxy import Proxy
from everhook.egress.resolver import NameUnresolved, Resolver
from testing.certificates import Authority
from testing.processes import refusing_port
from testing.receiver import Receiver
from testing.script import Fault
from testing.stack import QUICK, Stack
from testing.waiting import assert_eventually

HEADERS = [("content-type", "application/json"), ("authorization", "Bearer of-the-endpoint")]
BODY = b'{"hello":"world"}'
PASSWORD = "pass:word/%"
PASSWORD_IN_URL = "pass%3Aword%2F%25"
SECOND = timedelta(seconds=1)

Behaviour = Callable[["ScriptedProxy", asyncio.StreamReader, asyncio.StreamWriter, str], Coroutine[Any, Any, None]]


async def tunnelling(
    proxy: "ScriptedProxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str
) -> None:
    host, _, port = target.rpartition(":")
    far_reader, far_writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
    finally:
        far_writer.close()
        with suppress(ConnectionError):
            await far_writer.wait_closed()


def responding(response: bytes) -> Behaviour:
    async def respond_and_close(
        proxy: "ScriptedProxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str
    ) -> None:
        writer.write(response)

    return respond_and_close


def refusing(status: int, header: str = "x-nothing: said") -> Behaviour:
    return responding(f"HTTP/1.1 {status} No\r\n{header}\r\ncontent-length: 0\r\n\r\n".encode())


async def silent(
    proxy: "ScriptedProxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str
) -> None:
    await reader.read()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@dataclass
class ScriptedProxy:
    """`asked`: the target of each CONNECT; `heads`: the whole of each."""

    behaviour: Behaviour = tunnelling
    port: int = 0
    asked: list[str] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def hang_up(self) -> None:
        """Close the connection of every client."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["ScriptedProxy"]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                self.asked.append(head.split(b" ", 2)[1].decode())
                await self.behaviour(self, reader, writer, self.asked[-1])
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self.hang_up()


async def nowhere(name: str, tenant: str) -> tuple[str, ...]:
    raise NameUnresolved("no address")


def resolving(*addresses: str) -> Resolver:
    async def resolve(name: str, tenant: str) -> tuple[str, ...]:
        return addresses

    return resolve


def rules(proxy_url: str, allow: str = "127.0.0.0/8") -> EgressRules:
    return EgressRules((ip_network(allow),), http=True, proxy=Proxy.from_url(proxy_url))


async def post(
    url: str,
    proxy_url: str,
    *,
    resolver: Resolver = nowhere,
    tls: ssl.SSLContext | None = None,
    allow: str = "127.0.0.0/8",
    within: timedelta = 5 * SECOND,
    times: int = 1,
) -> Exchange:
    client = EgressClient(rules(proxy_url, allow), resolver=resolver, ssl_context=tls)
    try:
        for _ in range(times):
            exchange = await client.post(url, HEADERS, BODY, within)
        return exchange
    finally:
        await client.aclose()


async def through(behaviour: Behaviour, within: timedelta = 5 * SECOND) -> Exchange:
    """A request by a proxy with this behaviour, to a port where no server listens."""
    async with ScriptedProxy(behaviour).listening() as proxy:
        return await post(f"http://127.0.0.1:{refusing_port()}/", f"http://127.0.0.1:{proxy.port}", within=within)


# --- what it is asked


async def test_a_proxy_is_asked_for_the_address_that_was_judged_and_never_for_a_name() -> None:
    async with Receiver() as receiver, ScriptedProxy().listening() as proxy:
        url = f"http://hooks.test:{receiver.port}/hook"
        exchange = await post(url, f"http://127.0.0.1:{proxy.port}", resolver=resolving("127.0.0.1"))
        [arrival] = receiver.arrivals
    assert (exchange.status, exchange.peer_address) == (200, "127.0.0.1")
    assert proxy.asked == [f"127.0.0.1:{receiver.port}"]
    assert dict(arrival.headers)["Host"] == f"hooks.test:{receiver.port}"
    assert arrival.body == BODY


async def test_proxy_credentials_are_sent_only_to_the_proxy_and_endpoint_credentials_only_to_the_endpoint() -> None:
    async with Receiver() as receiver, ScriptedProxy().listening() as proxy:
        await post(receiver.url, f"http://ever%40hook:{PASSWORD_IN_URL}@127.0.0.1:{proxy.port}")
        [arrival] = receiver.arrivals
    lines = proxy.heads[0].decode().split("\r\n")
    basic = b64encode(f"ever@hook:{PASSWORD}".encode()).decode()
    assert sorted(filter(None, lines[1:])) == [
        f"Host: 127.0.0.1:{receiver.port}",
        f"Proxy-Authorization: Basic {basic}",
    ]
    names = {name.lower() for name, _ in arrival.headers}
    assert "authorization" in names
    assert not {name for name in names if "proxy" in name}


async def test_a_tunnel_is_kept_and_used_again() -> None:
    async with Receiver() as receiver, ScriptedProxy().listening() as proxy:
        exchange = await post(receiver.url, f"http://127.0.0.1:{proxy.port}", times=3)
    assert (exchange.reused, len(proxy.asked)) == (True, 1)


async def test_tls_is_with_the_endpoint_and_not_with_the_proxy(tmp_path: Path) -> None:
    authority = Authority()
    server = authority.issue("hooks.test").server_context(tmp_path)
    trust = ssl.create_default_context(cadata=authority.pem)
    async with Receiver(ssl_context=server) as receiver, ScriptedProxy().listening() as proxy:
        proxy_url, resolver = f"http://127.0.0.1:{proxy.port}", resolving("127.0.0.1")
        good = await post(f"https://hooks.test:{receiver.port}/", proxy_url, resolver=resolver, tls=trust)
        wrong = await post(f"https://other.test:{receiver.port}/", proxy_url, resolver=resolver, tls=trust)
    assert good.status == 200
    assert wrong.failure is FailureCode.TLS
    assert "Hostname mismatch" in wrong.detail


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
async def test_a_proxy_is_not_even_asked_for_what_is_forbidden(address: str) -> None:
    async with ScriptedProxy().listening() as proxy:
        proxy_url = f"http://127.0.0.1:{proxy.port}"
        exchange = await post("https://hooks.test/", proxy_url, resolver=resolving(address))
    assert (exchange.failure, exchange.detail, proxy.heads) == (FailureCode.BLOCKED, f"the URL {NOT_PUBLIC}", [])


async def test_the_proxy_itself_may_lie_anywhere() -> None:
    async with ScriptedProxy(refusing(502)).listening() as proxy:
        exchange = await post("https://93.184.215.14/", f"http://127.0.0.1:{proxy.port}", allow="192.0.2.0/32")
    assert (exchange.failure, proxy.asked) == (FailureCode.UNREACHABLE, ["93.184.215.14:443"])


# --- whose fault it is


@pytest.mark.parametrize(
    ("behaviour", "failure"),
    [
        (refusing(502), FailureCode.UNREACHABLE),
        (refusing(504), FailureCode.TIMEOUT_CONNECT),
        (refusing(403), FailureCode.BLOCKED),
        (refusing(502, "proxy-status: egress; error=connection_refused"), FailureCode.REFUSED),
        (refusing(503, "proxy-status: egress; error=dns_error; rcode=NXDOMAIN"), FailureCode.DNS),
        (refusing(503, 'Proxy-Status: a, b; error="connection_timeout"'), FailureCode.TIMEOUT_CONNECT),
        (refusing(500, "proxy-status: egress; error=destination_ip_prohibited"), FailureCode.BLOCKED),
        (refusing(503, "x-squid-error: ERR_CONNECT_FAIL 111"), FailureCode.UNREACHABLE),
        (refusing(503, "x-squid-error: ERR_DNS_FAIL 0"), FailureCode.DNS),
    ],
)
async def test_an_error_that_the_proxy_reports_about_the_endpoint_is_the_endpoints_fault(
    behaviour: Behaviour, failure: FailureCode
) -> None:
    assert (await through(behaviour)).failure is failure


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(refusing(407, "proxy-authenticate: Basic"), id="407"),
        pytest.param(refusing(407, "proxy-status: egress; error=connection_refused"), id="407 with any proxy-status"),
        pytest.param(refusing(401), id="401"),
        pytest.param(refusing(400), id="400"),
        pytest.param(refusing(429), id="429"),
        pytest.param(refusing(500), id="500"),
        pytest.param(refusing(503), id="503"),
        pytest.param(refusing(301, "location: http://127.0.0.1/"), id="301"),
        pytest.param(refusing(502, "proxy-status: egress; error=proxy_internal_error"), id="502 of its own making"),
        pytest.param(refusing(503, "x-squid-error: ERR_CACHE_ACCESS_DENIED 0"), id="Squid's own"),
        pytest.param(responding(b""), id="hangs up"),
        pytest.param(responding(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), id="is no proxy"),
        pytest.param(responding(b"HTTP/1.1 200 OK\r\nx-big: " + b"a" * 200_000), id="100 KB of headers"),
    ],
)
async def test_an_error_that_the_proxy_reports_about_itself_is_our_fault(behaviour: Behaviour) -> None:
    with pytest.raises(LocalError, match="egress proxy"):
        await through(behaviour)


async def test_a_proxy_that_refuses_connections_is_our_fault() -> None:
    with pytest.raises(LocalError, match="ECONNREFUSED"):
        await post("http://127.0.0.1:9999/", f"http://127.0.0.1:{refusing_port()}")


async def test_a_proxy_whose_name_is_unknown_is_our_fault() -> None:
    with pytest.raises(LocalError, match="does not resolve"):
        await post("http://127.0.0.1:9999/", "http://proxy.test:3128")


async def test_the_next_address_of_a_proxy_is_tried() -> None:
    async with Receiver() as receiver, ScriptedProxy().listening() as proxy:
        both = resolving("127.0.0.9", "127.0.0.1")
        exchange = await post(receiver.url, f"http://proxy.test:{proxy.port}", resolver=both)
    assert exchange.status == 200


async def test_a_proxy_that_does_not_accept_connections_is_our_fault_even_with_a_short_timeout() -> None:
    """A listener whose queue is full: Linux drops what asks to connect."""
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filler.setblocking(False)
        await asyncio.get_running_loop().sock_connect(filler, listener.getsockname())
        with pytest.raises(LocalError, match="in time"):
            await post("http://127.0.0.1:9999/", f"http://127.0.0.1:{listener.getsockname()[1]}", within=0.3 * SECOND)


async def test_a_proxy_that_is_silent_after_connect_waits_for_the_endpoint() -> None:
    exchange = await through(silent, within=0.3 * SECOND)
    assert exchange.failure in (FailureCode.TIMEOUT_TOTAL, FailureCode.TIMEOUT_CONNECT)


async def test_a_failure_inside_a_tunnel_is_the_endpoints_fault() -> None:
    async with Receiver() as receiver, ScriptedProxy().listening() as proxy:
        receiver.respond(Fault.RESET)
        exchange = await post(receiver.url, f"http://127.0.0.1:{proxy.port}")
    assert exchange.failure is FailureCode.RESET


# --- end to end


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxied(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stack, ScriptedProxy]]:
    async with ScriptedProxy().listening() as proxy:
        url = f"http://everhook:{PASSWORD_IN_URL}@127.0.0.1:{proxy.port}"
        directory = tmp_path_factory.mktemp("proxied")
        async with Stack(directory, extra_env={**QUICK, "EVERHOOK_EGRESS_PROXY": url}) as stack:
            yield stack, proxy


@pytest.mark.parametrize("fault", [refusing(407), refusing(503), responding(b"")], ids=["407", "503", "hangs up"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_fault_of_the_proxy_is_an_unsendable_attempt_and_does_not_touch_the_circuit(
    proxied: tuple[Stack, ScriptedProxy], fault: Behaviour
) -> None:
    stack, proxy = proxied
    publisher, channel = stack.publisher(), uuid4().hex
    await publisher.create_channel(channel, {"delaysSeconds": [0.2] * 40})
    await publisher.create_endpoint(stack.receiver.url_for(f"/{channel}"), channel)
    await proxy.hang_up()  # on the tunnels that are kept
    proxy.behaviour, before = fault, len(proxy.asked)
    ack = await publisher.publish(channel, BODY, type="test.proxied")
    assert ack is not None
    [delivery] = ack.deliveries

    await assert_eventually(lambda: _assert_asked(proxy, before + 3), timeout=30)
    proxy.behaviour = tunnelling
    await stack.drained()
    assert await _standing(stack, delivery.delivery_gid) == (True, "closed", 0)
    *before_it, last = await _errors(stack, delivery.delivery_gid)
    assert set(before_it) == {"unsendable"} and last is None
    assert PASSWORD not in stack.logs(lines=100_000)
    assert PASSWORD_IN_URL not in stack.logs(lines=100_000)


def _assert_asked(proxy: ScriptedProxy, times: int) -> None:
    assert len(proxy.asked) >= times


async def _standing(stack: Stack, gid: str) -> tuple[object, ...]:
    """Whether a delivery is delivered, and its endpoint's circuit."""
    query = """
        SELECT d.status = 'delivered', c.state, c.failures
        FROM delivery d JOIN circuit c ON c.endpoint_gid = d.endpoint_gid WHERE d.gid = :gid
    """
    async with stack.engine.connect() as connection:
        return tuple((await connection.execute(text(query), {"gid": gid})).one())


async def _errors(stack: Stack, gid: str) -> list[str | None]:
    """The errors of a delivery's attempts, in their order."""
    query = "SELECT error FROM attempt WHERE delivery_gid = :gid ORDER BY number"
    async with stack.engine.connect() as connection:
        return list((await connection.execute(text(query), {"gid": gid})).scalars())
