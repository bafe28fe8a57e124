"""How much of a body each route reads: nothing without a key, and never more than the limit of the route.

The routes are read from the application, so a new route is tested without being listed here.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from api.dashboard import MAX_PUBLIC_FORM, PUBLIC_FORMS
from api.main import body_limits
from api.middleware import MAX_BODY_BYTES
from testing.api import ON_SHARED, Api, assert_problem, running_api
from tests.api.conftest import copied, migrated_file
from tests.dashboard.conftest import browsing

__all__ = ["migrated_file"]

PIECE = b" " * 4096
FAR_TOO_MUCH = 20 * 1024 * 1024

SUFFIXES = ["/v1/channels/messages", "/v1/endpoints/messages", "/v1/tenants/messages", "/v1/subscriptions/messages"]
"""Paths with the suffix of the publish route that belong to other routes."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: object, migrated_file: Path) -> AsyncIterator[Api]:
    async with running_api(copied(migrated_file, tmp_path_factory.mktemp("bodies"))) as running:  # type: ignore[attr-defined]
        await running.channel()
        yield running


class Endless:
    """A body without end, or with a declared length. `read` counts the bytes that were read."""

    def __init__(self) -> None:
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.read < FAR_TOO_MUCH:
            self.read += len(PIECE)
            yield PIECE


def changing_routes(app: FastAPI) -> list[tuple[str, str, object]]:
    """Method, path and function of every route that takes a body."""
    found: list[tuple[str, str, object]] = [
        (method, str(context.path), context.endpoint)
        for context in iter_route_contexts(app.router.routes)
        for method in sorted((context.methods or set()) - {"GET", "HEAD"})
    ]
    assert len(found) > 60
    return found


def filled(path: str) -> str:
    for name, value in (("gid", "ep_01m83prhbfe23sdyzab24cmhby"), ("name", "orders"), ("command", "pause")):
        path = path.replace(f"{{{name}}}", value)
    return path


@ON_SHARED
async def test_unauthenticated_bodies_are_not_read_except_for_the_public_forms(api: Api) -> None:
    anonymous = httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://everhook.test")
    for method, path, endpoint in changing_routes(api.app):
        body = Endless()
        response = await anonymous.request(method, filled(path), content=body)
        if endpoint in PUBLIC_FORMS:
            assert response.status_code == 413, path
            assert body.read <= MAX_PUBLIC_FORM + len(PIECE), path
        else:
            refusals = (410,) if path == "/t/{token}" else (401, 303)
            assert response.status_code in refusals, f"{method} {path}: {response.status_code}"
            assert body.read == 0, f"{method} {path}"


@ON_SHARED
async def test_no_route_reads_more_of_a_body_than_its_limit(api: Api) -> None:
    limits = body_limits(api.services.settings)
    async with browsing(api) as visitor:
        await visitor.sign_in()
        for method, path, endpoint in changing_routes(api.app):
            http = api.http if path.startswith("/v1") else visitor.http
            limit = limits.get(endpoint, MAX_BODY_BYTES)  # type: ignore[call-overload]
            for headers in ({}, {"content-type": "application/json"}):
                body = Endless()
                await http.request(method, filled(path), content=body, headers=headers)
                assert body.read <= limit + len(PIECE), f"{method} {path}"


@ON_SHARED
async def test_a_client_that_leaves_before_its_body_ends_causes_no_error(api: Api) -> None:
    async def left(scope: Scope, receive: Receive, send: Send) -> None:
        async def disconnect() -> Message:
            return {"type": "http.disconnect"}

        await api.app(scope, disconnect, send)

    async with browsing(api) as visitor:
        await visitor.sign_in()
        with capture_logs() as logs:
            for method, path, _ in changing_routes(api.app):
                http = api.http if path.startswith("/v1") else visitor.http
                headers = httpx.Headers({**http.headers, "idempotency-key": path, "content-type": "application/json"})
                async with httpx.AsyncClient(
                    transport=httpx.ASGITransport(left), base_url="http://everhook.test", cookies=http.cookies
                ) as leaving:
                    await leaving.request(method, filled(path), headers=headers)
    assert [line for line in logs if line["event"] == "unhandled error"] == []


@ON_SHARED
async def test_an_address_that_ends_like_one_of_publishing_has_the_limit_of_its_route(api: Api) -> None:
    for path in SUFFIXES:
        body = Endless()
        problem = assert_problem(await api.http.request("PATCH", path, content=body), 413)
        assert problem["errors"][0]["field"] == "body"
        assert body.read <= MAX_BODY_BYTES + len(PIECE)


@ON_SHARED
async def test_a_declared_length_that_is_too_long_is_refused_unread(api: Api) -> None:
    for path in ("/v1/channels", "/v1/channels/orders/messages", "/v1/channels/orders/messages/batch"):
        body = Endless()
        response = await api.http.post(path, content=body, headers={"content-length": str(FAR_TOO_MUCH)})
        assert_problem(response, 413)
        assert body.read == 0


@ON_SHARED
async def test_a_request_without_a_key_gets_a_401_even_if_it_has_other_errors(api: Api) -> None:
    anonymous = httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://everhook.test")
    for method, path in (("GET", "/v1"), ("GET", "/v1/nothing"), ("PUT", "/v1/channels"), ("GET", "/v1/messages?x=")):
        assert_problem(await anonymous.request(method, path), 401)
