"""Every row of the table, its first and last address, and the addresses just outside it."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given, strategies

from everhook.egress.address_rules import NOT_GLOBAL_UNICAST, SCOPED, TABLE, Address, refusal

EXPECTED = {
    "169.254.169.254": "cloud metadata",
    "169.254.170.2": "cloud metadata (Amazon ECS)",
    "169.254.170.23": "cloud metadata (Amazon EKS)",
    "192.0.0.192": "cloud metadata (Oracle)",
    "100.100.100.200": "cloud metadata (Alibaba)",
    "168.63.129.16": "cloud metadata (Azure WireServer)",
    "fd00:ec2::254": "cloud metadata (Amazon)",
    "fd20:ce::254": "cloud metadata (Google)",
    "0.0.0.0": "this network",
    "10.1.2.3": "private (RFC 1918)",
    "100.64.0.1": "shared address space (RFC 6598)",
    "127.0.0.1": "loopback",
    "127.255.255.255": "loopback",
    "172.31.255.255": "private (RFC 1918)",
    "192.0.0.9": "IETF protocol assignments",
    "192.88.99.3": "6to4 relay anycast",
    "198.19.255.255": "benchmarking",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "::": "unspecified",
    "::1": "loopback",
    "::7f00:1": "IPv4-compatible",
    "::ffff:7f00:1": "IPv4-mapped",
    "::ffff:8.8.8.8": "IPv4-mapped",
    "::ffff:0:7f00:1": "IPv4-translated",
    "64:ff9b::7f00:1": "NAT64",
    "64:ff9b:1::1": "NAT64",
    "2002:7f00:1::": "6to4",
    "2001::1": "Teredo",
    "2001:1ff:ffff::": "IETF protocol assignments",
    "100::1": "discard-only",
    "100:0:0:1::1": "dummy prefix",
    "2001:db8::1": "documentation",
    "3fff:fff::1": "documentation",
    "5f00::1": "segment routing",
    "fd12::1": "unique local",
    "fe80::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "4000::1": NOT_GLOBAL_UNICAST,
    "200::1": NOT_GLOBAL_UNICAST,
    "fe00::1": NOT_GLOBAL_UNICAST,
}

# The last address of each block, written out: a mask one bit too narrow would let these through.
LAST = [
    "0.255.255.255", "10.255.255.255", "100.127.255.255", "127.255.255.255", "169.254.255.255", "172.31.255.255",
    "192.0.0.255", "192.0.2.255", "192.31.196.255", "192.52.193.255", "192.88.99.255", "192.168.255.255",
    "192.175.48.255", "198.19.255.255", "198.51.100.255", "203.0.113.255", "239.255.255.255", "255.255.255.254",
    "::ffff:ffff:ffff", "::ffff:0:ffff:ffff", "::ffff:ffff", "64:ff9b::ffff:ffff", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2002:ffff:ffff::ffff",
    "2001:db8:ffff::ffff", "2620:4f:8000:ffff::ffff", "3fff:fff:ffff::ffff",
]  # fmt: skip

# One below or above a block, where the neighbour is public: a mask one bit too wide would refuse these.
PUBLIC = [
    "1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
    "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
    "191.255.255.255", "192.0.1.0", "192.0.1.255", "192.0.3.0", "192.31.195.255", "192.31.197.0", "192.52.192.255",
    "192.52.194.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0", "192.175.47.255",
    "192.175.49.0", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0",
    "223.255.255.255", "8.8.8.8", "2000::", "2001:200::", "2001:db7:ffff::1", "2001:db9::", "2001:ffff::1", "2003::",
    "2620:4f:7fff::1", "2620:4f:8001::", "2606:4700:4700::1111", "3ffe:ffff::1", "3fff:1000::1",
]  # fmt: skip


@pytest.mark.parametrize(("text", "rule"), EXPECTED.items())
def test_a_special_address_is_refused_by_its_rule(text: str, rule: str) -> None:
    assert refusal(ip_address(text)) == rule


@pytest.mark.parametrize("text", LAST)
def test_the_last_address_of_a_block_is_refused(text: str) -> None:
    assert refusal(ip_address(text)) not in (None, NOT_GLOBAL_UNICAST)


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_next_to_a_block_is_allowed(text: str) -> None:
    assert refusal(ip_address(text)) is None


@pytest.mark.parametrize(("block", "rule"), TABLE)
def test_first_and_last_address_of_each_row_are_refused(block: str, rule: str) -> None:
    network = ip_network(block)
    names = {name for other, name in TABLE if ip_network(other).version == network.version}
    assert refusal(network[0]) in names
    assert refusal(network[-1]) in names
    # The edges of a few rows belong to rows that are more exact; the middle never does.
    assert refusal(network[network.num_addresses // 2]) == rule


@pytest.mark.parametrize(("block", "rule"), TABLE)
def test_the_addresses_around_each_row_do_not_get_its_name(block: str, rule: str) -> None:
    network = ip_network(block)
    for neighbour in _neighbours(network[0], network[-1]):
        same_name = [ip_network(other) for other, name in TABLE if name == rule and other != block]
        if not any(neighbour in other for other in same_name):
            assert refusal(neighbour) != rule


def _neighbours(first: Address, last: Address) -> list[Address]:
    kind = type(first)
    numbers = [int(first) - 1, int(last) + 1]
    return [kind(number) for number in numbers if 0 <= number < 2**first.max_prefixlen]


@pytest.mark.parametrize("text", ["10.1.2.3", "127.0.0.1", "169.254.169.254"])
def test_an_allowed_network_wins_over_the_table(text: str) -> None:
    address = ip_address(text)
    assert refusal(address, [ip_network("10.0.0.0/8"), ip_network(text)]) is None


def test_allowing_one_network_allows_no_other() -> None:
    assert refusal(IPv4Address("172.16.0.1"), [ip_network("10.0.0.0/8")]) == "private (RFC 1918)"


@pytest.mark.parametrize("text", ["::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::a00:1"])
def test_allowing_an_ipv4_network_does_not_allow_its_embeddings(text: str) -> None:
    assert refusal(IPv6Address(text), [ip_network("10.0.0.0/8")]) is not None


def test_an_embedding_is_allowed_if_literally_inside_an_allowed_network() -> None:
    assert refusal(IPv6Address("::ffff:10.0.0.1"), [ip_network("::ffff:10.0.0.0/104")]) is None


def test_an_address_with_a_zone_is_refused_even_inside_an_allowed_network() -> None:
    assert refusal(IPv6Address("fe80::1%eth0"), [ip_network("fe80::/10")]) == SCOPED


# --- an independent oracle: the registries in Python's `ipaddress`


def _edges() -> list[Address]:
    """First, last and the neighbours of every block of the table."""
    edges = []
    for block, _ in TABLE:
        network = ip_network(block)
        edges += [network[0], network[-1], *_neighbours(network[0], network[-1])]
    return edges


@given(strategies.lists(strategies.ip_addresses(), min_size=20))
@example(_edges())
def test_addresses_that_python_does_not_consider_global_are_refused(addresses: list[Address]) -> None:
    """The reverse does not hold: Python considers some addresses global that this table refuses."""
    for address in addresses:
        special = not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified
        assert refusal(address) is not None or not special, address
