"""`everhook deliveries`."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.api_client.client import Api
from cli.command import Session, command
from cli.following import TERMINAL, conclude, show_delivery
from cli.formatting import age, clock, last_response, when
from cli.options import (
    DEFAULT_LIMIT,
    ChannelNames,
    EndpointRefs,
    EventTypes,
    Limit,
    Since,
    Subscriptions,
    Tenants,
    Until,
)
from cli.output import Output, lines, pairs, pretty_json
from cli.terminal_states import state
from cli.terminal_text import printable
from everhook.contracts import DeliveryStatus
from everhook_client import calls
from everhook_client.models import Delivery, LiveDelivery

app = typer.Typer(help="The delivery of each message to each endpoint.", no_args_is_help=True)

Gid = Annotated[str, typer.Argument(help="The delivery's gid (dlv_…).", show_default=False)]
EXAMPLE = "dlv_…"

WATCH_EVERY_S = 0.5
WATCHED = 500
"""How many of the newest deliveries a watch reads."""

Known = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Selection:
    """Which deliveries."""

    status: Annotated[list[DeliveryStatus] | None, typer.Option(help="In this state; can be repeated.")] = None
    endpoint: EndpointRefs = None
    subscription: Subscriptions = None
    message: Annotated[list[str] | None, typer.Option(help="Of one message: its gid (msg_…); can be repeated.")] = None
    channel: ChannelNames = None
    type: EventTypes = None
    tenant: Tenants = None

    def query(self) -> dict[str, Any]:
        """The parts, as the client names them."""
        return {_NAMES.get(name, name): value for name, value in vars(self).items()}


_NAMES = {"endpoint": "endpoint_gid", "message": "message_gid", "subscription": "subscription_gid"}


@command(
    app,
    "list",
    examples=["deliveries list --status retrying", "deliveries list --message msg_…"],
)
def list_deliveries(
    session: Session, selection: Selection, since: Since = None, until: Until = None, limit: Limit = DEFAULT_LIMIT
) -> None:
    """List deliveries, newest first."""
    found = list(session.api.items(calls.list_deliveries(since=since, until=until, **selection.query()), limit))
    session.out.show(found, lambda deliveries: table(session.out, deliveries, "No deliveries match."))


@command(app, "show", examples=[f"deliveries show {EXAMPLE}", f"deliveries show {EXAMPLE} --payload --live"])
def show(
    session: Session,
    gid: Gid,
    payload: Annotated[bool, typer.Option("--payload", help="Include the payload.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Ask its workflow what it waits for.")] = False,
) -> None:
    """Show one delivery with every attempt and its response."""
    delivery = session.api.call(calls.get_delivery(gid))
    shown: dict[str, Any] = {**delivery}
    if payload:
        message = session.api.call(calls.get_message(delivery["messageGid"]))
        shown |= {"payload": message["payload"], "payloadErasedAt": message["payloadErasedAt"]}
    if live:
        shown["live"] = session.api.call(calls.get_live_delivery(gid))
    session.out.show(shown, _detail)


@command(app, "attempt-now", examples=[f"deliveries attempt-now {EXAMPLE}"])
def attempt_now(session: Session, gid: Gid) -> None:
    """Make the next attempt now. An open circuit still parks it."""
    session.out.show(session.api.call(calls.attempt_now(gid)), lambda _: f"{gid}: attempt requested")


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
    """Print a line for each change of a delivery, until Ctrl-C.

    One delivery is watched until it ends; exit status 1 unless it was delivered. With --json each line is a delivery.
    """
    if gid is not None:
        _watch_one(session, gid)
        return
    query = selection.query()
    known = _known(session.api.items(calls.list_deliveries(**query), WATCHED))
    session.out.note(f"watching {session.target.url} (Ctrl-C stops it)")
    for delivery in _changes(session.api, query, known):
        session.out.show(delivery, _line)


def _watch_one(session: Session, gid: str) -> None:
    seen: Any = None
    while True:
        delivery = session.api.call(calls.get_delivery(gid))
        if _state_of(delivery) != seen:
            seen = _state_of(delivery)
            session.out.show(cast(Delivery, {**delivery}), _line)
        if delivery["status"] in TERMINAL:
            conclude(session, [delivery])
            return
        time.sleep(WATCH_EVERY_S)


def _changes(api: Api, query: dict[str, Any], known: Known) -> Iterator[Delivery]:
    """Yield deliveries that changed, oldest first, without end."""
    while True:
        time.sleep(WATCH_EVERY_S)
        newest = list(api.items(calls.list_deliveries(**query), WATCHED))
        for delivery in reversed(newest):
            if known.get(delivery["deliveryGid"]) != _state_of(delivery):
                yield delivery
        known = _known(newest)


def _known(deliveries: Iterable[Delivery]) -> Known:
    return {one["deliveryGid"]: _state_of(one) for one in deliveries}


def _state_of(delivery: Delivery) -> tuple[Any, ...]:
    """The parts of a delivery whose change is shown."""
    return (delivery["status"], delivery["round"], delivery["attemptsMade"], delivery["nextAttemptAt"])


def _line(delivery: Delivery) -> Text:
    """One line; on a narrow terminal its end is cut off."""
    next_ = f", next {age(delivery['nextAttemptAt'])}" if delivery["nextAttemptAt"] else ""
    reason = f"  {delivery['deadLetterReason']}" if delivery["status"] == "dead_lettered" else ""
    line = Text.assemble(
        (f"{clock(None)}  ", "dim"),
        f"{delivery['deliveryGid']}  ",
        state(delivery["status"]),
        f"  {printable(last_response(delivery))}{reason}  ",
        (printable(delivery["type"]), "bold"),
        (f"  attempt {delivery['attemptsMade']}{next_}" if delivery["attemptsMade"] > 1 or next_ else "", "dim"),
    )
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def table(out: Output, deliveries: list[Delivery], none: str) -> Table | str:
    if not deliveries:
        return none
    rows = out.table("delivery", "status", "type", "response", "age", "endpoint", wide=("endpoint",))
    for delivery in deliveries:
        rows.add(
            delivery=delivery["deliveryGid"],
            status=state(delivery["status"]),
            type=delivery["type"],
            response=last_response(delivery),
            age=age(delivery["acceptedAt"]),
            endpoint=delivery["endpointGid"],
        )
    return rows.table


def _detail(shown: dict[str, Any]) -> Group:
    parts: list[RenderableType] = [show_delivery(cast(Any, shown))]
    if "live" in shown:
        parts.append(_live(shown["live"]))
    if "payload" in shown:
        erased_at = shown["payloadErasedAt"]
        payload = lines(pretty_json(shown["payload"])) if erased_at is None else f"erased at {when(erased_at)}"
        parts += [Text("\npayload", style="dim"), payload]
    return Group(*parts)


def _live(live: LiveDelivery) -> Table:
    waits = f"{live['waitingFor']} (attempt {live['attempt']} of round {live['round']})"
    return pairs([("\nworkflow", ""), ("waits for", waits), ("until", when(live["nextAttemptAt"]))])
