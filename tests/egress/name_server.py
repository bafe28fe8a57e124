"""A name server for DNS rebinding: answers change from one query to the next, and are not cacheable (TTL 0)."""

import asyncio
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import cast

from tests.egress.corpus import Answer

TYPES = {"A": 1, "CNAME": 5, "AAAA": 28}
_IN = 1
_NAME_ERROR = 3
_AUTHORITATIVE_ANSWER = 0x8580


class NameServer(asyncio.DatagramProtocol):
    """`zone`: host to its answers in turn, the last of which stays. A and AAAA are counted apart: glibc asks both."""

    def __init__(self, zone: Mapping[str, Sequence[Answer]]) -> None:
        self._zone = {host.lower(): answers for host, answers in zone.items()}
        self.asked: Counter[tuple[str, int]] = Counter()

    async def listen(self, port: int = 53) -> asyncio.DatagramTransport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", port))
        return transport

    def lookups(self, host: str) -> int:
        """How often the addresses of `host` were asked for."""
        return self.asked[host.lower(), TYPES["A"]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(self._answer(data), addr)

    def _answer(self, query: bytes) -> bytes:
        host, end = _read_name(query, 12)
        (wanted,) = struct.unpack_from("!H", query, end)
        question = query[12 : end + 4]
        answers = self._zone.get(host)
        if answers is None:
            return _message(query[:2], _NAME_ERROR, question, [])
        turn = self.asked[host, wanted]
        self.asked[host, wanted] += 1
        return _message(query[:2], 0, question, _records(host, answers[min(turn, len(answers) - 1)], wanted))


def _records(host: str, answer: Answer, wanted: int) -> list[bytes]:
    """Those of the wanted type, after the CNAME if there is one."""
    records, owner = [], host
    for kind, value in answer:
        if kind == "CNAME":
            records.append(_record(owner, TYPES[kind], _name(value)))
            owner = value
        elif TYPES[kind] == wanted:
            records.append(_record(owner, wanted, ip_address(value).packed))
    return records


def _message(number: bytes, code: int, question: bytes, records: Sequence[bytes]) -> bytes:
    return (
        number + struct.pack("!5H", _AUTHORITATIVE_ANSWER | code, 1, len(records), 0, 0) + question + b"".join(records)
    )


def _record(owner: str, kind: int, data: bytes) -> bytes:
    return _name(owner) + struct.pack("!HHIH", kind, _IN, 0, len(data)) + data


def _name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    """The name, and the position after it. A question needs no compression."""
    labels = []
    while size := data[at]:
        labels.append(data[at + 1 : at + 1 + size].decode("latin-1"))
        at += 1 + size
    return ".".join(labels).lower(), at + 1
