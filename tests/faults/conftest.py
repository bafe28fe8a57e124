"""Two stacks of real processes that the fault tests share, one for each database; each test gets its own scene.

A workflow that only shows what was delivered takes as much CPU time as one that delivers: of these stacks, the one with
SQLite keeps this history, as by default.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from testing.postgres_server import ARCHIVING, PostgresServer
from testing.scene import SHARED, Scene
from testing.stack import Stack

WITHOUT_HISTORY = {**SHARED, "EVERHOOK_TEMPORAL_HISTORY": "exceptions"}


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def postgres_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Its server archives its WAL, so that it can be restored to a point in time."""
    directory = tmp_path_factory.mktemp("postgres")
    async with (
        PostgresServer(directory / "postgres.log", options=ARCHIVING) as server,
        Stack(directory, database=server, extra_env=WITHOUT_HISTORY) as stack,
    ):
        yield stack


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def sqlite_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with Stack(tmp_path_factory.mktemp("sqlite"), database="sqlite", extra_env=SHARED) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def postgres(postgres_stack: Stack) -> Scene:
    scene = Scene(postgres_stack)
    await scene.open()
    return scene


@pytest_asyncio.fixture(loop_scope="session")
async def sqlite(sqlite_stack: Stack) -> Scene:
    scene = Scene(sqlite_stack)
    await scene.open()
    return scene
