"""Who calls, from where, and what they may."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from api import problem_types
from api.problems import Problem
from everhook.audit.store import Actor
from everhook.tenants.api_keys_store import BOUND_SCOPES, BoundScope, Holder, Scope

ENVIRONMENT = "environment"
"""The name of the caller who presents `EVERHOOK_API_KEY`."""

READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Caller:
    """The client of a request. `name` is recorded with its actions. `tenant_gid` limits what it can reach. `bound` are
    scopes for one endpoint each. `tenant_rate` is how much may be published for its tenant."""

    name: str
    scopes: frozenset[Scope]
    tenant_gid: str | None = None
    key_gid: str | None = None
    address: str | None = None
    bound: frozenset[BoundScope] = frozenset()
    tenant_rate: str | None = None

    @property
    def inboxes(self) -> frozenset[str] | None:
        """The inboxes whose tasks the caller may see. None: all that it can reach."""
        if self.scopes:
            return None
        return frozenset(each.endpoint_gid for each in self.bound if each.scope is Scope.TASKS)

    @property
    def actor(self) -> Actor:
        return Actor(self.name, self.address, self.key_gid, self.tenant_rate)

    @classmethod
    def of_environment(cls, address: str | None) -> "Caller":
        return cls(ENVIRONMENT, frozenset({Scope.ADMIN}), address=address)

    @classmethod
    def of_key(cls, holder: Holder, address: str | None) -> "Caller":
        return cls(holder.name, holder.scopes, holder.tenant_gid, holder.gid, address, holder.bound, holder.tenant_rate)


@dataclass(frozen=True)
class Access:
    """Which scopes open the routes of a router; `admin` opens them all. What a tenant sees there is bound elsewhere:
    see `everhook/storage/tenant_scope.py`. `bound` opens those of one endpoint to its holder. With `narrowed` no path
    names that endpoint: the routes show the holder what belongs to it, see `Caller.inboxes`."""

    reading: frozenset[Scope] = frozenset()
    changing: frozenset[Scope] = frozenset()
    bound: Scope | None = None
    narrowed: bool = False

    def check(self, caller: Caller, method: str, gid: str | None = None) -> None:
        """Raise 403 that names the scopes that are enough. `gid` is that of the endpoint in the path."""
        if not self.admits(caller, method, gid):
            scopes = self._enough(method) | ({self.bound} if self.bound is not None else set())
            named = " or ".join(f"`{_shown(scope)}`" for scope in sorted(scopes))
            raise Problem(problem_types.FORBIDDEN, f"This needs a key with the scope {named}.")

    def admits(self, caller: Caller, method: str, gid: str | None = None) -> bool:
        if not caller.scopes.isdisjoint(self._enough(method)):
            return True
        if self.bound is None:
            return False
        if self.narrowed:
            return any(each.scope is self.bound for each in caller.bound)
        return gid is not None and BoundScope(self.bound, gid) in caller.bound

    def _enough(self, method: str) -> frozenset[Scope]:
        return frozenset({Scope.ADMIN}) | (self.reading if method in READS else self.changing)


ADMINS = Access()
PUBLISHERS = Access(changing=frozenset({Scope.PUBLISH}))
SENDERS = Access(reading=frozenset({Scope.PUBLISH, Scope.READ, Scope.TENANT}))
"""What became of messages. A key that only publishes sees its own: see `viewer_of`."""
REPLAYERS = Access(changing=frozenset({Scope.PUBLISH, Scope.TENANT}))
"""Sending a message again. A key that only publishes may send its own: see `viewer_of`."""
BATCHES = Access(reading=SENDERS.reading, changing=REPLAYERS.changing)
"""Following and cancelling what a replay started. A key that only publishes sees its own."""
SHARED = Access(reading=frozenset({Scope.READ, Scope.TENANT}))
"""What tenants may look at, and operators change."""
OWNED = Access(reading=frozenset({Scope.READ, Scope.TENANT}), changing=frozenset({Scope.TENANT}))
"""What belongs to tenants."""
CONSUMERS = Access(reading=frozenset({Scope.TENANT}), changing=frozenset({Scope.TENANT}), bound=Scope.RECEIVE)
"""What takes deliveries out of a queue: a key that only reads must not."""
DECIDERS = Access(
    reading=frozenset({Scope.READ, Scope.TENANT}),
    changing=frozenset({Scope.TENANT}),
    bound=Scope.TASKS,
    narrowed=True,
)
"""Tasks. The key of a person sees those of its inboxes."""
SIGNED_IN = Access(changing=frozenset({Scope.READ, Scope.TENANT}), bound=Scope.TASKS, narrowed=True)
"""What each caller who is signed in to the dashboard may do."""


def _shown(scope: Scope) -> str:
    return f"{scope}:<gid>" if scope in (Scope.TENANT, *BOUND_SCOPES) else scope.value


def client_address(
    peer: str | None, forwarded: Sequence[str], trusted: Sequence[IPv4Network | IPv6Network]
) -> str | None:
    """Where a request comes from. `forwarded` (the entries of `X-Forwarded-For`) is believed as far as trusted proxies
    wrote it: each adds whom it saw at the right end, so the first from there that is none of them is the client."""
    client: str | None = peer
    for hop in (peer or "", *reversed(forwarded)):
        address = _address(hop)
        if address is None:
            return client
        client = str(address)
        if not any(address in network for network in trusted):
            return client
    return client


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
