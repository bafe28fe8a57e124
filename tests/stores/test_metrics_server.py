"""`/metrics`: where it is offered, and what it does while the database is away."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from everhook.errors import ConfigurationError
from everhook.health.backlog_store import Backlog
from everhook.serving.metrics_server import metrics_served, sdk_metrics_address
from everhook.settings import Settings
from everhook.storage.engine import Database, Session
from testing.postgres_server import PostgresServer
from testing.processes import free_port
from testing.stack import async_url
from tests.stores.factories import Store


def settings(**changes: Any) -> Settings:
    return Settings(dev=True, **changes)


@asynccontextmanager
async def served(
    database: Database, sdk_address: str | None = None, *, count_timeout: float = 4.0
) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    async with (
        metrics_served(settings(metrics_port=port), database, sdk_address, count_timeout=count_timeout),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client,
    ):
        yield client


async def test_gauges_are_of_the_database_and_a_few_seconds_old_at_most(store: Store) -> None:
    async with served(store.database) as client:
        await store.deliveries(3)
        assert "\neverhook_undispatched 3.0\n" in (await client.get("/metrics")).text
        await store.deliveries(1)
        assert "\neverhook_undispatched 3.0\n" in (await client.get("/metrics")).text, "asked no more often than that"


async def test_while_the_database_is_away_there_are_counters_and_no_gauges(lost_database: Database) -> None:
    async with served(lost_database) as client:
        text = (await client.get("/metrics")).text
    assert "everhook_attempts_total" in text
    assert "everhook_undispatched" not in text


async def test_a_hanging_database_does_not_delay_the_metrics_response(postgres: PostgresServer) -> None:
    """Otherwise Prometheus takes the process for dead, and the alert names the wrong cause."""
    database = Database(async_url(postgres.url_of("postgres")), response_timeout=None)
    await database.ping()
    async with served(database, count_timeout=0.3) as client:
        postgres.suspend()
        try:
            text = (await client.get("/metrics", timeout=4.5)).text
        finally:
            postgres.resume()
    await database.close()
    assert "everhook_attempts_total" in text
    assert "everhook_undispatched" not in text


async def test_a_count_that_is_late_ends_before_the_database_is_closed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    async def late(_session: Session) -> Backlog:
        await asyncio.sleep(0.3)
        ended.append(True)
        raise TimeoutError

    monkeypatch.setattr("everhook.serving.metrics_server.backlog", late)
    async with served(database, count_timeout=0.01) as client:
        assert "everhook_undispatched" not in (await client.get("/metrics")).text
    assert ended == [True]


async def test_without_the_metrics_of_the_sdk_everhooks_metrics_are_served(store: Store) -> None:
    async with served(store.database, f"127.0.0.1:{free_port()}") as client:
        response = await client.get("/metrics")
    assert response.status_code == 200 and "everhook_build_info" in response.text


async def test_other_paths_and_methods_return_404(store: Store) -> None:
    async with served(store.database) as client:
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/metrics")).status_code == 404


async def test_without_a_port_nothing_is_offered(database: Database) -> None:
    without = settings()
    assert sdk_metrics_address(without) is None
    async with metrics_served(without, database, None):
        pass


async def test_the_error_names_a_port_that_is_in_use(database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}.*EVERHOOK_METRICS_PORT"):
            async with metrics_served(settings(metrics_port=port), database, None):
                pass
