"""HTTP servers: uvicorn, with bounded connections, and an announcement before it waits for requests under way."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
import uvicorn

from everhook.errors import ConfigurationError
from everhook.serving.limits import DEFAULT_LIMITS, Limits
from everhook.serving.protocol import BoundedProtocol, ServerConfig

GRACE_S = 5
PRODUCTION_GRACE_S = 20
"""How long requests under way may take once the server is to end."""

STARTUP_FAILED = 3

BACKLOG = 2048

SWEEP_EVERY_TICKS = 10
"""Of uvicorn's ticks, which are 0.1 s apart."""


log = structlog.get_logger()


def _nothing() -> None:
    pass


class _Server(uvicorn.Server):
    """`ending` is called first of all when it is to end: what would answer for as long as somebody listens ends then,
    and nobody waits for it."""

    config: ServerConfig

    def __init__(self, config: ServerConfig, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_EVERY_TICKS == 0:
            self._sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def _sweep(self, now: float) -> None:
        for connection in tuple(self.server_state.connections):
            assert isinstance(connection, BoundedProtocol)
            connection.sweep(now)
        self.config.bounded.report(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)


class _Guest(_Server):
    """One inside an event loop that is ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the business of whoever owns the loop."""
        yield


class _Main(_Server):
    """The main business of its process."""

    def __init__(self, config: ServerConfig, ending: Callable[[], None], ready: Callable[[], None]) -> None:
        super().__init__(config, ending)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info("serving the API", addresses=[_shown(sock) for sock in sockets or []])
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("draining", connections=len(self.server_state.connections))
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Ends with status 0 after a drain. (uvicorn's own raises the signal again, and the process dies of it.)"""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _shown(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bound_socket(address: str, port: int, option: str) -> socket.socket:
    """A socket bound to the port (0: any): the surest check is to take it.

    It says outright that it is TCP: else asyncio does not set TCP_NODELAY on what it accepts, and answers take 40 ms.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen()
    except OSError as error:
        sock.close()
        raise ConfigurationError(f"{option} {port}: cannot listen on {address}:{port}: {error.strerror}") from error
    return sock


@dataclass(frozen=True)
class Address:
    """Where to listen: on each address that the host has. `option` is named where that cannot be."""

    host: str
    port: int
    option: str

    def listen(self, *, shared: bool = False) -> list[socket.socket]:
        """Listening sockets; with port 0 on one that is free. Raises ConfigurationError.

        `shared`: others may listen on the same port, and the kernel spreads connections over all (SO_REUSEPORT).
        """
        found: list[socket.socket] = []
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                port = found[0].getsockname()[1] if found else self.port
                sock = socket.socket(family, kind, protocol)
                found.append(_listening(sock, (address[0], port, *address[2:]), shared))
        except OSError as error:
            close_all(found)
            raise ConfigurationError(
                f"{self.option}: cannot listen on {self.host}:{self.port}: {error.strerror}"
            ) from error
        return found


def _listening(sock: socket.socket, address: tuple[Any, ...], shared: bool) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def close_all(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def run(
    app: Any,
    sockets: list[socket.socket],
    limits: Limits,
    ending: Callable[[], None],
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve on listening sockets until SIGTERM or Ctrl-C, as the process's main business.

    `ready` is called when it serves. It returns when the requests under way are over, or their grace is; it exits where
    the server does not come up.
    """
    server = _Main(_config(app, PRODUCTION_GRACE_S, limits), ending, ready or _nothing)
    server.run(sockets)
    if not server.started:
        sys.exit(STARTUP_FAILED)


@contextlib.asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, ending: Callable[[], None] = _nothing, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[None]:
    """Serve an ASGI application on a bound socket until the block ends. RuntimeError where it does not come up."""
    server = _Guest(_config(app, GRACE_S, limits), ending)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
                raise RuntimeError("the HTTP server did not come up; the log says why")
            await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        await task


def _config(app: Any, grace_seconds: int, limits: Limits) -> ServerConfig:
    return ServerConfig(
        app,
        limits,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whom to believe is our setting, `EVERHOOK_TRUSTED_PROXIES`
        timeout_graceful_shutdown=grace_seconds,
    )
