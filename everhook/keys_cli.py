"""`everhook keys`: API keys, in the database (EVERHOOK_DATABASE_URL) and without an API that runs."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from everhook.storage.tables import ApiKey

GID_LENGTH = 29

app = typer.Typer(name="keys", help="Make, list and revoke API keys.", no_args_is_help=True)
console = Console(highlight=False, markup=False, soft_wrap=True)
aside = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def keys() -> None:
    """Make, list and revoke API keys."""


@app.command()
def create(
    name: Annotated[
        str, typer.Option(help="Whose key it is: it goes on record with what they do.", show_default=False)
    ],
    scope: Annotated[
        list[str] | None, typer.Option(help="admin, publish or read; may be given again.", show_default=False)
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Name or gid: the key reaches this tenant's things only.", show_default=False)
    ] = None,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0.001, max=36_500, help="Never, unless given.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is printed this once."""
    from everhook import issuing
    from everhook.storage.api_keys import shown_scopes

    row, key = asyncio.run(issuing.create(name, scope or [], tenant, expires_in_days))
    if as_json:
        console.print_json(json.dumps(_shown(row, tenant) | {"key": key}))
        return
    aside.print(f"{row.gid}, the key of {row.name}: {' '.join(shown_scopes(row))}. It is shown this once.")
    console.print(key)


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys, newest first; never the keys themselves."""
    from everhook import issuing

    rows, names = asyncio.run(issuing.list_all())
    shown = [_shown(row, names.get(row.tenant_gid or "")) for row in rows]
    if as_json:
        console.print_json(json.dumps(shown))
        return
    table = Table(Column("key", min_width=GID_LENGTH), "name", "scopes", "tenant", "state", "expires")
    for one in shown:
        cells = (one["keyGid"], one["name"], " ".join(one["scopes"]), one["tenant"], one["state"], one["expiresAt"])
        table.add_row(*(cell or "" for cell in cells))
    console.print(table)


@app.command()
def revoke(gid: Annotated[str, typer.Argument(help="The key's gid, `ek_…`.", show_default=False)]) -> None:
    """Revoke a key, at once."""
    from everhook import issuing

    asyncio.run(issuing.revoke(gid))
    console.print(f"{gid} is revoked")


def _shown(row: "ApiKey", tenant: str | None) -> dict[str, Any]:
    from everhook.storage import api_keys

    return {
        "keyGid": row.gid,
        "name": row.name,
        "scopes": api_keys.shown_scopes(row),
        "tenant": tenant,
        "state": api_keys.state_of(row),
        "createdAt": row.created_at.isoformat(),
        "expiresAt": row.expires_at.isoformat() if row.expires_at is not None else None,
    }
