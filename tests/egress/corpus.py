# ruff: noqa: RUF001 (characters that are taken for others are what this is about)
"""Hostile URLs and names (SSRF, DNS rebinding), as data. Add a line for each new attack.

`URLS` are refused for their text. `NAMES` look honest; what they resolve to is not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

NOT_PUBLIC = "has a host name that resolves to an address that is not allowed"
PUBLIC = "93.184.215.14"
PUBLIC_V6 = "2606:2800:21f:cb07::14"

IPV4_FORM = "has a host that ends with a number but is not an IPv4 address such as 198.51.100.7"
IPV6_FORM = "has a host in brackets that is not an IPv6 address"
IDNA = "has a host that is not a valid international domain name (IDNA 2008)"
HOST_NAME = "has a host that is not a valid host name"
HOST_AND_PORT = "has no valid host and port"
BAD_CHARACTER = "has a space, a control character or a backslash"
USER_INFO = "must not contain a user name or password"
FULL_STOP = "has a host that ends with a dot"
ZONE = "has an IPv6 address with a zone id"
OTHER_SCHEME = "must use https"
NO_URL = "is not an absolute URL, such as https://example.com/webhooks"
NO_HOST = "has no host"
FORBIDDEN = "has an address that is not allowed: "

# First and last address of each range, written out by hand from the registries and not from the product's table.
RANGES: tuple[tuple[str, str, str], ...] = (
    ("0.0.0.0", "0.255.255.255", "this network"),
    ("10.0.0.0", "10.255.255.255", "private (RFC 1918)"),
    ("100.64.0.0", "100.127.255.255", "shared address space (RFC 6598)"),
    ("127.0.0.0", "127.255.255.255", "loopback"),
    ("169.254.0.0", "169.254.255.255", "link-local"),
    ("172.16.0.0", "172.31.255.255", "private (RFC 1918)"),
    ("192.0.0.0", "192.0.0.255", "IETF protocol assignments"),
    ("192.0.2.0", "192.0.2.255", "documentation"),
    ("192.31.196.0", "192.31.196.255", "AS112"),
    ("192.52.193.0", "192.52.193.255", "automatic multicast tunnelling"),
    ("192.88.99.0", "192.88.99.255", "6to4 relay anycast"),
    ("192.168.0.0", "192.168.255.255", "private (RFC 1918)"),
    ("192.175.48.0", "192.175.48.255", "AS112"),
    ("198.18.0.0", "198.19.255.255", "benchmarking"),
    ("198.51.100.0", "198.51.100.255", "documentation"),
    ("203.0.113.0", "203.0.113.255", "documentation"),
    ("224.0.0.0", "239.255.255.255", "multicast"),
    ("240.0.0.0", "255.255.255.254", "reserved"),
    ("::2", "::ffff:ffff", "IPv4-compatible"),
    ("::ffff:0:0", "::ffff:ffff:ffff", "IPv4-mapped"),
    ("::ffff:0:0:0", "::ffff:0:ffff:ffff", "IPv4-translated"),
    ("64:ff9b::", "64:ff9b::ffff:ffff", "NAT64"),
    ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "NAT64"),
    ("100::", "100::ffff:ffff:ffff:ffff", "discard-only"),
    ("100:0:0:1::", "100::1:ffff:ffff:ffff:ffff", "dummy prefix"),
    ("200::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "not global unicast"),
    ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "Teredo"),
    ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "IETF protocol assignments"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "6to4"),
    ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "AS112"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
    ("4000::", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "not global unicast"),
    ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "segment routing"),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "unique local"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local"),
    ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "site-local"),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
)

# Single addresses that are worth an attack of their own.
SINGLES: tuple[tuple[str, str], ...] = (
    ("127.0.0.1", "loopback"),
    ("127.0.0.53", "loopback"),
    ("::1", "loopback"),
    ("::", "unspecified"),
    ("255.255.255.255", "broadcast"),
    ("169.254.169.254", "cloud metadata"),
    ("169.254.170.2", "cloud metadata (Amazon ECS)"),
    ("169.254.170.23", "cloud metadata (Amazon EKS)"),
    ("192.0.0.192", "cloud metadata (Oracle)"),
    ("100.100.100.200", "cloud metadata (Alibaba)"),
    ("168.63.129.16", "cloud metadata (Azure WireServer)"),
    ("fd00:ec2::254", "cloud metadata (Amazon)"),
    ("fd00:ec2::23", "cloud metadata (Amazon EKS)"),
    ("fd20:ce::254", "cloud metadata (Google)"),
    ("::7f00:1", "IPv4-compatible"),
    ("::127.0.0.1", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "IPv4-mapped"),
    ("::ffff:7f00:1", "IPv4-mapped"),
    ("::ffff:169.254.169.254", "IPv4-mapped"),
    ("0:0:0:0:0:ffff:10.0.0.1", "IPv4-mapped"),
    ("::ffff:93.184.215.14", "IPv4-mapped"),
    ("::ffff:0:127.0.0.1", "IPv4-translated"),
    ("64:ff9b::127.0.0.1", "NAT64"),
    ("64:ff9b::a9fe:a9fe", "NAT64"),
    ("64:ff9b:1::7f00:1", "NAT64"),
    ("2002:7f00:1::", "6to4"),
    ("2002:a9fe:a9fe::1", "6to4"),
    ("2001:0:7f00:1::", "Teredo"),
    ("2001::5601:5601", "Teredo"),
)

# URLs that some parsers read as an inner address, or as another host than Everhook would dial.
TEXTS: tuple[tuple[str, str], ...] = (
    # decimal, octal, hexadecimal, short, and mixtures
    ("https://2130706433/", IPV4_FORM),
    ("https://3232235777/", IPV4_FORM),
    ("https://2852039166/latest/meta-data", IPV4_FORM),
    ("https://4294967295/", IPV4_FORM),
    ("https://4294967297/", IPV4_FORM),
    ("https://0/", IPV4_FORM),
    ("https://00/", IPV4_FORM),
    ("https://1/", IPV4_FORM),
    ("https://017700000001/", IPV4_FORM),
    ("https://0177.0.0.1/", IPV4_FORM),
    ("https://0177.0.0.01/", IPV4_FORM),
    ("https://00000177.0.0.1/", IPV4_FORM),
    ("https://127.0.0.01/", IPV4_FORM),
    ("https://127.000.000.001/", IPV4_FORM),
    ("https://010.0.0.1/", IPV4_FORM),
    ("https://0x7f000001/", IPV4_FORM),
    ("https://0X7F000001/", IPV4_FORM),
    ("https://0x7f.0x0.0x0.0x1/", IPV4_FORM),
    ("https://0x7f.0.0.1/", IPV4_FORM),
    ("https://0x7f.1/", IPV4_FORM),
    ("https://0x/", IPV4_FORM),
    ("https://127.0.0.0x1/", IPV4_FORM),
    ("https://0xa9.254.0251.0xfe/", IPV4_FORM),
    ("https://127.1/", IPV4_FORM),
    ("https://127.0.1/", IPV4_FORM),
    ("https://127.65535/", IPV4_FORM),
    ("https://10.1/", IPV4_FORM),
    ("https://192.168.257/", IPV4_FORM),
    ("https://256.0.0.1/", IPV4_FORM),
    ("https://127.0.0.256/", IPV4_FORM),
    ("https://127.0.0.1.1/", IPV4_FORM),
    ("https://127..0.0.1/", IPV4_FORM),
    ("https://.127.0.0.1/", IPV4_FORM),
    ("https://hooks.test.127/", IPV4_FORM),
    ("https://hooks.0x7f/", IPV4_FORM),
    # trailing dots
    ("https://127.0.0.1./", FULL_STOP),
    ("https://127.0.0.1../", FULL_STOP),
    ("https://localhost./", FULL_STOP),
    ("https://metadata.google.internal./", FULL_STOP),
    ("https://hooks.test./", FULL_STOP),
    # zone ids
    ("https://[fe80::1%25eth0]/", ZONE),
    ("https://[fe80::1%eth0]/", ZONE),
    ("https://[::1%25lo]/", ZONE),
    ("https://[::1%lo]/", ZONE),
    ("https://[2606:2800:21f:cb07::14%251]/", ZONE),
    # brackets that hold no IPv6 address, and IPv6 without brackets
    ("https://::1/", HOST_AND_PORT),
    ("https://[::1/", HOST_AND_PORT),
    ("https://::1]/", HOST_AND_PORT),
    ("https://[[::1]]/", HOST_AND_PORT),
    ("https://[::1].test/", HOST_AND_PORT),
    ("https://hooks.test[::1]/", HOST_AND_PORT),
    ("https://[127.0.0.1]/", IPV6_FORM),
    ("https://[]/", IPV6_FORM),
    ("https://[v1.fe80::1]/", IPV6_FORM),
    ("https://[::ffff:127.1]/", IPV6_FORM),
    ("https://[::ffff:0177.0.0.1]/", IPV6_FORM),
    ("https://[0:0:0:0:0:0:0:0:1]/", IPV6_FORM),
    ("https://[:::1]/", IPV6_FORM),
    # IDNA: digits and dots that lenient mappings turn into an address, characters they drop, invisible ones
    ("https://\uff11\uff12\uff17.0.0.1/", IDNA),
    ("https://\uff11\uff12\uff17\uff0e\uff10\uff0e\uff10\uff0e\uff11/", IDNA),
    ("https://①②⑦.⓪.⓪.①/", IDNA),
    ("https://⑴⑵⑺.0.0.1/", IDNA),
    ("https://127。0。0。1/", f"{FORBIDDEN}loopback"),
    ("https://127.0.0｡1/", f"{FORBIDDEN}loopback"),
    ("https://loc\u00adalhost/", IDNA),
    ("https://local\u200bhost/", IDNA),
    ("https://local\u2060host/", IDNA),
    ("https://local\ufeffhost/", IDNA),
    ("https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", IDNA),
    ("https://ｌｏｃａｌｈｏｓｔ/", IDNA),
    ("https://\u1d38ocalhost/", IDNA),
    ("https://localho\u017ft/", IDNA),
    ("https://hooks\u2024test/", IDNA),
    ("https://hooks.test\u2100evil.test/", IDNA),
    ("https://hooks.test\uff0fevil.test/", IDNA),
    ("https://evil.test\uff20hooks.test/", IDNA),
    ("https://hooks.test\u202e/", IDNA),
    ("https://٠.٠.٠.٠/", IDNA),
    # encoded names that are not what IDNA makes of any text: some libraries fail on them, others dial them
    ("https://xn--a.example/", IDNA),
    ("https://xn--ls8h.la/", IDNA),
    ("https://XN--LS8H.LA/", IDNA),
    ("https://hooks.xn--.test/", HOST_NAME),
    ("https://xn--zzzz99.test/", IDNA),
    ("https://xn--127-0.test/", IDNA),
    ("https://under_score.xn--a.test/", IDNA),
    ("https://hooks.test:٤٤٣/", HOST_AND_PORT),
    ("https://hooks.test:\uff14\uff14\uff13/", HOST_AND_PORT),
    # user names, and what else makes two parsers see two hosts
    ("https://user@hooks.test/", USER_INFO),
    ("https://user:password@hooks.test/", USER_INFO),
    ("https://:@hooks.test/", USER_INFO),
    ("https://@hooks.test/", USER_INFO),
    ("https://hooks.test@127.0.0.1/", USER_INFO),
    ("https://hooks.test%40127.0.0.1/", IPV4_FORM),
    ("https://hooks.test@127.0.0.1@evil.test/", USER_INFO),
    ("https://127.0.0.1:443@hooks.test/", USER_INFO),
    ("https://hooks.test:443:8443/", HOST_AND_PORT),
    ("https://hooks.test\\@127.0.0.1/", BAD_CHARACTER),
    ("https:\\\\127.0.0.1/", BAD_CHARACTER),
    ("https://hooks.test\\.evil.test/", BAD_CHARACTER),
    ("https://127.0.0.1\t.hooks.test/", BAD_CHARACTER),
    ("https://hooks.test\r\nHost: 127.0.0.1/", BAD_CHARACTER),
    ("https://hooks.test/\r\nX-Injected: 1", BAD_CHARACTER),
    ("https://hooks.test/\0.png", BAD_CHARACTER),
    (" https://hooks.test/", BAD_CHARACTER),
    ("https://hooks.test /", BAD_CHARACTER),
    ("https://hooks.test/\x7f", BAD_CHARACTER),
    ("https://hooks.test/#@127.0.0.1/", "must not have a fragment (`#…`)"),
    ("https://127%2e0%2e0%2e1/", HOST_NAME),
    ("https://%31%32%37.0.0.1/", IPV4_FORM),
    ("https://hooks%00.test/", HOST_NAME),
    ("https://hooks.test,127.0.0.1/", IPV4_FORM),
    ("https://hooks.test;127.0.0.1/", IPV4_FORM),
    ("https://*.test/", HOST_NAME),
    ("https://-hooks.test/", HOST_NAME),
    ("https://hooks..test/", HOST_NAME),
    ("https://" + "a" * 64 + ".test/", HOST_NAME),
    ("https://" + "a." * 126 + "test/", HOST_NAME),
    ("https://", NO_HOST),
    ("https:///127.0.0.1/", NO_HOST),
    ("https://?@127.0.0.1/", NO_HOST),
    ("https:127.0.0.1/", NO_URL),
    ("https:/127.0.0.1/", NO_URL),
    ("//127.0.0.1/", NO_URL),
    ("127.0.0.1", NO_URL),
    ("", NO_URL),
    # schemes and ports
    ("http://127.0.0.1:8080/", "must use https, not plain http"),
    ("http://hooks.test/", "must use https, not plain http"),
    ("file:///etc/passwd", OTHER_SCHEME),
    ("gopher://127.0.0.1:6379/_FLUSHALL", OTHER_SCHEME),
    ("dict://127.0.0.1:11211/stat", OTHER_SCHEME),
    ("ftp://127.0.0.1/", OTHER_SCHEME),
    ("unix:///var/run/docker.sock", OTHER_SCHEME),
    ("jar:https://hooks.test!/", NO_URL),
    ("javascript://hooks.test/%0aalert(1)", OTHER_SCHEME),
    ("https://hooks.test:22/", "has port 22, which is not allowed; use 443, 8443 or one above 1023"),
    ("https://hooks.test:25/", "has port 25, which is not allowed; use 443, 8443 or one above 1023"),
    ("https://hooks.test:80/", "has port 80, which is not allowed; use 443, 8443 or one above 1023"),
    ("https://hooks.test:0/", "has port 0, which is not allowed; use 443, 8443 or one above 1023"),
    ("https://hooks.test:1023/", "has port 1023, which is not allowed; use 443, 8443 or one above 1023"),
    ("https://hooks.test:65536/", "has port 65536, which is not allowed; use 443, 8443 or one above 1023"),
    ("https://hooks.test:65979/", "has port 65979, which is not allowed; use 443, 8443 or one above 1023"),
    ("https://hooks.test:443x/", HOST_AND_PORT),
    ("https://hooks.test:+443/", HOST_AND_PORT),
    ("https://hooks.test:-1/", HOST_AND_PORT),
    ("https://hooks.test:000443/", HOST_AND_PORT),
    ("https://hooks.test/\u00e9", "has characters outside ASCII in its path or query; percent-encode them"),
    ("https://hooks.test/" + "a" * 2048, "must have at most 2048 characters"),
    # inner addresses on every port that is open to the public
    ("https://127.0.0.1:8443/", f"{FORBIDDEN}loopback"),
    ("https://127.0.0.1:8080/", f"{FORBIDDEN}loopback"),
    ("https://127.0.0.1:65535/", f"{FORBIDDEN}loopback"),
    ("https://[::1]:8443/", f"{FORBIDDEN}loopback"),
    ("https://[::1]:8080/", f"{FORBIDDEN}loopback"),
    ("HTTPS://127.0.0.1/", f"{FORBIDDEN}loopback"),
    ("https://127.0.0.1?", f"{FORBIDDEN}loopback"),
    ("https://[0:0:0:0:0:0:0:1]/", f"{FORBIDDEN}loopback"),
    ("https://[0000:0000:0000:0000:0000:0000:0000:0001]/", f"{FORBIDDEN}loopback"),
    ("https://[FE80::1]/", f"{FORBIDDEN}link-local"),
)

Answer = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Name:
    """A host whose look-ups are answered by `answers` in turn, the last of which stays. All have a TTL of zero.

    Without answers the system knows the name by itself. `refused_at_creation` unless it looks honest by then.
    """

    host: str
    answers: tuple[Answer, ...] = ()
    refused_at_creation: bool = True

    @property
    def url(self) -> str:
        return f"https://{self.host}/"


def _a(*addresses: str) -> Answer:
    return tuple(("AAAA" if ":" in address else "A", address) for address in addresses)


def _cname(target: str, *addresses: str) -> Answer:
    return (("CNAME", target), *_a(*addresses))


_OLD = _a(PUBLIC)

TRICKS: tuple[Name, ...] = (
    Name("localhost"),
    Name("LOCALHOST"),
    Name("mixed-first.test", (_a("127.0.0.1", PUBLIC),)),
    Name("mixed-last.test", (_a(PUBLIC, "127.0.0.1"),)),
    Name("mixed-many.test", (_a(*(f"93.184.215.{n}" for n in range(20, 30)), "10.0.0.1"),)),
    Name("mixed-families.test", (_a(PUBLIC, "::1"),)),
    Name("mixed-families-too.test", (_a(PUBLIC_V6, "169.254.169.254"),)),
    Name("mixed-mapped.test", (_a(PUBLIC, f"::ffff:{PUBLIC}"),)),
    Name("embedded-mapped.test", (_a("::ffff:127.0.0.1"),)),
    Name("embedded-compatible.test", (_a("::127.0.0.1"),)),
    Name("embedded-nat64.test", (_a("64:ff9b::7f00:1"),)),
    Name("embedded-6to4.test", (_a("2002:7f00:1::1"),)),
    Name("embedded-teredo.test", (_a("2001:0:7f00:1::"),)),
    Name("cname-loopback.test", (_cname("inner.test", "127.0.0.1"),)),
    Name("cname-private.test", (_cname("database.corp.test", "10.20.30.40"),)),
    Name("cname-metadata.test", (_cname("metadata.google.internal", "169.254.169.254"),)),
    Name("cname-v6.test", (_cname("inner.test", "fd00:ec2::254"),)),
    Name("cname-mixed.test", (_cname("inner.test", PUBLIC, "192.168.1.1"),)),
    Name("127.0.0.1.nip.test", (_a("127.0.0.1"),)),
    Name("10-0-0-1.sslip.test", (_a("10.0.0.1"),)),
    Name("xn--bcher-kva.test", (_a("127.0.0.1"),)),
    Name("under_score.test", (_a("127.0.0.1"),)),
    Name("single-label", (_a("172.17.0.1"),)),
    Name("kubernetes.default.svc", (_a("10.96.0.1"),)),
    Name("metadata.google.internal", (_a("169.254.169.254"),)),
    Name("rebinds.test", (_OLD, _a("127.0.0.1")), refused_at_creation=False),
    Name("rebinds-to-metadata.test", (_OLD, _a("169.254.169.254")), refused_at_creation=False),
    Name("rebinds-to-v6.test", (_a(PUBLIC_V6), _a("::1")), refused_at_creation=False),
    Name("rebinds-in-part.test", (_OLD, _a(PUBLIC, "10.0.0.1")), refused_at_creation=False),
    Name("rebinds-by-cname.test", (_OLD, _cname("inner.test", "127.0.0.1")), refused_at_creation=False),
    Name("appears-later.test", ((), _a("127.0.0.1")), refused_at_creation=False),
)

FLIPS = Name("flips.test", (_OLD, _OLD, _a("127.0.0.1")), refused_at_creation=False)
"""Public when it is checked, and loopback at the next lookup: the checked address must be the one that is dialled."""


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def urls() -> Iterator[tuple[str, str]]:
    """Each with the rule that refuses it."""
    for first, last, rule in RANGES:
        yield f"https://{_bracketed(first)}/", FORBIDDEN + rule
        yield f"https://{_bracketed(last)}/", FORBIDDEN + rule
    for address, rule in SINGLES:
        yield f"https://{_bracketed(address)}/", FORBIDDEN + rule
    yield from TEXTS


def names() -> Iterator[Name]:
    """Special cases, and a name for the last address of each range."""
    yield from TRICKS
    for number, (_, last, _) in enumerate(RANGES):
        yield Name(f"range-{number}.test", (_a(last),))


def _without_range(rule: str) -> str:
    return FORBIDDEN if rule.startswith(FORBIDDEN) else rule


URLS: tuple[tuple[str, str], ...] = tuple(urls())
NAMES: tuple[Name, ...] = tuple(names())

ONE_OF_EACH_RULE: tuple[str, ...] = tuple({_without_range(rule): url for url, rule in URLS}.values())
"""The last URL that each rule about the text refuses, and one with an address."""
