"""HTTP servers: uvicorn, which says that it ends before it waits for the requests under way."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import uvicorn

from everhook.usage import Unusable

GRACE_S = 5
PRODUCTION_GRACE_S = 20
"""How long requests under way may take once the server is to end."""

STARTUP_FAILED = 3


def _nothing() -> None:
    pass


class _Server(uvicorn.Server):
    """`ending` is called first of all when it is to end: what would answer for as long as somebody listens ends then,
    and nobody waits for it."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)


class _Guest(_Server):
    """One inside an event loop that is ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the business of whoever owns the loop."""
        yield


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
        raise Unusable(f"{option} {port}: cannot listen on {address}:{port}: {error.strerror}") from error
    return sock


def require_port(host: str, port: int, option: str) -> None:
    """Raise Unusable where a server that opens its sockets itself could not listen, on any of the host's addresses."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
                sock.listen()
    except OSError as error:
        raise Unusable(f"{option}: cannot listen on {host}:{port}: {error.strerror}") from error


def run(app: Any, host: str, port: int, ending: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, as the process's main business. Exits where the server does not come up."""
    server = _Server(_config(app, PRODUCTION_GRACE_S, host=host, port=port), ending)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILED)


@contextlib.asynccontextmanager
async def serving(app: Any, listener: socket.socket, ending: Callable[[], None] = _nothing) -> AsyncIterator[None]:
    """Serve an ASGI application on a bound socket until the block ends. RuntimeError where it does not come up."""
    server = _Guest(_config(app, GRACE_S), ending)
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


def _config(app: Any, grace_seconds: int, **where: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whom to believe is our setting, `EVERHOOK_TRUSTED_PROXIES`
        timeout_graceful_shutdown=grace_seconds,
        **where,
    )
