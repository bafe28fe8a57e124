"""The Temporal server of `everhook dev`: the development server of the `temporal` program, restarted if it dies."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import structlog
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from cli.errors import UsageError
from everhook.temporal import search_attributes
from everhook.temporal.client import PLUGIN, sdk_runtime
from everhook.temporal.options import DEFAULT_NAMESPACE

START_TIMEOUT_S = 60.0
POLL_S = 0.05
POLL_TIMEOUT = timedelta(seconds=2)
STOP_TIMEOUT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""Pause before a restart of a dead server; it doubles while the server does not stay up."""

STAYED_UP_S = 30.0

_DYNAMIC_CONFIG = {
    # One partition is enough for one machine, keeps fairness exact, and halves the polls.
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "matching.useNewMatcher": "true",
    "matching.enableFairness": "true",
    # Concurrent bulk replays and purges. The server's default is one, so one tenant's would block those of others.
    "frontend.MaxConcurrentBatchOperationPerNamespace": "20",
    # Workflows kept in memory, 45 KB each. The server's default is 128,000.
    "history.hostLevelCacheMaxSize": "2000",
    # Two caches of events, in bytes of their stored form; the second is for replication between clusters.
    "history.eventsCacheMaxSizeBytes": "131072",
    "history.xdcCacheMaxSizeBytes": "131072",
}
# Twice as fast as the defaults. A power cut may lose the last commits, which the reconciler then repairs.
_SQLITE_PRAGMAS = {"journal_mode": "WAL", "synchronous": "NORMAL"}

_DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Makes the kernel kill this process if its parent dies (PR_SET_PDEATHSIG, SIGKILL), then becomes the command. In a
separate process instead of `preexec_fn`, which would run Python in a fork of a process with the SDK's threads."""

log = structlog.get_logger()


def temporal_command(
    binary: str | Path,
    *,
    db_file: Path,
    port: int,
    ui_port: int | None = None,
    address: str = "127.0.0.1",
    namespace: str = DEFAULT_NAMESPACE,
) -> list[str]:
    """The command line of the server; without `ui_port` it serves no UI.

    The search attributes are named here, because the server knows those added later only after a while.
    """
    options = ["--ip", address, "--port", str(port), "--db-filename", str(db_file), "--namespace", namespace]
    options += ["--headless"] if ui_port is None else ["--ui-port", str(ui_port), "--ui-disable-news-fetch"]
    options += ["--log-level", "error"]
    attributes = {key.name: key.indexed_value_type.name.title() for key in search_attributes.ALL}
    for flag, values in (
        ("--sqlite-pragma", _SQLITE_PRAGMAS),
        ("--search-attribute", attributes),
        ("--dynamic-config-value", _DYNAMIC_CONFIG),
    ):
        options += [part for name, value in values.items() for part in (flag, f"{name}={value}")]
    return [str(binary), "server", "start-dev", *options]


def die_with_parent(command: Sequence[str]) -> list[str]:
    """Wrap a command so that it does not outlive this process. Linux only: elsewhere the command is unchanged."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


class EmbeddedTemporal:
    """One server process. `prepare` runs after every start, and must make the server ready.

    The process has its own session, so that a Ctrl-C at the terminal does not reach it: workers that drain
    need their server.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        target: str,
        log_file: Path,
        prepare: Callable[[Client], Awaitable[None]],
        report: Callable[[str], None],
    ) -> None:
        self._command = command
        self._target = target
        self._log_file = log_file
        self._prepare = prepare
        self._report = report
        self._client: Client | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Client:
        """Start the server; returns a client when it is prepared. Raises UsageError if it does not start."""
        process = await self._spawn()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                client = await self._prepared(process)
        except TimeoutError:
            client = None
        if client is None:
            raise UsageError(f"Temporal does not start: {self._last_log_line()} (full log: {self._log_file})")
        return client

    async def keep_alive(self) -> None:
        """Restart the server whenever it exits, until cancelled."""
        pause = FIRST_PAUSE_S
        while self._process is not None:
            began = time.monotonic()
            status = await self._process.wait()
            if time.monotonic() - began > STAYED_UP_S:
                pause = FIRST_PAUSE_S
            self._report(f"Temporal exited ({_how(status)}); restarting it. Publishing continues meanwhile.")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            if await self._prepared(await self._spawn()):
                self._report("Temporal is back; waiting messages are delivered now.")

    async def stop(self) -> None:
        """Stop the server gracefully, or kill it after a timeout."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """Kill the server. Its store survives, because it is a database."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _spawn(self) -> asyncio.subprocess.Process:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
        with self._log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *die_with_parent(self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        return self._process

    async def _prepared(self, process: asyncio.subprocess.Process) -> Client | None:
        """A client of the prepared server; None if the server exited first."""
        while process.returncode is None:
            try:
                client = await self._connected()
                await self._prepare(client)
                return client
            except (RPCError, RuntimeError) as error:
                log.debug("temporal is not ready yet", error=str(error))
            await asyncio.sleep(POLL_S)
        return None

    async def _connected(self) -> Client:
        """The one client of this process. Raises RPCError or RuntimeError while the server does not respond."""
        if self._client is None:
            self._client = await Client.connect(
                self._target, namespace=DEFAULT_NAMESPACE, plugins=[PLUGIN], runtime=sdk_runtime()
            )
        request = DescribeNamespaceRequest(namespace=DEFAULT_NAMESPACE)
        await self._client.workflow_service.describe_namespace(request, timeout=POLL_TIMEOUT)
        return self._client

    def _last_log_line(self) -> str:
        lines = self._log_file.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "its log is empty"


def _how(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
