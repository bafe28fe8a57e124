"""How commands end when they do not end well: one line for people, and an exit status."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cli.dev.files import adopt_environment

if TYPE_CHECKING:
    from everhook.settings import Settings
    from everhook.storage.engine import Database


class Failure(Exception):
    """Ends a command. The text says what is wrong, and what to do; `status` is the exit status."""

    status = 1


class Unusable(Failure):
    """What is wrong lies with how we were called, or with what is around us."""

    status = 2


def load_settings(**overrides: Any) -> "Settings":
    """Settings from the environment. Raises Unusable, naming each variable that is wrong."""
    from pydantic import ValidationError

    from everhook.settings import Settings

    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(
            f"EVERHOOK_{'_'.join(str(part) for part in e['loc']).upper()}: {e['msg']}" if e["loc"] else e["msg"]
            for e in error.errors()
        )
        raise Unusable(wrong.replace("Value error, ", "")) from error


def require_temporal_options() -> None:
    """Raise Unusable, naming the `TEMPORAL_…` variable that is wrong: later it would be a traceback, or a long wait."""
    from everhook.temporal.options import connect_options

    connect_options()


def load_settings_here() -> "Settings":
    """The same for commands that look at a running Everhook: where the environment does not say which, the
    `everhook dev` of this directory."""
    adopt_environment()
    return load_settings()


@asynccontextmanager
async def opened_database(settings: "Settings") -> "AsyncIterator[Database]":
    """The database of the settings, for one command. Raises Unusable where it cannot be used."""
    from sqlalchemy.exc import SQLAlchemyError

    from everhook.storage.engine import Database, reason
    from everhook.storage.keyring import CannotOpen

    database = Database(settings.database_url)
    try:
        if database.is_sqlite:
            _require_file(database.url.database)
        yield database
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise Unusable(
            f"the database (EVERHOOK_DATABASE_URL) cannot be used; has `everhook migrate` been run? {reason(error)}"
        ) from error
    except CannotOpen as error:
        raise Unusable(f"EVERHOOK_MASTER_KEYS: {error}") from error
    finally:
        await database.close()


def _require_file(file: str | None) -> None:
    """Looked at first: where the driver cannot open a file, its thread may outlive the event loop, and end in a
    traceback."""
    if not file or file == ":memory:":
        return
    if not Path(file).exists():
        raise Unusable(f"there is no database {file} (EVERHOOK_DATABASE_URL); `everhook migrate` creates it")
    sqlite3.connect(f"file:{quote(file)}?mode=rw", uri=True).close()
