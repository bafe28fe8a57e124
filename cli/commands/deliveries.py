"""`everhook deliveries`."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.api_client.client import Api, path
from cli.api_client.shapes import Delivery, LiveDelivery
from cli.command import Session, command
from cli.following import AT_REST, conclude, show_delivery
from cli.formatting import age, clock, last_answer, when
from cli.options import DEFAULT_LIMIT, ChannelNames, EndpointRefs, EventTypes, Limit, Since, Tenants, Until
from cli.output import Output, lines, pairs, pretty_json
from cli.terminal_states import state
from cli.terminal_text import printable
from everhook.contracts import DeliveryStatus

app = typer.Typer(help="What became of each message at each endpoint.", no_args_is_help=True)

Gid = Annotated[str, typer.Argument(help="The delivery's gid (dlv_…).", show_default=False)]
EXAMPLE = "dlv_…"

WATCH_EVERY_S = 0.5
WATCHED = 500
"""How many of the newest deliveries a watch looks at."""

Known = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Selection:
    """Which deliveries."""

    status: Annotated[list[DeliveryStatus] | None, typer.Option(help="In this state; may be given again.")] = None
    endpoint: EndpointRefs = None
    message: Annotated[list[str] | None, typer.Option(help="Of one message: its gid (msg_…); may be given again.")] = (
        None
    )
    channel: ChannelNames = None
    type: EventTypes = None
    tenant: Tenants = None

    def query(self) -> dict[str, Any]:
        """The parts, as the API names them."""
        return {_NAMES.get(name, name): value for name, value in vars(self).items()}


_NAMES = {"endpoint": "endpointGid", "message": "messageGid"}


@command(
    app,
    "list",
    examples=["deliveries list --status retrying", "deliveries list --message msg_…"],
)
def list_deliveries(
    session: Session, selection: Selection, since: Since = None, until: Until = None, limit: Limit = DEFAULT_LIMIT
) -> None:
    """List deliveries, newest first."""
    found = list(session.api.deliveries(limit, since=since, until=until, **selection.query()))
    session.out.show(found, lambda deliveries: table(session.out, deliveries, "There is no such delivery."))


@command(app, "show", examples=[f"deliveries show {EXAMPLE}", f"deliveries show {EXAMPLE} --payload --live"])
def show(
    session: Session,
    gid: Gid,
    payload: Annotated[bool, typer.Option("--payload", help="With what was published.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Ask its workflow what it waits for.")] = False,
) -> None:
    """Show one delivery with every attempt and its response."""
    delivery = session.api.delivery(gid)
    shown: dict[str, Any] = {**delivery}
    if payload:
        shown["payload"] = session.api.get(path("messages", delivery["messageGid"]))["payload"]
    if live:
        shown["live"] = session.api.get(path("deliveries", gid, "live"))
    session.out.show(shown, _detail)


@command(app, "attempt-now", examples=[f"deliveries attempt-now {EXAMPLE}"])
def attempt_now(session: Session, gid: Gid) -> None:
    """Do not wait for the next attempt's time. The circuit still rules."""
    session.out.show(
        session.api.post(path("deliveries", gid, "attempt-now")), lambda _: f"{gid}: an attempt is requested"
    )


@command(
    app,
    "watch",
    examples=[
        "deliveries watch",
        "deliveries watch --endpoint ep_…",
        f"deliveries watch {EXAMPLE}",
    ],
)
def watch(
    session: Session,
    selection: Selection,
    gid: Annotated[str | None, typer.Argument(help="One delivery: until it ends.", show_default=False)] = None,
) -> None:
    """Print a line whenever something happens to a delivery, until Ctrl-C.

    One delivery is watched until it ends; exit status 1 unless it was delivered. With --json each line is a delivery.
    """
    if gid is not None:
        _watch_one(session, gid)
        return
    query = selection.query()
    known = _known(session.api.deliveries(WATCHED, **query))
    session.out.note(f"watching {session.target.url} (Ctrl-C ends it)")
    for delivery in _changes(session.api, query, known):
        session.out.show(delivery, _line)


def _watch_one(session: Session, gid: str) -> None:
    seen: Any = None
    while True:
        delivery = session.api.delivery(gid)
        if _standing(delivery) != seen:
            seen = _standing(delivery)
            session.out.show(cast(Delivery, {**delivery}), _line)
        if delivery["status"] in AT_REST:
            conclude([delivery])
            return
        time.sleep(WATCH_EVERY_S)


def _changes(api: Api, query: dict[str, Any], known: Known) -> Iterator[Delivery]:
    """Deliveries that differ from what is known, oldest first, for ever."""
    while True:
        time.sleep(WATCH_EVERY_S)
        newest = list(api.deliveries(WATCHED, **query))
        for delivery in reversed(newest):
            if known.get(delivery["deliveryGid"]) != _standing(delivery):
                yield delivery
        known = _known(newest)


def _known(deliveries: Iterable[Delivery]) -> Known:
    return {one["deliveryGid"]: _standing(one) for one in deliveries}


def _standing(delivery: Delivery) -> tuple[Any, ...]:
    """What a person would call the same."""
    return (delivery["status"], delivery["round"], delivery["attemptsMade"], delivery["nextAttemptAt"])


def _line(delivery: Delivery) -> Text:
    """On a narrow terminal the end is cut off, which says the least."""
    next_ = f", next {age(delivery['nextAttemptAt'])}" if delivery["nextAttemptAt"] else ""
    reason = f"  {delivery['deadLetterReason']}" if delivery["status"] == "dead_lettered" else ""
    line = Text.assemble(
        (f"{clock(None)}  ", "dim"),
        f"{delivery['deliveryGid']}  ",
        state(delivery["status"]),
        f"  {printable(last_answer(delivery))}{reason}  ",
        (printable(delivery["type"]), "bold"),
        (f"  attempt {delivery['attemptsMade']}{next_}" if delivery["attemptsMade"] > 1 or next_ else "", "dim"),
    )
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def table(out: Output, deliveries: list[Delivery], none: str) -> Table | str:
    if not deliveries:
        return none
    rows = out.table("delivery", "status", "type", "answer", "age", "endpoint", wide=("endpoint",))
    for delivery in deliveries:
        rows.add(
            delivery=delivery["deliveryGid"],
            status=state(delivery["status"]),
            type=delivery["type"],
            answer=last_answer(delivery),
            age=age(delivery["acceptedAt"]),
            endpoint=delivery["endpointGid"],
        )
    return rows.table


def _detail(shown: dict[str, Any]) -> Group:
    parts: list[RenderableType] = [show_delivery(cast(Any, shown))]
    if "live" in shown:
        parts.append(_live(shown["live"]))
    if "payload" in shown:
        parts += [Text("\npayload", style="dim"), lines(pretty_json(shown["payload"]))]
    return Group(*parts)


def _live(live: LiveDelivery) -> Table:
    waits = f"{live['waitingFor']} (attempt {live['attempt']} of round {live['round']})"
    return pairs([("\nits workflow says", ""), ("waits for", waits), ("until", when(live["nextAttemptAt"]))])
