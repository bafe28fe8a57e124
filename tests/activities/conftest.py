"""Activities with a real database (SQLite, migrated), a real receiver and the real way out; no Temporal."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from everhook.egress import EgressClient, EgressRules
from everhook.storage.engine import Database
from everhook.storage.migrate import migrate
from testing.receiver import Receiver
from tests.activities.desk import Desk, FakeCircuits
from tests.stores.factories import Store

LOOPBACK = EgressRules((ip_network("127.0.0.0/8"),), http=True)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One migrated file, copied for each test."""
    path = tmp_path_factory.mktemp("activities") / "migrated.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
async def database(migrated: Path, tmp_path: Path) -> AsyncIterator[Database]:
    path = tmp_path / "everhook.db"
    shutil.copy(migrated, path)
    database = Database(f"sqlite+aiosqlite:///{path}")
    yield database
    await database.close()


@pytest.fixture
async def lost_database(tmp_path: Path) -> AsyncIterator[Database]:
    """One that is away: there is no file."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path}")
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def egress() -> AsyncIterator[EgressClient]:
    client = EgressClient(LOOPBACK)
    yield client
    await client.aclose()


@pytest.fixture
async def desk(store: Store, receiver: Receiver, egress: EgressClient) -> AsyncIterator[Desk]:
    desk = Desk(store, receiver, egress, FakeCircuits())
    yield desk
    await desk.reporter.close()
    await desk.sender.close()
