"""`everhook consume`."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli.api_client.client import Api, parsed, path
from cli.api_client.errors import Unavailable
from cli.command import Session, command
from cli.terminal_text import printable

if TYPE_CHECKING:
    import httpx

app = typer.Typer()

READ_TIMEOUT_S = 60.0
"""A stream sends something every 15 s."""

POLL_S = 20
PRINTED_AT_ONCE = 16
MAX_PAUSE_S = 10.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Message:
    """A message as it was handed out. `line` is its JSON in one line, with all numbers as they were published."""

    lease: str
    line: bytes
    shown: str

    @classmethod
    def of(cls, raw: bytes) -> "Message":
        item = parsed(raw.decode())
        shown = f"{item['messageGid']} {item['type']}, attempt {item['metadata']['attempt']}"
        return cls(item["lease"], b" ".join(raw.splitlines()), shown)


@command(
    app,
    "consume",
    examples=[
        "consume --endpoint ep_…",
        "consume --endpoint ep_… --exec ./handle-order",
        "consume --endpoint ep_… --poll --count 10",
    ],
)
def consume(
    session: Session,
    endpoint: Annotated[str, typer.Option(help="An endpoint in the mode poll or stream (ep_…).", show_default=False)],
    stream: Annotated[
        bool, typer.Option("--stream/--poll", help="Stay connected to a stream, or ask for messages again and again.")
    ] = True,
    execute: Annotated[
        str | None,
        typer.Option(
            "--exec", help="A shell command to run for each message, which is its standard input.", show_default=False
        ),
    ] = None,
    lease_seconds: Annotated[
        int, typer.Option(min=5, max=43_200, help="The lease of a message; it is extended while the command runs.")
    ] = 60,
    consumer: Annotated[
        str | None, typer.Option(help="A name for operators; by default that of the key.", show_default=False)
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Exit after this many messages.", show_default=False)] = None,
) -> None:
    """Take messages of an endpoint out of its queue, until Ctrl-C.

    Each message is one line of JSON: printed, or with --exec the standard input of a command. It is acknowledged once
    it is printed, or when the command ends with status 0. With any other status it is returned, and follows the
    policy's schedule. After Ctrl-C the current command is finished; a second Ctrl-C kills it. The API key needs the
    scope `receive:<endpoint gid>`.
    """
    query = {"leaseSeconds": lease_seconds, "consumer": consumer}
    consuming = _Consuming(session, endpoint, execute, {k: v for k, v in query.items() if v is not None}, count)
    asyncio.run(consuming.run(stream))


class _Consuming:
    def __init__(
        self, session: Session, endpoint: str, execute: str | None, query: dict[str, Any], count: int | None
    ) -> None:
        self._out = session.out
        self._api: Api = session.api
        self._endpoint = endpoint
        self._execute = execute
        self._query = query
        self._left = count
        self._stop = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._last_event_id: str | None = None
        self._retry_s = 1.0
        self._source: AsyncGenerator[list[Message]]

    @property
    def _at_once(self) -> int:
        """A command handles one message at a time, so it is given no second one."""
        at_once = 1 if self._execute is not None else PRINTED_AT_ONCE
        return min(at_once, self._left) if self._left is not None else at_once

    async def run(self, stream: bool) -> None:
        with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self._interrupted)
        async with self._api.asynchronous(READ_TIMEOUT_S) as http:
            how = "streaming" if stream else "polling"
            self._out.note(f"{how} from {self._endpoint} at {self._api.target.url} (Ctrl-C stops it)")
            self._source = self._connected(http, stream)
            async with contextlib.aclosing(self._source):
                while self._left != 0 and (messages := await self._next()) is not None:
                    await self._handle(http, messages)

    async def _next(self) -> list[Message] | None:
        return None if self._stop.is_set() else await self._unless_stopped(anext(self._source))

    def _interrupted(self) -> None:
        if self._stop.is_set():
            self._kill()
        elif self._process is not None:
            self._out.note("stopping after the current command; again to kill it")
        self._stop.set()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _unless_stopped(self, awaitable: Awaitable[Result]) -> Result | None:
        """The result; None if this command is stopped first."""
        waiting = asyncio.ensure_future(awaitable)
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait([waiting])
            return None
        return await waiting

    async def _connected(self, http: "httpx.AsyncClient", stream: bool) -> AsyncGenerator[list[Message]]:
        """Messages, as long as the API hands them out. Connections that are lost are made again, once there was one."""
        has_connected = False
        while True:
            try:
                source = self._streamed(http) if stream else self._polled(http)
                async with contextlib.aclosing(source):
                    async for messages in source:
                        has_connected = True
                        if messages:
                            yield messages
            except Unavailable as error:
                if not has_connected:
                    raise
                self._out.note(f"{error}; connecting again", "yellow")
                self._retry_s = min(self._retry_s * 2, MAX_PAUSE_S)
            await asyncio.sleep(self._retry_s * random.uniform(0.5, 1))  # noqa: S311 - spreads load

    async def _streamed(self, http: "httpx.AsyncClient") -> AsyncGenerator[list[Message]]:
        """The messages of one stream, as they arrive. An empty list: it is open."""
        import httpx

        headers = {"last-event-id": self._last_event_id} if self._last_event_id is not None else {}
        query = {**self._query, "prefetch": self._at_once if self._left is None else 1}
        at = path("endpoints", self._endpoint, "stream")
        try:
            async with http.stream("GET", at, params=query, headers=headers) as response:
                if not response.is_success:
                    await response.aread()
                    raise self._api.refusal(response)
                rest = ""
                async for text in response.aiter_text():
                    *events, rest = (rest + text).split("\n\n")
                    yield [message for event in events if (message := self._read(event)) is not None]
        except httpx.TransportError as error:
            raise self._api.unreachable(error) from error

    def _read(self, event: str) -> Message | None:
        """The message of an event, if it is one."""
        fields: dict[str, list[str]] = {}
        for line in event.split("\n"):
            name, _, value = line.partition(": ")
            fields.setdefault(name, []).append(value)
        if "retry" in fields:
            self._retry_s = int(fields["retry"][0]) / 1_000
        if fields.get("event") != ["message"]:
            return None
        self._last_event_id = fields["id"][0]
        return Message.of("\n".join(fields["data"]).encode())

    async def _polled(self, http: "httpx.AsyncClient") -> AsyncGenerator[list[Message]]:
        """Messages, asked for again and again. An empty list: there are none."""
        import msgspec

        at = path("endpoints", self._endpoint, "poll")
        page = msgspec.defstruct("Page", [("data", list[msgspec.Raw])])
        held = None
        while True:
            body = await self._call(
                http, "GET", at, params={**self._query, "limit": self._at_once, "waitSeconds": POLL_S}
            )
            self._retry_s = 1.0
            items: list[Any] = msgspec.json.decode(body, type=page).data  # type: ignore[attr-defined]
            yield [Message.of(bytes(item)) for item in items]
            if not items and (reason := parsed(body.decode()).get("held")) != held:
                held = reason
                self._out.note(f"nothing is handed out: {held}" if held else "messages are handed out again")

    async def _call(self, http: "httpx.AsyncClient", method: str, at: str, **more: Any) -> bytes:
        import httpx

        try:
            response = await http.request(method, at, **more)
        except httpx.TransportError as error:
            raise self._api.unreachable(error) from error
        if not response.is_success:
            raise self._api.refusal(response)
        return response.content

    async def _handle(self, http: "httpx.AsyncClient", messages: list[Message]) -> None:
        began = time.monotonic()
        if self._execute is None:
            sys.stdout.write("".join(f"{message.line.decode()}\n" for message in messages))
            sys.stdout.flush()
            await self._conclude(http, messages, None, began)
        else:
            for message in messages:
                await self._conclude(http, [message], await self._run(http, self._execute, message), began)

    async def _conclude(
        self, http: "httpx.AsyncClient", messages: list[Message], failure: str | None, began: float
    ) -> None:
        """Acknowledge messages, or return them with the reason of the failure. Before the last ones the stream is
        closed: an acknowledgement would have it hand out more."""
        if self._stop.is_set() or self._left == len(messages):
            await self._source.aclose()
        reason = {"reason": failure} if failure is not None else {}
        lines = {"nacks" if failure else "acks": [{"lease": message.lease, **reason} for message in messages]}
        results = (await self._settle(http, lines))["data"]
        for message, result in zip(messages, results, strict=True):
            how = result["status"] if failure is None else f"{result['status']}: {failure}"
            style = "dim" if result["status"] == "acked" else "yellow"
            self._out.note(f"{message.shown}: {how} after {time.monotonic() - began:.1f} s", style)
        if self._left is not None:
            self._left -= len(messages)

    async def _run(self, http: "httpx.AsyncClient", execute: str, message: Message) -> str | None:
        """Run the command for one message. Returns why it failed; None if it succeeded."""
        sys.stdout.flush()
        self._process = process = await asyncio.create_subprocess_shell(
            execute,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal must not reach it
        )
        extending = asyncio.create_task(self._extend(http, message))
        try:
            await process.communicate(message.line + b"\n")
        finally:
            self._kill()
            extending.cancel()
            await asyncio.wait([extending])
            self._process = None
        status = process.returncode
        if status == 0:
            return None
        return (
            f"the command ended with status {status}"
            if (status or 0) > 0
            else f"the command got signal {-(status or 0)}"
        )

    async def _extend(self, http: "httpx.AsyncClient", message: Message) -> None:
        seconds = self._query["leaseSeconds"]
        while True:
            await asyncio.sleep(seconds / 3)
            lines = {"extends": [{"lease": message.lease, "seconds": seconds}]}
            try:
                result = (await self._acks(http, lines))["data"][0]
            except Unavailable as error:
                self._out.note(f"{printable(str(error))}; the lease is not extended yet", "yellow")
                continue
            if result["status"] != "extended":
                self._out.note(f"{message.shown}: its lease is {result['status']}; others may have it too", "yellow")
                return

    async def _settle(self, http: "httpx.AsyncClient", lines: dict[str, Any]) -> Any:
        """Send an acknowledgement until there is a response: repeating it changes nothing more."""
        pause = 0.5
        while True:
            try:
                return await self._acks(http, lines)
            except Unavailable as error:
                self._out.note(f"{error}; trying again", "yellow")
                if await self._unless_stopped(asyncio.sleep(pause, result=True)) is None:
                    raise
                pause = min(pause * 2, MAX_PAUSE_S)

    async def _acks(self, http: "httpx.AsyncClient", lines: dict[str, Any]) -> Any:
        at = path("endpoints", self._endpoint, "acks")
        content = json.dumps(lines).encode()
        body = await self._call(http, "POST", at, content=content, headers={"content-type": "application/json"})
        return parsed(body.decode())
