"""The real API on a real socket, with a proxy in its process that fails as a test configures. Temporal is stopped."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from api.main import end_streams
from everhook.serving.server import bound_socket, serving
from everhook_client import AsyncClient, Client, Retries
from testing.api import API_KEY, JSON, Api, created, ok, running_api
from tests.api.conftest import copied, migrated_file

__all__ = ["migrated_file"]

QUICK = Retries(first=0.01, longest=0.02)

Fault = Callable[[Any, Any, Any, Any], Any]
"""An ASGI application that also gets the application it wraps: `(app, scope, receive, send)`."""


@dataclass
class Proxy:
    """Passes requests on, except that the next ones to a path with a named ending get their fault."""

    app: Any
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def fail(self, ending: str, *faults: Fault) -> None:
        self.faults += [(ending, fault) for fault in faults]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        self.requests.append(f"{scope['method']} {scope['path'].rpartition('/')[2]}")
        for index, (ending, fault) in enumerate(self.faults):
            if scope["path"].endswith(ending):
                del self.faults[index]
                await fault(self.app, scope, receive, send)
                return
        await self.app(scope, receive, send)


def responding(
    status: int, headers: dict[str, str] | None = None, body: bytes = b"proxy", *, after: bool = False
) -> Fault:
    """Respond like this instead; `after`: once the API has carried out the request."""

    async def fault(app: Any, scope: Any, receive: Any, send: Any) -> None:
        if after:
            await app(scope, receive, _nowhere)
        named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        await send({"type": "http.response.start", "status": status, "headers": named})
        await send({"type": "http.response.body", "body": body})

    return fault


def cutting(*, after_chunks: int = 0) -> Fault:
    """Cut the connection after so many parts of the response; with 0, once the API has carried out the request."""

    async def fault(app: Any, scope: Any, receive: Any, send: Any) -> None:
        left = after_chunks
        is_cut = asyncio.Event()

        async def passed_on(message: Any) -> None:
            nonlocal left
            if message["type"] == "http.response.start":
                await send({**message, "headers": [h for h in message["headers"] if h[0] != b"content-length"]})
            elif left:
                left -= 1
                await send({**message, "more_body": True})
                if not left:
                    is_cut.set()

        async def received() -> Any:
            receiving, cutting = asyncio.ensure_future(receive()), asyncio.ensure_future(is_cut.wait())
            await asyncio.wait([receiving, cutting], return_when=asyncio.FIRST_COMPLETED)
            cutting.cancel()
            if receiving.done():
                return receiving.result()
            receiving.cancel()
            return {"type": "http.disconnect"}

        await app(scope, received, passed_on)
        raise ConnectionError("cut")

    return fault


async def _nowhere(_: Any) -> None:
    pass


@dataclass
class Server:
    """The API, its address, and clients that repeat calls quickly."""

    api: Api
    url: str
    proxy: Proxy

    def client(self, key: str = API_KEY, **options: Any) -> Client:
        return Client(self.url, key, **{"retries": QUICK, "http_options": {"trust_env": False}, **options})

    def async_client(self, key: str = API_KEY, **options: Any) -> AsyncClient:
        return AsyncClient(self.url, key, **{"retries": QUICK, "http_options": {"trust_env": False}, **options})

    async def endpoint(self, **body: Any) -> tuple[str, str]:
        """A channel, and an endpoint that is streamed or polled and subscribes to it."""
        channel = f"c{uuid4().hex[:12]}"
        await self.api.channel(channel)
        made = created(await self.api.post("/v1/endpoints", {"mode": "stream", "channel": channel, **body}))
        return channel, made["endpointGid"]

    async def inbox(self, channel: str | None = None, **task: Any) -> JSON:
        """An endpoint that asks people."""
        options = {"name": "Managers", "task": task, "groups": {"finance": ["bo"]}}
        body = {"mode": "inbox", "options": options, **({"channel": channel} if channel else {})}
        return created(await self.api.post("/v1/endpoints", body))

    async def queue(self, gid: str) -> JSON:
        return ok(await self.api.get(f"/v1/endpoints/{gid}/queue"))

    async def attempts(self, gid: str) -> list[tuple[str, str | None]]:
        """The verdict and the error of each attempt of an endpoint."""
        rows = await self.api.rows(
            "SELECT verdict, error FROM attempt JOIN delivery ON delivery.gid = delivery_gid"
            " WHERE delivery.endpoint_gid = :gid ORDER BY attempt.gid",
            gid=gid,
        )
        return [(row.verdict, row.error) for row in rows]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with AsyncExitStack() as opened:
        api = await opened.enter_async_context(running_api(copied(migrated_file, tmp_path_factory.mktemp("sdk"))))
        proxy = Proxy(api.app)
        socket = bound_socket("127.0.0.1", 0, "port")
        await opened.enter_async_context(serving(proxy, socket, ending=lambda: end_streams(api.app)))
        yield Server(api, f"http://127.0.0.1:{socket.getsockname()[1]}", proxy)


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    running.proxy.requests.clear()
    running.proxy.faults.clear()
    yield running
    assert running.proxy.faults == [], "a fault did not happen"


async def in_thread(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return await asyncio.to_thread(function, *args, **options)
