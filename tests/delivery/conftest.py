"""The parts of a process that deliver, on a real database (SQLite), with a real receiver and a fake Temporal."""

from collections.abc import AsyncIterator

import pytest

from everhook.storage.engine import Database
from tests.activities.conftest import database, desk, egress, lost_database, migrated, receiver, store
from tests.delivery.fakes import FakeTemporal, HeldDatabase

__all__ = ["database", "desk", "egress", "lost_database", "migrated", "receiver", "store"]


@pytest.fixture
def temporal() -> FakeTemporal:
    return FakeTemporal()


@pytest.fixture
async def held_database(database: Database) -> AsyncIterator[HeldDatabase]:
    """The same data, for one whose writes are held up."""
    held = HeldDatabase(str(database.url))
    yield held
    await held.close()
