"""The parts that API and worker processes share: how they end."""

from typing import cast

import pytest
from temporalio.client import Client

from everhook.circuit.announcer import CircuitAnnouncer
from everhook.egress import EgressClient
from everhook.engine import delivery_engine
from everhook.storage.engine import Database
from testing.api import settings_for


async def test_a_part_that_fails_to_close_leaves_no_other_open(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    async def fail(_: CircuitAnnouncer) -> None:
        raise ConnectionError("away")

    async def close(_: EgressClient) -> None:
        closed.append("the last")

    monkeypatch.setattr(CircuitAnnouncer, "close", fail)  # the first
    monkeypatch.setattr(EgressClient, "aclose", close)
    with pytest.raises(ConnectionError):
        async with delivery_engine(cast(Client, object()), database, settings_for(database_url)):
            pass
    assert closed == ["the last"]
