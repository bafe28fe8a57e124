"""What the API accepts for an endpoint can be sent: fuzzed from the request's JSON to the bytes that a server reads."""

import asyncio
import json
import ssl
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar, cast

import httpcore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from api.endpoints.schemas import EndpointIn, EndpointSettings
from api.schemas import EventType
from everhook.egress import EgressClient, EgressRules, Exchange, TlsExtras, UnsendableRequest, header_fault
from everhook.egress.tcp import TcpBackend
from everhook.endpoints.service import EndpointChanges, check_tls, checked_settings
from everhook.errors import InvalidField
from everhook.ids import Kind, new_gid
from everhook.observability.trace_context import parse
from everhook.signing.schemes import new_secret, secret_key, signature_headers
from testing.certificates import Authority, encrypted, self_signed
from testing.receiver import Receiver

Result = TypeVar("Result")

RULES = EgressRules((ip_network("127.0.0.0/8"), ip_network("::1/128")), http=True)
SECOND = timedelta(seconds=1)
BODY = b'{"order":7}'
SETTINGS = set(EndpointSettings.model_fields) - {"tls", "ed25519"}
PER_EXAMPLE = 20


class Diverting(TcpBackend):
    """Connects every address and port to two servers on loopback: port 80 means the plain one, all others TLS."""

    def __init__(self, plain: int, secure: int) -> None:
        self._plain, self._secure = plain, secure
        self.speaks_tls = True

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await super().connect_tcp("127.0.0.1", self._secure if self.speaks_tls else self._plain, timeout)


async def _here(name: str, tenant: str) -> tuple[str, ...]:
    return ("127.0.0.1",)


@dataclass
class Room:
    """A client whose connections all end at a server in this process, and a loop to run both on."""

    runner: asyncio.Runner
    plain: Receiver
    secure: Receiver
    authority: Authority
    egress: EgressClient
    backend: Diverting

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    @property
    def arrivals(self) -> int:
        return self.plain.count + self.secure.count

    async def post(self, url: str, headers: list[tuple[str, str]], tls: TlsExtras | None = None) -> Exchange:
        self.backend.speaks_tls = url.startswith("https:")
        return await self.egress.post(url, headers, BODY, 20 * SECOND, tls)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with asyncio.Runner() as runner:
        made = runner.run(_room(runner, tmp_path_factory.mktemp("room")))
        yield made
        runner.run(_closed(made))


async def _room(runner: asyncio.Runner, directory: Path) -> Room:
    authority = Authority()
    server = authority.issue("any.test").server_context(directory)
    trust = ssl.create_default_context(cadata=authority.pem)
    trust.check_hostname = False  # one certificate stands for all hosts
    plain, secure = Receiver(), Receiver(ssl_context=server)
    await plain.__aenter__()
    await secure.__aenter__()
    backend = Diverting(plain.port, secure.port)
    egress = EgressClient(RULES, resolver=_here, ssl_context=trust, backend=backend)
    return Room(runner, plain, secure, authority, egress, backend)


async def _closed(room: Room) -> None:
    await room.egress.aclose()
    await room.plain.__aexit__(None, None, None)
    await room.secure.__aexit__(None, None, None)


def nearly(good: str, more: str) -> st.SearchStrategy[str]:
    """Texts of `good` characters, sometimes with one of `more`."""
    usual = st.text(good, min_size=1, max_size=12)
    return usual | usual | usual | st.tuples(usual, st.sampled_from(more), usual).map("".join)


LABEL = nearly("abcxyz0189", "-_Aßüéж中💩①。.%\u200b\xad ") | st.sampled_from(
    ["xn--a", "xn--ls8h", "xn--bcher-kva", "xn--fiqs8s", "xn--", "xn--0", "XN--BCHER-KVA", "r3---sn-a", "-a", "a" * 63]
)
HOST = st.one_of(
    st.lists(LABEL, min_size=1, max_size=4).map(".".join),
    LABEL.map(lambda text: f"xn--{text}.test"),
    st.sampled_from(
        ["127.0.0.1", "127.1.2.3", "[::1]", "[0:0::1]", "127.1", "0x7f.1", "localhost", "xn--ls8h.la", "a."]
    ),
    st.lists(st.just("a" * 50), min_size=4, max_size=6).map(".".join),
)
REST = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40) | st.text(max_size=8)
URL = st.builds(
    lambda scheme, host, port, slash, rest: f"{scheme}://{host}{port}{slash}{rest}",
    st.sampled_from(["https", "https", "http", "HTTPS"]),
    HOST,
    st.sampled_from(["", "", ":443", ":8443", ":65535", ":08080", ":1"]),
    st.sampled_from(["/", "/", "", "?"]),
    REST,
) | st.text(max_size=30).map(lambda text: f"https://a.test/{text}")
HEADER_NAME = nearly("XYabcz019-", "_.!#$%&'*+^`|~ :()/@\"\\\t\n\r\0é") | st.sampled_from(
    ["Expect", "Upgrade", "Transfer-Encoding", "Content-Length", "TE", "Trailer", "Keep-Alive", "Accept", "X-A"]
)
HEADER_VALUE = nearly("".join(map(chr, range(33, 127))), " \t\n\r\0\x0b\x0c\x1f\x7f\x85\xa0é\u2028") | st.text(
    " \ta,", max_size=4
)
HEADERS = st.dictionaries(HEADER_NAME, HEADER_VALUE, max_size=3)
ENDPOINT = st.tuples(URL, st.just({"X-Good": "a b"})) | st.tuples(st.just("https://hooks.test/a?b=c"), HEADERS)
ENDPOINTS = st.lists(ENDPOINT, min_size=PER_EXAMPLE, max_size=PER_EXAMPLE)


async def _accepted(room: Room, url: str, headers: dict[str, str]) -> dict[str, Any] | None:
    """The columns of an endpoint with these settings, as read from the database; None if the API refuses them."""
    try:
        body = EndpointIn.model_validate({"url": url, "headers": headers})
        changes = cast(EndpointChanges, body.model_dump(include=SETTINGS))
        columns = await checked_settings(room.egress, changes, "")
    except (ValidationError, InvalidField):
        return None
    accepted: dict[str, Any] = json.loads(json.dumps({"url": columns["url"], "headers": columns["headers"]}))
    return accepted


def _signed() -> list[tuple[str, str]]:
    gid = new_gid(Kind.MESSAGE)
    return signature_headers(gid, int(datetime.now(UTC).timestamp()), BODY, [secret_key(new_secret())])


ACCEPTED_AT_LEAST = 50
"""At least so many of the 1,200 are accepted: a fuzzer whose endpoints are all refused would prove nothing."""


def test_an_endpoint_that_the_api_accepts_can_be_sent_to(room: Room) -> None:
    accepted = 0

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(endpoints=ENDPOINTS)
    def exercise(endpoints: list[tuple[str, dict[str, str]]]) -> None:
        nonlocal accepted
        for url, headers in endpoints:
            accepted += room.run(_assert_arrives(room, url, headers))

    exercise()
    assert accepted >= ACCEPTED_AT_LEAST


async def _assert_arrives(room: Room, url: str, headers: dict[str, str]) -> bool:
    columns = await _accepted(room, url, headers)
    if columns is None:
        return False
    before = room.arrivals
    exchange = await room.post(columns["url"], [*_signed(), *columns["headers"].items()])
    assert (exchange.status, exchange.failure) == (200, None), (url, exchange.detail)
    assert room.arrivals == before + 1
    arrival = (room.secure if room.backend.speaks_tls else room.plain).arrivals[-1]
    for name, value in columns["headers"].items():
        assert (name, value) in [tuple(header) for header in arrival.headers]
    return True


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("url", {"url": "https://xn--a.example/"}),
        ("url", {"url": "https://xn--ls8h.la/"}),
        ("url", {"url": "https://hooks.xn--zzzz99.test/"}),
        ("headers.X-A", {"headers": {"X-A": " a"}}),
        ("headers.X-A", {"headers": {"X-A": "a "}}),
        ("headers.X-A", {"headers": {"X-A": " "}}),
        ("headers.Upgrade", {"headers": {"Upgrade": "websocket"}}),
        ("headers.Expect", {"headers": {"Expect": "100-continue"}}),
    ],
)
def test_settings_that_the_sender_would_refuse_are_refused_by_the_api(
    room: Room, field: str, body: dict[str, Any]
) -> None:
    changes = cast(EndpointChanges, {"url": "https://hooks.test/", "headers": {}} | body)
    with pytest.raises(InvalidField) as refused:
        room.run(checked_settings(room.egress, changes, ""))
    assert refused.value.field == field


@settings(max_examples=300, deadline=None)
@given(name=HEADER_NAME, value=HEADER_VALUE)
def test_the_api_has_the_same_rule_for_headers_as_the_sender(room: Room, name: str, value: str) -> None:
    fault = header_fault(name, value)
    if fault is None:
        assert room.run(room.post("https://hooks.test/", [(name, value)])).status == 200
    else:
        before = room.arrivals
        with pytest.raises(UnsendableRequest) as refused:
            room.run(room.post("https://hooks.test/", [("X-Good", "a"), (name, value)]))
        assert fault in str(refused.value)
        assert len(value) < 4 or value not in str(refused.value).replace(repr(name), "")
        assert room.arrivals == before


@given(event_type=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,30}.?", fullmatch=True) | st.text(max_size=5))
def test_an_event_type_that_the_api_accepts_can_be_a_header(event_type: str) -> None:
    try:
        TypeAdapter(EventType).validate_python(event_type)
    except ValidationError:
        return
    assert header_fault("x-webhook-event", event_type) is None


@given(header=st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,8})?"))
def test_a_trace_that_a_publisher_names_can_be_a_header(header: str) -> None:
    trace = parse(header)
    assert trace is None or header_fault("traceparent", str(trace)) is None


def _pems() -> dict[str, str]:
    authority, other = Authority(), self_signed("a.test")
    pair = authority.issue("everhook")
    expired = authority.issue("everhook", (-2 * timedelta(days=1), -timedelta(days=1)))
    return {
        "ca": authority.pem,
        "certificate": pair.certificate,
        "key": pair.key,
        "other": other.certificate,
        "other key": other.key,
        "expired": expired.certificate,
        "expired key": expired.key,
        "encrypted key": encrypted(pair.key),
    }


PEMS = _pems()
WRITTEN = st.sampled_from(
    [
        str,
        str.strip,
        lambda pem: pem.replace("\n", "\r\n"),
        lambda pem: f"a comment\n{pem}another",
        lambda pem: f"{pem}\n\n{pem}",
        lambda pem: f"{pem}{PEMS['ca']}",
        lambda pem: pem.replace("\n", "\n ", 1),
        lambda pem: pem.replace("\n", ""),
        lambda pem: pem[:200] + "!" + pem[200:],
        lambda pem: pem[:-40],
        lambda pem: pem.replace("BEGIN ", "BEGIN X509 ", 1),
    ]
)


def written(*names: str) -> st.SearchStrategy[str]:
    """One of these PEMs, in one of the common spellings, or broken in a common way."""
    return st.builds(lambda name, write: write(PEMS[name]), st.sampled_from(names), WRITTEN) | st.text(max_size=9)


TLS = st.one_of(
    st.fixed_dictionaries({"ca": written("ca", "other", "expired")}),
    st.fixed_dictionaries(
        {"clientCertificate": written("certificate"), "clientKey": written("key", "encrypted key", "other key")},
        optional={"ca": written("ca", "certificate")},
    ),
    st.fixed_dictionaries({"clientCertificate": written("expired"), "clientKey": written("expired key")}),
    st.fixed_dictionaries({}, optional={"clientCertificate": written("other"), "clientKey": written("other key")}),
)


GOOD_TLS = {
    "an authority": {"ca": PEMS["ca"]},
    "two authorities": {"ca": PEMS["ca"] + PEMS["other"]},
    "a pair": {"clientCertificate": PEMS["certificate"], "clientKey": PEMS["key"]},
    "a chain": {"clientCertificate": PEMS["certificate"] + PEMS["ca"], "clientKey": PEMS["key"]},
    "all three, with CR LF": {
        "ca": PEMS["ca"].replace("\n", "\r\n"),
        "clientCertificate": PEMS["certificate"].replace("\n", "\r\n"),
        "clientKey": PEMS["key"].replace("\n", "\r\n"),
    },
    "an expired pair": {"clientCertificate": PEMS["expired"], "clientKey": PEMS["expired key"]},
}


@pytest.mark.parametrize("tls", GOOD_TLS.values(), ids=GOOD_TLS)
def test_tls_settings_that_can_be_used_are_accepted(room: Room, tls: dict[str, str]) -> None:
    """Guards the next test, which would pass if nothing were accepted."""
    assert room.run(_is_accepted_and_usable(room, tls))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(tls=TLS)
def test_tls_settings_that_the_api_accepts_can_be_used(room: Room, tls: dict[str, str]) -> None:
    """The server may refuse them, but a handshake begins: our code does not fail before it."""
    room.run(_is_accepted_and_usable(room, tls))


async def _is_accepted_and_usable(room: Room, tls: dict[str, str]) -> bool:
    try:
        body = EndpointIn.model_validate({"url": "https://hooks.test/", "tls": tls})
        extras = body.tls.extras() if body.tls is not None else None
        await check_tls(room.egress, extras)
    except (ValidationError, InvalidField):
        return False
    exchange = await room.post("https://hooks.test/", [], extras)
    assert not exchange.detail.startswith("the endpoint's TLS settings"), exchange.detail
    assert exchange.peer_address == "127.0.0.1"
    return True
