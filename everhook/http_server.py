"""An HTTP server inside an event loop that is ours: uvicorn, without its hands on the process's signals."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator
from typing import Any

import uvicorn

GRACE_S = 5
"""How long requests under way may take once the server is to end."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the business of whoever owns the loop."""
        yield


@contextlib.asynccontextmanager
async def serving(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an ASGI application on a bound socket until the block ends. RuntimeError where it does not come up."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whom to believe is our setting, `EVERHOOK_TRUSTED_PROXIES`
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
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
