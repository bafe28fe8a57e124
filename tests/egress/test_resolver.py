"""Name lookups: single flight for each name, and a slow name does not delay others."""

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from everhook.contracts import FailureCode
from everhook.egress import EgressClient, EgressRules
from everhook.egress.errors import LocalError
from everhook.egress.resolver import CachingResolver, FairQueue, Lookup, NameUnresolved, zone_of
from testing.waiting import assert_eventually

SECOND = timedelta(seconds=1)
LONG = timedelta(minutes=1)
ADDRESS = ("127.0.0.1",)


class NameServers:
    """Name servers of `silent` zones do not respond until `release`; all others respond at once. `asked`: the names."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._released = threading.Event()

    def lookup(self, name: str) -> tuple[str, ...]:
        self.asked.append(name)
        if "silent" in name:
            self._released.wait(30)
        return ADDRESS

    def release(self) -> None:
        self._released.set()


@pytest.fixture
def servers() -> Iterator[NameServers]:
    made = NameServers()
    yield made
    made.release()


@asynccontextmanager
async def asking(resolver: CachingResolver, names: list[str], tenant: str) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Start all these lookups."""
    tasks = [asyncio.create_task(resolver(name, tenant)) for name in names]
    await asyncio.sleep(0)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _silent(count: int) -> list[str]:
    """Names that each have their own name servers."""
    return [f"hooks.silent-{number}.test" for number in range(count)]


async def test_80_silent_names_of_one_tenant_do_not_delay_another(servers: NameServers) -> None:
    resolver = CachingResolver(servers.lookup, limit=LONG)
    async with asking(resolver, _silent(80), "hostile") as stuck:
        async with asyncio.timeout(10):
            assert await resolver("prompt.test", "honest") == ADDRESS
        assert not any(task.done() for task in stuck)


async def test_a_silent_zone_does_not_delay_other_names_of_any_tenant(servers: NameServers) -> None:
    resolver = CachingResolver(servers.lookup, limit=LONG)
    names = [f"hooks-{number}.silent.test" for number in range(80)]
    async with asking(resolver, names[:20], "a"), asking(resolver, names[20:], "b"), asyncio.timeout(10):
        assert await resolver("prompt.test", "a") == ADDRESS
        assert await resolver("prompt.example", "b") == ADDRESS
    assert len([name for name in servers.asked if "silent" in name]) == 8


async def test_urls_that_are_checked_and_deliveries_do_not_wait_for_each_other(
    servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everhook.egress.resolver.getaddrinfo", servers.lookup)
    client = EgressClient(EgressRules())
    tenants = [f"tenant-{number}" for number in range(8)]
    checks = [
        asyncio.create_task(client.check_url(f"https://{name}.{tenant}.test/", tenant))
        for tenant in tenants
        for name in _silent(80)
    ]
    await assert_eventually(lambda: _assert_count(servers.asked, 32))
    try:
        async with asyncio.timeout(10):
            exchange = await client.post("https://prompt.test:65535/", [], b"", 5 * SECOND, tenant="tenant-0")
    finally:
        for task in checks:
            task.cancel()
        await asyncio.gather(*checks, return_exceptions=True)
        await client.aclose()
    assert exchange.failure is FailureCode.BLOCKED
    assert "prompt.test" in servers.asked


def _assert_count(asked: list[str], count: int) -> None:
    assert len(asked) >= count


async def test_concurrent_lookups_of_one_name_share_one_query(servers: NameServers) -> None:
    resolver = CachingResolver(servers.lookup)
    await asyncio.gather(*(resolver("hooks.test", f"tenant-{number % 3}") for number in range(10)))
    assert await resolver("hooks.test", "another") == ADDRESS
    assert servers.asked == ["hooks.test"]


async def test_a_name_that_waits_in_one_tenants_line_does_not_wait_there_for_another(servers: NameServers) -> None:
    """A tenant whose share is used up must not delay a name that another tenant looks up, too."""
    resolver = CachingResolver(servers.lookup, limit=LONG)
    async with asking(resolver, [*_silent(20), "wanted.test"], "hostile"), asyncio.timeout(10):
        assert await resolver("wanted.test", "honest") == ADDRESS


async def test_a_lookup_without_waiting_callers_is_not_started(servers: NameServers) -> None:
    resolver = CachingResolver(servers.lookup, limit=LONG)
    async with asking(resolver, _silent(20), "hostile"), asking(resolver, ["abandoned.test"], "hostile"):
        pass
    servers.release()
    assert await resolver("last.test", "hostile") == ADDRESS
    assert "abandoned.test" not in servers.asked


async def test_a_silent_name_server_is_the_names_fault_and_a_lack_of_threads_is_ours(servers: NameServers) -> None:
    resolver = CachingResolver(servers.lookup, limit=0.1 * SECOND, threads=4)
    results = await asyncio.gather(*(resolver(name, "") for name in _silent(2)), return_exceptions=True)
    assert [type(result) for result in results] == [NameUnresolved, LocalError]


async def test_the_wait_for_a_thread_does_not_count_against_the_name_servers(servers: NameServers) -> None:
    resolver = CachingResolver(servers.lookup, limit=SECOND, threads=4)
    async with asking(resolver, ["hooks.silent.test"], ""), asking(resolver, ["later.test"], "") as [later]:
        await asyncio.sleep(0.7)
        servers.release()
        assert await later == ADDRESS


async def test_lookups_of_a_name_that_has_been_silent_for_too_long_do_not_wait(servers: NameServers) -> None:
    resolver = CachingResolver(servers.lookup, limit=0.2 * SECOND)
    with pytest.raises(NameUnresolved, match="do not respond"):
        await resolver("silent.test", "")
    task = asyncio.create_task(resolver("silent.test", ""))
    for _ in range(5):
        await asyncio.sleep(0)
    assert task.done()
    with pytest.raises(NameUnresolved, match="do not respond"):
        await task
    assert servers.asked == ["silent.test"]


async def test_failures_are_kept_too_and_those_of_silent_name_servers_for_longer() -> None:
    asked: list[str] = []
    released = threading.Event()

    def lookup(name: str) -> tuple[str, ...]:
        asked.append(name)
        if name == "silent.test":
            released.wait(30)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    resolver = CachingResolver(lookup, limit=0.5 * SECOND, keep_failure=timedelta(0))
    for name in ("silent.test", "unknown.test", "unknown.test"):
        with pytest.raises(NameUnresolved):
            await resolver(name, "")
    released.set()
    await assert_eventually(lambda: _assert_idle(resolver))
    with pytest.raises(NameUnresolved):
        await resolver("silent.test", "")
    assert asked == ["silent.test", "unknown.test", "unknown.test"]
    keeping = CachingResolver(lookup)
    for _ in range(2):
        with pytest.raises(NameUnresolved):
            await keeping("kept.test", "")
    assert asked.count("kept.test") == 1


def _assert_idle(resolver: CachingResolver) -> None:
    assert not resolver._asked


async def test_the_resolver_leaves_no_waiters_and_reports_nothing_to_the_event_loop(servers: NameServers) -> None:
    """Neither by cancelled callers, nor by lookups that end after that, nor by a resolver that was closed meanwhile."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    resolver = CachingResolver(servers.lookup, limit=0.05 * SECOND)
    results = await asyncio.gather(*(resolver(name, "a") for name in _silent(80)), return_exceptions=True)
    assert {type(result) for result in results} == {NameUnresolved, LocalError}
    async with asking(resolver, _silent(80), "b"):
        resolver.close()
    servers.release()
    await assert_eventually(lambda: _assert_idle(resolver))
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []
    assert not resolver._queue._waiting
    assert not resolver._queue._of_tenant
    assert not resolver._queue._of_zone


async def test_too_many_waiting_names_of_one_tenant_are_refused_at_once(servers: NameServers) -> None:
    resolver = CachingResolver(servers.lookup, limit=LONG)
    async with asking(resolver, _silent(16 + 1024), "hostile"), asyncio.timeout(10):
        with pytest.raises(LocalError, match="too many"):
            await resolver("one-more.test", "hostile")
        assert await resolver("prompt.test", "honest") == ADDRESS


async def test_tenants_take_turns() -> None:
    queue = FairQueue(8)
    for tenant, count in (("a", 4), ("b", 2), ("c", 1)):
        for number in range(count):
            queue.add(Lookup(f"{tenant}{number}.{tenant}{number}"), tenant)
    taken = []
    while (lookup := queue.take()) is not None:
        taken.append(lookup.name[:2])
    assert taken == ["a0", "b0", "c0", "a1", "b1"]


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("hooks.example.com", "example.com"),
        ("a.b.c.example.com", "example.com"),
        ("example.com", "example.com"),
        ("HOOKS.Example.COM", "example.com"),
        ("hooks.example.co.uk", "example.co.uk"),
        ("a.b.example.com.au", "example.com.au"),
        ("localhost", "localhost"),
    ],
)
def test_a_zone_is_about_the_registered_domain(name: str, zone: str) -> None:
    assert zone_of(name) == zone
