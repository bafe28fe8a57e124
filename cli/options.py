"""Options that several commands share, and their conversion to parts of a request."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.errors import UsageError

DEFAULT_LIMIT = 50
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_AGO = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>s|m|min|h|d)")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d.*")
"""What the API checks further."""

STDIN = Path("-")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Limit = Annotated[int, typer.Option(min=1, help="Maximum number of entries.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Tenant = Annotated[str | None, typer.Option(help="A tenant, by name.")]
_AGAIN = "; can be repeated to match any of several."
Tenants = Annotated[list[str] | None, typer.Option("--tenant", help=f"A tenant, by name{_AGAIN}")]
ChannelNames = Annotated[list[str] | None, typer.Option("--channel", help=f"A channel, by name{_AGAIN}")]
EndpointRefs = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        help=f"An endpoint: its gid (ep_…), or a unique part of its URL or description{_AGAIN}",
    ),
]
Subscriptions = Annotated[
    list[str] | None, typer.Option("--subscription", help="Of a subscription: its gid (sub_…); can be repeated.")
]
EventTypes = Annotated[list[str] | None, typer.Option("--type", help=f"An event type, such as order.created{_AGAIN}")]
EventType = Annotated[str | None, typer.Option(help="An event type, such as order.created.")]
Events = Annotated[
    list[str] | None, typer.Option("--event", help="A pattern of event types, such as order.*; can be repeated.")
]
Since = Annotated[str | None, typer.Option(help="At or after this time, such as 2026-01-31T12:00:00Z.")]
Until = Annotated[str | None, typer.Option(help="Before this time.")]
Reason = Annotated[str, typer.Option(help="The reason; it is recorded.")]


@dataclass(frozen=True)
class PolicyOptions:
    """A delivery policy: one of the presets, or JSON as in the API."""

    preset: Annotated[Literal["documented", "patient", "brisk"] | None, typer.Option(help="A predefined schedule.")] = (
        None
    )
    policy: Annotated[
        str | None, typer.Option(help='A policy as JSON, such as {"delaysSeconds": [1, 60], "timeoutSeconds": 5}.')
    ] = None

    def given(self) -> dict[str, Any]:
        """The `policy` field of a request; empty if no option was given."""
        if self.preset is not None and self.policy is not None:
            raise UsageError("--preset and --policy: give one of them")
        if self.preset is not None:
            return {"policy": {"preset": self.preset}}
        return {"policy": json_object("--policy", self.policy)} if self.policy is not None else {}


def moment(option: str, text: str) -> str:
    """A time as the API takes it: one that is given, or that of `90min`, `2h` or `7d` ago."""
    if _TIME.fullmatch(text):
        return text
    ago = _AGO.fullmatch(text)
    if ago is None:
        raise UsageError(
            f"{option}: {text} is neither a time such as 2026-01-31T12:00:00Z nor how long ago, such as 90min, 2h or 7d"
        )
    try:
        then = datetime.now(UTC) - timedelta(seconds=int(ago["number"]) * _SECONDS[ago["unit"]])
    except OverflowError as error:
        raise UsageError(f"{option}: {text} is too long ago") from error
    return then.isoformat()


CircuitJson = Annotated[
    str | None,
    typer.Option(
        "--circuit", help='Circuit settings as JSON, such as {"failureThreshold": 10, "cooldownSeconds": 60}.'
    ),
]
NoCircuit = Annotated[bool, typer.Option("--no-circuit", help="Remove its circuit settings.")]


def circuit_given(circuit: str | None) -> dict[str, Any]:
    """The `circuit` field of a request; empty if the option was not given."""
    return {"circuit": json_object("--circuit", circuit)} if circuit is not None else {}


def json_value(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{option} is not JSON: {error}") from error


def json_object(option: str, text: str) -> dict[str, Any]:
    value = json_value(option, text)
    if not isinstance(value, dict):
        raise UsageError(f"{option} must be a JSON object, in {{…}}")
    return value


def json_array(option: str, text: str) -> list[Any]:
    value = json_value(option, text)
    if not isinstance(value, list):
        raise UsageError(f"{option} must be a JSON array, in […]")
    return value


def read_file(option: str, file: Path) -> bytes:
    """A file's bytes; `-` is standard input."""
    try:
        return typer.get_binary_stream("stdin").read() if file == STDIN else file.read_bytes()
    except OSError as error:
        raise UsageError(f"{option}: {file} cannot be read: {error.strerror or error}") from error


def read_text(option: str, file: Path) -> str:
    try:
        return read_file(option, file).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{option}: {file} is not text in UTF-8") from error


def changed(body: dict[str, Any]) -> Any:
    """The body of an update, of any resource. Raises UsageError if it is empty."""
    if not body:
        raise UsageError("nothing to change: give at least one option; --help lists them")
    return body
