"""A problem that the OpenAPI document lacks is recorded, and no other response is."""

import json

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from testing.documented import DocumentedProblems, take_undocumented


@pytest.mark.parametrize(
    ("slug", "media_type", "has_route", "is_recorded"),
    [
        ("conflict", "application/problem+json", True, True),
        ("not-found", "application/problem+json", True, False),
        ("method-not-allowed", "application/problem+json", True, False),
        ("conflict", "application/json", True, False),
        ("conflict", "application/problem+json", False, False),
    ],
)
async def test_a_problem_that_its_operation_does_not_document_is_recorded(
    slug: str, media_type: str, has_route: bool, is_recorded: bool
) -> None:
    async def get_thing(scope: Scope, receive: Receive, send: Send) -> None:
        if has_route:
            scope["endpoint"] = get_thing
        response = Response(json.dumps({"type": f"/problems/{slug}"}), media_type=media_type)
        await response(scope, receive, send)

    app = DocumentedProblems(get_thing, lambda: {get_thing: {"not-found"}})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
        await http.get("/things")

    assert take_undocumented() == ([f"{slug} of get_thing (GET /things)"] if is_recorded else [])
