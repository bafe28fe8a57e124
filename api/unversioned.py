"""Calls of the API without `/v1`: they would reach the dashboard, which sends them to its sign-in page."""

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from api import problem_types
from api.problems import Problem

VERSION = "/v1"


class UnversionedCalls(BaseRoute):
    """Takes requests of programs, which present a key and ask for no page, to paths that `routes` have under `/v1`. Add
    it after those routes and before the dashboard's."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = tuple(routes)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and _is_of_program(Headers(scope=scope)) and self._has_versioned(scope):
            return Match.FULL, {}
        return Match.NONE, {}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """No page has its address here."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        raise Problem(
            problem_types.NOT_FOUND, f"There is no {path[:200]}. The API is under {VERSION}: {VERSION}{path[:200]}"
        )

    def _has_versioned(self, scope: Scope) -> bool:
        versioned = {**scope, "path": VERSION + scope["path"]}
        return any(route.matches(versioned)[0] is not Match.NONE for route in self._routes)


def _is_of_program(headers: Headers) -> bool:
    """Browsers present no key by themselves; a proxy in front of the dashboard may add one to their requests."""
    presents_key = headers.get("authorization", "").lower().startswith("bearer ")
    return presents_key and "cookie" not in headers and "text/html" not in headers.get("accept", "")
