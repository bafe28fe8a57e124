"""HTTP servers: uvicorn, with limited connections, and with a callback before it waits for requests in flight."""

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
"""How many seconds requests in flight may take after the start of a shutdown."""

STARTUP_FAILED = 3

BACKLOG = 2048

SWEEP_EVERY_TICKS = 10
"""In uvicorn's ticks of 0.1 s."""


log = structlog.get_logger()


def _nothing() -> None:
    pass


class _Server(uvicorn.Server):
    """A uvicorn server. `ending` is called first at shutdown, to end responses that would otherwise last as long as
    the client listens, such as event streams."""

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
    """A server inside an event loop that the caller owns."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the owner of the loop."""
        yield


class _Main(_Server):
    """A server that is the main task of its process."""

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
        """Exit with status 0 after a drain. (uvicorn raises the signal again, which kills the process.)"""
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
    """A socket bound to the port (0: any). Binding is the reliable check whether it is free.

    The protocol is given explicitly: otherwise asyncio does not set TCP_NODELAY on accepted connections, and responses
    take 40 ms.
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
    """An address to listen on, at each IP address of the host. `option` is named in error messages."""

    host: str
    port: int
    option: str

    def listen(self, *, shared: bool = False) -> list[socket.socket]:
        """Listening sockets; with port 0, all on one free port. Raises ConfigurationError.

        `shared`: other processes may listen on the same port, and the kernel distributes connections (SO_REUSEPORT).
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
    """Serve on listening sockets until SIGTERM or Ctrl-C, as the main task of the process.

    `ready` is called when it serves. Returns when the requests in flight are finished or their grace period is over;
    exits if the server does not start.
    """
    server = _Main(_config(app, PRODUCTION_GRACE_S, limits), ending, ready or _nothing)
    server.run(sockets)
    if not server.started:
        sys.exit(STARTUP_FAILED)


@contextlib.asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, ending: Callable[[], None] = _nothing, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[None]:
    """Serve an ASGI application on a bound socket until the block ends. Raises RuntimeError if it does not start."""
    server = _Guest(_config(app, GRACE_S, limits), ending)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
                raise RuntimeError("the HTTP server did not start; see the log")
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
        proxy_headers=False,  # trusted proxies are Everhook's own setting, `EVERHOOK_TRUSTED_PROXIES`
        timeout_graceful_shutdown=grace_seconds,
    )
