"""`everhook consume`."""

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.command import Session, command
from cli.errors import CommandError
from everhook_client.models import LeaseResult
from everhook_client.observing import Observer, Transport

if TYPE_CHECKING:
    from everhook_client import Consumer, EverhookError, Message

app = typer.Typer()

PRINTED_AT_ONCE = 16


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
        bool,
        typer.Option(
            "--stream/--poll",
            help="--stream: use a stream, and fall back to polling. --poll: always poll.",
        ),
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
    consuming = _Consuming(session, execute)
    options = {
        "mode": "auto" if stream else "poll",
        "lease_seconds": lease_seconds,
        "name": consumer,
        "limit": count,
        "observer": consuming,
        # A command handles one message at a time, so it is given no second one.
        "concurrency": PRINTED_AT_ONCE if execute is None else 1,
        "prefetch": 0,
    }
    asyncio.run(consuming.run(endpoint, options))


class _Consuming(Observer):
    """Handles messages, and shows what the consumer does."""

    def __init__(self, session: Session, execute: str | None) -> None:
        self._out = session.out
        self._api = session.api
        self._execute = execute
        self._has_connected = False
        self._is_running = self._is_stopping = False
        self._process: asyncio.subprocess.Process | None = None
        self._consumer: Consumer | None = None

    async def run(self, endpoint: str, options: Any) -> None:
        from everhook_client import EverhookError

        self._out.note(f"consuming {endpoint} at {self._api.target.url} (Ctrl-C stops it)")
        async with self._api.asynchronous() as client:
            self._consumer = client.consumer(endpoint, self._handle, **options)
            with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread
                for number in (signal.SIGINT, signal.SIGTERM):
                    asyncio.get_running_loop().add_signal_handler(number, self._interrupted)
            try:
                await self._consumer.run()
            except EverhookError as error:
                raise self._api.explained(error) from error

    def _interrupted(self) -> None:
        if self._is_stopping:
            self._kill()
        elif self._is_running:
            self._out.note("stopping after the current command; again to kill it")
        self._is_stopping = True
        if self._consumer is not None:
            self._consumer.stop()

    async def _handle(self, message: "Message") -> None:
        line = b" ".join(message.raw.splitlines()) + b"\n"
        if self._execute is not None:
            await self._run(self._execute, line)
        else:
            sys.stdout.write(line.decode())
            sys.stdout.flush()

    async def _run(self, execute: str, line: bytes) -> None:
        """Run the command for one message. Raises Retry unless it succeeds."""
        from everhook_client import Retry

        sys.stdout.flush()
        self._is_running = True
        self._process = process = await asyncio.create_subprocess_shell(
            execute,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal must not reach it
        )
        try:
            await process.communicate(line)
        finally:
            self._kill()
            self._process = None
            self._is_running = False
        status = process.returncode or 0
        if status:
            raise Retry(
                f"the command ended with status {status}" if status > 0 else f"the command got signal {-status}"
            )

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    # Reports of the consumer

    def connected(self, transport: Transport) -> None:
        self._has_connected = True
        self._out.note("streaming" if transport == "stream" else "polling")

    def fell_back(self, reason: str) -> None:
        self._out.note(f"polling instead of streaming: {reason}", "yellow")

    def failed(self, error: "EverhookError") -> None:
        explained: CommandError = self._api.explained(error)
        if not self._has_connected:
            raise explained from error
        self._out.note(f"{explained}; trying again", "yellow")

    def held(self, reason: str | None) -> None:
        self._out.note(f"nothing is handed out: {reason}" if reason else "messages are handed out again")

    def handler_raised(self, message: "Message", error: Exception) -> None:
        raise error  # of this command, such as a closed standard output

    def settled(self, message: "Message", result: LeaseResult, reason: str | None, seconds: float) -> None:
        shown = f"{message.gid} {message.type}, attempt {message.attempt}"
        how = result["status"] if reason is None else f"{result['status']}: {reason}"
        self._out.note(f"{shown}: {how} after {seconds:.1f} s", "dim" if result["status"] == "acked" else "yellow")

    def lease_lost(self, message: "Message", result: LeaseResult) -> None:
        self._out.note(f"{message.gid}: its lease is {result['status']}; others may have it too", "yellow")
