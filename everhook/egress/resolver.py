"""Name resolution in which a slow name server delays only its own tenant.

The event loop's `getaddrinfo` uses the default executor: it has six threads on two cores, so six stalled names stop
every tenant. Here look-ups have their own threads. A thread that waits for a silent name server cannot be stopped
(glibc gives up after 10 s or more), so the number of threads that one tenant, and one name server, can hold is limited:

- A tenant has at most a quarter of the threads, a zone at most an eighth. Further look-ups wait, first in, first out
  for each tenant, and tenants take turns.
- A name is looked up once for all concurrent callers (single flight), and its result is cached, failures too (negative
  caching).
- A look-up has 5 s. Callers who ask for a name whose look-up has taken longer get the failure at once.
"""

import asyncio
import re
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from everhook.egress.errors import LocalError, is_local

Resolver = Callable[[str, str], Awaitable[tuple[str, ...]]]
"""Resolves a name for a tenant. Raises `NameUnresolved`, or `LocalError` if the name could not be looked up."""

THREADS = 64
CACHED_NAMES = 4096
MAX_WAITING = 1024
"""Names of one tenant that may wait for a thread; more are refused at once."""

_LOCAL_GAI_ERRORS = (socket.EAI_MEMORY,)
_REGISTRY = re.compile(r"[a-z]{2,3}\.[a-z]{2}")


class NameUnresolved(Exception):
    """The name has no address, or its name servers did not respond in time."""


Result = tuple[str, ...] | NameUnresolved | LocalError


class CachingResolver:
    """A `Resolver` over `lookup`, a blocking function.

    `limit` bounds the wait for a thread, and then the look-up. Addresses are cached for `keep`, failures for
    `keep_failure`, and failures that took longer than `limit` for `keep_silence`, because each held a thread that long.
    """

    def __init__(
        self,
        lookup: Callable[[str], tuple[str, ...]] | None = None,
        *,
        limit: timedelta = timedelta(seconds=5),
        keep: timedelta = timedelta(seconds=30),
        keep_failure: timedelta = timedelta(seconds=5),
        keep_silence: timedelta = timedelta(seconds=30),
        threads: int = THREADS,
    ) -> None:
        self._lookup = lookup or getaddrinfo
        self._limit = limit.total_seconds()
        self._keep = keep.total_seconds()
        self._keep_failure = keep_failure.total_seconds()
        self._keep_silence = keep_silence.total_seconds()
        self._queue = FairQueue(threads)
        # Not `cachetools`: how long a result is kept depends on how long its lookup took.
        self._cache: OrderedDict[str, tuple[float, Result]] = OrderedDict()
        self._asked: dict[str, Lookup] = {}
        self._closed = False

    async def __call__(self, name: str, tenant: str) -> tuple[str, ...]:
        result = self._cached(name)
        if result is None:
            result = await self._ask(name, tenant)
        if isinstance(result, Exception):
            raise type(result)(
                *result.args
            )  # a copy: otherwise the tracebacks of all waiters would accumulate on one instance
        return result

    def close(self) -> None:
        """Close without waiting for stalled look-ups: a thread inside `getaddrinfo` cannot be stopped."""
        self._closed = True

    def _cached(self, name: str) -> Result | None:
        expires, result = self._cache.get(name, (0.0, None))
        return result if time.monotonic() < expires else None

    async def _ask(self, name: str, tenant: str) -> Result:
        """Join the one look-up of `name`. Once it has a thread, it continues even if its callers give up."""
        lookup = self._asked.get(name)
        if lookup is None:
            lookup = self._asked[name] = Lookup(name)
        lookup.askers += 1
        try:
            if lookup.began_at is None and not self._queue.add(lookup, tenant):
                return LocalError("too many names of this tenant are being looked up")
            self._begin_what_may()
            return await self._outcome(lookup)
        finally:
            lookup.askers -= 1
            if not lookup.askers and lookup.began_at is None:
                self._queue.remove(lookup)
                self._asked.pop(name, None)

    async def _outcome(self, lookup: "Lookup") -> Result:
        try:
            async with asyncio.timeout(self._limit):
                await asyncio.shield(lookup.begun)
        except TimeoutError:
            return LocalError("no resolver thread was free in time")
        assert lookup.began_at is not None
        try:
            async with asyncio.timeout_at(lookup.began_at + self._limit):
                return await asyncio.shield(lookup.result)
        except TimeoutError:
            return NameUnresolved("its name servers do not respond in time")

    def _begin_what_may(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed and (lookup := self._queue.take()) is not None:
            lookup.began_at = loop.time()
            lookup.begun.set_result(None)
            # A new thread costs 0.1 to 0.2 ms. Unlike one of a pool, it does not delay the end of the process.
            threading.Thread(target=self._run, args=(lookup, loop), name="everhook-dns", daemon=True).start()

    def _run(self, lookup: "Lookup", loop: asyncio.AbstractEventLoop) -> None:
        """Run a look-up; called in a thread."""
        result = looked_up(self._lookup, lookup.name)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._finish, lookup, result)

    def _finish(self, lookup: "Lookup", result: Result) -> None:
        assert lookup.began_at is not None
        took = asyncio.get_running_loop().time() - lookup.began_at
        self._queue.finished(lookup)
        del self._asked[lookup.name]
        lookup.result.set_result(result)
        self._learn(lookup.name, result, took)
        self._begin_what_may()

    def _learn(self, name: str, result: Result, took: float) -> None:
        if isinstance(result, LocalError):
            return
        keep = self._keep
        if isinstance(result, NameUnresolved):
            keep = self._keep_silence if took > self._limit else self._keep_failure
        self._cache[name] = (time.monotonic() + keep, result)
        self._cache.move_to_end(name)
        if len(self._cache) > CACHED_NAMES:
            self._cache.popitem(last=False)


class Lookup:
    """One look-up. `tenants` are those in whose turn it may start; it is charged to the one in whose turn it did."""

    def __init__(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.zone = zone_of(name)
        self.tenants: list[str] = []
        self.charged_to = ""
        self.askers = 0
        self.began_at: float | None = None
        self.begun: asyncio.Future[None] = loop.create_future()
        self.result: asyncio.Future[Result] = loop.create_future()


class FairQueue:
    """Look-ups that wait for one of `slots`: tenants take turns, and no tenant or zone exceeds its share."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._per_tenant = max(slots // 4, 1)
        self._per_zone = max(slots // 8, 1)
        self._waiting: OrderedDict[str, dict[Lookup, None]] = OrderedDict()
        self._of_tenant: Counter[str] = Counter()
        self._of_zone: Counter[str] = Counter()

    def add(self, lookup: Lookup, tenant: str) -> bool:
        """Add a look-up. False if too many of the tenant's wait already. It may wait for several tenants at once."""
        line = self._waiting.setdefault(tenant, {})
        if lookup not in line:
            if len(line) >= MAX_WAITING:
                return False
            line[lookup] = None
            lookup.tenants.append(tenant)
        return True

    def take(self) -> Lookup | None:
        """The next look-up that may start. It occupies a slot until `finished`."""
        if not self._free:
            return None
        for tenant in self._waiting:
            if self._of_tenant[tenant] < self._per_tenant and (lookup := self._next_of(tenant)) is not None:
                self._waiting.move_to_end(tenant)
                self.remove(lookup)
                self._count(lookup, tenant)
                return lookup
        return None

    def remove(self, lookup: Lookup) -> None:
        for tenant in lookup.tenants:
            del self._waiting[tenant][lookup]
            if not self._waiting[tenant]:
                del self._waiting[tenant]
        lookup.tenants.clear()

    def finished(self, lookup: Lookup) -> None:
        self._free += 1
        for counter, key in ((self._of_tenant, lookup.charged_to), (self._of_zone, lookup.zone)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def _next_of(self, tenant: str) -> Lookup | None:
        return next((one for one in self._waiting[tenant] if self._of_zone[one.zone] < self._per_zone), None)

    def _count(self, lookup: Lookup, tenant: str) -> None:
        lookup.charged_to = tenant
        self._free -= 1
        self._of_tenant[tenant] += 1
        self._of_zone[lookup.zone] += 1


def zone_of(name: str) -> str:
    """The zone of a name: its last two labels, or three in names such as `example.co.uk`.

    This approximates the registered domain without a list of public suffixes. If it is too coarse, the names of one
    registry share an eighth of the threads; if too fine (`hooks.abc.de`), a tenant's share still applies.
    """
    labels = name.lower().split(".")
    return ".".join(labels[-3 if _REGISTRY.fullmatch(".".join(labels[-2:])) else -2 :])


def looked_up(lookup: Callable[[str], tuple[str, ...]], name: str) -> Result:
    """The result or the error of `lookup` as a value: an abandoned look-up must not cause a warning."""
    try:
        return lookup(name) or NameUnresolved("no address")
    except (NameUnresolved, LocalError) as result:
        return result
    except socket.gaierror as error:
        out_of_memory = error.errno in _LOCAL_GAI_ERRORS
        return LocalError("the resolver is out of memory") if out_of_memory else NameUnresolved("no address")
    except OSError as error:
        return LocalError("no socket for the resolver") if is_local(error) else NameUnresolved("no address")
    except Exception as error:
        return LocalError(f"the resolver failed ({type(error).__name__})")


def getaddrinfo(name: str) -> tuple[str, ...]:
    """All addresses of `name`, without duplicates, in the system's order of preference.

    The name is passed as bytes because Python would apply IDNA 2003 to a `str`. Without AI_ADDRCONFIG: addresses that
    this machine cannot dial are checked all the same.
    """
    found = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
