"""Upgrades the database to the schema of this version, with Alembic's migrations in `migrations/`."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def alembic_config(database_url: str) -> Config:
    """Alembic's configuration, without an `alembic.ini`."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database_url"] = database_url
    return config


async def migrate(database_url: str) -> None:
    """Upgrade to the newest revision. If two processes do this, one upgrades, and the other waits and finds it done."""
    await asyncio.to_thread(command.upgrade, alembic_config(database_url), "head")
