"""`everhook keys`: API keys, master keys, and the keys of receipts. Works without a running API."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.command import epilog
from cli.context import load_settings_here
from cli.formatting import when
from cli.options import AsJson
from cli.output import Output

if TYPE_CHECKING:
    from everhook.settings import Settings
    from everhook.storage.keyring import KeyRing
    from everhook.tenants.api_keys import ApiKeyView

LEFT_OVER = 1
"""Exit status if something could not be encrypted again."""

app = typer.Typer(name="keys", help="API keys, master keys, and the keys of receipts.", no_args_is_help=True)
console = Console(highlight=False, markup=False, soft_wrap=True)
aside = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@app.callback()
def keys() -> None:
    """API keys, master keys, and the keys of receipts."""


@app.command(
    epilog=epilog(
        [
            "keys create --name billing --scope publish",
            "keys create --name worker --scope receive:ep_01k2x3y4z5e6f7g8h9j0kamnpq",
            "keys create --name ann@acme.example --scope tasks:ep_01k2x3y4z5e6f7g8h9j0kamnpq",
            "keys create --name 'support of acme' --tenant acme --expires-in-days 90",
        ]
    )
)
def create(
    name: Annotated[str, typer.Option(help="The name that is recorded with each action.", show_default=False)],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="admin, publish, read, receive:<endpoint gid>, or tasks:<endpoint gid>; can be repeated.",
            show_default=False,
        ),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Name or gid: the key gives access to this tenant only.", show_default=False)
    ] = None,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0.001, max=36_500, help="By default the key never expires.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key. It is printed only once."""
    from cli import api_keys

    created = asyncio.run(api_keys.create(name, scope or [], tenant, expires_in_days))
    if as_json:
        Output(as_json).json(_shown(created) | {"key": created.key})
        return
    aside.print(f"{created.row.gid}, the key of {name}: {' '.join(created.scopes)}. It is shown only once.")
    console.print(created.key)


@app.command("list", epilog=epilog(["keys list", "keys list --json"]))
def list_keys(as_json: AsJson = False) -> None:
    """List API keys, newest first, without the secret part."""
    from cli import api_keys

    shown = [_shown(key) for key in asyncio.run(api_keys.list_all())]
    out = Output(as_json)
    out.show(shown, lambda keys: _table(out, keys))


@app.command(epilog=epilog(["keys revoke ek_01k2x3y4z5e6f7g8h9j0kamnpq"]))
def revoke(
    gid: Annotated[str, typer.Argument(help="The key's gid, `ek_…`.", show_default=False)], as_json: AsJson = False
) -> None:
    """Revoke a key immediately."""
    from cli import api_keys

    asyncio.run(api_keys.revoke(gid))
    _print(as_json, f"{gid} is revoked", {"keyGid": gid, "state": "revoked"})


@app.command(epilog=epilog(["keys new-master"]))
def new_master(as_json: AsJson = False) -> None:
    """Print a new master key, for EVERHOOK_MASTER_KEYS."""
    from everhook.storage.keyring import new_master_key

    key = new_master_key()
    _print(as_json, key, {"masterKey": key})


@app.command(epilog=epilog(["keys rotate-master"]))
def rotate_master(as_json: AsJson = False) -> None:
    """Encrypt everything with the first key of EVERHOOK_MASTER_KEYS. Can be interrupted and run again at any time."""
    from everhook.storage.keyring import KeyRing

    settings = load_settings_here()
    left = asyncio.run(_reencrypt(settings, KeyRing.from_settings(settings), Output(as_json)))
    if left:
        raise typer.Exit(LEFT_OVER)


@app.command("rotate-receipts", epilog=epilog(["keys rotate-receipts"]))
def rotate_receipts(as_json: AsJson = False) -> None:
    """Create a new key that signs receipts and checkpoints. The old one stops in ten minutes and stays published."""
    asyncio.run(_rotate_receipts(as_json))


async def _rotate_receipts(as_json: bool) -> None:
    from cli.api_keys import ACTOR
    from cli.context import load_settings_here, opened_database
    from everhook.audit.store import record_audit
    from everhook.receipts.issuer import issuer_name
    from everhook.receipts.keys_store import rotate_keys
    from everhook.storage.keyring import KeyRing
    from everhook.storage.tables import now

    settings = load_settings_here()
    keyring, name = KeyRing.from_settings(settings), issuer_name(settings)
    async with opened_database(settings) as database, database.writing() as session:
        issuer = await rotate_keys(await session.connection(), keyring, name, now())
        new, *old = issuer.keys
        record_audit(session, ACTOR, "receipt_key.rotated", new.kid)
    lines = [f"{new.kid} signs for {issuer.name} within a minute"]
    retired = [(key.kid, key.retired_at) for key in old[:1] if key.retired_at is not None]
    lines += [f"{kid} stops at {moment:%Y-%m-%d %H:%M:%S} UTC and stays published" for kid, moment in retired]
    document = {
        "kid": new.kid,
        "issuer": issuer.name,
        "retired": [{"kid": kid, "retiredAt": moment.isoformat()} for kid, moment in retired],
    }
    _print(as_json, "\n".join(lines), document)


def _table(out: Output, keys: list[dict[str, Any]]) -> Table | str:
    if not keys:
        return "There are no keys: everhook keys create --name … --scope admin"
    rows = out.table("key", "name", "scopes", "tenant", "state", "expires")
    for one in keys:
        rows.add(
            key=one["keyGid"],
            name=one["name"],
            scopes=" ".join(one["scopes"]),
            tenant=one["tenant"] or "",
            state=one["state"],
            expires=when(one["expiresAt"]) or "never",
        )
    return rows.table


def _print(as_json: bool, text: str, document: dict[str, Any]) -> None:
    if as_json:
        Output(as_json).json(document)
    else:
        console.print(text)


def _shown(view: "ApiKeyView") -> dict[str, Any]:
    row = view.row
    return {
        "keyGid": row.gid,
        "name": row.name,
        "scopes": view.scopes,
        "tenant": view.tenant,
        "state": view.state,
        "createdAt": row.created_at.isoformat(),
        "expiresAt": row.expires_at.isoformat() if row.expires_at is not None else None,
    }


async def _reencrypt(settings: "Settings", keyring: "KeyRing", out: Output) -> int:
    """Encrypt all secrets with the newest key and print a summary; returns how many are left with an older key."""
    from cli.context import opened_database
    from everhook.storage.encryption import count_outdated, reencrypt
    from everhook.storage.header_encryption import encrypt_plain_headers

    done, unopened = 0, Counter[str]()
    async with opened_database(settings) as database:
        done += sum([count async for count in encrypt_plain_headers(database, keyring)])
        with out.progress() as progress:
            task = progress.add_task("encrypting", total=await count_outdated(database, keyring))
            async for batch in reencrypt(database, keyring):
                done += batch.reencrypted
                unopened.update(batch.undecrypted)
                progress.advance(task, batch.reencrypted + len(batch.undecrypted))
        left = await count_outdated(database, keyring)
    lines = [f"encrypted with the first key: {done}"]
    lines += [f"not changed: {count} ({why})" for why, count in unopened.items()]
    lines += [
        "the other keys are no longer needed" if left == 0 else f"keep the other keys: {left} secrets still need them"
    ]
    _print(out.as_json, "\n".join(lines), {"reencrypted": done, "left": left, "unopened": unopened})
    return left
