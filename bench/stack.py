"""The embedded stack as users run it (`everhook dev`), a receiver beside it, and meters for their CPU and memory."""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.support.processes import Process, free_port
from tests.support.publisher import Publisher
from tests.support.stack import ReceiverProcess

API_KEY = "bench-key-bench-key-bench-key"
TEMPORAL = "temporal"


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far: of the engine (Temporal), and of the process that is both API and worker."""

    engine: float
    worker: float

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.engine - other.engine, self.worker - other.worker)


class EmbeddedStack:
    def __init__(self, process: Process, receiver: ReceiverProcess, client: httpx.AsyncClient, temporal: str) -> None:
        self.process = process
        self.receiver = receiver
        self.client = client
        self.temporal = temporal
        self._main = psutil.Process(process.pid)

    def publisher(self) -> Publisher:
        return Publisher(self.client)

    def usage(self) -> Usage:
        return Usage(cpu_seconds(self.engine()), cpu_seconds(self._main))

    def memory_mb(self) -> float:
        """Resident memory of the API and worker process."""
        return self._main.memory_info().rss / 1e6

    def engine(self) -> psutil.Process:
        """The Temporal server's process."""
        return next(child for child in self._main.children(recursive=True) if child.name() == TEMPORAL)

    async def settled(self) -> None:
        """Wait until what was begun has been written off: marks, cache evictions, log lines."""
        before = self.usage()
        while True:
            await asyncio.sleep(1.0)
            now = self.usage()
            if now.engine - before.engine < 0.15 and now.worker - before.worker < 0.15:
                return
            before = now


@asynccontextmanager
async def embedded_stack(**extra_env: str) -> AsyncIterator[EmbeddedStack]:
    """A fresh `everhook dev --no-demo`, with its data in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        home, port, temporal_port, ui_port = Path(directory), free_port(), free_port(), free_port()
        receiver = ReceiverProcess(home)
        await receiver.start()
        command = [
            sys.executable, "-m", "everhook.cli", "dev", "--no-demo", "--data-dir", str(home / "data"),
            "--port", str(port), "--temporal-port", str(temporal_port), "--temporal-ui-port", str(ui_port),
            "--api-key", API_KEY,
        ]  # fmt: skip
        process = Process(command, log=home / "dev.log", env=extra_env, name="everhook dev")
        process.start()
        try:
            url = f"http://127.0.0.1:{port}"
            await process.wait_ready(url=f"{url}/readyz", timeout=60)
            headers = {"authorization": f"Bearer {API_KEY}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
                yield EmbeddedStack(process, receiver, client, f"127.0.0.1:{temporal_port}")
        finally:
            await process.kill9()
            await receiver.stop()


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def percentile(values: Sequence[float], share: float) -> float:
    """`percentile(latencies, 0.95)`; of no values at all it is not a number."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


async def latencies(stack: EmbeddedStack, publisher: Publisher, path: str) -> list[float]:
    """Seconds from when each acknowledged message was due to be published to its arrival at `path`."""
    due = {ack.message_gid: ack.due for ack in publisher.acks}
    return [a.monotonic - due[a.id] for a in stack.receiver.arrivals() if a.path == path and a.id in due]


async def measured(stack: EmbeddedStack, seconds: float) -> Usage:
    """What the stack uses while it has nothing to do."""
    before = stack.usage()
    began = time.monotonic()
    await asyncio.sleep(seconds)
    used = stack.usage() - before
    scale = seconds / (time.monotonic() - began)
    return Usage(used.engine * scale, used.worker * scale)
