"""The clients: they send calls, and repeat those that fail. What is sent and received is in `calls`."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar, Unpack

import httpx

from everhook_client import __version__, calls, models, resources
from everhook_client.calls import Call
from everhook_client.consumer import Consumer, ConsumerOptions, Handler
from everhook_client.errors import ApiError, ConnectionFailed, EverhookError, error_of
from everhook_client.resources import awaitable, blocking
from everhook_client.retries import Retries

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Connection:
    """How a client reaches the API. `http_options` are further options of httpx's clients."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: float
    retries: Retries
    http_options: Mapping[str, Any] | None = field(repr=False)

    def options(self) -> dict[str, Any]:
        given = dict(self.http_options or {})
        headers = {
            "accept": "application/json",
            "user-agent": f"everhook-client/{__version__}",
            **({"authorization": f"Bearer {self.api_key}"} if self.api_key else {}),
            **given.pop("headers", {}),
        }
        # To create a TLS context takes longer than a call.
        defaults = {"verify": self.base_url.startswith("https:"), "timeout": self.time_limits(0.0)}
        return {**defaults, "base_url": self.base_url, "headers": headers, **given}

    def async_client(self) -> "AsyncClient":
        return AsyncClient(
            self.base_url, self.api_key, timeout=self.timeout, retries=self.retries, http_options=self.http_options
        )

    def time_limits(self, waits_s: float) -> httpx.Timeout:
        return httpx.Timeout(self.timeout + waits_s, connect=CONNECT_TIMEOUT_S)

    def arguments(self, call: Call[Any]) -> dict[str, Any]:
        """The request of a call, as httpx takes it."""
        return {
            "method": call.method,
            "url": call.path,
            "params": calls.given(call.query),
            "content": call.content,
            "headers": dict(call.headers),
            "timeout": self.time_limits(call.waits_s),
        }

    def failed(self, error: httpx.TransportError) -> ConnectionFailed:
        was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        return ConnectionFailed(f"{self.base_url}: {error or type(error).__name__}", was_sent=was_sent)

    def checked(self, response: httpx.Response) -> httpx.Response:
        """The response if it is a success. Raises ApiError otherwise."""
        if response.is_success:
            return response
        raise self.refusal(response)

    def refusal(self, response: httpx.Response) -> ApiError:
        return error_of(
            response.status_code,
            document_of(response) or {},
            retry_after=_retry_after(response.headers.get("retry-after")),
            location=self.base_url,
        )


def document_of(response: httpx.Response) -> dict[str, Any] | None:
    """The JSON object of a response; None if it has none."""
    with suppress(ValueError, RecursionError):
        document = response.json()
        if isinstance(document, dict):
            return document
    return None


def parsed(call: Call[T], response: httpx.Response) -> T:
    """The JSON of a response. Raises ApiError if it is none."""
    if not response.content:
        return None  # type: ignore[return-value]  # of a call without a result
    try:
        found: T = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        detail = f"The response of {call.path} is not JSON that can be parsed here."
        raise ApiError(response.status_code, {"detail": detail}) from error
    return found


def _retry_after(header: str | None) -> float | None:
    """Seconds, or an HTTP date, as seconds from now."""
    if header is None:
        return None
    if header.isdecimal():
        return float(header)
    with suppress(ValueError):
        moment = parsedate_to_datetime(header)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    return None


class Client:
    """A client that blocks. Threads may share it.

    Calls raise ApiError or ConnectionFailed. A call that can be repeated safely is repeated, as `retries` says.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        timeout: float = 30.0,
        retries: Retries | None = None,
        http_options: Mapping[str, Any] | None = None,
    ) -> None:
        """`timeout` is in seconds, for each request. `http_options` are further options of `httpx.Client`, such as
        `verify`, `cert`, `proxy` and `headers`."""
        self._connection = Connection(base_url.rstrip("/"), api_key, timeout, retries or Retries(), http_options)
        self._http = httpx.Client(**self._connection.options())
        self.messages = resources.Messages(self)
        self.tasks = resources.Tasks(self)
        self.channels = resources.Channels(self)
        self.event_types = resources.EventTypes(self)
        self.endpoints = resources.Endpoints(self)
        self.subscriptions = resources.Subscriptions(self)
        self.deliveries = resources.Deliveries(self)
        self.dead_letters = resources.DeadLetters(self)
        self.batches = resources.Batches(self)
        self.audit = resources.Audit(self)

    publish = blocking(calls.publish)
    publish_batch = blocking(calls.publish_batch)
    health_overview = blocking(calls.get_health_overview)

    def wait_for(
        self,
        message: str | models.PublishedMessage,
        timeout: float = 60.0,
        *,
        until: models.Until = "settled",
    ) -> models.MessageResult:
        """Wait until a message is settled, up to `timeout` seconds: the outcome, and what each receiver responded.

        After the timeout `state` is `pending`. `until="first"` waits for one delivery only.
        """
        ends_at = time.monotonic() + timeout
        while True:
            response = self.send(calls.wait_once(message, ends_at - time.monotonic(), until))
            if calls.has_waited(response, until) or time.monotonic() >= ends_at:
                return response

    def send(self, call: Call[T]) -> T:
        """Make a call; the JSON of the response."""
        return parsed(call, self.exchange(call))

    def exchange(self, call: Call[Any]) -> httpx.Response:
        """Make a call; the response, which is a success."""
        for failures in itertools.count(1):
            try:
                return self._exchange_once(call)
            except EverhookError as error:
                pause = self._connection.retries.pause(failures, error, is_repeatable=call.is_repeatable)
                if pause is None:
                    raise
            time.sleep(pause)
        raise AssertionError

    def _exchange_once(self, call: Call[Any]) -> httpx.Response:
        try:
            response = self._http.request(**self._connection.arguments(call))
        except httpx.TransportError as error:
            raise self._connection.failed(error) from error
        return self._connection.checked(response)

    def consumer(self, endpoint: str, handler: Handler, **options: Unpack[ConsumerOptions]) -> "BlockingConsumer":
        """A consumer of an endpoint: `run` it, and `stop` it from a thread or a signal handler."""
        return BlockingConsumer(self._connection.async_client(), endpoint, handler, options)

    def consume(self, endpoint: str, handler: Handler, **options: Unpack[ConsumerOptions]) -> None:
        """Hand the messages of an endpoint to a handler, until Ctrl-C. `consumer` can be stopped."""
        self.consumer(endpoint, handler, **options).run()

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        timeout: float = 30.0,
        retries: Retries | None = None,
        http_options: Mapping[str, Any] | None = None,
    ) -> None:
        """As for Client; `http_options` are those of `httpx.AsyncClient`."""
        self._connection = Connection(base_url.rstrip("/"), api_key, timeout, retries or Retries(), http_options)
        self._http = httpx.AsyncClient(**self._connection.options())
        self.messages = resources.AsyncMessages(self)
        self.tasks = resources.AsyncTasks(self)
        self.channels = resources.AsyncChannels(self)
        self.event_types = resources.AsyncEventTypes(self)
        self.endpoints = resources.AsyncEndpoints(self)
        self.subscriptions = resources.AsyncSubscriptions(self)
        self.deliveries = resources.AsyncDeliveries(self)
        self.dead_letters = resources.AsyncDeadLetters(self)
        self.batches = resources.AsyncBatches(self)
        self.audit = resources.AsyncAudit(self)

    publish = awaitable(calls.publish)
    publish_batch = awaitable(calls.publish_batch)
    health_overview = awaitable(calls.get_health_overview)

    async def wait_for(
        self,
        message: str | models.PublishedMessage,
        timeout: float = 60.0,
        *,
        until: models.Until = "settled",
    ) -> models.MessageResult:
        """Wait until a message is settled, up to `timeout` seconds: the outcome, and what each receiver responded.

        After the timeout `state` is `pending`. `until="first"` waits for one delivery only.
        """
        ends_at = time.monotonic() + timeout
        while True:
            response = await self.send(calls.wait_once(message, ends_at - time.monotonic(), until))
            if calls.has_waited(response, until) or time.monotonic() >= ends_at:
                return response

    async def send(self, call: Call[T]) -> T:
        """Make a call; the JSON of the response."""
        return parsed(call, await self.exchange(call))

    async def exchange(self, call: Call[Any]) -> httpx.Response:
        """Make a call; the response, which is a success."""
        for failures in itertools.count(1):
            try:
                return await self.exchange_once(call)
            except EverhookError as error:
                pause = self._connection.retries.pause(failures, error, is_repeatable=call.is_repeatable)
                if pause is None:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError

    async def exchange_once(self, call: Call[Any]) -> httpx.Response:
        """The same without repetition."""
        try:
            response = await self._http.request(**self._connection.arguments(call))
        except httpx.TransportError as error:
            raise self._connection.failed(error) from error
        return self._connection.checked(response)

    @asynccontextmanager
    async def streaming(self, call: Call[Any], *, read_timeout: float) -> AsyncIterator[httpx.Response]:
        """A response with any status, which is read while it arrives. Raises errors of httpx."""
        limits = httpx.Timeout(self._connection.timeout, connect=CONNECT_TIMEOUT_S, read=read_timeout)
        arguments = {**self._connection.arguments(call), "timeout": limits}
        async with self._http.stream(**arguments) as response:
            yield response

    async def refusal(self, response: httpx.Response) -> ApiError:
        """The error of a response that is streamed and is no success."""
        await response.aread()
        return self._connection.refusal(response)

    def failed(self, error: httpx.TransportError) -> ConnectionFailed:
        """The error of this package for one of httpx."""
        return self._connection.failed(error)

    def consumer(self, endpoint: str, handler: Handler, **options: Unpack[ConsumerOptions]) -> Consumer:
        """A consumer of an endpoint: `run` it, and `stop` it from anywhere."""
        return Consumer(self, endpoint, handler, **options)

    async def consume(self, endpoint: str, handler: Handler, **options: Unpack[ConsumerOptions]) -> None:
        """Hand the messages of an endpoint to a handler, until this is cancelled. `consumer` can be stopped."""
        await self.consumer(endpoint, handler, **options).run()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class BlockingConsumer:
    """A consumer that blocks its thread while it runs. The handler runs in threads, unless it is a coroutine
    function."""

    def __init__(self, client: AsyncClient, endpoint: str, handler: Handler, options: ConsumerOptions) -> None:
        self._client = client
        self._consumer = Consumer(client, endpoint, handler, **options)

    def run(self) -> None:
        """Consume until `stop`, or until all of `limit` are handled."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """Take no more messages; `run` returns once those that are being handled are settled."""
        self._consumer.stop()

    async def _run(self) -> None:
        async with self._client:
            await self._consumer.run()
