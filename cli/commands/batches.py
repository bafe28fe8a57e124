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

app = typer.Typer(
    help="Replays of channels and bulk operations on dead letters: list, show, cancel.", no_args_is_help=True
)

EXAMPLE = "bat_…"


Gid = Annotated[str, typer.Argument(help="The batch's gid (bat_…).", show_default=False)]


class Kind(StrEnum):
    """What a batch does."""

    CHANNEL_REPLAY = "channel_replay"
    DEAD_LETTER_REPLAY = "dead_letter_replay"
    DEAD_LETTER_PURGE = "dead_letter_purge"


class State(StrEnum):
    """What became of a batch."""

    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


@command(app, "list", examples=["batches list", "batches list --state running"])
def list_batches(
    session: Session,
    kind: Annotated[list[Kind] | None, typer.Option(help="Can be repeated.")] = None,
    channel: ChannelNames = None,
    tenant: Tenants = None,
    state: Annotated[list[State] | None, typer.Option(help="Can be repeated.")] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> None:
    """List replays of channels and bulk operations on dead letters, newest first."""
    chosen: dict[str, Any] = {"kind": kind, "channel": channel, "tenant": tenant, "state": state}
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
        follow(session, gid)
        return
    session.out.show(session.api.call(calls.get_batch(gid)), _card)


@command(app, "cancel", examples=[f"batches cancel {EXAMPLE}"])
def cancel_batch(session: Session, gid: Gid, yes: Yes = False) -> None:
    """Cancel a replay, or a bulk operation on dead letters. What it has started goes on."""
    session.out.confirm(f"Cancel {gid} at {session.target.url}?", yes=yes)
    session.out.show(session.api.call(calls.cancel_batch(gid)), _card)


def _table(out: Output, batches: list[Batch]) -> Table | str:
    if not batches:
        return "No batches match."
    rows = out.table(
        "batch", "kind", "state", "done", "of", "channel", "age", "mode", "by", "reason", wide=("mode", "by", "reason")
    )
    for each in batches:
        rows.add(
            batch=each["batchGid"],
            kind=each["kind"],
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
            ("kind", batch["kind"]),
            ("state", batch["state"]),
            ("matched", _matched(batch)),
            ("started", ", ".join([f"{batch['started']:,}", *left_out(batch)])),
            ("failed", f"{batch['failed']:,}" if batch["failed"] else None),
            ("channel", batch["channel"]),
            ("mode", batch["mode"]),
            ("endpoint", batch["endpointGid"]),
            ("tenant", batch["tenant"]),
            ("types", ", ".join(batch["types"] or []) or None),
            *_selected(batch),
            ("by", batch["actor"]),
            ("reason", batch["reason"] or None),
            ("began", when(batch["startedAt"])),
            ("ended", when(batch["closedAt"])),
            ("error", batch["error"]),
        ]
    )


def _selected(batch: Batch) -> list[tuple[str, str | None]]:
    if batch["selection"] is None:
        return [("accepted", f"{when(batch['since'])} to {when(batch['until'])}")]
    return [
        (name, value if isinstance(value, str) else ", ".join(map(str, value)))
        for name, value in batch["selection"].items()
    ]


def _matched(batch: Batch) -> str:
    return f"{'at least ' if batch['matchedAtLeast'] else ''}{batch['matched']:,}"
