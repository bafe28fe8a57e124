"""A thin client of the API: paths and shapes. Responses are passed on unchanged."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from cli.api_client import shapes
from cli.api_client.errors import ApiError, Unavailable, fields_of
from cli.api_client.target import KEY_VARIABLE, Target
from cli.errors import UsageError
from everhook import __version__

if TYPE_CHECKING:
    import httpx

TIMEOUT_S, CONNECT_TIMEOUT_S = 30.0, 5.0
MAX_PAGE = 500
NOT_FOUND = 404

ELSEWHERE = "`. DIR/environment` for an `everhook dev --data-dir DIR`"
"""The hint for a data directory other than `.everhook` in the current directory."""

JSON = dict[str, Any]
Waiting = Callable[[str], AbstractContextManager[None]]


class Api:
    """The API at a target. Raises ApiError and Unavailable. Threads may share it, unless `waiting` shows its calls."""

    def __init__(self, target: Target, waiting: Waiting | None = None) -> None:
        import httpx

        self.target = target
        self._waiting = waiting or _silently
        headers = {"user-agent": f"everhook/{__version__}", "accept": "application/json"}
        if target.api_key is not None:
            headers["authorization"] = f"Bearer {target.api_key}"
        self._options: dict[str, Any] = {
            "base_url": target.url,
            "headers": headers,
            # Creating a TLS context takes longer than a call, and calls to this machine need no proxy.
            "verify": target.url.startswith("https:"),
            "trust_env": not target.is_here,
        }
        self._http = httpx.Client(timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S), **self._options)

    def close(self) -> None:
        self._http.close()

    def asynchronous(self, timeout_s: float) -> "httpx.AsyncClient":
        """A client for calls that last, or that are made at the same time."""
        import httpx

        return httpx.AsyncClient(timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S), **self._options)

    def refusal(self, response: "httpx.Response") -> ApiError | Unavailable:
        """The error of a response that was read and is no success."""
        return _refusal(self.target, response)

    def unreachable(self, error: "httpx.TransportError") -> Unavailable:
        return Unavailable(_unreachable(self.target, error))

    def send(self, method: str, at: str, body: Any = None, **query: Any) -> str:
        """Make one call; returns the response body, which is empty or JSON."""
        content = None if body is None else json.dumps(body).encode()
        return self._send(method, at, content, query)

    def get(self, at: str, **query: Any) -> Any:
        return parsed(self.send("GET", at, **query))

    def post(self, at: str, body: Any = None) -> Any:
        return parsed(self.send("POST", at, body))

    def patch(self, at: str, body: JSON) -> Any:
        return parsed(self.send("PATCH", at, body))

    def delete(self, at: str, body: Any = None) -> Any:
        return parsed(self.send("DELETE", at, body))

    def walk(self, at: str, at_most: int, **query: Any) -> Iterator[Any]:
        """Iterate over the items of a list, page by page."""
        cursor: str | None = None
        left = at_most
        while left > 0:
            page = self.get(at, limit=min(left, MAX_PAGE), cursor=cursor, **query)
            yield from page["data"]
            left -= len(page["data"])
            cursor = page["nextCursor"]
            if cursor is None:
                return

    def publish(self, channel: str, payload: bytes, **fields: str | None) -> shapes.Accepted:
        """Publish a JSON payload with its bytes unchanged."""
        members = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items() if value is not None]
        body = b"{" + "".join(f"{member}, " for member in members).encode() + b'"payload": ' + payload + b"}"
        try:
            return cast(shapes.Accepted, parsed(self._send("POST", path("channels", channel, "messages"), body, {})))
        except ApiError as error:
            if error.status_code != NOT_FOUND:
                raise
            hint = f"`everhook channels create {channel}` creates it"
            raise ApiError(error.status_code, error.document, hint) from error

    def endpoint(self, gid: str) -> shapes.Endpoint:
        return cast(shapes.Endpoint, self.get(path("endpoints", gid)))

    def delivery(self, gid: str) -> shapes.DeliveryDetail:
        return cast(shapes.DeliveryDetail, self.get(path("deliveries", gid)))

    def deliveries(self, at_most: int, **query: Any) -> Iterator[shapes.Delivery]:
        return self.walk(path("deliveries"), at_most, **query)

    def batch(self, gid: str) -> shapes.Batch:
        return cast(shapes.Batch, self.get(path("batches", gid)))

    def readiness(self) -> shapes.Readiness:
        """The response of `/readyz`, also if the API cannot accept messages."""
        response = self._request("GET", "/readyz")
        if "ready" in (document := _document(response) or {}):
            return cast(shapes.Readiness, document)
        raise _refusal(self.target, response)

    def _send(self, method: str, at: str, content: bytes | None, query: Mapping[str, Any]) -> str:
        response = self._request(method, at, content, query)
        if response.is_success:
            return response.text
        raise _refusal(self.target, response)

    def _request(
        self, method: str, at: str, content: bytes | None = None, query: Mapping[str, Any] | None = None
    ) -> "httpx.Response":
        import httpx

        given = {name: value for name, value in (query or {}).items() if value not in (None, [])}
        headers = {"content-type": "application/json"} if content is not None else {}
        try:
            with self._waiting(f"waiting for {self.target.url} …"):
                return self._http.request(method, at, params=given, content=content, headers=headers)
        except httpx.TransportError as error:
            raise Unavailable(_unreachable(self.target, error)) from error


def _silently(_doing: str) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def path(*parts: str) -> str:
    """`/v1/…` with gids and names. Raises UsageError for parts that would change the path."""
    for part in parts:
        if not part or part in (".", "..") or "/" in part:
            raise UsageError(f"{part!r} is neither a gid nor a name")
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


def parsed(text: str) -> Any:
    """Parse JSON that may hold an untrusted payload, with numbers and nesting of any length."""
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(
            502, {"detail": "The response is not JSON that can be parsed here; --json may show it."}
        ) from error


def _unreachable(target: Target, error: "httpx.TransportError") -> str:
    import httpx

    where = f"{target.url} (from {target.source})"
    if isinstance(error, httpx.TimeoutException):
        return f"{where} does not respond in time; try again, or check with `everhook status`"
    if "refused" in str(error):
        start = "start it with `everhook dev` or `everhook serve`" if target.is_here else "is it running?"
        elsewhere = f"set its address with --api-url, EVERHOOK_URL or a profile, or {ELSEWHERE}"
        return f"nothing listens at {where}: {start}; or {elsewhere}"
    return f"{where} cannot be reached: {error or type(error).__name__}; is the URL right?"


def _refusal(target: Target, response: "httpx.Response") -> ApiError | Unavailable:
    document = _document(response)
    if document is None or "detail" not in document:
        return ApiError(
            response.status_code, {"detail": f"{target.url} responds, but not like Everhook; is the URL right?"}
        )
    if response.status_code in (429, 503):
        wait = response.headers.get("retry-after", "")
        return Unavailable(
            f"{document['detail']} ({response.status_code})" + (f" In {wait} s." if wait.isdecimal() else "")
        )
    return ApiError(response.status_code, document, _hint(target, response.status_code, document))


def _document(response: "httpx.Response") -> JSON | None:
    with contextlib.suppress(ValueError, RecursionError):
        document = response.json()
        if isinstance(document, dict):
            return document
    return None


def _hint(target: Target, status_code: int, document: JSON) -> str:
    if status_code == 401 and target.api_key is None:
        return f"no key was given: set {KEY_VARIABLE}, store one with `everhook profile set`, or {ELSEWHERE}"
    if status_code == 401:
        return f"the key is from {target.key_source}; `everhook keys create` creates another"
    if status_code == 403:
        return f"the key is from {target.key_source}"
    if any(error["field"] == "channel" for error in fields_of(document)):
        return "`everhook channels create NAME` creates a channel"
    return ""
