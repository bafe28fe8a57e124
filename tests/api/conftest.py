"""Fixtures of the API's tests. `api` runs with Temporal stopped: what passes there needs only the database.

Tests of workflows are in `live`.
"""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from alembic import command

from everhook.settings import Settings
from everhook.storage.migrate import alembic_config
from testing.api import Api, running_api, settings_for, sqlite_url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with the schema, to be copied: migrating takes longer than most tests."""
    file = tmp_path_factory.mktemp("migrated") / "everhook.db"
    command.upgrade(alembic_config(sqlite_url(file)), "head")
    return file


def copied(migrated_file: Path, directory: Path) -> Settings:
    file = directory / "everhook.db"
    shutil.copy(migrated_file, file)
    return settings_for(sqlite_url(file))


@pytest.fixture
def settings(migrated_file: Path, tmp_path: Path) -> Settings:
    return copied(migrated_file, tmp_path)


@pytest_asyncio.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """The API with Temporal stopped."""
    async with running_api(settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """The same with a channel `orders`, for tests whose requests are refused and change nothing."""
    async with running_api(copied(migrated_file, tmp_path_factory.mktemp("shared"))) as running:
        await running.channel()
        yield running
