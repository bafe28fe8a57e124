"""The measured stacks: the product as users run it, a receiver, a driver, and a meter."""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import psutil

from bench.driver import Driver
from bench.meters import Cpu, Meter, alone
from bench.receiver import Receiver, receiver
from testing.processes import Process, free_port
from testing.publisher import create_channel, create_endpoint

API_KEY = "bench-key-bench-key-bench-key"
TEMPORAL = "Temporal"
EVERHOOK = "Everhook"
TEMPORAL_PROGRAM = "temporal"

QUIET_CPU, QUIET_S, DRAIN_S = 0.15, 2.0, 300.0
"""A stack is idle when no group uses more than this share of a core for this long; waiting ends after the last."""

History = Literal["all", "exceptions"]


@dataclass(frozen=True)
class Endpoint:
    """An endpoint subscribed to its own channel."""

    gid: str
    channel: str
    path: str


class BenchStack:
    """A running product: where it is reached, and what its processes use."""

    engine_groups: tuple[str, ...] = (TEMPORAL,)
    """The groups of processes that an empty workflow needs."""

    def __init__(
        self, addresses: Sequence[tuple[str, int]], client: httpx.AsyncClient, temporal: str, receiver: Receiver
    ) -> None:
        self.addresses = addresses
        self.client = client
        self.temporal = temporal
        self.receiver = receiver
        self.driver = Driver(addresses, API_KEY)
        self.meter = Meter({})

    async def endpoint(self, channel: str, path: str | None = None) -> Endpoint:
        """A new endpoint, the only one of its channel; `path` is where the receiver sees it."""
        path = path or f"/{channel}"
        await create_channel(self.client, channel)
        created = await create_endpoint(self.client, self.receiver.url_for(path), channel)
        return Endpoint(created.gid, channel, path)

    async def command(self, endpoint: Endpoint, command: Literal["pause", "resume"]) -> None:
        (await self.client.post(f"/v1/endpoints/{endpoint.gid}/{command}")).raise_for_status()

    async def drained(self) -> None:
        """Wait until all pending work is written: confirmations, history workflows, cache evictions, log lines."""
        give_up_at = time.monotonic() + DRAIN_S
        before = self.meter.cpu()
        while time.monotonic() < give_up_at:
            await asyncio.sleep(QUIET_S)
            now = self.meter.cpu()
            if max((now - before).groups.values()) < QUIET_CPU * QUIET_S:
                return
            before = now
        raise RuntimeError(f"the stack does not come to rest within {DRAIN_S:.0f} s")

    async def idle(self, seconds: float = 10.0) -> Cpu:
        """What the stack uses a second while it has nothing to do."""
        before, began = self.meter.cpu(), time.monotonic()
        await asyncio.sleep(seconds)
        return (self.meter.cpu() - before) * (1 / (time.monotonic() - began))


class EmbeddedStack(BenchStack):
    """`everhook dev`: API and worker in one process, Temporal in another, SQLite in both."""

    def __init__(self, process: Process, database: Path, port: int, client: httpx.AsyncClient, temporal: str,
                 receiver: Receiver) -> None:  # fmt: skip
        super().__init__([("127.0.0.1", port)], client, temporal, receiver)
        self.database = database
        self._main = psutil.Process(process.pid)
        self.meter = Meter({TEMPORAL: lambda: [self.engine()], EVERHOOK: alone(process.pid)})

    def engine(self) -> psutil.Process:
        """The Temporal server's process."""
        return next(child for child in self._main.children(recursive=True) if child.name() == TEMPORAL_PROGRAM)


@asynccontextmanager
async def embedded_stack(history: History = "all", **extra_env: str) -> AsyncIterator[EmbeddedStack]:
    """A fresh `everhook dev --no-demo`, with its data in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        home, port, temporal_port, ui_port = Path(directory), free_port(), free_port(), free_port()
        data, temporal = home / "data", f"127.0.0.1:{temporal_port}"
        command = [
            sys.executable, "-m", "cli", "dev", "--no-demo", "--data-dir", str(data),
            "--port", str(port), "--temporal-port", str(temporal_port), "--temporal-ui-port", str(ui_port),
            "--api-key", API_KEY,
        ]  # fmt: skip
        env = {"EVERHOOK_TEMPORAL_HISTORY": history, **extra_env}
        process = Process(command, log=home / "dev.log", env=env, name="everhook dev")
        process.start()
        try:
            await process.wait_ready(url=f"http://127.0.0.1:{port}/readyz", timeout=60)
            async with receiver() as sink, api_client(port) as client:
                stack = EmbeddedStack(process, data / "everhook.db", port, client, temporal, sink)
                yield stack
                stack.driver.close()
        finally:
            await process.kill9()


def api_client(port: int) -> httpx.AsyncClient:
    """For the few requests that set up a benchmark."""
    headers = {"authorization": f"Bearer {API_KEY}"}
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False)
