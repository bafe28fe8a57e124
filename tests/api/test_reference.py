"""The API reference for browsers, and the caching headers of responses."""

import re

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from testing.api import ON_SHARED, Api, ok


@ON_SHARED
@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_reference_loads_no_files_of_other_hosts(shared: Api, path: str) -> None:
    response = await shared.http.get(path, follow_redirects=True)

    assert response.status_code == 200
    assert "//" not in response.text.replace("<!doctype html>", "")
    for address in re.findall(r'(?:src|href)="([^"]+)"', response.text):
        assert (await shared.get(address)).status_code == 200, address


@ON_SHARED
@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
async def test_the_reference_cannot_be_framed_and_runs_only_its_own_scripts(shared: Api, path: str) -> None:
    headers = (await shared.get(path)).headers

    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"


@ON_SHARED
async def test_every_response_under_v1_forbids_caching(shared: Api) -> None:
    """Every route, with a key and without: 200, 4xx, and paths without a route."""
    anonymous = httpx.AsyncClient(transport=httpx.ASGITransport(shared.app), base_url="http://everhook.test")
    contexts = [c for c in iter_route_contexts(shared.app.router.routes) if str(c.path).startswith("/v1/")]
    assert len(contexts) > 40
    for http in (shared.http, anonymous):
        for path, method in [("/v1", "GET"), ("/v1/nothing", "GET")] + [
            (str(context.path), method) for context in contexts for method in context.methods or ()
        ]:
            response = await http.request(method, path, json={})
            assert response.headers.get_list("cache-control") == ["no-store"], f"{method} {path}"
            assert response.headers["x-content-type-options"] == "nosniff", f"{method} {path}"


@ON_SHARED
async def test_the_document_is_written_once(shared: Api) -> None:
    first, second = [ok(await shared.get("/openapi.json")) for _ in range(2)]
    assert first == second
    assert shared.app.openapi() is shared.app.openapi()
