"""Everhook as it really runs: Temporal, a database, the API, workers and a receiver, each a separate process."""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import httpx
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from testing.arrivals import ArrivalLine, read_arrivals
from testing.forks import prepare
from testing.ledgers import Report, compare
from testing.postgres_server import PostgresServer
from testing.processes import REPOSITORY, Process, ProcessFailed, free_port
from testing.publisher import Publisher
from testing.script import Step, step_to_json
from testing.temporal_server import NAMESPACE, TemporalServer, temporal_command
from testing.waiting import assert_eventually

__all__ = [
    "QUICK",
    "PostgresServer",
    "Process",
    "ProcessFailed",
    "ReceiverProcess",
    "Stack",
    "TemporalServer",
    "async_url",
    "free_port",
    "temporal_command",
]

API_KEY = "test-key-of-the-stack-0123456789abcdef"
MASTER_KEY = "dGVzdC1tYXN0ZXIta2V5LW9mLXRoZS1zdGFjay0wMTI="
ISSUER = "hooks.example.com"
WORKER_READY = "worker started"
# For `extra_env`: what takes minutes in production within seconds, for tests that wait for it.
QUICK = {
    "EVERHOOK_RECONCILE_EVERY_SECONDS": "1",
    "EVERHOOK_SEAL_RECEIPTS_EVERY_SECONDS": "5",
    "EVERHOOK_OVERDUE_GRACE_SECONDS": "3",
    "EVERHOOK_EXPRESS_WAIT_SECONDS": "1",
    "EVERHOOK_FIRST_ATTEMPT_GRACE_SECONDS": "2",
    "EVERHOOK_PARK_CHECK_SECONDS": "2",
    "EVERHOOK_CIRCUIT_COOLDOWN_SECONDS": "1",
    "EVERHOOK_CIRCUIT_COOLDOWN_MAX_SECONDS": "2",
}
_UNFINISHED = """
    SELECT status, endpoint_gid, count(*) FROM delivery
    WHERE status NOT IN ('delivered', 'dead_lettered', 'discarded') GROUP BY status, endpoint_gid ORDER BY status
"""

Database = Literal["sqlite", "postgres"] | PostgresServer


class ReceiverProcess:
    """The scripted receiver in a separate process: its ledger survives the death of anything else."""

    def __init__(self, directory: Path, *, name: str = "receiver", port: int | None = None) -> None:
        self.port = port or free_port()
        self.ledger = directory / f"{name}.jsonl"
        options = ["--port", str(self.port), "--ledger", str(self.ledger)]
        command = [sys.executable, "-m", "testing.receiver", *options]
        self.process = Process(command, log=directory / f"{name}.log", forked=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url_for(self, path: str) -> str:
        return self.url + path

    async def start(self) -> None:
        """Start it (again: on the same port, with the same ledger, and responses of 200)."""
        self.process.start()
        await self.process.wait_ready(line="receiver listening on")

    async def stop(self) -> None:
        await self.process.terminate()

    async def respond(self, *steps: Step, path: str | None = None, each_message: bool = False) -> None:
        """As `Receiver.respond`."""
        order = {"respond": [step_to_json(step) for step in steps], "each_message": each_message}
        await self.control(order if path is None else {**order, "path": path})

    async def delay(self, seconds: float) -> None:
        """Send every response this much later from now on."""
        await self.control({"delay_ms": seconds * 1000})

    async def wait_for(self, n: int, timeout: float = 30.0, *, path: str | None = None) -> list[ArrivalLine]:
        """Wait until `n` requests have arrived (at `path`) since it was started; returns the whole ledger."""
        order: dict[str, Any] = {"wait_for": n, "timeout_ms": timeout * 1000}
        await self.control(order if path is None else {**order, "path": path}, timeout=timeout + 5)
        return self.arrivals()

    def arrivals(self) -> list[ArrivalLine]:
        return read_arrivals(self.ledger)

    async def status(self) -> dict[str, int]:
        """`arrivals`, `connections`, `inFlight`, `peakInFlight`."""
        return await self.control({})

    async def control(self, order: Mapping[str, Any], timeout: float = 10.0) -> dict[str, int]:
        # Plain HTTP: the TLS context that `verify` makes would cost more than the whole call.
        async with httpx.AsyncClient(trust_env=False, timeout=timeout, verify=False) as client:
            response = await client.post(self.url + "/_control", content=json.dumps(order))
        if response.status_code == 408:
            raise TimeoutError(response.text)
        response.raise_for_status()
        status: dict[str, int] = response.json()
        return status


def async_url(url: str) -> str:
    """The database URL with the driver SQLAlchemy's async engine wants."""
    return url.replace("postgresql://", "postgresql+asyncpg://", 1).replace("sqlite://", "sqlite+aiosqlite://", 1)


class Stack:
    """The whole product on loopback, its files and logs in `directory`.

    `database`: `sqlite`, `postgres` (this stack's own server, `stack.postgres`, which tests may kill), or a
    running PostgresServer, in which the stack gets its own database. `extra_env` is set for API and workers, and
    `serve` to the command of the API;
    `receiver`, `api`, `workers[0]`, `temporal` may be killed and started again as the test likes. At the end all are
    killed: a test of the orderly end calls `terminate` itself and looks at `returncode`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        database: Database = "sqlite",
        workers: int = 1,
        extra_env: Mapping[str, str] | None = None,
        serve: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.api_port = free_port()
        self.temporal = TemporalServer(directory)
        self.receiver = ReceiverProcess(directory)
        self.postgres = _postgres(database, directory)
        self.workers: list[Process] = []
        self.database_url = ""
        self._shared_postgres = isinstance(database, PostgresServer)
        self._worker_count = workers
        self._extra_env = dict(extra_env or {})
        self._serve = serve
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            sys.stderr.write(self.logs() + "\n")
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None:
            sys.stderr.write(self.logs() + "\n")
        await self._exits.aclose()

    async def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        prepare()
        self.database_url, _ = await asyncio.gather(
            self._start_database(), self._exits.enter_async_context(self.temporal)
        )
        await self._exits.enter_async_context(self.receiver)  # the first fork may block for seconds: nothing waits then
        self.engine: AsyncEngine = create_async_engine(async_url(self.database_url), pool_pre_ping=True)
        self._exits.push_async_callback(self.engine.dispose)
        await asyncio.gather(self.command("migrate"), self.command("setup"))
        self.api = self._process("api", [sys.executable, "-m", "cli", "serve", *self._serve])
        await asyncio.gather(self.start_api(), *(self.start_worker() for _ in range(self._worker_count)))
        self.client = await self._exits.enter_async_context(self._client())

    async def _start_database(self) -> str:
        if self.postgres is None:
            return f"sqlite:///{self.directory / 'everhook.db'}"
        if self._shared_postgres:
            return await self.postgres.create_database(f"stack_{self.api_port}")
        await self._exits.enter_async_context(self.postgres)
        return self.postgres.url

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {API_KEY}"},
            timeout=30.0,
            trust_env=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64),
        )

    def _process(self, name: str, command: list[str], extra_env: Mapping[str, str] | None = None) -> Process:
        process = Process(
            command, log=self.directory / f"{name}.log", env={**self.env, **(extra_env or {})}, forked=True
        )
        self._exits.push_async_callback(process.kill9)
        return process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def env(self) -> dict[str, str]:
        """What configures every process of the product."""
        return {
            "EVERHOOK_DATABASE_URL": self.database_url,
            "EVERHOOK_API_KEY": API_KEY,
            "EVERHOOK_MASTER_KEYS": MASTER_KEY,
            "EVERHOOK_ISSUER": ISSUER,
            "EVERHOOK_HOST": "127.0.0.1",
            "EVERHOOK_PORT": str(self.api_port),
            "EVERHOOK_EGRESS_ALLOW": "127.0.0.0/8",
            "EVERHOOK_EGRESS_HTTP": "true",
            "TEMPORAL_ADDRESS": self.temporal.address,
            "TEMPORAL_NAMESPACE": NAMESPACE,
            **self._extra_env,
        }

    @property
    def worker(self) -> Process:
        return self.workers[0]

    async def command(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run `everhook …` to its end and return its output. ProcessFailed on any status but 0."""
        process = self._process(f"everhook-{arguments[0]}", [sys.executable, "-m", "cli", *arguments])
        return await process.run(timeout)

    async def start_api(self, *, ready: bool = True) -> None:
        """Start the API (again). With `ready=False` do not wait: a dependency may be down."""
        self.api.start()
        if ready:
            await self.api.wait_ready(url=f"{self.url}/readyz")

    async def start_worker(
        self, role: str = "all", *, extra_env: Mapping[str, str] | None = None, ready: bool = True
    ) -> Process:
        """Start one more worker process, which is appended to `workers`."""
        command = [sys.executable, str(REPOSITORY / "worker.py"), "--role", role]
        process = self._process(f"worker-{len(self.workers) + 1}", command, extra_env)
        self.workers.append(process)
        await self.restart_worker(process, ready=ready)
        return process

    async def restart_worker(self, process: Process | None = None, *, ready: bool = True) -> None:
        """Start a worker that was killed or stopped (the first, unless another is given)."""
        process = process or self.worker
        process.start()
        if ready:
            await process.wait_ready(line=WORKER_READY)

    def publisher(self, *, patience: float = 60.0) -> Publisher:
        return Publisher(self.client, patience=patience)

    async def drained(self, timeout: float = 60.0, *, of: Publisher | None = None) -> None:
        """Wait until the database knows no delivery that is still on its way (dead letters are at rest).

        `of`: only those to that publisher's endpoints, where tests share a stack.
        """

        async def nothing_unfinished() -> None:
            counts = await self._unfinished(None if of is None else of.endpoints)
            if counts:
                raise AssertionError(f"deliveries on their way: {counts}")

        await assert_eventually(nothing_unfinished, timeout, interval=0.25)

    async def _unfinished(self, endpoints: Collection[str] | None) -> dict[str, int] | str:
        """How many rows of which status; or the error, while the database cannot be asked."""
        counts: Counter[str] = Counter()
        try:
            async with self.engine.connect() as connection:
                for status, endpoint, count in await connection.execute(text(_UNFINISHED)):
                    if endpoints is None or endpoint in endpoints:
                        counts[status] += count
        except (SQLAlchemyError, OSError) as error:
            return repr(error)
        return dict(counts)

    async def compare(
        self, publisher: Publisher, *, dead_letters_allowed: bool = False, shared: bool = False
    ) -> Report:
        """The three ledgers of this stack. After `drained`, usually.

        `shared`: only what concerns the publisher's own endpoints, for other tests use this stack too.
        """
        endpoints = publisher.endpoints if shared else None
        return await compare(
            publisher.ledger,
            self.receiver.arrivals(),
            self.engine,
            dead_letters_allowed=dead_letters_allowed,
            endpoints=endpoints,
        )

    def logs(self, lines: int = 40) -> str:
        """The ends of all logs, for the person who has to find out what happened."""
        tails = []
        for log in sorted(self.directory.glob("*.log")):
            end = log.read_text(errors="replace").splitlines()[-lines:]
            tails.append("\n".join([f"=== {log.name}", *end]))
        return "\n".join(tails)


def _postgres(database: Database, directory: Path) -> PostgresServer | None:
    if isinstance(database, PostgresServer):
        return database
    return PostgresServer(directory / "postgres.log") if database == "postgres" else None
