"""`everhook subscriptions`."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from cli.command import Session, command
from cli.formatting import when
from cli.options import DEFAULT_LIMIT, ChannelNames, EndpointRefs, Events, Limit, Yes, changed, json_object
from cli.output import Output, pairs
from everhook_client import calls
from everhook_client.models import Subscription, SubscriptionIn

app = typer.Typer(help="Which messages of a channel are sent to an endpoint.", no_args_is_help=True)

Gid = Annotated[str, typer.Argument(help="The subscription's gid (sub_…).", show_default=False)]
Filter = Annotated[
    str | None, typer.Option(help='Conditions on the payload as JSON, such as {"data.amount": {"$gt": 1000}}.')
]


IncludePayload = Annotated[
    bool | None,
    typer.Option(
        "--include-payload/--no-include-payload",
        help="Only on everhook.events: events about dead letters carry the payload.",
        show_default=False,
    ),
]


@command(app, "list", examples=["subscriptions list --endpoint ep_…", "subscriptions list --json"])
def list_subscriptions(
    session: Session, endpoint: EndpointRefs = None, channel: ChannelNames = None, limit: Limit = DEFAULT_LIMIT
) -> None:
    """List subscriptions, newest first."""
    found = list(session.api.items(calls.list_subscriptions(endpoint_gid=endpoint, channel=channel), limit))
    session.out.show(found, lambda subscriptions: _table(session.out, subscriptions))


@command(app, "show", examples=["subscriptions show sub_…"])
def show_subscription(session: Session, gid: Gid) -> None:
    """Show one subscription."""
    session.out.show(session.api.call(calls.get_subscription(gid)), _card)


@command(
    app,
    "create",
    examples=[
        "subscriptions create ep_… orders --event 'order.*'",
        "subscriptions create ep_… everhook.events --event delivery.dead_lettered --include-payload",
        'subscriptions create ep_… orders --filter \'{"amount": {"$gt": 1000}}\'',
    ],
)
def create_subscription(
    session: Session,
    endpoint: Annotated[str, typer.Argument(help="The endpoint's gid (ep_…).", show_default=False)],
    channel: Annotated[str, typer.Argument(help="The channel's name.", show_default=False)],
    events: Events = None,
    filter: Filter = None,
    include_payload: IncludePayload = None,
) -> None:
    """Send matching messages of a channel to an endpoint. Without --event: every type."""
    body: SubscriptionIn = {"endpointGid": endpoint, "channel": channel, "events": events or []}
    if filter is not None:
        body["filter"] = json_object("--filter", filter)
    if include_payload is not None:
        body["includePayload"] = include_payload
    session.out.show(session.api.call(calls.create_subscription(body)), _card)


@command(
    app,
    "update",
    examples=[
        "subscriptions update sub_… --event order.created --event order.paid",
        "subscriptions update sub_… --disable",
    ],
)
def update_subscription(
    session: Session,
    gid: Gid,
    events: Events = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="Every type.")] = False,
    filter: Filter = None,
    no_filter: Annotated[bool, typer.Option("--no-filter", help="Remove the filter.")] = False,
    enable: Annotated[bool | None, typer.Option("--enable/--disable", help="Enable or disable it.")] = None,
    include_payload: IncludePayload = None,
) -> None:
    """Change a subscription. Options that are not given stay unchanged."""
    body: dict[str, Any] = {}
    if events or all_events:
        body["events"] = [] if all_events else events
    if filter is not None or no_filter:
        body["filter"] = json_object("--filter", filter) if filter is not None and not no_filter else None
    if enable is not None:
        body["enabled"] = enable
    if include_payload is not None:
        body["includePayload"] = include_payload
    session.out.show(session.api.call(calls.update_subscription(gid, changed(body))), _card)


@command(app, "delete", examples=["subscriptions delete sub_…"])
def delete_subscription(session: Session, gid: Gid, yes: Yes = False) -> None:
    """Delete a subscription. Deliveries that were accepted before continue."""
    session.out.confirm(f"Delete {gid} at {session.target.url}?", yes=yes)
    session.api.call(calls.delete_subscription(gid))
    session.out.show({"deleted": gid}, lambda _: f"{gid} is deleted")


def _table(out: Output, subscriptions: list[Subscription]) -> Table | str:
    if not subscriptions:
        return "No subscriptions match: everhook subscriptions create ep_… orders"
    rows = out.table("subscription", "endpoint", "channel", "events", "filter", wide=("endpoint", "filter"))
    for one in subscriptions:
        rows.add(
            subscription=one["subscriptionGid"],
            endpoint=one["endpointGid"],
            channel=one["channel"],
            events=_events(one),
            filter=_filter(one),
        )
    return rows.table


def _card(subscription: Subscription) -> Table:
    return pairs(
        [
            ("subscription", subscription["subscriptionGid"]),
            ("endpoint", subscription["endpointGid"]),
            ("channel", subscription["channel"]),
            ("events", _events(subscription)),
            ("filter", _filter(subscription)),
            ("payload", "in events about dead letters" if subscription.get("includePayload") else None),
            ("created", when(subscription["createdAt"])),
        ]
    )


def _events(subscription: Subscription) -> str:
    shown = " ".join(subscription["events"]) or "all"
    return shown if subscription["enabled"] else f"{shown} (disabled)"


def _filter(subscription: Subscription) -> str:
    return "" if subscription["filter"] is None else json.dumps(subscription["filter"])
