"""`make bench-large`: a PostgreSQL database with 1,000,000 deliveries, upgraded from the first schema under load, and
what everything costs there. It takes some ten minutes. `--rows 20000` tries it out, and keeps no results.

A tenth of the deliveries are dead letters, a tenth are parked, and there is one endpoint for each hundred. They are
spread over sixty days.
"""

import asyncio
import contextlib
import logging
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import asyncpg
import structlog
import typer
from alembic import command
from sqlalchemy import select
from sqlmodel import col
from temporalio.testing import ActivityEnvironment

from activities.reconciling import ReconcilingActivities
from activities.sealing import SealingActivities
from bench.results import console, keep, measured, show
from bench.tables import Progress, Table, milliseconds, percentile, target
from everhook import event_loop
from everhook.circuit.client import CircuitClient
from everhook.circuit.machine import CircuitPolicy
from everhook.contracts import DeliveryStatus, Verdict
from everhook.delivery.inputs_store import InputDefaults
from everhook.ids import Kind, first_gid_at, new_gid
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing
from everhook.storage.migrate import alembic_config
from everhook.storage.tables import DEFAULT_TENANT_GID, Delivery, Tenant, now
from everhook.temporal.client import connect
from everhook.tenants.retention_store import RetentionPeriods, apply_retention
from testing.api import MASTER_KEY, Api, running_api, settings_for
from testing.postgres_server import PostgresServer
from testing.processes import Process, refusing_port
from testing.stack import ReceiverProcess, async_url
from testing.waiting import assert_eventually
from tests.delivery.fakes import FakeTemporal
from tests.stores.receipt_factory import Log

ROWS, FEW = 1_000_000, 1_000
SPREAD = timedelta(days=60)
PART = 50_000
WRITERS, WRITE_EVERY_S = 4, 0.01
BLOCKED_MS, LIST_MS, PUBLISH_MS, PASS_S, SEAL_S = 100, 200, 50, 2, 30
RATIO = 1.2
SEALED_TENANTS, SEALED_RECEIPTS = 500, 3
DELIVERIES, PUBLISHED, OPENINGS = 2_000, 300, 5
OLD_LOG = "ten_00000000000000000000000001"
"""The tenant of the receipts that are there: their log has no hashes, so nothing may be added to it."""

JWS = "e30." + "x" * 700 + ".xx"
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "maintenance_work_mem": "256MB",
    "log_lock_waits": "on",
    "deadlock_timeout": "10ms",
}
"""The last two have the server log each wait for a lock that takes longer than 10 ms."""

_WAITED = re.compile(rb"process \d+ acquired \w+ on .* after ([0-9.]+) ms")

LISTS = {
    "overview of health": "/v1/health/overview",
    "deliveries": "/v1/deliveries",
    "deliveries, parked": "/v1/deliveries?status=parked",
    "deliveries before a day long ago": "/v1/deliveries?until={long_ago}",
    "dead letters": "/v1/dead-letters",
    "dead letters of an endpoint": "/v1/dead-letters?endpointGid={endpoint}",
    "messages": "/v1/messages",
    "endpoints": "/v1/endpoints",
}

HEADING = "Large installations (`make bench-large`)"


@dataclass
class Result:
    """The rows of the table, and the targets."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, figure: str) -> None:
        self.rows.append((what, figure))

    def check(self, what: str, value: float, most: float, unit: str) -> None:
        self.notes.append(target(f"{what} in {unit}", value, value <= most, f"≤ {most:g}"))


# The database


@contextlib.asynccontextmanager
async def _first_schema(rows: int, progress: Progress) -> AsyncIterator[PostgresServer]:
    """A server whose database has the first schema and `rows` deliveries."""
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        async with PostgresServer(Path(directory) / "postgres.log", options=SETTINGS) as server:
            url = async_url(server.url)
            await asyncio.to_thread(command.upgrade, alembic_config(url), "0001")
            connection = await asyncpg.connect(server.url)
            for table, columns, lines in _rows(rows):
                done = 0
                while part := list(islice(lines, PART)):
                    await connection.copy_records_to_table(table, records=part, columns=columns)
                    done += len(part)
                    progress(f"{done:,} rows of {table}")
            progress("analyze")
            await connection.execute("ANALYZE")
            await connection.close()
            yield server


def _rows(rows: int) -> Iterator[tuple[str, tuple[str, ...], Iterator[tuple[Any, ...]]]]:
    begin, step = now() - SPREAD, SPREAD / rows
    endpoints = [_gid(Kind.ENDPOINT, begin, number) for number in range(max(10, rows // 100))]

    def at(number: int) -> datetime:
        return begin + step * number

    def delivery(number: int) -> tuple[Any, ...]:
        moment, later = at(number), now() + SPREAD
        status = "dead_lettered" if number % 10 == 0 else "parked" if number % 10 == 1 else "delivered"
        is_open = status != "delivered"
        return (
            _gid(Kind.DELIVERY, moment, number), DEFAULT_TENANT_GID, _gid(Kind.MESSAGE, moment, number),
            endpoints[number % len(endpoints)], "orders", "order.created", status, 1, 1, moment, moment,
            later if is_open else None, moment if status == "parked" else None,
            moment if status == "dead_lettered" else None, None if is_open else moment,
            "exhausted" if status == "dead_lettered" else None, 503 if is_open else 200,
        )  # fmt: skip

    def attempt(number: int) -> tuple[Any, ...]:
        moment = at(number)
        return (
            _gid(Kind.ATTEMPT, moment, number), _gid(Kind.DELIVERY, moment, number),
            endpoints[number % len(endpoints)], 1, 1, "delivered" if number % 10 > 1 else "retry", moment, 40,
            200 if number % 10 > 1 else 503, "https://hooks.example.com/", "0" * 64, False, False,
        )  # fmt: skip

    def receipt(number: int) -> tuple[Any, ...]:
        moment = at(number)
        return (
            _gid(Kind.RECEIPT, moment, number), OLD_LOG, _gid(Kind.DELIVERY, moment, number),
            _gid(Kind.ATTEMPT, moment, number), 1, 1, JWS, number, moment,
        )  # fmt: skip

    yield "channel", ("name", "routes_version", "created_at"), iter([("orders", 1, begin)])
    yield (
        "endpoint",
        ("gid", "tenant_gid", "url", "description", "signatures", "format", "headers", "metadata", "version",
         "created_at", "updated_at"),
        ((gid, DEFAULT_TENANT_GID, f"https://{n}.example.com/", "", '["standard"]', "envelope", "{}", "{}", 1, begin,
          begin) for n, gid in enumerate(endpoints)),
    )  # fmt: skip
    yield (
        "circuit",
        ("endpoint_gid", "state", "hold", "hold_reason", "failures", "openings", "version", "updated_at"),
        ((gid, "closed", "paused" if n % 10 == 1 else None, "", 0, 0, 1, begin) for n, gid in enumerate(endpoints)),
    )
    yield (
        "message",
        ("gid", "channel", "event_type", "payload", "body_sha256", "idempotency_scope", "published_at", "accepted_at"),
        ((_gid(Kind.MESSAGE, at(n), n), "orders", "order.created", b'{"orderId":1042,"amount":99.5}', "0" * 64, "",
          at(n), at(n)) for n in range(rows)),
    )  # fmt: skip
    yield (
        "delivery",
        ("gid", "tenant_gid", "message_gid", "endpoint_gid", "channel", "event_type", "status", "round", "attempts",
         "accepted_at", "dispatched_at", "due_at", "parked_at", "dead_lettered_at", "completed_at", "reason",
         "last_status_code"),
        map(delivery, range(rows)),
    )  # fmt: skip
    yield (
        "attempt",
        ("gid", "delivery_gid", "endpoint_gid", "round", "number", "verdict", "started_at", "duration_ms",
         "status_code", "url", "request_sha256", "connection_reused", "redialed"),
        map(attempt, range(rows)),
    )  # fmt: skip
    yield (
        "receipt",
        ("gid", "tenant_gid", "delivery_gid", "attempt_gid", "round", "number", "jws", "seq", "created_at"),
        map(receipt, range(rows)),
    )


def _gid(kind: Kind, moment: datetime, number: int) -> str:
    return first_gid_at(kind, moment)[:-12] + f"{number:012d}"


# The upgrade


_MESSAGE = """INSERT INTO message (gid, channel, event_type, payload, body_sha256, idempotency_scope, idempotency_key,
    published_at, accepted_at) VALUES ($1, 'orders', 'order.created', '{"n":1}', '', '', $2, $3, $3)"""
_DELIVERY = """INSERT INTO delivery (gid, tenant_gid, message_gid, endpoint_gid, channel, event_type, status, round,
    attempts, accepted_at, due_at) VALUES ($1, $2, $3, $4, 'orders', 'order.created', 'accepted', 1, 0, $5, $5)"""
_ATTEMPTED = "UPDATE delivery SET status = 'delivered', attempts = 1, due_at = NULL, completed_at = $2 WHERE gid = $1"


class Publishers:
    """Processes of the first release that publish and deliver: its statements, again and again.

    A publish takes long if it waits for a lock, and also if the disk or the processor are busy. Only the first is what
    an upgrade must avoid, so both are measured: the server says how long statements waited for locks.
    """

    def __init__(self, server: PostgresServer, *, keys: bool) -> None:
        """`keys`: with idempotency keys, as a release that knows no partitions writes them."""
        self._server = server
        self._log_at = server.process.log.stat().st_size
        self._keys = keys
        self._seconds: list[float] = []
        self._stop = asyncio.Event()
        self.refused: list[str] = []

    @property
    def slowest_ms(self) -> float:
        return max(self._seconds, default=0.0) * 1_000

    @property
    def longest_lock_ms(self) -> float:
        """The longest wait for a lock since the start, of any connection; 0 if none was longer than 10 ms."""
        with self._server.process.log.open("rb") as log:
            log.seek(self._log_at)
            return max(map(float, _WAITED.findall(log.read())), default=0.0)

    @property
    def written(self) -> int:
        return len(self._seconds)

    def report(self, what: str, result: Result) -> str:
        """Check against the target, and say what was found."""
        result.check(f"longest wait for a lock during {what}", self.longest_lock_ms, BLOCKED_MS, "ms")
        result.check(f"publishes refused during {what}", len(self.refused), 0, "all")
        return (
            f"meanwhile {self.written:,} publishes, {len(self.refused)} refused, the slowest {self.slowest_ms:.0f} ms; "
            f"longest wait for a lock {self.longest_lock_ms:.0f} ms"
        )

    async def during(self, work: Awaitable[Any]) -> float:
        """Publish while something else is done. Returns how many seconds that took."""
        writers = [asyncio.create_task(self._write()) for _ in range(WRITERS)]
        started = time.monotonic()
        await work
        took = time.monotonic() - started
        self._stop.set()
        await asyncio.gather(*writers)
        return took

    async def _write(self) -> None:
        connection = await asyncpg.connect(self._server.url, statement_cache_size=0)
        while not self._stop.is_set():
            started = time.monotonic()
            message, delivery, moment = new_gid(Kind.MESSAGE), new_gid(Kind.DELIVERY), now()
            try:
                async with connection.transaction():
                    await connection.execute(_MESSAGE, message, message if self._keys else None, moment)
                    await connection.execute(_DELIVERY, delivery, DEFAULT_TENANT_GID, message, "ep_of_the_load", moment)
                await connection.execute(_ATTEMPTED, delivery, moment)
            except asyncpg.PostgresError as error:
                self.refused.append(str(error))
            self._seconds.append(time.monotonic() - started)
            await asyncio.sleep(WRITE_EVERY_S)
        await connection.close()


async def _upgrade(server: PostgresServer, result: Result, progress: Progress) -> None:
    steps = (
        ("migrate, from the first schema", ["migrate"], True),
        ("migrate --partition", ["migrate", "--partition"], False),
    )
    for what, arguments, keys in steps:
        progress(what)
        with tempfile.TemporaryDirectory() as directory:
            env = {"EVERHOOK_DATABASE_URL": async_url(server.url)}
            process = Process([sys.executable, "-m", "cli", *arguments], log=Path(directory) / "log", env=env)
            publishers = Publishers(server, keys=keys)
            took = await publishers.during(process.run(1_200))
        others = publishers.report(f"`{' '.join(arguments)}`", result)
        result.add(what, f"{took:.1f} s; {others}")
    connection = await asyncpg.connect(server.url)
    await connection.execute("ANALYZE")
    await connection.close()


# Passes


async def _reconcile(database: Database, result: Result, progress: Progress) -> None:
    """One pass of the reconciler's queries. Temporal is a stand-in that has every workflow."""
    progress("a pass of the reconciler")
    temporal = FakeTemporal()
    async with database.reading() as session:
        dead = await session.execute(
            select(col(Delivery.gid)).where(col(Delivery.status) == DeliveryStatus.DEAD_LETTERED)
        )
        temporal.running = set(dead.scalars())
    reconciling = ReconcilingActivities(
        temporal.client,
        database,
        CircuitClient(temporal.client, CircuitPolicy()),
        InputDefaults(),
        overdue_grace=timedelta(minutes=3),
    )
    started = time.monotonic()
    await ActivityEnvironment().run(reconciling.reconcile)
    took = time.monotonic() - started
    result.add("a pass of the reconciler (database)", f"{took:.2f} s")
    result.check("a pass of the reconciler", took, PASS_S, "s")


async def _retention(server: PostgresServer, database: Database, result: Result, progress: Progress) -> None:
    for what, days in (("that finds nothing", 365), ("that drops a month", 35)):
        progress(f"a pass of retention {what}")
        periods = RetentionPeriods(payloads=None, deliveries=timedelta(days=days), idempotency_keys=None)
        publishers = Publishers(server, keys=False)
        removed: list[int] = []

        async def apply(periods: RetentionPeriods = periods, removed: list[int] = removed) -> None:
            removed.append((await apply_retention(Bulk(database), periods)).messages)

        took = await publishers.during(apply())
        what = f"a pass of retention {what}"
        result.add(what, f"{took:.1f} s, {removed[0]:,} messages; {publishers.report(what, result)}")


async def _sealing(database: Database, result: Result, progress: Progress) -> None:
    keyring = KeyRing([MASTER_KEY])
    for number in range(SEALED_TENANTS):
        progress(f"receipts of {number} of {SEALED_TENANTS} tenants")
        tenant_gid = new_gid(Kind.TENANT)
        async with database.writing() as session:
            session.add(Tenant(gid=tenant_gid, name=f"sealed-{number}"))
        await Log(database, tenant_gid, keyring).grow(SEALED_RECEIPTS, verdict=Verdict.DELIVERED)
    progress("sealing")
    started = time.monotonic()
    sealed = await ActivityEnvironment().run(SealingActivities(database, keyring).seal_receipts)
    took = time.monotonic() - started
    result.add(f"sealing {SEALED_TENANTS} tenants, {sealed.receipts:,} receipts", f"{took:.1f} s")
    result.check("sealing 3,000 active tenants (calculated)", took * 3_000 / SEALED_TENANTS, SEAL_S, "s")


# Through the API


async def _lists(api: Api, result: Result, progress: Progress) -> None:
    endpoint = (await api.get("/v1/endpoints", limit=1)).json()["data"][0]["endpointGid"]
    long_ago = f"{now() - SPREAD / 2:%Y-%m-%dT%H:%M:%SZ}"
    for what, path in LISTS.items():
        progress(what)
        seconds = []
        for _ in range(OPENINGS):
            started = time.monotonic()
            response = await api.http.get(path.format(endpoint=endpoint, long_ago=long_ago))
            response.raise_for_status()
            seconds.append(time.monotonic() - started)
        result.add(what, f"{milliseconds(seconds[0])} first, {milliseconds(median(seconds))} then")
        result.check(what, median(seconds) * 1_000, LIST_MS, "ms")


async def _publish(api: Api, result: Result, progress: Progress) -> None:
    progress("publishing")
    seconds = []
    for number in range(PUBLISHED):
        started = time.monotonic()
        await api.publish({"n": number}, "to-nowhere")
        seconds.append(time.monotonic() - started)
    p95 = percentile(seconds, 0.95)
    result.add("a publish", f"{milliseconds(median(seconds))}; p95 {milliseconds(p95)}")
    result.check("p95 of a publish", p95 * 1_000, PUBLISH_MS, "ms")


async def _cost(server: PostgresServer, api: Api, receiver: ReceiverProcess, progress: Progress) -> float:
    """CPU milliseconds of a delivery: of this process, which is the API and sends, and of PostgreSQL."""
    progress("the cost of a delivery")
    name = "cost"
    await api.channel(name)
    await api.endpoint(receiver.url_for(f"/{name}"), channel=name)

    async def deliver(count: int) -> float:
        before = time.process_time() + server.process.cpu_seconds()
        slots = asyncio.Semaphore(16)

        async def one(number: int) -> None:
            async with slots:
                await api.publish({"n": number}, name)

        await asyncio.gather(*map(one, range(count)))
        await assert_eventually(lambda: _all_delivered(api, name), 60, interval=0.05)
        return (time.process_time() + server.process.cpu_seconds() - before) / count * 1_000

    await deliver(DELIVERIES // 4)
    return await deliver(DELIVERIES)


async def _all_delivered(api: Api, channel: str) -> None:
    assert await api.count(f"delivery WHERE channel = '{channel}' AND status <> 'delivered'") == 0


@contextlib.asynccontextmanager
async def _api(url: str) -> AsyncIterator[Api]:
    """The API with its express lane; Temporal is away, and healthy deliveries do not need it."""
    client = await connect(lazy=True, target_host=f"127.0.0.1:{refusing_port()}")
    async with running_api(settings_for(url, temporal_history="exceptions"), client) as api:
        yield api


def bench(rows: int) -> Callable[[Progress], Awaitable[Table]]:
    async def large(progress: Progress) -> Table:
        result = Result()
        with tempfile.TemporaryDirectory() as directory:
            async with ReceiverProcess(Path(directory)) as receiver:
                few = await _cost_with(FEW, receiver, progress)
                async with _first_schema(rows, progress) as server:
                    await _upgrade(server, result, progress)
                    url = async_url(server.url)
                    async with _api(url) as api:
                        await api.channel("to-nowhere")
                        await _lists(api, result, progress)
                        await _publish(api, result, progress)
                        many = await _cost(server, api, receiver, progress)
                    database = Database(url)
                    await _reconcile(database, result, progress)
                    await _sealing(database, result, progress)
                    await _retention(server, database, result, progress)
                    await database.close()
        result.add("a delivery", f"{many:.2f} ms of CPU; {few:.2f} ms with {FEW:,} rows")
        result.check(f"the cost of a delivery ÷ the cost with {FEW:,} rows", many / few, RATIO, "parts of one")
        return Table(f"{rows:,} deliveries on PostgreSQL", ("what", "figure"), result.rows, result.notes)

    return large


async def _cost_with(rows: int, receiver: ReceiverProcess, progress: Progress) -> float:
    async with _first_schema(rows, progress) as server:
        await _upgrade(server, Result(), progress)
        async with _api(async_url(server.url)) as api:
            return await _cost(server, api, receiver, progress)


ABOUT = "PostgreSQL on this machine. Take ratios, not the figures: machines differ."


def main(rows: Annotated[int, typer.Option(min=10_000, help="Deliveries in the database.")] = ROWS) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with console.status("large", refresh_per_second=1) as status:
        table = event_loop.run(measured(bench(rows), lambda text: status.update(f"large: {text}")))
    show(table)
    if rows == ROWS:
        keep(HEADING, ABOUT, [table])


if __name__ == "__main__":
    typer.run(main)
