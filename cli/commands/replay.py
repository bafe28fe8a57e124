"""`everhook replay`."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.batches import follow
from cli.command import Session, command
from cli.formatting import counted
from cli.options import EventTypes, Reason, Tenant, Yes, moment
from everhook_client import calls
from everhook_client.models import Replay

app = typer.Typer()


class Mode(StrEnum):
    """What of a channel is replayed."""

    FAILED = "failed"
    MISSING = "missing"
    ALL = "all"


@command(
    app,
    "replay",
    examples=[
        "replay --channel orders --since 2h --mode all --endpoint ep_… --reason 'they restored a backup'",
        "replay --channel orders --since 2026-01-31T12:00:00Z --until 2026-01-31T13:00:00Z --mode failed --dry-run",
        "replay --channel orders --since 7d --mode missing --endpoint ep_… --follow",
    ],
)
def replay(
    session: Session,
    channel: Annotated[str, typer.Option(help="The channel, by name.", show_default=False)],
    since: Annotated[
        str,
        typer.Option(
            help="Messages accepted since this time, such as 2026-01-31T12:00:00Z, or this long ago: 90min, 2h, 7d.",
            show_default=False,
        ),
    ],
    mode: Annotated[
        Mode,
        typer.Option(
            help="`failed`: dead letters, and what was discarded. `all`: also what was delivered. `missing`: what the "
            "endpoint subscribes to and never got.",
            show_default=False,
        ),
    ],
    until: Annotated[str | None, typer.Option(help="And before this time, or this long ago; by default now.")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="To this endpoint only: its gid (ep_…), or a unique part of its URL or description."),
    ] = None,
    tenant: Tenant = None,
    type: EventTypes = None,
    reason: Reason = "",
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    wait: Annotated[bool, typer.Option("--follow", help="Show the progress until it has ended.")] = False,
) -> None:
    """Send the messages of a time range again, in the background and after fresh messages.

    What is in progress is left alone, and payloads that were erased are skipped. Circuits and rate limits apply.
    """
    begin, end = moment("--since", since), moment("--until", until) if until is not None else None
    call = calls.replay_channel(
        channel, mode.value, since=begin, until=end, endpoint_gid=endpoint, tenant=tenant, types=type, dry_run=True
    )
    found = session.api.call(call)
    if dry_run or not (found["matched"] or found["matchedAtLeast"]):
        session.out.show(found, _counted)
        return
    to = endpoint or (f"the endpoints of {tenant}" if tenant is not None else "all endpoints")
    session.out.confirm(f"{_counted(found)}. Send them to {to} at {session.target.url}?", yes=yes)
    started = session.api.call(
        calls.replay_channel(
            channel, mode.value, since=begin, until=end, endpoint_gid=endpoint, tenant=tenant, types=type, reason=reason
        )
    )
    if wait and started["batchGid"] is not None:
        follow(session, started["batchGid"])
        return
    session.out.show(
        started, lambda replay: f"started: everhook batches show {replay['batchGid']} --follow shows its progress"
    )


def _counted(replay: Replay) -> str:
    least = "at least " if replay["matchedAtLeast"] else ""
    erased = f"; the payloads of {least}{replay['erased']:,} were erased" if replay["erased"] else ""
    return f"{least}{counted(replay['matched'], 'delivery matches', 'deliveries match')}{erased}".capitalize()
