"""`everhook receive`."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli.api_client.client import Api
from cli.command import Session, command
from cli.errors import UsageError
from cli.formatting import clock
from cli.options import Events
from cli.output import lines, pretty_json
from cli.terminal_text import printable
from everhook_client import calls
from everhook_client.models import EndpointCreated, EndpointIn

if TYPE_CHECKING:
    from cli.receiver import Arrival

app = typer.Typer()

DEFAULT_PORT = 9000
SHOWN_CHARACTERS = 4_000
LAST_RESPONSE_S = 0.2
"""Time for the last response to be sent."""


@dataclass(frozen=True)
class ReceiverOptions:
    """How a local receiver responds."""

    status: Annotated[
        str,
        typer.Option(
            help="Statuses in order, such as 500,500,200: each message gets them in order; the last one repeats."
        ),
    ] = "200"
    delay: Annotated[float, typer.Option(min=0, max=3_600, help="Seconds to wait before each response.")] = 0

    def statuses(self) -> list[int]:
        try:
            found = [int(part) for part in self.status.split(",")]
        except ValueError:
            found = []
        if not found or not all(200 <= status <= 599 for status in found):
            raise UsageError(f"--status takes statuses from 200 to 599, separated by commas, not {self.status!r}")
        return found


@command(
    app,
    "receive",
    examples=[
        "receive --port 9000",
        "receive --channel orders --status 500,500,200",
        "receive --port 9000 --secret whsec_… --delay 2",
    ],
)
def receive(
    session: Session,
    options: ReceiverOptions,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, help=f"Port to listen on. Default: {DEFAULT_PORT}, with --channel any free port."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    secret: Annotated[
        list[str] | None,
        typer.Option(help="Secret to verify signatures with (whsec_…); can be repeated.", envvar="WEBHOOK_SECRET"),
    ] = None,
    channel: Annotated[
        str | None, typer.Option(help="Create an endpoint on this channel while this command runs.")
    ] = None,
    events: Events = None,
    count: Annotated[int | None, typer.Option(min=1, help="Exit after this many requests.")] = None,
    body: Annotated[bool, typer.Option(help="Print bodies.")] = True,
) -> None:
    """Receive webhooks on this machine, verify their signatures, and print them, until Ctrl-C.

    A request without a valid signature gets a 401. With --json each request is a line. --channel creates an endpoint in
    the API, with quick retries, and deletes it at the end. This needs an Everhook that can reach this machine, such as
    `everhook dev`.
    """
    if events and channel is None:
        raise UsageError("--event needs --channel")
    if port is None:
        port = DEFAULT_PORT if channel is None else 0
    asyncio.run(_Receiving(session, options, count, body).run(host, port, secret or [], channel, events or []))


class _Receiving:
    def __init__(self, session: Session, options: ReceiverOptions, count: int | None, body: bool) -> None:
        from cli.receiver import ResponsePlan

        self._session = session
        self._out = session.out
        self._responses = ResponsePlan(options.statuses(), options.delay)
        self._left = count
        self._body = body
        self._done = asyncio.Event()

    async def run(self, host: str, port: int, secrets: list[str], channel: str | None, events: list[str]) -> None:
        from cli.receiver import Receiver
        from everhook.serving.server import bound_socket, serving
        from everhook.signing.verify import verify

        try:
            verify({}, b"", secrets)
        except ValueError as error:
            raise UsageError(f"--secret: {error}") from error
        receiver = Receiver(self._responses, secrets, self._arrived)
        socket = bound_socket(host, port, "--port")
        url = f"http://{host}:{socket.getsockname()[1]}/"
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._done.set)
        async with serving(receiver, socket), self._endpoint(url, channel, events) as created:
            receiver.secrets += [created["secret"] or ""] if created is not None else []
            checked = "verifying signatures" if receiver.secrets else "not verifying signatures: no --secret"
            self._out.note(f"receiving at {url}, {checked} (Ctrl-C stops it)")
            await self._done.wait()

    @contextlib.asynccontextmanager
    async def _endpoint(
        self, url: str, channel: str | None, events: list[str]
    ) -> AsyncIterator[EndpointCreated | None]:
        if channel is None:
            yield None
            return
        created = await asyncio.to_thread(
            create_endpoint_for_receiver, self._session.api, url, channel, events, "everhook receive"
        )
        gid = created["endpointGid"]
        self._out.note(f"created {gid} on {channel} at {self._session.target.url}; it is deleted at the end")
        try:
            yield created
        finally:
            await asyncio.to_thread(self._session.api.call, calls.delete_endpoint(gid))
            self._out.note(f"deleted {gid}")

    def _arrived(self, arrival: "Arrival") -> None:
        if self._out.as_json:
            self._out.json(_document(arrival))
        else:
            self._out.print(_line(arrival))
            if self._body and arrival.body:
                self._out.print(lines(_readable(arrival.body), indent="  │ "))
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                asyncio.get_running_loop().call_later(self._responses.delay_s + LAST_RESPONSE_S, self._done.set)


def create_endpoint_for_receiver(
    api: Api, url: str, channel: str, events: list[str], description: str
) -> EndpointCreated:
    """Create an endpoint for a local receiver, with quick retries."""
    wanted: EndpointIn = {
        "url": url,
        "channel": channel,
        "events": events,
        "description": description,
        "policy": {"preset": "brisk"},
    }
    return api.call(calls.create_endpoint(wanted))


def _line(arrival: "Arrival") -> Text:
    checked = arrival.verification
    if checked is None:
        verdict = ("? not verified", "dim")
    elif checked.is_genuine:
        verdict = ("✓ genuine", "green")
    else:
        verdict = (f"✗ {printable(checked.why)}", "bold red")
    return Text.assemble(
        (f"{clock(None)}  ", "dim"),
        (printable(arrival.event_type) or "no type", "bold"),
        f"  {printable(arrival.message_gid)}  " if arrival.message_gid else "  ",
        verdict,
        " → ",
        (str(arrival.status), "green" if arrival.status < 300 else "yellow"),
        (f"  request {arrival.number}" if arrival.number > 1 else "", "yellow"),
        (f"  {printable(arrival.path)}" if arrival.path != "/" else "", "dim"),
    )


def _readable(body: bytes) -> str:
    """JSON with indentation, other text unchanged. Long text is cut."""
    text = body.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError):
        text = pretty_json(json.loads(text))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}\n… {len(body):,} bytes in all"


def _document(arrival: "Arrival") -> dict[str, Any]:
    checked = arrival.verification
    return {
        "method": arrival.method,
        "path": arrival.path,
        "headers": dict(arrival.headers),
        "body": arrival.body.decode(errors="replace"),
        "request": arrival.number,
        "genuine": checked.is_genuine if checked is not None else None,
        "why": checked.why if checked is not None else "",
        "status": arrival.status,
    }
