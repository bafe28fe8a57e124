"""Upgrades the database to the schema of this version, with Alembic's migrations in `migrations/`."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from everhook.storage.engine import DatabaseError

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"

MIGRATION_ERRORS = (CommandError, DatabaseError)
"""What `migrate` raises."""


def alembic_config(
    database_url: str, report: Callable[[str], None] | None = None, *, partition: bool | None = None
) -> Config:
    """Alembic's configuration, without an `alembic.ini`. `partition` as in `migrate`; None: no partition is changed."""
    config = Config(stdout=sys.stdout)  # by default it is that of the moment when Alembic was imported
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database_url"] = database_url
    config.attributes["report"] = report
    config.attributes["partition"] = partition
    return config


async def migrate(database_url: str, report: Callable[[str], None] | None = None, *, partition: bool = False) -> None:
    """Upgrade to the newest revision. If two processes do this, one upgrades, and the other waits and finds it done.

    `report` gets a line for each migration that was applied, and for the progress of long ones; it is called in a
    thread. On PostgreSQL each migration commits by itself, so after a failure run it again.

    On PostgreSQL a new database has partitions by month. `partition` converts the tables of an older one. No process of
    the release before partitions may be running then.
    """
    config = alembic_config(database_url, report, partition=partition)
    await asyncio.to_thread(command.upgrade, config, "head")


def known_revisions() -> list[str]:
    """The migrations of this version, the newest first."""
    scripts = ScriptDirectory(str(MIGRATIONS))
    return [script.revision for script in scripts.walk_revisions()]
