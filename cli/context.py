"""Settings and the database for one command."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cli.dev.files import adopt_environment
from cli.errors import UsageError

if TYPE_CHECKING:
    from everhook.settings import Settings
    from everhook.storage.engine import Database

# Settings and the database are imported by the commands that use them: `--help` and the commands that talk to an API
# load neither pydantic nor SQLAlchemy.


def load_settings(**overrides: Any) -> "Settings":
    """Settings from the environment. Raises ConfigurationError, naming each variable that is wrong."""
    from everhook import settings

    return settings.load_settings(**overrides)


def require_temporal_options() -> None:
    """Raise ConfigurationError for an invalid `TEMPORAL_…` variable, which would later be a traceback or a wait."""
    from everhook.temporal.options import connect_options

    connect_options()


def load_settings_here() -> "Settings":
    """Settings for commands that inspect a running Everhook: unless the environment is set, those of the
    `everhook dev` that runs in this directory."""
    adopt_environment()
    return load_settings()


@asynccontextmanager
async def opened_database(settings: "Settings") -> "AsyncIterator[Database]":
    """The database of the settings, for one command. Raises UsageError if it cannot be used."""
    from everhook.storage.engine import Database, DatabaseError, reason
    from everhook.storage.keyring import DecryptionError

    database = Database(settings.database_url)
    try:
        if database.is_sqlite:
            _require_file(database.url.database)
        yield database
    except (DatabaseError, sqlite3.Error, OSError) as error:
        raise UsageError(
            f"the database (EVERHOOK_DATABASE_URL) cannot be used; has `everhook migrate` been run? {reason(error)}"
        ) from error
    except DecryptionError as error:
        raise UsageError(f"EVERHOOK_MASTER_KEYS: {error}") from error
    finally:
        await database.close()


def _require_file(file: str | None) -> None:
    """Check the file first: if the driver cannot open it, its thread may outlive the event loop and end in a
    traceback."""
    if not file or file == ":memory:":
        return
    if not Path(file).exists():
        raise UsageError(f"there is no database {file} (EVERHOOK_DATABASE_URL); `everhook migrate` creates it")
    sqlite3.connect(f"file:{quote(file)}?mode=rw", uri=True).close()
