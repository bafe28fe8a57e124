"""Driving the API in tests: an app as a context manager, a client that knows its way around, and what a problem is."""

import functools
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import text
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from api.axme import application as axme
from api.dependencies import Services
from api.main import create_app
from everhook.serving.server import bound_socket, serving
from everhook.settings import Settings
from everhook.storage.engine import Database
from everhook.temporal.client import connect
from testing.documented import ByRoute, DocumentedProblems, problems_of
from testing.processes import refusing_port
from testing.waiting import assert_eventually

API_KEY = "test-key-of-the-api-0123456789abcdef"
MASTER_KEY = "dGVzdC1tYXN0ZXIta2V5LW9mLXRoZS1hcGktMDEyMzQ="
UNKNOWN_SUFFIX = "01m83prhbfe23sdyzab24cmhby"
SQLITE = "sqlite+aiosqlite"
RECEIVER_URL = "http://127.0.0.1:9999/hook"
"""Nothing listens there, and with Temporal stopped nothing is sent."""

JSON = dict[str, Any]

ON_SHARED = pytest.mark.asyncio(loop_scope="module")
"""For tests that take the fixture `shared`."""


def sqlite_url(file: Path) -> str:
    return f"{SQLITE}:///{file}"


def settings_for(database_url: str, **overrides: Any) -> Settings:
    if not overrides and database_url.startswith(SQLITE):
        return _usual_settings().model_copy(update={"database_url": database_url})
    return _settings(database_url, **overrides)


@functools.cache
def _usual_settings() -> Settings:
    """Reading the environment takes longer than many tests."""
    return _settings(sqlite_url(Path("replaced.db")))


def _settings(database_url: str, **overrides: Any) -> Settings:
    return Settings(
        **{
            "dev": True,
            "database_url": database_url,
            "api_key": API_KEY,
            "master_keys": MASTER_KEY,
            "egress_allow": "127.0.0.0/8",
            "egress_http": True,
            "sandbox": True,
            "erasure_settle_seconds": 0.5,
            **overrides,
        }
    )


@functools.cache
def openapi_document() -> JSON:
    """The OpenAPI document of the API. Creating one takes a second; do not change it."""
    return _shared_app().openapi()


@functools.cache
def _documented_problems() -> ByRoute:
    paths = openapi_document()["paths"]
    return {
        route.endpoint: problems_of(paths[str(route.path_format)][method.lower()])
        for route in iter_route_contexts(_shared_app().router.routes)
        if isinstance(route.original_route, APIRoute) and route.include_in_schema
        for method in route.methods or ()
    }


class Api:
    """The API over ASGI, with shorthands for what most tests need. Unknown exceptions pass through: they are bugs."""

    def __init__(self, http: httpx.AsyncClient, app: FastAPI) -> None:
        self.http = http
        self.app = app
        self.services: Services = app.state.services

    @property
    def database(self) -> Database:
        return self.services.database

    def presenting(self, key: str) -> "Api":
        """The same API, called with another key."""
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url=self.http.base_url,
            headers={"authorization": f"Bearer {key}"},
        )
        return Api(http, self.app)

    async def key(self, *scopes: str, tenant: str | None = None, name: str = "alice") -> "Api":
        """Make a key; the API as its holder calls it."""
        made = created(await self.post("/v1/api-keys", {"name": name, "scopes": scopes, "tenant": tenant}))
        return self.presenting(made["key"])

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.http.get(path, params=params)

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self._send("POST", path, body)

    async def patch(self, path: str, body: Any) -> httpx.Response:
        return await self._send("PATCH", path, body)

    async def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        """JSON as Python writes it, NaN and lone surrogates included: httpx itself would refuse to."""
        if body is None:
            return await self.http.request(method, path)
        return await self.http.request(
            method, path, content=json.dumps(body), headers={"content-type": "application/json"}
        )

    async def delete(self, path: str) -> httpx.Response:
        return await self.http.delete(path)

    async def channel(self, name: str = "orders", **body: Any) -> JSON:
        return created(await self.post("/v1/channels", {"name": name, **body}))

    async def endpoint(self, url: str = RECEIVER_URL, **body: Any) -> JSON:
        return created(await self.post("/v1/endpoints", {"url": url, **body}))

    async def publish(self, payload: Any = None, channel: str = "orders", **body: Any) -> JSON:
        """Publish and be accepted; the type is `order.created` unless named."""
        return accepted(await self.try_publish({"type": "order.created", "payload": payload, **body}, channel))

    async def try_publish(
        self, body: JSON | bytes, channel: str = "orders", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.post(f"/v1/channels/{channel}/messages", content=content, headers=headers)

    async def try_batch(self, messages: Any, channel: str = "orders") -> httpx.Response:
        content = messages if isinstance(messages, bytes) else json.dumps({"messages": messages}).encode()
        return await self.http.post(f"/v1/channels/{channel}/messages/batch", content=content)

    async def rows(self, sql: str, **params: Any) -> list[Any]:
        """What the database itself holds."""
        async with self.database.read_connection() as connection:
            return list((await connection.execute(text(sql), params)).all())

    async def change_rows(self, sql: str, **params: Any) -> None:
        async with self.database.write_connection() as connection:
            await connection.execute(text(sql), params)

    async def count(self, table: str) -> int:
        return int((await self.rows(f"SELECT count(*) FROM {table}"))[0][0])

    async def walk(self, path: str, **params: Any) -> list[JSON]:
        """Every item of a list, page by page."""
        items: list[JSON] = []
        cursor: str | None = None
        while True:
            page = ok(await self.get(path, **params, **({"cursor": cursor} if cursor else {})))
            items += page["data"]
            cursor = page["nextCursor"]
            if cursor is None:
                return items


@asynccontextmanager
async def running_api(settings: Settings, temporal: Any = None) -> AsyncIterator[Api]:
    """The app with its lifespan. Without `temporal` it is given a client to a port where nothing listens, and sends
    nothing: its endpoints have addresses that are not ours."""
    client = temporal
    if client is None:
        client = await connect(lazy=True, target_host=f"127.0.0.1:{refusing_port()}")
        settings = settings.model_copy(update={"express": False})
    app = create_app(settings, temporal=client)
    _share_routes(app)
    app.add_middleware(DocumentedProblems, documented=_documented_problems)
    before = _sqlite_threads()
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://everhook.test",
            headers={"authorization": f"Bearer {API_KEY}"},
        ) as http,
    ):
        yield Api(http, app)
    if temporal is None:
        await assert_eventually(lambda: _assert_ended(_sqlite_threads() - before), interval=0.002)


def _share_routes(app: FastAPI) -> None:
    """Its routes, and the document of them, are the same for all settings: what differs is in `app.state`, the
    lifespan, the middleware, and the application that is mounted for `axme`. FastAPI resolves each route at its first
    request, which takes longer than the request."""
    shared, own = _shared_app(), app.router.routes
    routes = list(shared.router.routes)
    for index, route in enumerate(own):
        if isinstance(route, Mount) and route.path == axme.PREFIX:
            routes.insert(index, route)
    own[:] = routes
    app.openapi = shared.openapi  # type: ignore[method-assign]


@functools.cache
def _shared_app() -> FastAPI:
    return create_app(Settings(dev=True))


def _sqlite_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name}


def _assert_ended(threads: set[threading.Thread]) -> None:
    """A connection's thread ends a moment after it was closed. It must not outlive the loop."""
    assert not threads


@asynccontextmanager
async def on_a_port(app: ASGIApp, ending: Callable[[], None] = lambda: None) -> AsyncIterator[int]:
    """Serve an application whose lifespan is that of `running_api`; yields the port of 127.0.0.1."""

    async def without_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)

    listener = bound_socket("127.0.0.1", 0, "port")
    async with serving(without_lifespan, listener, ending=ending):
        yield listener.getsockname()[1]


def ok(response: httpx.Response) -> JSON:
    return _body(response, 200)


def created(response: httpx.Response) -> JSON:
    return _body(response, 201)


def accepted(response: httpx.Response) -> JSON:
    return _body(response, 202)


def _body(response: httpx.Response, status: int) -> JSON:
    assert response.status_code == status, f"{response.status_code}: {response.text}"
    assert response.headers["content-type"] == "application/json"
    body: JSON = response.json()
    return body


def assert_problem(response: httpx.Response, status: int, field: str | None = None) -> JSON:
    """A problem document of that status which, where `field` is given, names that field and no other."""
    assert response.status_code == status, f"{response.status_code}: {response.text}"
    assert response.headers["content-type"] == "application/problem+json"
    problem: JSON = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    if field is not None:
        assert [error["field"] for error in problem["errors"]] == [field]
        assert field in problem["detail"]
    return problem
