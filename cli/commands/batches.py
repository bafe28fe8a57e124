"""`everhook batches`."""

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from cli.batches import follow, left_out
from cli.command import Session, command
from cli.formatting import age, when
from cli.options import DEFAULT_LIMIT, ChannelNames, Limit, Tenants, Yes
from cli.output import Output, pairs
from everhook_client import calls
from everhook_client.models import Batch

app = typer.Typer(help="Replays of channels: list, show, cancel.", no_args_is_help=True)

EXAMPLE = "bat_…"


Gid = Annotated[str, typer.Argument(help="The batch's gid (bat_…).", show_default=False)]


class State(StrEnum):
    """What became of a batch."""

    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


@command(app, "list", examples=["batches list", "batches list --state running"])
def list_batches(
    session: Session,
    channel: ChannelNames = None,
    tenant: Tenants = None,
    state: Annotated[list[State] | None, typer.Option(help="Can be repeated.")] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> None:
    """List replays of channels, newest first."""
    chosen: dict[str, Any] = {"channel": channel, "tenant": tenant, "state": state}
    found = list(session.api.items(calls.list_batches(**chosen), limit))
    session.out.show(found, lambda batches: _table(session.out, batches))


@command(app, "show", examples=[f"batches show {EXAMPLE}", f"batches show {EXAMPLE} --follow"])
def show_batch(
    session: Session,
    gid: Gid,
    wait: Annotated[bool, typer.Option("--follow", help="Show the progress until it has ended.")] = False,
) -> None:
    """Show the progress of a replay, or of a bulk operation on dead letters."""
    if wait:
        follow(session, gid, "deliveries", f"everhook batches show {gid} --follow")
        return
    session.out.show(session.api.call(calls.get_batch(gid)), _card)


@command(app, "cancel", examples=[f"batches cancel {EXAMPLE}"])
def cancel_batch(session: Session, gid: Gid, yes: Yes = False) -> None:
    """Cancel a replay. The deliveries that it has started go on."""
    session.out.confirm(f"Cancel {gid} at {session.target.url}?", yes=yes)
    session.out.show(session.api.call(calls.cancel_batch(gid)), _card)


def _table(out: Output, batches: list[Batch]) -> Table | str:
    if not batches:
        return "No replays match."
    rows = out.table("batch", "state", "mode", "done", "of", "channel", "age", "by", "reason", wide=("by", "reason"))
    for each in batches:
        rows.add(
            batch=each["batchGid"],
            state=each["state"],
            mode=each["mode"] or "",
            done=f"{each['completed']:,}",
            of=_matched(each),
            channel=each["channel"] or "",
            age=age(each["startedAt"]),
            by=each["actor"] or "",
            reason=each["reason"] or "",
        )
    return rows.table


def _card(batch: Batch) -> Table:
    return pairs(
        [
            ("batch", batch["batchGid"]),
            ("state", batch["state"]),
            ("matched", _matched(batch)),
            ("started", ", ".join([f"{batch['started']:,}", *left_out(batch)])),
            ("failed", f"{batch['failed']:,}" if batch["failed"] else None),
            ("channel", batch["channel"]),
            ("mode", batch["mode"]),
            ("endpoint", batch["endpointGid"]),
            ("tenant", batch["tenant"]),
            ("types", ", ".join(batch["types"] or []) or None),
            ("accepted", f"{when(batch['since'])} to {when(batch['until'])}" if batch["since"] else None),
            ("by", batch["actor"]),
            ("reason", batch["reason"] or None),
            ("began", when(batch["startedAt"])),
            ("ended", when(batch["closedAt"])),
        ]
    )


def _matched(batch: Batch) -> str:
    return f"{'at least ' if batch['matchedAtLeast'] else ''}{batch['matched']:,}"
