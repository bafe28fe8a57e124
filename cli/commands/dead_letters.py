"""`everhook dead-letters`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cli.api_client.client import parsed
from cli.batches import follow
from cli.command import Session, command
from cli.errors import UsageError
from cli.following import show_delivery
from cli.formatting import age, counted, last_response
from cli.options import (
    DEFAULT_LIMIT,
    ChannelNames,
    EndpointRefs,
    EventTypes,
    Limit,
    Reason,
    Since,
    Subscriptions,
    Tenants,
    Until,
    Yes,
)
from cli.output import Output, lines, pretty_json
from everhook.contracts import DeadLetterReason
from everhook_client import calls
from everhook_client.calls import Call
from everhook_client.models import BulkOperation, DeadLetterDetail, Delivery, SignalAccepted

app = typer.Typer(help="Messages that could not be delivered: list, replay, discard.", no_args_is_help=True)

EXAMPLE = "dlv_…"
ENDPOINT = "ep_…"

Gids = Annotated[list[str] | None, typer.Argument(help="The gids; otherwise options select them.", metavar="[GID]…")]


@dataclass(frozen=True)
class Selection:
    """Which dead letters: options are combined with AND, repeated options match any value."""

    endpoint: EndpointRefs = None
    channel: ChannelNames = None
    type: EventTypes = None
    tenant: Tenants = None
    dead_letter_reason: Annotated[
        list[DeadLetterReason] | None, typer.Option(help="Why they became dead letters; can be repeated.")
    ] = None
    status_code: Annotated[
        list[int] | None, typer.Option(help="The status of the last response, such as 401; can be repeated.")
    ] = None
    since: Since = None
    until: Until = None

    def given(self) -> dict[str, Any]:
        """The parts that are given, as the client names them."""
        return {_NAMES.get(name, name): value for name, value in vars(self).items() if value}

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {_any_of(value)}" for name, value in vars(self).items() if value)


_NAMES = {"endpoint": "endpoint_gid", "status_code": "last_status_code"}


def _any_of(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class BulkOptions:
    """Options of a replay or purge."""

    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False
    reason: Reason = ""
    yes: Yes = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait until it has ended.")] = False


@command(app, "list", examples=["dead-letters list", f"dead-letters list --endpoint {ENDPOINT} --status-code 401"])
def list_dead_letters(
    session: Session, selection: Selection, subscription: Subscriptions = None, limit: Limit = DEFAULT_LIMIT
) -> None:
    """List dead letters, the newest message first. --since and --until limit the time of dead-lettering."""
    chosen = calls.list_dead_letters(subscription_gid=subscription, **selection.given())
    found = list(session.api.items(chosen, limit))
    session.out.show(found, lambda letters: _table(session.out, letters))


@command(app, "show", examples=[f"dead-letters show {EXAMPLE}"])
def show_dead_letter(
    session: Session, gid: Annotated[str, typer.Argument(help="The delivery's gid (dlv_…).", show_default=False)]
) -> None:
    """Show one dead letter: its payload, and its attempts with their responses."""
    text = session.api.text(calls.get_dead_letter(gid))
    session.out.show_text(text, _detail)


@command(
    app,
    "replay",
    examples=[
        f"dead-letters replay {EXAMPLE} --reason 'they fixed their parser'",
        "dead-letters replay --status-code 401 --status-code 403 --dry-run",
        f"dead-letters replay --endpoint {ENDPOINT} --dead-letter-reason endpoint_disabled --reason 'they are back'",
        "dead-letters replay --channel orders --dry-run",
    ],
)
def replay(
    session: Session,
    selection: Selection,
    how: BulkOptions,
    gids: Gids = None,
) -> None:
    """Start a new round of attempts for dead letters. Deliveries that an endpoint cannot take are parked, not lost."""
    _decide(session, Decision("replay", "replay", calls.replay_all, calls.replay), selection, how, gids)


@command(
    app,
    "purge",
    examples=[
        f"dead-letters purge {EXAMPLE} --reason 'a test'",
        f"dead-letters purge --endpoint {ENDPOINT} --dead-letter-reason rejected --yes",
    ],
)
def purge(
    session: Session,
    selection: Selection,
    how: BulkOptions,
    gids: Gids = None,
) -> None:
    """Discard dead letters permanently."""
    _decide(session, Decision("purge", "discard", calls.purge, calls.discard), selection, how, gids)


@dataclass(frozen=True)
class Decision:
    """A replay or a purge: its name, its name for one dead letter, and the calls for all that match and for one."""

    name: str
    of_one: str
    call_all: Callable[..., Call[BulkOperation]]
    call_one: Callable[..., Call[SignalAccepted]]


def _decide(
    session: Session,
    decision: Decision,
    selection: Selection,
    how: BulkOptions,
    gids: list[str] | None,
) -> None:
    ways = [bool(gids), bool(selection.given()), how.everything]
    if sum(ways) != 1:
        raise UsageError("give gids, or options that select, or --all: one of the three")
    if gids:
        _each(session, decision, how, gids)
        return
    request = {**selection.given(), "reason": how.reason}
    found = session.api.call(decision.call_all(**request, dry_run=True))
    if how.dry_run or not found["matched"]:
        session.out.show(found, lambda result: f"{_matches(result)}{_skipped(result)}")
        return
    if skipped := _skipped(found):
        session.out.note(f"{_matches(found)}{skipped}")
    which = f"with {selection}" if selection.given() else "all"
    letters = counted(found["matched"], "dead letter")
    session.out.confirm(f"{decision.name.title()} {letters} ({which}) at {session.target.url}?", yes=how.yes)
    started = session.api.call(decision.call_all(**request))
    if how.detach or started["batchGid"] is None:
        session.out.show(
            started, lambda result: f"started: everhook batches show {result['batchGid']} --follow shows its progress"
        )
        return
    follow(session, started["batchGid"])


def _each(session: Session, decision: Decision, how: BulkOptions, gids: list[str]) -> None:
    if how.dry_run:
        session.out.show(
            {"matched": len(gids), "skipped": 0, "batchGid": None},
            lambda _: f"given: {counted(len(gids), 'dead letter')}",
        )
        return
    if len(gids) > 1 or decision.name == "purge":
        session.out.confirm(f"{decision.name.title()} {len(gids):,} dead letters at {session.target.url}?", yes=how.yes)
    results = []
    for gid in gids:
        text = session.api.text(decision.call_one(gid, reason=how.reason))
        session.out.print(f"{gid}: {decision.of_one} requested")
        results.append(parsed(text))
    if session.out.as_json:
        session.out.json(results)


def _matches(operation: BulkOperation) -> str:
    return counted(operation["matched"], "dead letter matches", "dead letters match")


def _skipped(operation: BulkOperation) -> str:
    skipped = operation.get("skipped", 0)  # absent in older versions of the API
    return f"; {skipped:,} more skipped: their endpoint was deleted" if skipped else ""


def _table(out: Output, letters: list[Delivery]) -> Table | str:
    if not letters:
        return "No dead letters match."
    wide = ("channel", "endpoint")
    rows = out.table("delivery", "reason", "response", "type", "since", *wide, wide=wide)
    for letter in letters:
        rows.add(
            delivery=letter["deliveryGid"],
            reason=letter["deadLetterReason"] or "",
            response=last_response(letter),
            type=letter["type"],
            since=age(letter["deadLetteredAt"]),
            channel=letter["channel"],
            endpoint=letter["endpointGid"],
        )
    return rows.table


def _detail(letter: DeadLetterDetail) -> Group:
    return Group(show_delivery(letter), Text("\npayload", style="dim"), lines(pretty_json(letter["payload"])))
