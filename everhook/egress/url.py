"""The URLs that an endpoint may have, by their text alone (the first part of SSRF protection).

`normalise_url` runs when a URL is stored and again whenever it is used, so stricter rules also apply to URLs stored
earlier. It refuses rather than repairs: `0177.0.0.1`, `127.1`, `①②⑦.0.0.1` and `0x7f000001` have no legitimate use, and
parsers that accept them disagree on their meaning.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Self

import httpx
import idna

from everhook.egress.address_rules import SCOPED, Address, Network, inside, refusal
from everhook.egress.errors import UrlRefused
from everhook.egress.proxy import Proxy
from everhook.settings import Settings

ALLOW, HTTP, PORTS = "EVERHOOK_EGRESS_ALLOW", "EVERHOOK_EGRESS_HTTP", "EVERHOOK_EGRESS_PORTS"
"""The settings that permit URLs which are refused by default."""

MAX_URL_LENGTH = 2048
MAX_NAME_LENGTH = 253
PLAIN_HTTP_INSIDE_ONLY = "must use https. Plain http is only for networks that the operator has allowed"
"""Callers read it, and the networks are the operator's: it names none, nor the setting."""

NOT_INTERNATIONAL = "has a host that is not a valid international domain name (IDNA 2008)"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SHAPE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?P<fragment>#.*)?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True)
class EgressRules:
    """Where requests may go: public addresses on the usual ports, plus what the operator adds.

    `allow` are networks with endpoints that are not public. `ports` is exhaustive; empty means 443, 8443 and everything
    above 1023. `http` allows plain HTTP, but only to addresses in `allow`. With a `proxy` all requests go through it,
    and all rules apply to them, but not to the proxy itself.
    """

    allow: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset()
    http: bool = False
    proxy: Proxy | None = field(default=None, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            tuple(settings.egress_allow),
            frozenset(settings.egress_ports),
            settings.egress_http,
            None if settings.egress_proxy is None else Proxy.from_url(settings.egress_proxy.get_secret_value()),
        )

    @property
    def ports_in_words(self) -> str:
        return " or ".join(map(str, sorted(self.ports))) if self.ports else "443, 8443 or one above 1023"

    def allows_port(self, port: int) -> bool:
        return port in self.ports if self.ports else port in (443, 8443) or 1023 < port <= 65535


def normalise_url(url: str, rules: EgressRules) -> str:
    """The normal form of `url` to store and to send to; idempotent.

    Lower-case scheme and host, IDNA 2008 applied, default port removed. Addresses written in the URL are checked; those
    that a name resolves to are checked when it is dialled. Raises `UrlRefused`.
    """
    return str(parse_url(url, rules))


@lru_cache(maxsize=4096)
def parse_url(url: str, rules: EgressRules) -> httpx.URL:
    """As `normalise_url`, parsed. Cached, because it runs for every request, and there are far fewer endpoints.

    The URL is parsed by the strict patterns above and by httpx; if they disagree on the host or the port, it is
    refused.
    """
    _check_text(url)
    shape = _SHAPE.fullmatch(url)
    if shape is None:
        raise UrlRefused("is not an absolute URL, such as https://example.com/webhooks")
    scheme = _scheme(shape["scheme"].lower(), rules)
    if shape["fragment"] is not None:
        raise UrlRefused("must not have a fragment (`#…`)")
    if not shape["rest"].isascii():
        raise UrlRefused("has characters outside ASCII in its path or query; percent-encode them")
    host, port = _host_and_port(shape["authority"], scheme, rules)
    return _agreed(scheme, host, port, shape["rest"] if shape["rest"].startswith("/") else f"/{shape['rest']}")


def literal_address(host: str) -> Address | None:
    """The address that `host` is, or None if it is a name. `host` is normalised; brackets are optional."""
    try:
        return IPv6Address(host.strip("[]")) if ":" in host else IPv4Address(host)
    except AddressValueError:
        return None


def address_not_allowed(rule: str) -> str:
    """A rule of `address_rules` as the predicate of a sentence about the URL."""
    return f"has an address that is not allowed: {rule}"


def permitting(rule: str) -> str | None:
    """The setting that permits an address which this rule of `address_rules` forbids; None if no setting does."""
    return None if rule == SCOPED else ALLOW


def _check_text(url: str) -> None:
    if len(url) > MAX_URL_LENGTH:
        raise UrlRefused(f"must have at most {MAX_URL_LENGTH} characters")
    if any(char <= " " or char in "\\\x7f" for char in url):
        raise UrlRefused("has a space, a control character or a backslash")


def _scheme(scheme: str, rules: EgressRules) -> str:
    if scheme == "https" or (scheme == "http" and rules.http):
        return scheme
    if scheme == "http":
        raise UrlRefused("must use https, not plain http", HTTP)
    raise UrlRefused("must use https")


def _host_and_port(authority: str, scheme: str, rules: EgressRules) -> tuple[str, int]:
    if "@" in authority:
        raise UrlRefused("must not contain a user name or password")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise UrlRefused("has no valid host and port")
    host = _host(parts["host"])
    _judge_literal(host, scheme, rules)
    return host, _port(parts["port"], scheme, rules)


def _port(named: str | None, scheme: str, rules: EgressRules) -> int:
    port = int(named) if named else _DEFAULT_PORTS[scheme]
    if rules.allows_port(port):
        return port
    if scheme == "http" and named is None:  # port 80 is not in the URL, so the message does not mention it
        raise UrlRefused(f"{PLAIN_HTTP_INSIDE_ONLY}. The port must be {rules.ports_in_words}", PORTS)
    raise UrlRefused(
        f"has port {port}, which is not allowed; use {rules.ports_in_words}", PORTS if 0 < port < 65_536 else None
    )


def _host(host: str) -> str:
    if not host:
        raise UrlRefused("has no host")
    if host.startswith("["):
        return f"[{_ipv6(host[1:-1])}]"
    if host.endswith("."):
        raise UrlRefused("has a host that ends with a dot")
    name = host.lower() if host.isascii() else _idna(host)
    return _ipv4(name) if _NUMBER.fullmatch(name.rpartition(".")[2]) else _name(name)


def _ipv6(text: str) -> str:
    if "%" in text:
        raise UrlRefused("has an IPv6 address with a zone id")
    try:
        return IPv6Address(text).compressed
    except AddressValueError:
        raise UrlRefused("has a host in brackets that is not an IPv6 address") from None


def _ipv4(text: str) -> str:
    """A host whose last label is a number is an IPv4 address for some parsers: only the canonical form is accepted."""
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise UrlRefused("has a host that ends with a number but is not an IPv4 address such as 198.51.100.7") from None


def _idna(host: str) -> str:
    """IDNA 2008 without the mapping of UTS 46, which would turn circled digits into an address."""
    try:
        return idna.encode(host.lower()).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise UrlRefused(NOT_INTERNATIONAL) from None


def _name(name: str) -> str:
    labels = name.split(".")
    if len(name) > MAX_NAME_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefused("has a host that is not a valid host name")
    if not all(_survives_idna(label) for label in labels if label.startswith("xn--")):
        raise UrlRefused(NOT_INTERNATIONAL)
    return name


def _survives_idna(label: str) -> bool:
    """Whether an encoded label is valid in IDNA 2008. Many libraries decode it, and fail if it is not."""
    try:
        return idna.alabel(idna.ulabel(label)) == label.encode()
    except (idna.IDNAError, UnicodeError):
        return False


def _judge_literal(host: str, scheme: str, rules: EgressRules) -> None:
    address = literal_address(host)
    if address is None:
        return
    if rule := refusal(address, rules.allow):
        raise UrlRefused(address_not_allowed(rule), permitting(rule))
    if scheme == "http" and not inside(address, rules.allow):
        raise UrlRefused(PLAIN_HTTP_INSIDE_ONLY, ALLOW)


def _agreed(scheme: str, host: str, port: int, rest: str) -> httpx.URL:
    try:
        url = httpx.URL(f"{scheme}://{host}:{port}{rest}")
    except httpx.InvalidURL:
        raise UrlRefused("is not a valid URL") from None
    same = url.raw_host.decode("ascii") == host.strip("[]") and (url.port or _DEFAULT_PORTS[scheme]) == port
    if not same or url.userinfo or url.fragment:
        raise UrlRefused("is not a valid URL")
    if len(str(url)) > MAX_URL_LENGTH:
        raise UrlRefused(f"must have at most {MAX_URL_LENGTH} characters")
    return url
