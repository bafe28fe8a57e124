"""The parts of a process that deliver, on a real database (SQLite), with a real receiver and a fake Temporal."""

import pytest

from tests.activities.conftest import database, desk, egress, lost_database, migrated, receiver, store
from tests.everhook.delivery.fakes import FakeTemporal

__all__ = ["database", "desk", "egress", "lost_database", "migrated", "receiver", "store"]


@pytest.fixture
def temporal() -> FakeTemporal:
    return FakeTemporal()
