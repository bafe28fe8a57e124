"""`everhook keys`: the keys that Everhook itself stands on."""

import asyncio
from collections import Counter

import typer
from rich.console import Console
from rich.progress import Progress

from everhook.keyring import KeyRing, new_master_key
from everhook.settings import Settings
from everhook.usage import Unusable, load_settings

LEFT_OVER = 1

app = typer.Typer(name="keys", help="The keys that Everhook itself stands on.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def keys() -> None:
    """The keys that Everhook itself stands on."""


@app.command()
def new_master() -> None:
    """Print a new master key, for EVERHOOK_MASTER_KEYS."""
    console.print(new_master_key())


@app.command()
def rotate_master() -> None:
    """Seal everything by the first key of EVERHOOK_MASTER_KEYS. It may be interrupted, and run again, at any time."""
    settings = load_settings()
    left = asyncio.run(_reseal(settings, KeyRing.from_settings(settings)))
    if left:
        raise typer.Exit(LEFT_OVER)


async def _reseal(settings: Settings, keyring: KeyRing) -> int:
    """How many boxes the newest key did not seal in the end; what was done, and why something was not, is told."""
    from everhook.storage.engine import Database, is_unavailable
    from everhook.storage.sealed import count_outdated, reseal

    database = Database(settings.database_url)
    done, unopened = 0, Counter[str]()
    try:
        with Progress(console=console) as progress:
            task = progress.add_task("sealing", total=await count_outdated(database, keyring))
            async for batch in reseal(database, keyring):
                done += batch.resealed
                unopened.update(batch.unopened)
                progress.advance(task, batch.resealed + len(batch.unopened))
        left = await count_outdated(database, keyring)
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise Unusable(f"the database cannot be used ({done} sealed so far; run it again): {error}") from error
    finally:
        await database.close()
    console.print(f"sealed anew by the first key: {done}")
    for why, count in unopened.items():
        console.print(f"left as they are: {count} ({why})")
    console.print("the other keys may go" if left == 0 else f"keep the other keys: {left} are not sealed by the first")
    return left
