"""`everhook event-types`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.command import Session, command
from cli.formatting import age, when
from cli.options import DEFAULT_LIMIT, Limit, Yes, changed, json_value, read_text
from cli.output import Output, lines, pairs, pretty_json
from everhook_client import calls
from everhook_client.models import EventType, EventTypeImport, EventTypeSummary

app = typer.Typer(help="The catalogue: what the messages of each type look like.", no_args_is_help=True)

EXAMPLE = "order.created"

Name = Annotated[str, typer.Argument(help="The event type, such as order.created.", show_default=False)]
Description = Annotated[str | None, typer.Option(help="What it means.")]
SchemaFile = Annotated[
    Path | None, typer.Option("--schema", help="A file with the JSON Schema of payloads; - is standard input.")
]
ExampleFile = Annotated[Path | None, typer.Option("--example", help="A file with a payload; - is standard input.")]
Deprecated = Annotated[bool | None, typer.Option("--deprecated/--not-deprecated", help="Whether it is deprecated.")]


@command(app, "list", examples=["event-types list", "event-types list --archived"])
def list_event_types(
    session: Session,
    archived: Annotated[
        bool | None, typer.Option("--archived/--not-archived", help="Only those that are archived, or are not.")
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> None:
    """List event types, by name."""
    found = list(session.api.items(calls.list_event_types(archived=archived), limit))
    session.out.show(found, lambda types: _table(session.out, types))


@command(app, "show", examples=[f"event-types show {EXAMPLE}"])
def show_event_type(session: Session, name: Name) -> None:
    """Show one event type with its schema and example."""
    session.out.show(session.api.call(calls.get_event_type(name)), _card)


@command(
    app,
    "create",
    examples=[
        f"event-types create {EXAMPLE} --description 'A customer has ordered.'",
        f"event-types create {EXAMPLE} --schema order.schema.json --example order.json",
    ],
)
def create_event_type(
    session: Session,
    name: Name,
    description: Description = None,
    schema: SchemaFile = None,
    example: ExampleFile = None,
    deprecated: Deprecated = None,
) -> None:
    """Add an event type to the catalogue."""
    body: Any = {"name": name, **_given(description, schema, example, deprecated)}
    session.out.show(session.api.call(calls.create_event_type(body)), _card)


@command(
    app,
    "update",
    examples=[f"event-types update {EXAMPLE} --schema order.schema.json", f"event-types update {EXAMPLE} --deprecated"],
)
def update_event_type(
    session: Session,
    name: Name,
    description: Description = None,
    schema: SchemaFile = None,
    no_schema: Annotated[bool, typer.Option("--no-schema", help="Remove the schema.")] = False,
    example: ExampleFile = None,
    no_example: Annotated[bool, typer.Option("--no-example", help="Remove the example.")] = False,
    deprecated: Deprecated = None,
) -> None:
    """Change an event type. Options that are not given stay unchanged."""
    body = _given(description, schema, example, deprecated)
    body |= {"schema": None} if no_schema else {}
    body |= {"example": None} if no_example else {}
    session.out.show(session.api.call(calls.update_event_type(name, changed(body))), _card)


@command(app, "archive", examples=[f"event-types archive {EXAMPLE}"])
def archive_event_type(session: Session, name: Name) -> None:
    """Archive an event type: channels with the validation `reject` refuse it, and tenants do not see it."""
    session.out.show(session.api.call(calls.update_event_type(name, {"archived": True})), _card)


@command(app, "restore", examples=[f"event-types restore {EXAMPLE}"])
def restore_event_type(session: Session, name: Name) -> None:
    """Restore an event type that was archived."""
    session.out.show(session.api.call(calls.update_event_type(name, {"archived": False})), _card)


@command(app, "delete", examples=[f"event-types delete {EXAMPLE}"])
def delete_event_type(session: Session, name: Name, yes: Yes = False) -> None:
    """Delete an event type. Messages of the type stay."""
    session.out.confirm(f"Delete the event type {name} at {session.target.url}?", yes=yes)
    session.api.call(calls.delete_event_type(name))
    session.out.show({"deleted": name}, lambda _: f"{name} is deleted")


@command(app, "import", examples=["event-types import openapi.json --dry-run", "event-types import openapi.json"])
def import_event_types(
    session: Session,
    file: Annotated[Path, typer.Argument(help="An OpenAPI document (3.1) in JSON; - is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
) -> None:
    """Create and change the event types that an OpenAPI document describes under `webhooks`: all, or none."""
    document = json_value(str(file), read_text("FILE", file))
    done = session.api.call(calls.import_event_types(document, dry_run=dry_run))
    session.out.show(done, lambda imported: _imported(imported, dry_run=dry_run))


@command(app, "export", examples=["event-types export"])
def export_event_types(session: Session) -> None:
    """Print the event types that are not archived as an OpenAPI document."""
    session.out.raw_json(session.api.text(calls.export_event_types()))


def _given(
    description: str | None, schema: Path | None, example: Path | None, deprecated: bool | None
) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if description is not None:
        body["description"] = description
    if schema is not None:
        body["schema"] = json_value("--schema", read_text("--schema", schema))
    if example is not None:
        body["example"] = json_value("--example", read_text("--example", example))
    if deprecated is not None:
        body["deprecated"] = deprecated
    return body


def _table(out: Output, types: list[EventTypeSummary]) -> Table | str:
    if not types:
        return "No event types match: everhook event-types create order.created, or everhook event-types import"
    rows = out.table("type", "schema", "state", "description", "changed", wide=("description",))
    for one in types:
        rows.add(
            type=one["name"],
            schema="yes" if one["hasSchema"] else "no",
            state=_state(one),
            description=one["description"],
            changed=age(one["updatedAt"]),
        )
    return rows.table


def _card(one: EventType) -> Group:
    described = (("schema", one["schema"]), ("example", one["example"]))
    card = pairs(
        [
            ("type", one["name"]),
            ("description", one["description"]),
            ("state", _state(one)),
            *((name, "none") for name, value in described if value is None),
            ("changed", when(one["updatedAt"])),
        ]
    )
    parts: list[RenderableType] = [card]
    for name, value in described:
        if value is not None:
            parts += [Text(f"\n{name}", style="dim"), lines(pretty_json(value))]
    return Group(*parts)


def _state(one: EventType | EventTypeSummary) -> str:
    return "archived" if one["archived"] else "deprecated" if one["deprecated"] else "in use"


def _imported(imported: EventTypeImport, *, dry_run: bool) -> str:
    lines = [
        f"{verb}: {', '.join(names)}"
        for verb, names in (
            ("to create" if dry_run else "created", imported["created"]),
            ("to change" if dry_run else "changed", imported["changed"]),
            ("unchanged", imported["unchanged"]),
        )
        if names
    ]
    return "\n".join(lines)
