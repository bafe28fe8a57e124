"""Limits on the cost of a connection to an HTTP server, and on the number of connections."""

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Protocol, Self

import structlog

from everhook.event_loop import file_limit

if TYPE_CHECKING:
    from everhook.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers of one request; also of trailers and chunk extensions."""

MAX_HEADERS = 100

MAX_PIPELINED = 16
"""Pipelined requests that wait on a connection. Each is parsed before its turn: 256 KiB of short ones are 14,000
requests, and took 45 MiB."""

STALLED_S = 30.0
"""A client that reads nothing for this long is disconnected."""

LINGER_S = 5.0
"""How long the rest of a refused request is read and dropped. Some clients read nothing until they have sent
everything: closing at once would reset the connection, and the response might be lost."""

REPORT_EVERY_S = 10.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Limits:
    """Times in seconds. `trusted` are networks of proxies, which `connections_per_address` does not apply to."""

    keep_alive: float = 75.0
    head_timeout: float = 10.0
    body_timeout: float = 60.0
    connections: int = 4096
    connections_per_address: int = 512
    trusted: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        return cls(
            keep_alive=settings.keep_alive_seconds,
            head_timeout=settings.header_timeout_seconds,
            body_timeout=settings.body_timeout_seconds,
            connections=settings.max_connections,
            connections_per_address=settings.max_connections_per_address,
            trusted=tuple(settings.trusted_proxies),
        )


DEFAULT_LIMITS = Limits()


class Idle(Protocol):
    """A keep-alive connection without a request."""

    def close(self) -> None: ...


@dataclass
class Connections:
    """The connections of one server: whether another one is admitted, and which idle one is closed for it."""

    limits: Limits
    _open: int = 0
    _by_address: Counter[str] = field(default_factory=Counter)
    _idle: dict[Idle, None] = field(default_factory=dict)
    _refused: Counter[str] = field(default_factory=Counter)
    _reported: float = -REPORT_EVERY_S

    def __post_init__(self) -> None:
        # Half of the file descriptors are reserved for requests: the database, endpoints, Temporal.
        self._at_most = min(self.limits.connections, file_limit() // 2)

    def admit(self, key: str | None) -> bool:
        """Admit a connection; False if it exceeds a limit. `key` is the result of `key_of` for its address."""
        if self._open >= self._at_most and not self._make_room():
            self.note_refused("too many connections")
            return False
        if key is not None and self._by_address[key] >= self.limits.connections_per_address:
            self.note_refused("too many connections from one address")
            return False
        self._open += 1
        if key is not None:
            self._by_address[key] += 1
        return True

    def release(self, key: str | None) -> None:
        """Release an admitted connection that was closed."""
        self._open -= 1
        if key is not None:
            self._by_address[key] -= 1
            if not self._by_address[key]:
                del self._by_address[key]

    def key_of(self, host: str | None) -> str | None:
        """The key under which connections from this address are counted: for IPv6 the /64, which belongs to one
        customer. None for trusted proxies, and for sockets without addresses."""
        if host is None:
            return None
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        if any(address in network for network in self.limits.trusted):
            return None
        return address.exploded[:19] if isinstance(address, IPv6Address) else host

    def is_idle(self, connection: Idle) -> None:
        self._idle[connection] = None

    def is_busy(self, connection: Idle) -> None:
        self._idle.pop(connection, None)

    def note_refused(self, why: str) -> None:
        self._refused[why] += 1

    def report(self, now: float) -> None:
        """Log what was refused since the last report, in one line."""
        if self._refused and now - self._reported >= REPORT_EVERY_S:
            log.warning("requests or connections refused", refused=dict(self._refused))
            self._refused.clear()
            self._reported = now

    def _make_room(self) -> bool:
        """Close the connection that has been idle the longest."""
        longest = next(iter(self._idle), None)
        if longest is None:
            return False
        self.is_busy(longest)
        longest.close()
        return True
