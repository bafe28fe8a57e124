"""`everhook channels`."""

import json
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from cli.command import Session, command
from cli.formatting import age, counted, when
from cli.options import (
    DEFAULT_LIMIT,
    CircuitJson,
    Limit,
    NoCircuit,
    PolicyOptions,
    Yes,
    changed,
    circuit_given,
    json_array,
)
from cli.output import Output, pairs
from everhook_client import calls
from everhook_client.models import Channel, GateStep

app = typer.Typer(help="Streams that services publish to, each with its delivery policy.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The channel's name.", show_default=False)]
Validation = Annotated[
    Literal["off", "warn", "reject"] | None,
    typer.Option(help="What happens to messages that do not fit the catalogue of event types."),
]

Gates = Annotated[
    str | None,
    typer.Option(
        help='The inboxes that approve each message before it is sent, as JSON, such as [{"inbox": "ep_…"}]. '
        "[] asks none.",
    ),
]
RetentionDays = Annotated[float | None, typer.Option(min=0, help="Days that payloads are kept.")]


@command(app, "list", examples=["channels list"])
def list_channels(session: Session, limit: Limit = DEFAULT_LIMIT) -> None:
    """List channels, by name."""
    found = list(session.api.items(calls.list_channels(), limit))
    session.out.show(found, lambda channels: _table(session.out, channels))


@command(app, "show", examples=["channels show orders"])
def show_channel(session: Session, name: Name) -> None:
    """Show one channel with its policy."""
    session.out.show(session.api.call(calls.get_channel(name)), _card)


@command(app, "create", examples=["channels create orders", "channels create orders --preset patient"])
def create_channel(
    session: Session,
    name: Name,
    policy: PolicyOptions,
    circuit: CircuitJson = None,
    gates: Gates = None,
    validation: Validation = None,
    retention_days: RetentionDays = None,
) -> None:
    """Create a channel, so that messages can be published to it."""
    given = {**policy.given(), **circuit_given(circuit), **_given(gates, validation, retention_days)}
    body = changed({"name": name, **given})
    session.out.show(session.api.call(calls.create_channel(body)), _card)


@command(
    app,
    "update",
    examples=[
        "channels update orders --preset brisk",
        "channels update orders --no-policy",
        "channels update orders --validation reject",
        """channels update orders --gates '[{"inbox": "ep_…"}]'""",
    ],
)
def update_channel(
    session: Session,
    name: Name,
    policy: PolicyOptions,
    no_policy: Annotated[bool, typer.Option("--no-policy", help="Use the default policy.")] = False,
    circuit: CircuitJson = None,
    no_circuit: NoCircuit = False,
    gates: Gates = None,
    validation: Validation = None,
    retention_days: RetentionDays = None,
    no_retention: Annotated[
        bool, typer.Option("--no-retention", help="Keep payloads for as long as the settings say.")
    ] = False,
) -> None:
    """Change the settings of a channel. Options that are not given stay unchanged; rounds that have started keep their
    policy."""
    options = (("policy", no_policy), ("circuit", no_circuit), ("retentionDays", no_retention))
    cleared = {name: None for name, clear in options if clear}
    given = {**policy.given(), **circuit_given(circuit), **_given(gates, validation, retention_days)}
    session.out.show(session.api.call(calls.update_channel(name, changed({**given, **cleared}))), _card)


@command(app, "delete", examples=["channels delete orders"])
def delete_channel(session: Session, name: Name, yes: Yes = False) -> None:
    """Delete a channel without subscriptions."""
    session.out.confirm(f"Delete the channel {name} at {session.target.url}?", yes=yes)
    session.api.call(calls.delete_channel(name))
    session.out.show({"deleted": name}, lambda _: f"{name} is deleted")


def _table(out: Output, channels: list[Channel]) -> Table | str:
    if not channels:
        return "There are no channels yet: everhook channels create orders"
    rows = out.table("name", "policy", "gates", "validation", "created")
    for channel in channels:
        rows.add(
            name=channel["name"],
            policy=_policy(channel),
            gates=counted(len(channel["gates"]), "step") if channel["gates"] else "",
            validation=channel["validation"],
            created=age(channel["createdAt"]),
        )
    return rows.table


def _card(channel: Channel) -> Table:
    return pairs(
        [
            ("name", channel["name"]),
            ("policy", _policy(channel)),
            ("circuit settings", json.dumps(channel["circuit"]) if channel["circuit"] is not None else None),
            ("gates", "\n".join(map(_step, channel["gates"] or ()))),
            ("validation", channel["validation"]),
            ("payloads are kept", _retention(channel)),
            ("created", when(channel["createdAt"])),
        ]
    )


def _step(step: GateStep) -> str:
    """A step of the gate: the inbox that asks, the messages that it is asked about, and what it asks."""
    rest = [f"{name} {json.dumps(value)}" for name, value in step.items() if name != "inbox"]
    return "  ".join([step["inbox"], *rest])


def _given(gates: str | None, validation: str | None, retention_days: float | None) -> dict[str, Any]:
    steps = json_array("--gates", gates) if gates is not None else None
    given = {"gates": steps, "validation": validation, "retentionDays": retention_days}
    return {name: value for name, value in given.items() if value is not None}


def _retention(channel: Channel) -> str:
    days = channel["retentionDays"]
    return "as long as the settings say" if days is None else "1 day" if days == 1 else f"{days:g} days"


def _policy(channel: Channel) -> str:
    return "the default" if channel["policy"] is None else json.dumps(channel["policy"])
