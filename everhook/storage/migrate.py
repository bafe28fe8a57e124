"""Bringing the database to this version's schema, with Alembic's migrations in `migrations/`."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def alembic_config(database_url: str) -> Config:
    """Alembic's configuration, without a file of its own."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database_url"] = database_url
    return config


async def migrate(database_url: str) -> None:
    """Upgrade to the newest revision. Two processes at once: one upgrades, the other waits and finds it done."""
    await asyncio.to_thread(command.upgrade, alembic_config(database_url), "head")
