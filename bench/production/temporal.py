"""A self-hosted Temporal server: built from its source, with its store in PostgreSQL.

The build takes about 6 minutes of CPU, once: its programs are cached in the user's cache directory.
"""

import asyncio
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
from temporalio.client import Client
from temporalio.service import RPCError

from testing.postgres_server import ROLE, PostgresServer
from testing.processes import REPOSITORY, Process, ProcessFailed

VERSION = "1.32.1"
MODULE = "go.temporal.io/server"
PROGRAMS = {"server": f"{MODULE}/cmd/server", "sql": f"{MODULE}/cmd/tools/sql"}
DATABASES = {"temporal": "temporal", "temporal_visibility": "visibility"}
"""By the name of the database: the name of its schema."""

VISIBILITY = "temporal_visibility"
DYNAMIC_CONFIG = REPOSITORY / "deploy/temporal/dynamicconfig.yaml"
SHARDS = 4
"""As in docker-compose.yml: for one machine."""

BUILD_TIMEOUT_S, START_TIMEOUT_S = 3600.0, 60.0


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "everhook-bench" / f"temporal-{VERSION}"


async def built(log: Path) -> Path:
    """The directory with the programs `server` and `sql` (Temporal's temporal-sql-tool); builds them where needed."""
    directory = cache_directory()
    if all((directory / name).exists() for name in PROGRAMS):
        return directory
    go = shutil.which("go")
    if go is None:
        raise ProcessFailed("no Go here: Temporal's server is built from its module, see go.dev/doc/install")
    source = directory.with_name(f"{directory.name}-source")
    source.mkdir(parents=True, exist_ok=True)
    (source / "go.mod").write_text("module everhook.invalid/bench\n")
    env = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    get = ["go", "get", *(f"{package}@v{VERSION}" for package in PROGRAMS.values())]
    build = ["go", "build", "-tags", "disable_grpc_modules", "-o", f"{directory}{os.sep}", *PROGRAMS.values()]
    for command in (get, build):
        await Process(["nice", "-n", "10", *command], log=log, cwd=source, env=env).run(BUILD_TIMEOUT_S)
    return directory


class ProductionTemporal:
    """All four services in one process, with the dynamic configuration that Everhook ships."""

    def __init__(self, programs: Path, postgres: PostgresServer, directory: Path) -> None:
        self._free_ports = _free_ports()
        self.port = next(self._free_ports)
        self._programs = programs
        self._postgres = postgres
        self._directory = directory
        config = directory / "temporal.yaml"
        config.write_text(json.dumps(self._config()))  # JSON is YAML
        self.process = Process(
            [programs / "server", "--config-file", config, "--allow-no-auth", "start"],
            log=directory / "temporal.log",
            name="temporal",
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def create_databases(self) -> None:
        """Create Temporal's two databases with the schema of this version."""
        options = ["--plugin", "postgres12", "--endpoint", "127.0.0.1", "--port", str(self._postgres.port)]
        options += ["--user", ROLE, "--password", "unused"]
        for database, schema in DATABASES.items():
            for command in (
                ["create-database"],
                ["setup-schema", "--version", "0.0"],
                ["update-schema", "--schema-name", f"postgresql/v12/{schema}"],
            ):
                tool: list[str | Path] = [self._programs / "sql", *options, "--database", database, *command]
                await Process(tool, log=self._directory / "temporal-schema.log").run()

    async def start(self) -> None:
        """Start it, and wait until it responds."""
        self.process.start()
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not await self._responds():
            self.process.check_alive()
            if time.monotonic() > give_up_at:
                raise ProcessFailed(f"Temporal did not come up in {START_TIMEOUT_S:.0f} s\n{self.process.tail()}")
            await asyncio.sleep(0.2)

    async def _responds(self) -> bool:
        try:
            client = await Client.connect(self.address)
            return await client.service_client.check_health(timeout=timedelta(seconds=2))
        except (RuntimeError, RPCError):
            return False

    def _config(self) -> dict[str, object]:
        """As in the configuration that the server's image ships, with our ports."""
        http = next(self._free_ports)
        ports = {name: self._ports() for name in ("frontend", "history", "matching", "worker")}
        ports["frontend"] |= {"grpcPort": self.port, "httpPort": http}
        cluster = {
            "enabled": True, "initialFailoverVersion": 1, "rpcName": "frontend",
            "rpcAddress": self.address, "httpAddress": f"127.0.0.1:{http}",
        }  # fmt: skip
        return {
            "log": {"stdout": True, "level": "info"},
            "persistence": {
                "numHistoryShards": SHARDS,
                "defaultStore": "default",
                "visibilityStore": "visibility",
                "datastores": {
                    "default": {"sql": self._store("temporal", 20)},
                    "visibility": {"sql": self._store(VISIBILITY, 10)},
                },
            },
            "global": {"membership": {"maxJoinDuration": "30s", "broadcastAddress": "127.0.0.1"}},
            "services": {name: {"rpc": rpc} for name, rpc in ports.items()},
            "clusterMetadata": {
                "enableGlobalNamespace": False,
                "failoverVersionIncrement": 10,
                "masterClusterName": "active",
                "currentClusterName": "active",
                "clusterInformation": {"active": cluster},
            },
            "publicClient": {"hostPort": self.address},
            "dcRedirectionPolicy": {"policy": "noop"},
            "dynamicConfigClient": {"filepath": str(DYNAMIC_CONFIG), "pollInterval": "60s"},
        }

    def _ports(self) -> dict[str, object]:
        return {
            "grpcPort": next(self._free_ports),
            "membershipPort": next(self._free_ports),
            "bindOnIP": "127.0.0.1",
        }

    def _store(self, database: str, connections: int) -> dict[str, object]:
        return {
            "pluginName": "postgres12",
            "databaseName": database,
            "connectAddr": f"127.0.0.1:{self._postgres.port}",
            "connectProtocol": "tcp",
            "user": ROLE,
            "password": "unused",
            "maxConns": connections,
            "maxIdleConns": connections,
            "maxConnLifetime": "1h",
        }


def _free_ports() -> Iterator[int]:
    """Ports that are free now. The server writes its ports into PostgreSQL as SMALLINT: 32,767 at most."""
    for port in range(20_000, 32_768):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


async def run_statements(url: str, script: str) -> None:
    """Run the statements of an SQL script one by one, each in its own transaction."""
    lines = (line for line in script.splitlines() if not line.startswith("--"))
    connection = await asyncpg.connect(url, ssl=False)
    try:
        for statement in "\n".join(lines).split(";"):
            if statement.strip():
                await connection.execute(statement)
    finally:
        await connection.close()
