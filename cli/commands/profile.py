"""`everhook profile`: the config file of the client."""

import sys
from typing import Annotated

import typer
from rich.table import Table

from cli.api_client import profiles
from cli.api_client.target import check_url
from cli.command import Session, command
from cli.errors import UsageError
from cli.output import Output

app = typer.Typer(help="Named addresses of APIs, each with its key.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The profile's name.", show_default=False)]


@command(
    app,
    "set",
    examples=[
        "profile set production --api-url https://everhook.example.com",
        "profile set staging --api-url … < key-file",
    ],
)
def set_profile(session: Session, name: Name) -> None:
    """Store an address and a key. The key is prompted for, or read from standard input.

    The first profile becomes the current one, which is used by default; `everhook profile use` selects another.
    """
    if session.connection.api_url is None:
        raise UsageError("give the API's address: --api-url")
    url = check_url(session.connection.api_url, "--api-url")
    config = profiles.load().with_profile(profiles.check_name(name), profiles.Profile(url, _key()))
    file = profiles.save(config)
    session.out.show({"profile": name, "url": url, "file": str(file)}, lambda _: f"{name} is stored in {file}")


@command(app, "list", examples=["profile list"])
def list_profiles(session: Session) -> None:
    """List the profiles, without their keys."""
    config = profiles.load()
    shown = [
        {"name": name, "url": profile.url, "key": profile.api_key is not None, "current": name == config.current}
        for name, profile in config.profiles.items()
    ]
    session.out.show(shown, lambda rows: _table(session.out, rows))


@command(app, "use", examples=["profile use production"])
def use_profile(session: Session, name: Name) -> None:
    """Make this profile the default."""
    config = profiles.load()
    config.profile(name)
    profiles.save(profiles.Config(name, config.profiles))
    session.out.show({"profile": name}, lambda _: f"{name} is now the default")


@command(app, "remove", examples=["profile remove staging"])
def remove_profile(session: Session, name: Name) -> None:
    """Remove a profile: its address and its key."""
    profiles.save(profiles.load().without(name))
    session.out.show({"removed": name}, lambda _: f"{name} is removed")


def _key() -> str:
    if sys.stdin.isatty():
        key: str = typer.prompt("API key", hide_input=True, err=True)
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise UsageError("there is no key on standard input; nothing is stored")
    return key.strip()


def _table(out: Output, rows: list[dict[str, object]]) -> Table | str:
    if not rows:
        return "There are no profiles yet: everhook profile set production --api-url https://…"
    table = out.table("profile", "url", "key", "current")
    for row in rows:
        table.add(
            profile=str(row["name"]),
            url=str(row["url"]),
            key="stored" if row["key"] else "none",
            current="✓" if row["current"] else "",
        )
    return table.table
