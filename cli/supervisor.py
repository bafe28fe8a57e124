"""`everhook serve --processes N`: a parent that owns the port, and N whole servers. One Python process uses one core.

Each process has its own listening socket on the port (SO_REUSEPORT), so the kernel spreads connections evenly:
a burst of 64 over two processes was split 33 to 31, and 63 to 1 if both accepted from one socket. The parent opens the
sockets and keeps them, so that the successor of a dead process serves the connections that wait for it.

A process detects the parent's end by its standard input, a socket whose other end only the parent holds: even if the
parent is killed, its processes end. Over the same socket a process reports that it serves.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from cli.errors import UsageError
from everhook import event_loop
from everhook.observability.logging import configure_logging
from everhook.observability.metrics_page import MetricsPage, free_loopback_port, metrics_listener
from everhook.observability.process_metrics import ProcessMetrics
from everhook.serving.server import STARTUP_FAILED, Address, close_all, serving
from everhook.settings import Settings

DRAIN_S = 90.0
"""Longer than any process may take to end. Processes that have not ended by then are killed."""

QUICK_S = 10.0
"""A process that ended within this time is restarted with a growing pause, up to `MAX_PAUSE_S`."""

MAX_PAUSE_S = 30.0

MUST_NOT_REPEAT = (UsageError.status, STARTUP_FAILED)
"""Statuses of a process that did not start. If none has served yet, the parent exits with it."""

DRAINED = (0, -signal.SIGTERM)
"""Statuses of a process that was asked to end; the latter if it had not started yet."""

READY = b"r"

log = structlog.get_logger()


@dataclass
class _Child:
    """One of the processes, or its successor with the same number."""

    number: int
    sockets: list[socket.socket]
    process: asyncio.subprocess.Process | None = None
    metrics_port: int | None = None
    is_ready: bool = False
    restarts: int = 0
    pause: float = 0.0


@dataclass
class Supervisor:
    """Runs processes with `command`, to which the file descriptors of their sockets are appended."""

    address: Address
    command: Sequence[str]
    settings: Settings
    children: list[_Child] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _was_ready: bool = False
    _status: int = 0

    async def run(self, processes: int) -> int:
        """Run until SIGTERM or SIGINT, or until no process starts; returns the exit status: 0 after a full drain."""
        self._install_signal_handlers()
        first = self.address.listen(shared=True)
        self.address = replace(self.address, port=first[0].getsockname()[1])  # it may have been 0
        others = [self.address.listen(shared=True) for _ in range(1, processes)]
        self.children = [_Child(number, sockets) for number, sockets in enumerate([first, *others])]
        async with self._metrics():
            await asyncio.gather(*(self._keep(child) for child in self.children))
        log.info("all processes ended", status=self._status)
        return self._status

    def _install_signal_handlers(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)

    def _end(self) -> None:
        """On the first signal close the sockets and let the processes drain; on the second kill them."""
        number = signal.SIGKILL if self._stop.is_set() else signal.SIGTERM
        self._stop.set()
        for child in self.children:
            close_all(child.sockets)
            _signal(child.process, number)

    async def _keep(self, child: _Child) -> None:
        """Run a process and its successors until the end."""
        while not self._stop.is_set():
            began = time.monotonic()
            status = await self._run_once(child)
            if self._stop.is_set():
                self._status = self._status or (0 if status in DRAINED else 1)
            elif status in MUST_NOT_REPEAT and not self._was_ready:
                self._status = status
                self._end()
            else:
                await self._pause(child, status, time.monotonic() - began)

    async def _run_once(self, child: _Child) -> int:
        """Start a process and wait for its end; returns its status."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                child.process = await self._started(child, theirs)
            log.info("process started", process=child.number, pid=child.process.pid)
            if self._stop.is_set():  # during its start
                _signal(child.process, signal.SIGTERM)
            ready = asyncio.create_task(self._note_ready(child, ours))
            try:
                return await self._ended(child.process)
            finally:
                child.is_ready = False
                ready.cancel()

    async def _started(self, child: _Child, channel: socket.socket) -> asyncio.subprocess.Process:
        descriptors = [sock.fileno() for sock in child.sockets]
        environment = dict(os.environ)
        if self.settings.metrics_port is not None:
            child.metrics_port = free_loopback_port()
            environment |= {
                "EVERHOOK_METRICS_HOST": "127.0.0.1",
                "EVERHOOK_METRICS_PORT": str(child.metrics_port),
            }
        return await asyncio.create_subprocess_exec(
            *self.command,
            ",".join(map(str, descriptors)),
            stdin=channel.fileno(),
            pass_fds=descriptors,
            env=environment,
            start_new_session=True,  # Ctrl-C at a terminal reaches the parent only, which sends SIGTERM
        )

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        ending = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([ending, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stop.is_set():
            await asyncio.wait([ending], timeout=DRAIN_S)
            _signal(process, signal.SIGKILL)
        return await ending

    async def _note_ready(self, child: _Child, channel: socket.socket) -> None:
        channel.setblocking(False)
        if await asyncio.get_running_loop().sock_recv(channel, 1) == READY:
            child.is_ready = self._was_ready = True

    async def _pause(self, child: _Child, status: int, lived: float) -> None:
        """Wait before a restart if the process ended quickly. Its socket is closed meanwhile."""
        child.restarts += 1
        log.error("a process ended; starting another", process=child.number, status=status, seconds=round(lived, 1))
        if lived >= QUICK_S:
            child.pause = 0.0
            return
        child.pause = min(MAX_PAUSE_S, max(1.0, 2 * child.pause))
        close_all(child.sockets)
        await event_loop.sleep_unless(self._stop, child.pause)
        if not self._stop.is_set():
            child.sockets = self.address.listen(shared=True)

    @contextlib.asynccontextmanager
    async def _metrics(self) -> AsyncIterator[None]:
        """Serve the metrics of all processes on the configured port, each with its label `process`."""
        if self.settings.metrics_port is None:
            yield
            return
        async with ProcessMetrics(self._metrics_ports, self._restarts).opened() as metrics:
            with contextlib.closing(metrics_listener(self.settings.metrics_host, self.settings.metrics_port)) as sock:
                async with serving(MetricsPage(metrics.page), sock):
                    address = f"{self.settings.metrics_host}:{self.settings.metrics_port}"
                    log.info("serving the metrics of all processes", address=address)
                    yield

    def _metrics_ports(self) -> dict[int, int | None]:
        return {child.number: child.metrics_port if child.is_ready else None for child in self.children}

    def _restarts(self) -> dict[int, int]:
        return {child.number: child.restarts for child in self.children}


def supervise(settings: Settings, address: Address, processes: int) -> int:
    """Run this command in several processes on one port; returns the exit status. Raises UsageError."""
    if settings.database_url.startswith("sqlite"):
        raise UsageError(
            f"--processes {processes}: several processes need PostgreSQL (EVERHOOK_DATABASE_URL); SQLite supports one"
        )
    if not hasattr(socket, "SO_REUSEPORT"):
        raise UsageError(f"--processes {processes}: this system has no SO_REUSEPORT")
    close_all(
        address.listen()
    )  # without SO_REUSEPORT: fails if another Everhook uses the port, instead of sharing its connections
    configure_logging(settings.log_format, settings.log_level)
    command = [sys.executable, "-m", "cli", *sys.argv[1:], "--listen-fds"]
    return event_loop.run(Supervisor(address, command, settings).run(processes))


def _signal(process: asyncio.subprocess.Process | None, number: signal.Signals) -> None:
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def inherited_sockets(descriptors: str) -> list[socket.socket]:
    """In a process: the sockets inherited from the parent."""
    return [socket.socket(fileno=int(descriptor)) for descriptor in descriptors.split(",")]


def end_with_parent() -> Callable[[], None]:
    """In a process: end gracefully when the parent ends. Returns a function that reports that this process serves."""
    channel = socket.socket(fileno=os.dup(sys.stdin.fileno()))

    def watch() -> None:
        with contextlib.suppress(OSError):
            channel.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(DRAIN_S)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()

    def ready() -> None:
        with contextlib.suppress(OSError):
            channel.send(READY)

    return ready
