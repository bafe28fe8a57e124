"""`everhook publish`."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.api_client.client import Fields
from cli.command import Session, command
from cli.errors import UsageError
from cli.following import conclude, show_delivery, wait_for_end
from cli.formatting import when
from cli.options import EventType, json_value, read_file
from cli.terminal_states import state
from cli.terminal_text import printable
from everhook_client.models import PublishedMessage

app = typer.Typer()


@command(
    app,
    "publish",
    examples=[
        "publish orders '{\"orderId\": 1042}' --type order.created",
        "publish orders --file order.json --type order.created --idempotency-key order-1042 --wait",
        "publish orders --file - --type order.created < order.json",
    ],
)
def publish(
    session: Session,
    channel: Annotated[str, typer.Argument(help="The channel's name.", show_default=False)],
    payload: Annotated[str | None, typer.Argument(help="The payload: any JSON.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option(help="A file with the payload; `-` is standard input.")] = None,
    type: EventType = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="If the key is used again, nothing is published twice.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Deliver to this tenant's endpoints only.")] = None,
    published_at: Annotated[str | None, typer.Option(help="When it happened, such as 2026-01-31T12:00:00Z.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="An attribute, as name=value; can be repeated.", show_default=False)
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="To this endpoint alone, by its gid, also if it does not subscribe.")
    ] = None,
    group_key: Annotated[str | None, typer.Option(help="Endpoints get messages with the same key in order.")] = None,
    no_retry: Annotated[bool, typer.Option("--no-retry", help="One attempt; if it fails, a dead letter.")] = False,
    deliver_at: Annotated[str | None, typer.Option(help="Deliver it then, such as 2026-01-31T12:00:00Z.")] = None,
    delay: Annotated[float | None, typer.Option(min=0, help="Deliver it after so many seconds.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for all deliveries; status 1 unless all are delivered.")
    ] = False,
    wait_seconds: Annotated[float, typer.Option(min=0, help="How long --wait waits, for all of them.")] = 60,
) -> None:
    """Publish a message. Its type is --type, or `event` in the payload."""
    content = _payload(payload, file)
    fields: Fields = {
        "type": type,
        "idempotency_key": idempotency_key,
        "tenant": tenant,
        "published_at": published_at,
        "metadata": _attributes(metadata),
        "endpoint_gid": endpoint,
        "retry": not no_retry,
        "deliver_at": deliver_at,
        "delay_seconds": delay,
        "group_key": group_key,
    }
    if wait and (deliver_at is not None or delay is not None):
        raise UsageError("--wait cannot be combined with --deliver-at or --delay: there are no deliveries yet")
    accepted = session.api.publish(channel, content, **fields)
    if not wait:
        session.out.show(accepted, _accepted)
        return
    session.out.print(_accepted(accepted))
    with session.out.busy("waiting for the deliveries …"):
        until = time.monotonic() + wait_seconds
        ended = [
            wait_for_end(session.api, one["deliveryGid"], until - time.monotonic()) for one in accepted["deliveries"]
        ]
    shown = {**accepted, "deliveries": ended}
    session.out.show(shown, lambda _: Group(*(part for one in ended for part in (Text(), show_delivery(one)))))
    conclude(session, ended)


def _attributes(given: list[str] | None) -> dict[str, str] | None:
    if given is None:
        return None
    pairs = [one.partition("=") for one in given]
    if unclear := [name for name, separator, _ in pairs if not separator]:
        raise UsageError(f"--metadata takes name=value; {unclear[0]!r} has no `=`")
    return {name: value for name, _, value in pairs}


def _payload(text: str | None, file: Path | None) -> bytes:
    """The payload's bytes, checked to be JSON because they become a part of a request."""
    if (text is None) == (file is None):
        raise UsageError("give the payload, or --file: one of them")
    content = text.encode() if text is not None else read_file("--file", file or Path("-"))
    try:
        json_value("the payload", content.decode())
    except UnicodeDecodeError as error:
        raise UsageError("the payload is not JSON: it is not in UTF-8") from error
    return content


def _accepted(accepted: PublishedMessage) -> RenderableType:
    parts = [Text(f"{accepted['messageGid']}  {printable(accepted['type'])} on {printable(accepted['channel'])}")]
    if accepted["duplicate"]:
        parts.append(Text("  published before: nothing was sent again", style="yellow"))
    if (deliver_at := accepted["deliverAt"]) is not None and not accepted["deliveries"]:
        parts.append(Text(f"  its deliveries are created at {when(deliver_at)}", style="dim"))
    elif not accepted["deliveries"]:
        parts.append(Text("  no subscription matches", style="yellow"))
    if (fault := accepted.get("validationError")) is not None:
        parts.append(Text(f"  does not fit the catalogue: {printable(fault)}", style="yellow"))
    for one in accepted["deliveries"]:
        parts.append(Text.assemble(f"  {one['deliveryGid']} → {one['endpointGid']}  ", state(one["status"])))
    return Group(*parts)
