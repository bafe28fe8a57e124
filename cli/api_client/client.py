"""The API at a target, as commands call it: through `everhook_client`, with errors that say what to do."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from cli.api_client.errors import ApiError, Unavailable, fields_of
from cli.api_client.target import KEY_VARIABLE, Target
from everhook import __version__
from everhook_client import calls, models
from everhook_client.calls import Call, Listing, RawJson

if TYPE_CHECKING:
    from everhook_client import AsyncClient, EverhookError

MAX_PAGE = 500
NOT_FOUND = 404

ELSEWHERE = "`. DIR/environment` for an `everhook dev --data-dir DIR`"
"""The hint for a data directory other than `.everhook` in the current directory."""

T = TypeVar("T")
Waiting = Callable[[str], AbstractContextManager[None]]


class Fields(TypedDict, total=False):
    """Fields of a message next to its payload."""

    type: str | None
    idempotency_key: str | None
    tenant: str | None
    published_at: str | None
    metadata: Mapping[str, str] | None
    endpoint_gid: str | None
    retry: bool
    deliver_at: str | None
    delay_seconds: float | None
    group_key: str | None


class Api:
    """The API at a target. Raises ApiError and Unavailable. Threads may share it, unless `waiting` shows its calls.

    Nothing is repeated: a person sees the error at once.
    """

    def __init__(self, target: Target, waiting: Waiting | None = None) -> None:
        from everhook_client import Client

        self.target = target
        self._waiting = waiting or _silently
        self._client = Client(target.url, target.api_key, **_options(target))

    def close(self) -> None:
        self._client.close()

    def asynchronous(self) -> "AsyncClient":
        """A client for calls that last. Its errors are for `explained`."""
        from everhook_client import AsyncClient

        return AsyncClient(self.target.url, self.target.api_key, **_options(self.target))

    def call(self, call: Call[T]) -> T:
        """Make a call; the JSON of the response."""
        found: T = parsed(self.text(call))
        return found

    def text(self, call: Call[Any]) -> str:
        """Make a call; the body of the response, which is empty or JSON."""
        from everhook_client import EverhookError

        try:
            with self._waiting(f"waiting for {self.target.url} …"):
                return self._client.exchange(call).text
        except EverhookError as error:
            raise self.explained(error) from error

    def items(self, listing: Listing[T], at_most: int) -> Iterator[T]:
        """Iterate over the items of a list, page by page."""
        cursor: str | None = None
        left = at_most
        while left > 0:
            page = self.call(listing.page(cursor, min(left, MAX_PAGE)))
            yield from page["data"]
            left -= len(page["data"])
            cursor = page["nextCursor"]
            if cursor is None:
                return

    def publish(self, channel: str, payload: bytes, **fields: Unpack[Fields]) -> models.PublishedMessage:
        """Publish a JSON payload with its bytes unchanged."""
        try:
            return self.call(calls.publish(channel, RawJson(payload), **fields))
        except ApiError as error:
            if error.status_code != NOT_FOUND:
                raise
            hint = f"`everhook channels create {channel}` creates it"
            raise ApiError(error.status_code, error.document, hint) from error

    def readiness(self) -> models.Readiness:
        """The response of `/readyz`, also if the API cannot accept messages."""
        from everhook_client import ApiError as Refusal
        from everhook_client import EverhookError

        try:
            return self._client.send(calls.get_readiness())
        except EverhookError as error:
            if isinstance(error, Refusal) and "ready" in error.document:
                found: Any = error.document
                return found  # type: ignore[no-any-return]
            raise self.explained(error) from error

    def explained(self, error: "EverhookError") -> ApiError | Unavailable:
        """The error for people, with what to do."""
        from everhook_client import ApiError as Refusal

        if not isinstance(error, Refusal):
            return Unavailable(_unreachable(self.target, error))
        if not error.is_problem:
            return ApiError(error.status, {"detail": error.detail.rstrip(".") + "; is the URL right?"})
        if error.status in (429, 503):
            wait = f" In {error.retry_after:g} s." if error.retry_after is not None else ""
            return Unavailable(f"{error}{wait}")
        return ApiError(error.status, error.document, _hint(self.target, error.status, error.document))


def _options(target: Target) -> dict[str, Any]:
    from everhook_client.retries import NEVER

    # Calls to this machine need no proxy.
    http_options = {"headers": {"user-agent": f"everhook/{__version__}"}, "trust_env": not target.is_here}
    return {"retries": NEVER, "http_options": http_options}


def _silently(_doing: str) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


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


def _unreachable(target: Target, error: "EverhookError") -> str:
    import httpx

    where = f"{target.url} (from {target.source})"
    cause = error.__cause__
    if isinstance(cause, httpx.TimeoutException):
        return f"{where} does not respond in time; try again, or check with `everhook status`"
    if "refused" in str(cause):
        start = "start it with `everhook dev` or `everhook serve`" if target.is_here else "is it running?"
        elsewhere = f"set its address with --api-url, EVERHOOK_URL or a profile, or {ELSEWHERE}"
        return f"nothing listens at {where}: {start}; or {elsewhere}"
    return f"{where} cannot be reached: {cause or type(cause).__name__}; is the URL right?"


def _hint(target: Target, status_code: int, document: dict[str, Any]) -> str:
    if status_code == 401 and target.api_key is None:
        return f"no key was given: set {KEY_VARIABLE}, store one with `everhook profile set`, or {ELSEWHERE}"
    if status_code == 401:
        return f"the key is from {target.key_source}; `everhook keys create` creates another"
    if status_code == 403:
        return f"the key is from {target.key_source}"
    if any(error["field"] == "channel" for error in fields_of(document)):
        return "`everhook channels create NAME` creates a channel"
    return ""
