"""Real processes that tests start, watch and kill. None of them outlives the test run, however that ends."""

import asyncio
import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self

import httpx
import psutil

from testing.forks import Forked, fork
from testing.waiting import assert_eventually

REPOSITORY = Path(__file__).resolve().parents[1]
_POLL_SECONDS = 0.02
_TAIL_LINES = 40


class ProcessFailed(AssertionError):
    """A process ended, or did not come up, when it should have: the message ends with its log."""


_given_out: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that no process listens on, and that this process has not given out before."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in _given_out:
            _given_out.add(port)
            return port


def refusing_port() -> int:
    """A TCP port of 127.0.0.1 that refuses connections for as long as this process lives: it is taken, but nothing
    listens on it. A server of another process may be given a free port at any time."""
    port: int = _refusing_socket().getsockname()[1]
    return port


@functools.cache
def _refusing_socket() -> socket.socket:
    bound = socket.socket()
    atexit.register(bound.close)
    bound.bind(("127.0.0.1", 0))
    return bound


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would configure the product, plus `extra`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("EVERHOOK_", "TEMPORAL_"))}
    return {**inherited, "PYTHONUNBUFFERED": "1", **(extra or {})}


@functools.cache
def _die_with_parent() -> tuple[str, ...]:
    """A prefix that has the kernel kill the child should the test run itself be killed; empty where there is none."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    prefix = (setpriv, "--pdeathsig", "KILL")
    works = subprocess.run([*prefix, sys.executable, "-c", ""], capture_output=True, check=False)
    return prefix if works.returncode == 0 else ()


class Process:
    """One child process in its own process group, its output in a log file that grows over restarts.

    `forked`: a command of the product, started in a fork of a process that has imported it (`testing.forks`).
    Start it from the main thread: the kernel ends it with the thread that started it.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        name: str | None = None,
        user: int | None = None,
        group: int | None = None,
        cwd: Path = REPOSITORY,
        forked: bool = False,
    ) -> None:
        self.name = name or log.stem
        self.log = log
        self.env = dict(env or {})
        self._command = [str(part) for part in command]
        self._identity = (user, group)
        self._cwd = cwd
        self._forked = forked
        self._popen: subprocess.Popen[bytes] | Forked | None = None
        self._log_start = 0

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.terminate()

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        if self._popen is None:
            raise ProcessFailed(f"{self.name} was never started")
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        return None if self._popen is None else self._popen.poll()

    def start(self) -> None:
        if self.running:
            raise ProcessFailed(f"{self.name} is running already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            environment = clean_environment(self.env)
            if self._forked:
                self._popen = fork(self._command, log=self.log, env=environment, cwd=self._cwd)
            else:
                self._popen = self._spawn(output, environment)
        _started.add(self)

    def _spawn(self, output: BinaryIO, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        user, group = self._identity
        return subprocess.Popen(
            [*self._prefix(), *self._command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=self._cwd,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )

    def _prefix(self) -> tuple[str, ...]:
        return _die_with_parent()

    def output(self) -> str:
        """What it wrote since it was last started."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def tail(self, lines: int = _TAIL_LINES) -> str:
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"--- {self.name} ({self.log}, status {self.returncode})", *text[-lines:]])

    async def wait_ready(self, *, url: str | None = None, line: str | None = None, timeout: float = 90.0) -> None:
        """Wait until `url` returns 200, or the output contains `line`. ProcessFailed if it ends first or is late."""
        async with httpx.AsyncClient(trust_env=False, timeout=2.0, verify=False) as client:
            deadline = time.monotonic() + timeout
            while not await self._is_ready(client, url, line):
                self.check_alive()
                if time.monotonic() > deadline:
                    raise ProcessFailed(f"{self.name} was not ready after {timeout:g} s\n{self.tail()}")
                await asyncio.sleep(_POLL_SECONDS)

    async def _is_ready(self, client: httpx.AsyncClient, url: str | None, line: str | None) -> bool:
        if line is not None and line not in self.output():
            return False
        if url is None:
            return True
        with contextlib.suppress(httpx.TransportError):
            return (await client.get(url)).status_code == 200
        return False

    def check_alive(self) -> None:
        if not self.running:
            raise ProcessFailed(f"{self.name} ended with status {self.returncode}\n{self.tail()}")

    async def wait(self, timeout: float = 60.0) -> int:
        """Wait until it has ended and return its status. ProcessFailed if it is late."""
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{self.name} had not ended after {timeout:g} s\n{self.tail()}")
            await asyncio.sleep(_POLL_SECONDS)
        return self.returncode or 0

    async def run(self, timeout: float = 60.0) -> str:
        """Start it, wait for its end, and return its output. ProcessFailed on any status but 0."""
        self.start()
        if await self.wait(timeout) != 0:
            raise ProcessFailed(f"{self.name} failed\n{self.tail()}")
        return self.output()

    async def kill9(self) -> None:
        """SIGKILL it and all its descendants, and wait until they are gone."""
        family = self.kill_now()
        await self.wait(10)
        await assert_eventually(lambda: _assert_gone(family), interval=_POLL_SECONDS)

    def kill_now(self) -> list[psutil.Process]:
        """SIGKILL it and all its descendants without waiting, and return the descendants."""
        if self._popen is None or self._popen.poll() is not None:
            return []
        family = _descendants(self._popen.pid)
        self._popen.kill()
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        return family

    async def terminate(self, timeout: float = 20.0) -> None:
        """Ask it to end (SIGTERM), and kill it if it does not listen. Nothing happens if it is not running."""
        if not self.running:
            return
        self.resume()
        self.send_signal(signal.SIGTERM)
        try:
            await self.wait(timeout)
        except ProcessFailed:
            await self.kill9()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, not to its group."""
        os.kill(self.pid, number)

    def suspend(self) -> None:
        """SIGSTOP it and all its descendants: they hold their sockets and do not respond."""
        self._signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_family(signal.SIGCONT)

    def _signal_family(self, number: signal.Signals) -> None:
        self.send_signal(number)
        for member in _descendants(self.pid):
            with contextlib.suppress(psutil.Error):
                member.send_signal(number)

    async def restart(self) -> None:
        await self.terminate()
        self.start()

    def rss_bytes(self) -> int:
        """Resident memory of it and its descendants."""
        return sum(member.memory_info().rss for member in [psutil.Process(self.pid), *_descendants(self.pid)])

    def cpu_seconds(self) -> float:
        """User and system time that it and its descendants have used so far."""
        times = [member.cpu_times() for member in [psutil.Process(self.pid), *_descendants(self.pid)]]
        return sum(time.user + time.system for time in times)


_started: set[Process] = set()


@atexit.register
def _kill_the_rest() -> None:
    for process in _started:
        process.kill_now()


def _assert_gone(family: Sequence[psutil.Process]) -> None:
    left = [member.pid for member in family if not _is_gone(member)]
    if left:
        raise ProcessFailed(f"still running after SIGKILL: {left}")


def _is_gone(process: psutil.Process) -> bool:
    """Ended, though perhaps not reaped: that is for its new parent to do."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []
