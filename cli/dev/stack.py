"""`everhook dev`: everything on one machine. Temporal with its UI as a child process; database, worker and API here.

Worker and API share one client and one database, so that workflows start eagerly.
"""

import asyncio
import contextlib
import io
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console

from cli.context import load_settings
from cli.dev import checks
from cli.dev.feed_store import Feed
from cli.dev.files import DATA_DIR, DATABASE_VARIABLE, ENVIRONMENT_FILE, TEMPORAL_VARIABLE, URL_FILE, environment_text
from cli.dev.temporal import EmbeddedTemporal, temporal_command
from cli.dev.terminal import DevUrls, Terminal, TerminalErrors
from cli.errors import UsageError
from everhook import event_loop
from everhook.engine import DeliveryEngine, delivery_engine
from everhook.observability.logging import configure_logging
from everhook.serving.limits import Limits
from everhook.serving.server import bound_socket, serving
from everhook.settings import Settings
from everhook.storage.engine import Database, reason, sqlite_url
from everhook.storage.migrate import MIGRATION_ERRORS, migrate
from everhook.temporal.client import TemporalClient
from everhook.temporal.options import DEFAULT_NAMESPACE
from everhook.temporal.provisioning import setup

__all__ = ["DevOptions", "run_dev", "temporal_command"]

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
LOG_BYTES = 10_000_000
POLL_EVERY_S = 0.5
LINES_PER_POLL = 15
WORKER_PAUSE_S = 1.0
FORCED = 130
"""Exit status after a second Ctrl-C."""

log = structlog.get_logger()


@dataclass(frozen=True)
class DevOptions:
    """The options of `everhook dev`."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8080
    temporal_port: int = 7233
    temporal_ui_port: int = 8233
    demo: bool = True
    api_key: str | None = None


@dataclass(frozen=True)
class DevContext:
    """The result of the checks before the start. `listener` is already bound to the API's port."""

    options: DevOptions
    data_dir: Path
    address: str
    binary: str
    listener: socket.socket
    settings: Settings

    @property
    def temporal_log(self) -> Path:
        return self.data_dir / "temporal.log"

    @property
    def api_url(self) -> str:
        return f"http://{self._host}:{self.options.port}"

    @property
    def temporal_target(self) -> str:
        return f"{self._host}:{self.options.temporal_port}"

    @property
    def temporal_ui_url(self) -> str:
        """The UI's page of Everhook's workflows."""
        return f"http://{self._host}:{self.options.temporal_ui_port}/namespaces/{DEFAULT_NAMESPACE}/workflows"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which another process uses the same API, database and Temporal."""
        settings = self.settings
        assert settings.api_key is not None  # generated at the first start
        return {
            "EVERHOOK_URL": self.api_url,
            "EVERHOOK_API_KEY": settings.api_key.get_secret_value(),
            DATABASE_VARIABLE: settings.database_url,
            "EVERHOOK_MASTER_KEYS": ",".join(key.get_secret_value() for key in settings.master_keys),
            "EVERHOOK_DEV": "true",
            "EVERHOOK_EGRESS_HTTP": "true",
            "EVERHOOK_EGRESS_ALLOW": ",".join(str(network) for network in settings.egress_allow),
            TEMPORAL_VARIABLE: self.temporal_target,
            "TEMPORAL_NAMESPACE": DEFAULT_NAMESPACE,
        }

    @property
    def _host(self) -> str:
        return checks.reachable(self.address)

    @property
    def temporal_command(self) -> list[str]:
        return temporal_command(
            self.binary,
            db_file=self.data_dir / "temporal.db",
            port=self.options.temporal_port,
            ui_port=self.options.temporal_ui_port,
            address=self.address,
        )


def run_dev(options: DevOptions) -> None:
    """Run until Ctrl-C or SIGTERM. Raises UsageError if a check fails."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 gets question marks, and no traceback
    os.umask(0o077)  # the files hold payloads and secrets
    terminal = Terminal(Console())
    with _checked(options) as context, contextlib.suppress(asyncio.CancelledError):
        _log_to_file(context, terminal)
        event_loop.run(_Stack(context, terminal).run())


@contextlib.contextmanager
def _checked(options: DevOptions) -> Iterator[DevContext]:
    """Run all checks, those whose failure causes others first."""
    ports = {
        "--port": options.port,
        "--temporal-port": options.temporal_port,
        "--temporal-ui-port": options.temporal_ui_port,
    }
    with checks.claimed_data_dir(options.data_dir) as data_dir:
        binary = checks.temporal_binary()
        address = checks.resolved(options.host)
        checks.check_distinct(ports)
        for option, port in ports.items():
            checks.check_port(address, port, option)
        for name in (checks.DATABASE_FILE, "temporal.db"):
            checks.check_database(data_dir / name)
        settings = _settings(options, data_dir, checks.reachable(address))
        with bound_socket(address, options.port, "--port") as listener:
            yield DevContext(options, data_dir, address, binary, listener, settings)


def _settings(options: DevOptions, data_dir: Path, host: str) -> Settings:
    """Settings from the options, and otherwise from the environment."""
    settings = load_settings(
        dev=True,
        database_url=sqlite_url(data_dir / checks.DATABASE_FILE),
        host=options.host,
        port=options.port,
        api_key=checks.api_key(data_dir, options.api_key or os.environ.get("EVERHOOK_API_KEY")),
        master_keys=checks.master_keys(data_dir, os.environ.get("EVERHOOK_MASTER_KEYS")),
        egress_http=True,
        temporal_ui_url=f"http://{host}:{options.temporal_ui_port}",
    )
    return settings.model_copy(update={"egress_allow": [*settings.egress_allow, *LOOPBACK]})


def _log_to_file(context: DevContext, terminal: Terminal) -> None:
    """Log to files, so that the terminal stays readable: it shows one line per error."""
    file = RotatingFileHandler(context.data_dir / "everhook.log", maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    configure_logging("json", context.settings.log_level, handler=file)
    logging.getLogger().addHandler(TerminalErrors(terminal))
    if context.temporal_log.exists() and context.temporal_log.stat().st_size > LOG_BYTES:
        context.temporal_log.replace(context.temporal_log.with_suffix(".log.1"))


class _Stack:
    """The parts that run together, the signals that end them, and the order in which they end."""

    def __init__(self, context: DevContext, terminal: Terminal) -> None:
        self._context = context
        self._settings = context.settings
        self._terminal = terminal
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._sign_in_url = ""
        self._temporal = EmbeddedTemporal(
            context.temporal_command,
            target=context.temporal_target,
            log_file=context.temporal_log,
            prepare=self._provision,
            report=terminal.note,
        )

    async def run(self) -> None:
        """Run until a signal, or until a part fails; then that error is raised."""
        starting = asyncio.current_task()
        assert starting is not None
        self._install_signal_handlers(starting)
        async with contextlib.AsyncExitStack() as parts:
            with self._terminal.busy("Starting Temporal, worker and API …"):
                await self._start(parts)
            self._install_signal_handlers(None)
            self._welcome()
            await self._start_demo(parts)
            await self._stop.wait()
        if self._failure is not None:
            raise self._failure

    async def _start(self, parts: contextlib.AsyncExitStack) -> None:
        """Start in the order of dependencies. Parts stop in the opposite order: first new work, then work in flight."""
        await self._migrate()
        database = Database(self._settings.database_url)
        parts.push_async_callback(database.close)
        parts.push_async_callback(self._temporal.stop)
        client = await self._temporal.start()
        await parts.enter_async_context(self._background(self._temporal.keep_alive()))
        await parts.enter_async_context(self._reporting_news(Feed(database)))
        engine = await parts.enter_async_context(delivery_engine(client, database, self._settings))
        await parts.enter_async_context(self._working(engine))
        await parts.enter_async_context(self._api(engine))

    async def _migrate(self) -> None:
        try:
            await migrate(self._settings.database_url)
        except MIGRATION_ERRORS as error:
            file = self._context.data_dir / checks.DATABASE_FILE
            raise UsageError(
                f"{file} cannot be used: {reason(error)}; move it away, or choose another --data-dir"
            ) from error

    async def _provision(self, client: TemporalClient) -> None:
        await setup(client, self._settings)

    @contextlib.asynccontextmanager
    async def _working(self, engine: DeliveryEngine) -> AsyncIterator[None]:
        """Run a worker, and another if it fails: it fails if the server is back with an empty store."""
        ended = asyncio.Event()
        ready = asyncio.Event()
        task = self._watched(self._work(engine, ready, ended))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            yield
        finally:
            waiting.cancel()
            ended.set()
            await asyncio.wait([task])

    async def _work(self, engine: DeliveryEngine, ready: asyncio.Event, ended: asyncio.Event) -> None:
        from worker import running_workers

        while not ended.is_set():
            try:
                async with running_workers(engine):
                    ready.set()
                    await ended.wait()
            except Exception as error:
                if not ready.is_set():
                    raise
                log.exception("the worker gave up; starting another", error=str(error))
                await asyncio.sleep(WORKER_PAUSE_S)

    @contextlib.asynccontextmanager
    async def _api(self, engine: DeliveryEngine) -> AsyncIterator[None]:
        from api import dashboard
        from api.main import create_app, end_streams

        app = create_app(self._settings, engine=engine)
        self._sign_in_url = dashboard.sign_in_link.make_link(app, self._context.api_url)
        dashboard.warm_up()
        limits = Limits.from_settings(self._settings)
        async with serving(app, self._context.listener, lambda: end_streams(app), limits):
            with self._findable():
                yield

    @contextlib.contextmanager
    def _findable(self) -> Iterator[None]:
        """Write the files by which commands in this directory find the API, the database and Temporal."""
        context = self._context
        files = {URL_FILE: context.api_url + "\n", ENVIRONMENT_FILE: environment_text(context.environment)}
        for name, text in files.items():
            checks.write_private(context.data_dir / name, text)
        try:
            yield
        finally:
            for name in files:
                (context.data_dir / name).unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _reporting_news(self, feed: Feed) -> AsyncIterator[None]:
        """Print news to the terminal, and once more at the end, for attempts that ended while the worker drained."""
        await feed.skip_to_end()
        async with self._background(self._report_news(feed)):
            yield
        self._terminal.news(await feed.news(LINES_PER_POLL))

    async def _report_news(self, feed: Feed) -> None:
        while True:
            await asyncio.sleep(POLL_EVERY_S)
            self._terminal.news(await feed.news(LINES_PER_POLL))

    def _welcome(self) -> None:
        from cli.dev.demo import CHANNEL

        context = self._context
        key = self._settings.api_key
        places = DevUrls(
            api=context.api_url,
            sign_in=self._sign_in_url,
            temporal_ui=context.temporal_ui_url,
            temporal=f"{context.temporal_target}, namespace {DEFAULT_NAMESPACE}",
            data_dir=context.data_dir,
            environment=context.data_dir / ENVIRONMENT_FILE if context.data_dir != Path(DATA_DIR).absolute() else None,
            api_key=key.get_secret_value() if key is not None else "",
            channel=CHANNEL if context.options.demo else "default",
        )
        self._terminal.welcome(places, has_endpoints=context.options.demo)

    async def _start_demo(self, parts: contextlib.AsyncExitStack) -> None:
        """Start the demo. If it fails, everything else continues."""
        if not self._context.options.demo:
            return
        from cli.dev.demo import Demo

        key = self._settings.api_key
        assert key is not None
        demo = Demo(self._context.api_url, key.get_secret_value(), self._context.data_dir)
        try:
            await parts.enter_async_context(demo.ready())
        except Exception as error:
            log.exception("the demo did not start", error=str(error))
            return
        await parts.enter_async_context(self._background(demo.publish_forever()))

    @contextlib.asynccontextmanager
    async def _background(self, coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        """Run a task until the block ends."""
        task = self._watched(coroutine)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _watched(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Create a task whose failure stops everything, and is raised at the end."""
        task = asyncio.create_task(coroutine)
        task.add_done_callback(self._note_failure)
        return task

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._stop.set()

    def _install_signal_handlers(self, starting: asyncio.Task[Any] | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, starting)

    def _on_signal(self, starting: asyncio.Task[Any] | None) -> None:
        """Stop gracefully on the first signal, immediately on the second."""
        if self._stop.is_set():
            self._temporal.kill()
            os._exit(FORCED)
        self._stop.set()
        self._terminal.note(
            "Stopping: attempts in flight are finished, the next start continues (Ctrl-C again: stop immediately)"
        )
        if starting is not None:
            starting.cancel()
