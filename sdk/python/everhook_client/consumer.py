"""Consume an endpoint: receive messages, have them handled, and settle them.

Messages are streamed, and polled where streaming does not work. A message is taken only when there is room for it, and
its lease is extended for as long as it is here. Acknowledgements are sent in batches: while one request is under way,
the next batch grows. A consumer that is stopped finishes what it has begun, settles it, and gives back the rest.
"""

import asyncio
import contextvars
import functools
import inspect
import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import httpx

from everhook_client.calls import JSON_TYPE, Call, path
from everhook_client.errors import ApiError, EverhookError
from everhook_client.event_stream import Event, EventParser
from everhook_client.messages import Message, Unreadable, items_in, read_message
from everhook_client.models import LeaseResult, LeaseResults
from everhook_client.observing import Observer

if TYPE_CHECKING:
    from everhook_client.client import AsyncClient

Handler = Callable[[Message], Any]
"""Returns the result for the sender of the message, any JSON up to 16 KiB, or None. A coroutine function, or a function
that runs in a thread."""

Mode = Literal["auto", "poll"]

MAX_LINES = 100
MAX_RESULT_BYTES = 16 * 1024
MAX_RESULT_DEPTH = 250
MAX_REASON = 1_000
MAX_RETRY_AFTER_S = 7 * 24 * 3_600
MAX_PREFETCH = 500
MAX_POLLED = 100
POLL_S = 20.0
LAST_TRIES_S = 20.0
"""How long a consumer that ends repeats a request that fails."""

CANNOT_STREAM = {404, 405, 406, 415, 429, 501}


class Retry(Exception):
    """Raised by a handler: deliver the message again, `after` so many seconds or on the policy's schedule."""

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        if after is not None and not 0 <= after <= MAX_RETRY_AFTER_S:
            raise ValueError(f"after: must be 0 to {MAX_RETRY_AFTER_S} seconds")
        super().__init__(reason)
        self.after = after


class Reject(Exception):
    """Raised by a handler: do not deliver the message again. It becomes a dead letter."""


@dataclass(frozen=True)
class Timing:
    """Times in seconds. The server writes to a stream at least every 15 s."""

    hello: float = 10.0
    silence: float = 40.0
    short: float = 60.0
    stream_again: float = 300.0
    first_pause: float = 0.5
    longest_pause: float = 15.0


DEFAULT_TIMING = Timing()


class ConsumerOptions(TypedDict, total=False):
    """The options of a consumer: see Consumer."""

    mode: Mode
    concurrency: int
    prefetch: int | None
    lease_seconds: int
    name: str | None
    limit: int | None
    observer: Observer | None
    timing: Timing


class CannotStream(Exception):
    """Streaming does not work between here and the API."""


@dataclass(frozen=True)
class _Line:
    """A line of a request to `…/acks`: `kind` is `acks`, `nacks` or `extends`."""

    kind: str
    body: dict[str, Any]
    on_result: Callable[[LeaseResult], None]


class Consumer:
    """Hands the messages of an endpoint to a handler, until `stop`. To run several at once is fine: they share the
    work."""

    def __init__(
        self,
        client: "AsyncClient",
        endpoint: str,
        handler: Handler,
        *,
        mode: Mode = "auto",
        concurrency: int = 8,
        prefetch: int | None = None,
        lease_seconds: int = 60,
        name: str | None = None,
        limit: int | None = None,
        observer: Observer | None = None,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        """`auto` streams, and polls where that does not work. `concurrency`: how many messages are handled at a time.
        `prefetch`: how many are received ahead of that, at most; as many by default. `lease_seconds`: after how long
        without a sign of life of this consumer others get its messages. `name` is for operators. `limit`: stop after so
        many messages."""
        if concurrency < 1:
            raise ValueError("concurrency: must be 1 or more")
        if limit is not None and limit < 1:
            raise ValueError("limit: must be 1 or more")
        self._client = client
        self._observer = observer or Observer()
        self._at = functools.partial(path, "endpoints", endpoint)
        self._at()  # raises InvalidName now
        self._handler = handler
        self._polls_always = mode == "poll"
        self._concurrency = concurrency
        self._credit = min(concurrency + (concurrency if prefetch is None else prefetch), MAX_PREFETCH)
        self._lease_seconds = lease_seconds
        self._name = name
        self._timing = timing
        self._is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004 - of an object
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._waiting: deque[Message] = deque()
        self._running: dict[asyncio.Task[None], Message] = {}
        self._lines: deque[_Line] = deque()
        self._has_lines = asyncio.Event()
        self._is_closing = False
        self._extending = 0
        self._left = limit
        self._failure: BaseException | None = None
        self._last_begun: str | None = None
        self._retry_s = self._timing.first_pause
        self._cuts = 0
        self._polls_until = 0.0
        self._held: str | None = None
        self._transport: str | None = None

    def stop(self) -> None:
        """Take no more messages; `run` returns once those that are being handled are settled. Any thread and any
        signal handler may call it."""
        if self._loop is None:
            self._stopping.set()
            return
        with suppress(RuntimeError):  # the loop is closed: it has ended
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def run(self) -> None:
        """Consume until `stop`, or until all of `limit` are handled. Raises ApiError where no repetition helps, such as
        for an unknown endpoint; what has begun is settled first. If it is cancelled, handlers are cancelled."""
        self._loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(self._concurrency, "everhook-consumer") as pool:
            self._pool = pool
            async with self._background(self._settle(), closing=True) as settling, self._background(self._extend()):
                try:
                    async with self._background(self._take()) as taking:
                        await self._until_stopped(taking, settling)
                except asyncio.CancelledError:
                    self._cancel_handlers()
                    raise
                finally:
                    await self._finish()
        if self._failure is not None:
            raise self._failure

    async def _until_stopped(self, *tasks: asyncio.Task[None]) -> None:
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            self._stopping.set()

    @asynccontextmanager
    async def _background(
        self, work: Coroutine[Any, Any, None], *, closing: bool = False
    ) -> AsyncIterator[asyncio.Task[None]]:
        """A task that is cancelled at the end of the block or, with `closing`, ends by itself. Raises its error."""
        task = asyncio.create_task(work)
        try:
            yield task
        finally:
            if closing:
                self._is_closing = True
                self._has_lines.set()
            else:
                task.cancel()
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait([task])
                raise
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _finish(self) -> None:
        """Give back what was not begun, and wait for what was."""
        self._waiting.clear()
        try:
            await self._give_back()
            while self._running:
                await asyncio.wait(self._running)
        except asyncio.CancelledError:
            self._cancel_handlers()
            while self._running:
                await asyncio.wait(self._running)
            raise

    def _cancel_handlers(self) -> None:
        """Threads cannot be cancelled: they finish, and are settled."""
        if self._is_async:
            for task in self._running:
                task.cancel()

    # Handling

    def _arrived(self, raw: bytes, event_id: str | None = None) -> None:
        message = read_message(raw, event_id)
        if isinstance(message, Unreadable):
            body = {"lease": message.lease, **_reason(message.reason), "deadLetter": True}
            self._add_line(_Line("nacks", body, lambda _: None))
            return
        self._waiting.append(message)
        self._begin()

    def _begin(self) -> None:
        """Begin with messages that wait, as long as there is room for them."""
        while self._waiting and len(self._running) < self._concurrency and not self._stopping.is_set():
            message = self._waiting.popleft()
            self._last_begun = message.event_id
            task = asyncio.create_task(self._handle(message))
            self._running[task] = message
            task.add_done_callback(self._ended)
            if self._left is not None:
                self._left -= 1
                if not self._left:
                    self._stopping.set()
        self._changed.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:  # of the observer
            self._failure = error
            self._stopping.set()
        self._begin()

    async def _handle(self, message: Message) -> None:
        began = time.monotonic()
        kind = "nacks"
        body: dict[str, Any] = {"lease": message.lease}
        try:
            body = {**body, **_result(await self._call(message))}
            kind = "acks"
        except Retry as error:
            after = {"retryAfterSeconds": error.after} if error.after is not None else {}
            body = {**body, **_reason(str(error)), **after}
        except Reject as error:
            body = {**body, **_reason(str(error)), "deadLetter": True}
        except Exception as error:
            self._observer.handler_raised(message, error)
            body = {**body, **_reason(f"{type(error).__name__}: {error}")}
        reason = body.get("reason")

        def report(result: LeaseResult) -> None:
            self._observer.settled(message, result, reason, time.monotonic() - began)

        self._add_line(_Line(kind, body, report))

    async def _call(self, message: Message) -> Any:
        if self._is_async:
            return await self._handler(message)
        context = contextvars.copy_context()
        assert self._loop is not None
        return await self._loop.run_in_executor(self._pool, context.run, self._handler, message)

    # Settling

    def _add_line(self, line: _Line) -> None:
        self._lines.append(line)
        self._has_lines.set()

    async def _settle(self) -> None:
        """Send acknowledgements, returns and extensions, until there are no more."""
        while True:
            await self._has_lines.wait()
            self._has_lines.clear()
            while self._lines:
                batch = [self._lines.popleft() for _ in range(min(len(self._lines), MAX_LINES))]
                await self._send(batch)
                self._changed.set()
            if self._is_closing:
                return

    async def _send(self, batch: list[_Line]) -> None:
        kinds = ("acks", "nacks", "extends")
        ordered = sorted(batch, key=lambda line: kinds.index(line.kind))
        body = {kind: [line.body for line in ordered if line.kind == kind] for kind in kinds}
        content = json.dumps(body, ensure_ascii=False).encode()
        call: Call[LeaseResults] = Call("POST", self._at("acks"), content=content, headers=JSON_TYPE)
        response = await self._repeated(lambda: self._client.exchange_once(call))
        results: LeaseResults = json.loads(response.content)
        for line, result in zip(ordered, results["data"], strict=True):
            line.on_result(result)

    async def _extend(self) -> None:
        """Extend the leases of all messages that are here, well before they end."""
        seconds = self._lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            if self._extending:
                continue  # the last extensions have no response yet
            for message in (*self._running.values(), *self._waiting):
                self._extending += 1
                body = {"lease": message.lease, "seconds": seconds}
                self._add_line(_Line("extends", body, functools.partial(self._extended, message)))

    def _extended(self, message: Message, result: LeaseResult) -> None:
        self._extending -= 1
        if result["status"] == "extended":
            return
        if message in self._waiting:
            self._waiting.remove(message)
        elif message in self._running.values():
            self._observer.lease_lost(message, result)

    async def _repeated(self, request: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """The response to a request, which is repeated until there is one. Raises errors that do not pass; any error
        that lasts once the consumer stops."""
        pause = self._timing.first_pause
        gives_up_at: float | None = None
        while True:
            try:
                return await request()
            except EverhookError as error:
                if self._stopping.is_set() and gives_up_at is None:
                    gives_up_at = time.monotonic() + LAST_TRIES_S
                if _is_lasting(error) or (gives_up_at is not None and time.monotonic() > gives_up_at):
                    raise
                self._observer.failed(error)
            await asyncio.sleep(_jittered(pause))
            pause = min(pause * 2, self._timing.longest_pause)

    # Receiving

    async def _take(self) -> None:
        """Receive messages, for ever. Connections that are lost are made again."""
        failures = 0
        while True:
            await self._room()
            try:
                await (self._poll() if self._polls else self._stream())
                failures = 0
            except CannotStream as reason:
                self._polls_until = time.monotonic() + self._timing.stream_again
                self._observer.fell_back(str(reason))
            except EverhookError as error:
                if _is_lasting(error):
                    raise
                self._observer.failed(error)
                failures += 1
                timing = self._timing
                await asyncio.sleep(_jittered(min(timing.first_pause * 2.0 ** (failures - 1), timing.longest_pause)))

    @property
    def _polls(self) -> bool:
        return self._polls_always or time.monotonic() < self._polls_until

    async def _room(self) -> None:
        """Wait until no message waits, another could begin, and what was handled is settled by and large."""
        while self._waiting or len(self._running) >= self._concurrency or len(self._lines) >= MAX_LINES:
            self._changed.clear()
            await self._changed.wait()

    def _query(self, **more: Any) -> dict[str, Any]:
        return {"leaseSeconds": self._lease_seconds, "consumer": self._name, **more}

    def _at_most(self, count: int) -> int:
        return min(count, self._left) if self._left is not None else count

    async def _poll(self) -> None:
        free = self._at_most(min(self._concurrency - len(self._running), MAX_POLLED))
        call: Call[Any] = Call("GET", self._at("poll"), self._query(limit=free, waitSeconds=POLL_S), waits_s=POLL_S)
        response = await self._client.exchange_once(call)
        self._connected("poll")
        self._last_begun = None
        items = list(items_in(response.content))
        if not items and (held := response.json().get("held")) != self._held:
            self._held = held
            self._observer.held(held)
        for item in items:
            self._arrived(item)

    async def _stream(self) -> None:
        """The messages of one stream. Raises CannotStream, and the error of a connection that failed."""
        timing = self._timing
        began = time.monotonic()
        last: Event | None = None
        try:
            async with (
                asyncio.timeout(timing.hello) as deadline,
                self._events(self._at_most(self._credit)) as events,
            ):
                async for event in events:
                    last = event
                    deadline.reschedule(None)
                    self._heard(event)
        except TimeoutError as error:
            raise CannotStream(f"no event within {timing.hello:g} s") from error
        except httpx.ReadTimeout as error:
            raise CannotStream(f"nothing was received for {timing.silence:g} s") from error
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            self._observer.failed(self._client.failed(error))
        except httpx.TransportError as error:
            raise self._client.failed(error) from error
        if last is None or last.name != "bye":
            self._cut(time.monotonic() - began)
        elif b'"rotate"' in last.data:
            return
        await asyncio.sleep(_jittered(min(self._retry_s, timing.longest_pause)))

    @asynccontextmanager
    async def _events(self, prefetch: int) -> AsyncIterator[AsyncIterator[Event]]:
        """Connect a stream: its events. What the stream before wrote and this consumer did not begin with is given
        back by it."""
        call: Call[Any] = Call("GET", self._at("stream"), self._query(prefetch=prefetch), headers=self._last_event_id)
        async with self._client.streaming(call, read_timeout=self._timing.silence) as response:
            if not response.is_success:
                error = await self._client.refusal(response)
                is_missing = error.status == 404 and error.is_problem  # the endpoint
                raise CannotStream(str(error)) if error.status in CANNOT_STREAM and not is_missing else error
            media_type = response.headers.get("content-type", "")
            if not media_type.startswith("text/event-stream"):
                raise CannotStream(f"the response is {media_type or 'of no type'}")
            yield _parsed(response)

    @property
    def _last_event_id(self) -> dict[str, str]:
        return {"last-event-id": self._last_begun} if self._last_begun is not None else {}

    def _heard(self, event: Event) -> None:
        if event.retry_s is not None:
            self._retry_s = event.retry_s
        if event.name == "hello":
            self._last_begun = f"{json.loads(event.data)['consumer']}.0"
            self._connected("stream")
        elif event.name == "message":
            self._arrived(event.data, event.id)

    def _connected(self, transport: Literal["stream", "poll"]) -> None:
        if transport != self._transport:
            self._transport = transport
            self._observer.connected(transport)

    def _cut(self, seconds: float) -> None:
        """A stream ended without a goodbye. One may be a restart; if the next is short too, something cuts them."""
        self._cuts = self._cuts + 1 if seconds < self._timing.short else 0
        if self._cuts >= 2:
            self._cuts = 0
            raise CannotStream("streams are cut")

    async def _give_back(self) -> None:
        """Give back what was received over the stream and not begun with, and what is still on its way. Without this
        others would get it when the leases end."""
        if self._last_begun is None:
            return
        with suppress(EverhookError, CannotStream, httpx.TransportError, TimeoutError):
            async with asyncio.timeout(self._timing.hello), self._events(prefetch=0) as events:
                await anext(events, None)


async def _parsed(response: httpx.Response) -> AsyncIterator[Event]:
    parser = EventParser()
    async for chunk in response.aiter_bytes():
        for event in parser.feed(chunk):
            yield event


def _result(value: Any) -> dict[str, Any]:
    """The result of a handler, as a part of an acknowledgement. Raises ValueError and TypeError if it cannot be one."""
    if value is None:
        return {}
    size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    if size > MAX_RESULT_BYTES:
        raise ValueError(f"the result has {size} bytes; at most {MAX_RESULT_BYTES} are accepted")
    if _is_deeper_than(value, MAX_RESULT_DEPTH):
        raise ValueError(f"the result is nested deeper than {MAX_RESULT_DEPTH} levels")
    return {"result": value}


def _is_deeper_than(value: Any, depth: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return depth < 0 or any(_is_deeper_than(part, depth - 1) for part in parts)


def _reason(text: str) -> dict[str, Any]:
    """Why a message is returned, in text that UTF-8 can hold."""
    return {"reason": text.encode(errors="replace").decode()[:MAX_REASON]}


def _is_lasting(error: EverhookError) -> bool:
    return isinstance(error, ApiError) and 400 <= error.status < 500 and error.status not in (408, 429)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1)  # noqa: S311 - spreads load
