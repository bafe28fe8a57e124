"""Every problem that the API responds with in a test is documented for its operation: else the test fails.

The application of `testing.api` has `DocumentedProblems` as its outermost middleware, which records what the OpenAPI
document lacks; `tests/conftest.py` looks at it after each test.
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ByRoute = Mapping[Any, Collection[str]]
"""The slugs of the documented problems, by the function of the route."""

_undocumented: list[str] = []


def problems_of(operation: Mapping[str, Any]) -> set[str]:
    """The slugs of the problems that an operation of the OpenAPI document has."""
    return {
        slug
        for response in operation["responses"].values()
        for slug in response.get("content", {}).get("application/problem+json", {}).get("examples", {})
    }


def take_undocumented() -> list[str]:
    """The problems that were recorded since the last call."""
    found = _undocumented[:]
    _undocumented.clear()
    return found


class DocumentedProblems:
    """Record the problems that the document of an operation lacks.

    Responses without a route have no operation. `method-not-allowed` has none either: the path has other methods.
    """

    def __init__(self, app: ASGIApp, documented: Callable[[], ByRoute]) -> None:
        self._app = app
        self._documented = documented

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_problem = False

        async def send_recorded(message: Message) -> None:
            nonlocal is_problem
            if message["type"] == "http.response.start":
                is_problem = (b"content-type", b"application/problem+json") in message["headers"]
            elif is_problem:
                self._record(scope, message["body"])
            await send(message)

        await self._app(scope, receive, send_recorded)

    def _record(self, scope: Scope, body: bytes) -> None:
        documented = self._documented().get(scope.get("endpoint"))
        slug = json.loads(body)["type"].rpartition("/")[2]
        if documented is not None and slug not in documented and slug != "method-not-allowed":
            _undocumented.append(f"{slug} of {scope['endpoint'].__name__} ({scope['method']} {scope['path']})")
