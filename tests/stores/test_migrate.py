"""From nothing to this version's schema, on both databases."""

import asyncio
import re
import sys
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

from everhook.storage.engine import Database
from everhook.storage.migrate import alembic_config, known_revisions, migrate
from everhook.storage.tables import DEFAULT_TENANT_GID, Tenant
from testing.processes import Process

pytestmark = pytest.mark.both_databases


async def tables_of(url: str) -> set[str]:
    """Without partitions."""
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await engine.dispose()
    return {name for name in names if re.search(r"_past$|_\d{6}$", name) is None}


async def tenants_of(url: str) -> list[Tenant]:
    database = Database(url)
    async with database.reading() as session:
        found = list((await session.execute(select(Tenant))).scalars())
    await database.close()
    return found


async def test_the_migrations_make_exactly_what_the_models_describe(new_database_url: str) -> None:
    await migrate(new_database_url)
    assert await tables_of(new_database_url) == {*SQLModel.metadata.tables, "alembic_version"}
    await asyncio.to_thread(command.check, alembic_config(new_database_url))


async def test_the_revision_of_the_schema_is_read_from_the_database(new_database_url: str) -> None:
    newest, before = known_revisions()[:2]
    database = Database(new_database_url)
    assert await database.schema_revision() is None
    await migrate(new_database_url)
    assert await database.schema_revision() == newest
    await asyncio.to_thread(command.downgrade, alembic_config(new_database_url), before)
    assert await database.schema_revision() == before
    await database.close()


async def test_migrating_makes_the_default_tenant(new_database_url: str) -> None:
    await migrate(new_database_url)
    assert [(tenant.gid, tenant.name) for tenant in await tenants_of(new_database_url)] == [
        (DEFAULT_TENANT_GID, "default")
    ]


async def test_migrating_twice_changes_nothing(new_database_url: str) -> None:
    await migrate(new_database_url)
    first = await tenants_of(new_database_url)
    await migrate(new_database_url)
    assert await tenants_of(new_database_url) == first


async def test_a_migration_can_be_taken_back_and_made_again(new_database_url: str) -> None:
    await migrate(new_database_url)
    await asyncio.to_thread(command.downgrade, alembic_config(new_database_url), "base")
    assert await tables_of(new_database_url) <= {"alembic_version"}
    await migrate(new_database_url)
    assert len(await tenants_of(new_database_url)) == 1


async def test_processes_that_migrate_at_once_all_find_it_done(new_database_url: str, tmp_path: Path) -> None:
    env = {"EVERHOOK_DATABASE_URL": new_database_url, "EVERHOOK_DEV": "true"}
    command = [sys.executable, "-m", "cli", "migrate"]
    processes = [Process(command, log=tmp_path / f"{n}.log", env=env, forked=True) for n in range(3)]
    await asyncio.gather(*(process.run() for process in processes))
    assert len(await tenants_of(new_database_url)) == 1
