"""Load times of the dashboard: its first page with cold caches, and its lists, over very many rows.

The rows are inserted into the database directly. The server is a cold `everhook serve`, the browser Chromium.
"""

import asyncio
import contextlib
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import httpx
from playwright.async_api import Browser, async_playwright

from bench.tables import Progress, Table, target
from everhook.ids import Kind, first_gid_at
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing
from everhook.storage.migrate import migrate
from everhook.storage.tables import now
from testing.api import API_KEY, MASTER_KEY
from testing.postgres_server import PostgresServer
from testing.stack import async_url
from tests.dashboard.conftest import ARGUMENTS, CHROMIUM, count_bytes, serve
from tests.dashboard.scenery import Scenery

SIZES = (100_000, 1_000_000)
OPENINGS = 5
MOST_MS, MOST_BYTES = 200, 100 * 1024
LOADED = """async () => {
    const [navigation] = performance.getEntriesByType("navigation");
    while (!navigation.loadEventEnd) await new Promise(wake => setTimeout(wake, 5));
    return navigation.loadEventEnd;
}"""
"""By the browser's own clock, from when the form was sent, the redirection included."""

SPREAD = timedelta(days=20)

MESSAGE = ("gid", "tenant_gid", "channel", "event_type", "payload", "body_sha256", "idempotency_scope",
           "published_at", "accepted_at")  # fmt: skip
DELIVERY = ("gid", "tenant_gid", "message_gid", "endpoint_gid", "channel", "event_type", "status", "round", "attempts",
            "accepted_at", "dispatched_at", "parked_at", "dead_lettered_at", "due_at", "reason",
            "last_status_code")  # fmt: skip
LISTS = {
    "overview": "/",
    "endpoints, the unhealthy first": "/endpoints?sort=health",
    "deliveries": "/deliveries",
    "deliveries of a rare type": "/deliveries?type=order.rare",
    "deliveries of a type that never was": "/deliveries?type=never.was",
    "deliveries of a quiet channel": "/deliveries?channel=shipments",
    "deliveries before a day long ago": "/deliveries?until={long_ago}",
    "deliveries, parked": "/deliveries?status=parked",
    "dead letters": "/dead-letters",
    "dead letters of a type": "/dead-letters?type=order.rare",
    "messages": "/messages",
    "messages of a type that never was": "/messages?type=never.was",
    "messages before a day long ago": "/messages?until={long_ago}",
    "audit": "/audit",
}


async def opened(progress: Progress) -> Table:
    """The first page and each list, on SQLite and PostgreSQL."""
    rows: list[tuple[str, ...]] = []
    slowest: dict[int, float] = {}
    bytes_sent = 0.0
    async with _chromium() as browser:
        for size in SIZES:
            for name, database in (("SQLite", _sqlite), ("PostgreSQL", _postgres)):
                progress(f"{name}, {size:,} deliveries")
                async with database(size) as url, _server(url) as server:
                    cold, bytes_sent = await _first_page(browser, server)
                    again = [(await _first_page(browser, server))[0] for _ in range(OPENINGS)]
                    measured = {
                        "first page in Chromium, by the form that signs in; nothing kept in the browser": median(again),
                        **await _lists(server),
                    }
                    rows.append((name, f"{size:,}", "that page as the first of a new server", f"{cold:.0f}"))
                    rows += [(name, f"{size:,}", what, f"{ms:.0f}") for what, ms in measured.items()]
                    slowest[size] = max(slowest.get(size, 0), *measured.values())
    notes = [
        target(f"slowest page with {size:,} deliveries, ms", ms, ms < MOST_MS, f"< {MOST_MS}")
        for size, ms in slowest.items()
    ]
    notes.append(target("the first page, bytes", bytes_sent, bytes_sent < MOST_BYTES, f"< {MOST_BYTES}"))
    return Table("The dashboard's pages", ("database", "deliveries", "page", "ms"), rows, notes)


@contextlib.asynccontextmanager
async def _chromium() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        raise RuntimeError("there is no Chromium here; on Debian: apt install chromium-headless-shell")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


# The database


@contextlib.asynccontextmanager
async def _sqlite(size: int) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        file = Path(directory) / "everhook.db"
        endpoints = await _furnished(f"sqlite:///{file}")
        with contextlib.closing(sqlite3.connect(file)) as connection:
            for table, columns, lines in _rows(size, endpoints):
                marks = ", ".join("?" * len(columns))
                connection.executemany(
                    f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})",
                    (tuple(_as_sqlite(value) for value in line) for line in lines),
                )
            connection.commit()
        yield f"sqlite:///{file}"


def _as_sqlite(value: Any) -> Any:
    return value.strftime("%Y-%m-%d %H:%M:%S.%f") if hasattr(value, "strftime") else value


@contextlib.asynccontextmanager
async def _postgres(size: int) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        async with PostgresServer(Path(directory) / "postgres.log") as server:
            endpoints = await _furnished(server.url)
            connection = await asyncpg.connect(server.url)
            for table, columns, lines in _rows(size, endpoints):
                while part := list(islice(lines, 50_000)):
                    await connection.copy_records_to_table(table, records=part, columns=columns)
            await connection.execute("ANALYZE")
            await connection.close()
            yield server.url


async def _furnished(url: str) -> list[tuple[str, str]]:
    """A database with a day of traffic of a few endpoints: who they are, and whose."""
    url = async_url(url)
    await migrate(url)
    database = Database(url)
    try:
        scenery = Scenery(database, KeyRing([MASTER_KEY]))
        await scenery.build()
    finally:
        await database.close()
    return [(endpoint.gid, endpoint.tenant_gid) for endpoint in scenery.endpoints.values()]


def _rows(size: int, endpoints: list[tuple[str, str]]) -> Iterator[tuple[str, tuple[str, ...], Iterator[Any]]]:
    """A delivery of each message, over some weeks: 1 in 50 is a dead letter, 1 in 1,000 parked."""
    begin = now() - SPREAD
    step = SPREAD / size

    def gid(kind: Kind, number: int) -> str:
        return first_gid_at(kind, begin + step * number)[:-12] + f"{number:012d}"

    def kind_of(number: int) -> str:
        return "order.rare" if number % 10_000 == 7 else ("order.created", "order.paid")[number % 2]

    def message(number: int) -> tuple[Any, ...]:
        at = begin + step * number
        payload = b'{"orderId":1042,"amount":99.5,"lines":[{"sku":"A-1","n":2}]}'
        return (gid(Kind.MESSAGE, number), None, "orders", kind_of(number), payload, "0" * 64, "", at, at)

    def delivery(number: int) -> tuple[Any, ...]:
        at = begin + step * number
        endpoint, tenant = endpoints[number % len(endpoints)]
        dead, parked = number % 50 == 7, number % 1_000 == 3
        status = "dead_lettered" if dead else "parked" if parked else "delivered"
        return (
            gid(Kind.DELIVERY, number), tenant, gid(Kind.MESSAGE, number), endpoint, "orders", kind_of(number), status,
            1, 1, at, at, at if parked else None, at if dead else None, at + SPREAD if dead or parked else None,
            "exhausted" if dead else None, 503 if dead or parked else 200,
        )  # fmt: skip

    yield "message", MESSAGE, map(message, range(size))
    yield "delivery", DELIVERY, map(delivery, range(size))


# The server


@contextlib.asynccontextmanager
async def _server(database_url: str) -> AsyncIterator[str]:
    """A cold server and its URL."""
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        async with serve(database_url, Path(directory)) as (_, url):
            yield url


async def _first_page(browser: Browser, server: str) -> tuple[float, float]:
    """From the form's button to the overview's `load`, in ms, and the bytes of it all, with an empty cache."""
    context = await browser.new_context(base_url=server)
    page = await context.new_page()
    await page.goto("/sign-in")
    await page.get_by_label("API key").fill(API_KEY)
    received = await count_bytes(await context.new_cdp_session(page))
    async with page.expect_event("load"):
        await page.keyboard.press("Enter")
    ms: float = await page.evaluate(LOADED)
    await asyncio.sleep(0.5)
    await context.close()
    return ms, sum(received)


async def _lists(server: str) -> dict[str, float]:
    """The median time of each list, in ms, each time over a new connection."""
    long_ago = f"{now() - SPREAD * 0.99:%Y-%m-%dT%H:%M}"
    async with httpx.AsyncClient(base_url=server, trust_env=False) as visitor:
        signed_in = await visitor.post("/sign-in", data={"key": API_KEY})
    cookies = {"everhook_session": signed_in.cookies["everhook_session"]}
    found: dict[str, float] = {}
    for name, path in LISTS.items():
        times = []
        for _ in range(OPENINGS):
            async with httpx.AsyncClient(base_url=server, trust_env=False, cookies=cookies, timeout=60) as http:
                began = time.monotonic()
                (await http.get(path.format(long_ago=long_ago))).raise_for_status()
                times.append((time.monotonic() - began) * 1000)
        found[name] = median(times)
    return found
