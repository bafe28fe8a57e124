"""Everhook in its production shapes on one machine."""

import os
import sys
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from typer.core import TyperGroup
from typer.main import get_command

from bench.meters import Members, Meter, family
from bench.production.temporal import DATABASES, VISIBILITY, ProductionTemporal, run_statements
from bench.receiver import receiver
from bench.stack import API_KEY, TEMPORAL, BenchStack, History, api_client
from cli.main import app
from everhook.settings import Settings
from everhook.temporal.options import DEFAULT_NAMESPACE
from testing.postgres_server import PostgresServer
from testing.processes import REPOSITORY, Process, free_port
from testing.stack import WORKER_READY

TEMPORAL_STORE, STORE = "PostgreSQL of Temporal", "PostgreSQL of Everhook"
API, WORKER, BOTH = "API", "worker", "API and worker"
POSTGRES_OPTIONS = {"max_connections": "300", "shared_buffers": "128MB", "max_wal_size": "1GB"}
"""PostgreSQL's own defaults but for the connections, as in docker-compose.yml."""

EVERHOOK = ("-m", "cli")
INDEXES = REPOSITORY / "deploy/temporal/visibility_indexes.py"


Starter = Callable[[str, list[str]], Process]
"""A process of Python by its name and arguments, configured for the stack; not started yet."""


@dataclass(frozen=True)
class Shape:
    """`serve`: the options of `everhook serve`, which runs `copies` times, each on its own port."""

    title: str
    serve: tuple[str, ...] = ()
    copies: int = 1
    worker: bool = True

    @property
    def is_supported(self) -> bool:
        """Whether this version of `everhook serve` has the options."""
        commands = get_command(app)
        assert isinstance(commands, TyperGroup)
        known = {name for parameter in commands.commands["serve"].params for name in parameter.opts}
        return {option for option in self.serve if option.startswith("--")} <= known


SHAPES = {
    "apart": Shape("`serve` and `worker`"),
    "processes": Shape("`serve --processes 2` and `worker`", ("--processes", "2")),
    "together": Shape("two `serve --worker`", ("--worker",), copies=2, worker=False),
}


@dataclass(frozen=True)
class StoreOptions:
    """How Temporal's own databases are set up: `durable` is PostgreSQL's `synchronous_commit`."""

    durable: bool = True
    all_indexes: bool = True


class ProductionStack(BenchStack):
    """Two PostgreSQL servers, so that it is known whom their CPU is used for: Temporal or Everhook."""

    engine_groups = (TEMPORAL, TEMPORAL_STORE)
    stores: dict[str, PostgresServer]

    async def wal_bytes(self, store: str) -> int:
        """How much WAL this server has written since it was created."""
        return int(await _value(self.stores[store].url, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))

    async def visibility_bytes(self) -> int:
        """Size of the visibility table with its indexes."""
        url = self.stores[TEMPORAL_STORE].url_of(VISIBILITY)
        return int(await _value(url, "SELECT pg_total_relation_size('executions_visibility')"))


async def _value(url: str, query: str) -> int:
    connection = await asyncpg.connect(url, ssl=False)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


@asynccontextmanager
async def production_stack(
    programs: Path, shape: Shape, history: History = "all", options: StoreOptions = StoreOptions()
) -> AsyncIterator[ProductionStack]:
    """A fresh stack, with its data in a temporary directory."""
    async with AsyncExitStack() as exits:
        directory = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="everhook-bench-")))
        stores = await _stores(directory, exits)
        temporal = await _temporal(programs, stores[TEMPORAL_STORE], directory, options, exits)
        start = _starter(directory, _environment(stores[STORE].url, temporal.address, history), exits)
        await start("migrate", [*EVERHOOK, "migrate"]).run()
        await start("setup", [*EVERHOOK, "setup"]).run()
        if not options.all_indexes:
            await _drop_indexes(stores[TEMPORAL_STORE], lambda what: start(f"indexes-{what}", [str(INDEXES), what]))
        groups, ports = await _product(shape, start)
        sink = await exits.enter_async_context(receiver())
        client = await exits.enter_async_context(api_client(ports[0]))
        stack = ProductionStack([("127.0.0.1", port) for port in ports], client, temporal.address, sink)
        stack.stores = stores
        servers = {TEMPORAL: temporal.process, **{name: store.process for name, store in stores.items()}}
        stack.meter = Meter({**{name: family(process.pid) for name, process in servers.items()}, **groups})
        exits.callback(stack.driver.close)
        yield stack


async def _stores(directory: Path, exits: AsyncExitStack) -> dict[str, PostgresServer]:
    return {
        name: await exits.enter_async_context(
            PostgresServer(directory / f"postgres-{number}.log", options=POSTGRES_OPTIONS)
        )
        for number, name in enumerate((TEMPORAL_STORE, STORE))
    }


async def _temporal(
    programs: Path, store: PostgresServer, directory: Path, options: StoreOptions, exits: AsyncExitStack
) -> ProductionTemporal:
    temporal = ProductionTemporal(programs, store, directory)
    exits.push_async_callback(temporal.process.kill9)
    await temporal.create_databases()
    if not options.durable:
        await _weaken(store)
    await temporal.start()
    return temporal


def _starter(directory: Path, env: dict[str, str], exits: AsyncExitStack) -> Starter:
    def start(name: str, arguments: list[str]) -> Process:
        process = Process([sys.executable, *arguments], log=directory / f"{name}.log", env=env, name=name)
        exits.push_async_callback(process.kill9)
        return process

    return start


async def _product(shape: Shape, start: Starter) -> tuple[dict[str, Members], list[int]]:
    """Start the API and worker; returns their groups and the ports of the API."""
    ports = [free_port() for _ in range(shape.copies)]
    apis = [start(f"api-{port}", [*EVERHOOK, "serve", "--port", str(port), *shape.serve]) for port in ports]
    for api, port in zip(apis, ports, strict=True):
        api.start()
        await api.wait_ready(url=f"http://127.0.0.1:{port}/readyz", timeout=60)
    groups = {API if shape.worker else BOTH: _families([api.pid for api in apis])}
    if shape.worker:
        worker = start("worker", [*EVERHOOK, "worker"])
        worker.start()
        await worker.wait_ready(line=WORKER_READY, timeout=60)
        groups[WORKER] = family(worker.pid)
    return groups, ports


def _families(pids: list[int]) -> Members:
    members = [family(pid) for pid in pids]
    return lambda: [process for of in members for process in of()]


def _environment(database_url: str, temporal: str, history: History) -> dict[str, str]:
    return {
        "EVERHOOK_DATABASE_URL": database_url,
        "EVERHOOK_API_KEY": API_KEY,
        "EVERHOOK_MASTER_KEYS": b64encode(os.urandom(32)).decode(),
        "EVERHOOK_ISSUER": "hooks.example.com",
        "EVERHOOK_EGRESS_ALLOW": "127.0.0.0/8",
        "EVERHOOK_EGRESS_HTTP": "true",
        "EVERHOOK_TEMPORAL_HISTORY": history,
        "TEMPORAL_ADDRESS": temporal,
        "TEMPORAL_NAMESPACE": DEFAULT_NAMESPACE,
    }


def histories() -> list[History]:
    """Those that this version of Everhook can write."""
    return ["all", "exceptions"] if "temporal_history" in Settings.model_fields else ["all"]


async def _weaken(store: PostgresServer) -> None:
    """Let commits of Temporal's databases return before they are on disk."""
    for database in DATABASES:
        await run_statements(store.url_of(database), f"ALTER DATABASE {database} SET synchronous_commit = off")


async def _drop_indexes(store: PostgresServer, script: Callable[[str], Process]) -> None:
    """Leave the visibility table with the indexes that are needed, and check that what is dropped can be restored."""
    url = store.url_of(VISIBILITY)
    original = await _definitions(url)
    needed, everything = [await script(what).run() for what in ("needed", "all")]
    for statements in (needed, everything):
        await run_statements(url, statements)
    if await _definitions(url) != original:
        raise RuntimeError(f"{INDEXES.name} does not restore the indexes as they were")
    await run_statements(url, needed)


async def _definitions(url: str) -> set[str]:
    connection = await asyncpg.connect(url, ssl=False)
    try:
        found = await connection.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = 'executions_visibility'")
    finally:
        await connection.close()
    return {row["indexdef"] for row in found}
