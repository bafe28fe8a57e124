"""The addresses that requests must not go to (SSRF protection), as data.

`ipaddress.is_global` is not enough: on Python 3.11.7 it passes 192.0.0.192 (Oracle's metadata service), 224.0.0.1,
::7f00:1, 64:ff9b::7f00:1 (NAT64 of 127.0.0.1), 2002:7f00:1::, fec0::1 and more. So the table is explicit: the IANA
special-purpose registries for IPv4 and IPv6 in full (including their globally reachable anycast ranges, where no
webhook receiver is), multicast, withdrawn ranges, cloud metadata addresses, and every form that embeds an IPv4 address
in an IPv6 one. IPv6 outside 2000::/3 is refused even where no row names it, because IANA has not assigned it.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NOT_GLOBAL_UNICAST = "not global unicast"
SCOPED = "zone id"

_GLOBAL_UNICAST = IPv6Network("2000::/3")

TABLE: tuple[tuple[str, str], ...] = (
    # Metadata addresses come first: the first matching row gives the name, and theirs is the most specific.
    ("169.254.169.254/32", "cloud metadata"),
    ("169.254.170.2/32", "cloud metadata (Amazon ECS)"),
    ("169.254.170.23/32", "cloud metadata (Amazon EKS)"),
    ("192.0.0.192/32", "cloud metadata (Oracle)"),
    ("100.100.100.200/32", "cloud metadata (Alibaba)"),
    ("168.63.129.16/32", "cloud metadata (Azure WireServer)"),
    ("fd00:ec2::254/128", "cloud metadata (Amazon)"),
    ("fd00:ec2::23/128", "cloud metadata (Amazon EKS)"),
    ("fd20:ce::254/128", "cloud metadata (Google)"),
    # IPv4, https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast (RFC 5771).
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private (RFC 1918)"),
    ("100.64.0.0/10", "shared address space (RFC 6598)"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private (RFC 1918)"),
    ("192.0.0.0/24", "IETF protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.31.196.0/24", "AS112"),
    ("192.52.193.0/24", "automatic multicast tunnelling"),
    ("192.88.99.0/24", "6to4 relay anycast"),
    ("192.168.0.0/16", "private (RFC 1918)"),
    ("192.175.48.0/24", "AS112"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    # IPv6 that embeds IPv4, after two addresses that would match these rows as well.
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("::ffff:0:0:0/96", "IPv4-translated"),
    ("::/96", "IPv4-compatible"),
    ("64:ff9b::/96", "NAT64"),
    ("64:ff9b:1::/48", "NAT64"),
    ("2001::/32", "Teredo"),
    ("2002::/16", "6to4"),
    # IPv6, https://www.iana.org/assignments/iana-ipv6-special-registry, multicast (RFC 4291) and site-local (RFC 3879).
    ("100::/64", "discard-only"),
    ("100:0:0:1::/64", "dummy prefix"),
    ("2001::/23", "IETF protocol assignments"),
    ("2001:db8::/32", "documentation"),
    ("2620:4f:8000::/48", "AS112"),
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "unique local"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)

_RULES: tuple[tuple[Network, str], ...] = tuple((ip_network(block), name) for block, name in TABLE)


def refusal(address: Address, allow: Sequence[Network] = ()) -> str | None:
    """The name of the rule that forbids `address`, or None.

    A network of `allow` takes precedence over the table, but only literally: allowing 10.0.0.0/8 does not allow
    ::ffff:10.0.0.1, because no receiver needs an embedded address.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return SCOPED
    if inside(address, allow):
        return None
    for network, name in _RULES:
        if address in network:
            return name
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return NOT_GLOBAL_UNICAST
    return None


def inside(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
