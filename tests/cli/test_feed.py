"""The feed of `everhook dev`: news is reported once, in the order of commits."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cli.dev.feed_store import Feed
from everhook.contracts import DeadLetterReason, Verdict
from everhook.ids import Kind, new_gid
from everhook.storage.engine import Database
from everhook.storage.event_outbox import record_event
from everhook.storage.migrate import migrate
from everhook.storage.tables import DEFAULT_TENANT_GID, Attempt, Delivery, Endpoint, now

ENDPOINT, DELIVERY = "ep_1", "dlv_1"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'everhook.db'}"
    await migrate(url)
    database = Database(url)
    async with database.writing() as session:
        session.add(Endpoint(gid=ENDPOINT, tenant_gid=DEFAULT_TENANT_GID, url="http://x/", signatures=[]))
        session.add(
            Delivery(
                gid=DELIVERY,
                tenant_gid=DEFAULT_TENANT_GID,
                message_gid="msg_1",
                endpoint_gid=ENDPOINT,
                channel="orders",
                event_type="order.created",
            )
        )
    yield database
    await database.close()


async def attempt(database: Database, number: int, gid: str | None = None) -> None:
    async with database.writing() as session:
        session.add(
            Attempt(
                gid=gid or new_gid(Kind.ATTEMPT),
                delivery_gid=DELIVERY,
                endpoint_gid=ENDPOINT,
                round=1,
                number=number,
                verdict=Verdict.RETRY,
                started_at=now(),
                duration_ms=1,
            )
        )


async def change(database: Database, sql: str) -> None:
    async with database.write_connection() as connection:
        await connection.exec_driver_sql(sql)


async def test_each_attempt_is_reported_once_and_earlier_ones_not_at_all(database: Database) -> None:
    feed = Feed(database)
    await attempt(database, 1)
    await feed.skip_to_end()
    await attempt(database, 2)
    assert [attempt.number for attempt in (await feed.news(10)).attempts] == [2]
    assert not (await feed.news(10)).attempts


async def test_an_endpoint_without_a_url_has_a_name(database: Database) -> None:
    feed = Feed(database)
    for number, options, name in ((1, {}, ENDPOINT), (2, {"name": "Managers"}, "Managers")):
        async with database.writing() as session:
            endpoint = await session.get_one(Endpoint, ENDPOINT)
            endpoint.url, endpoint.options = "", options
        await attempt(database, number)
        assert [each.description for each in (await feed.news(10)).attempts] == [name]


async def test_an_attempt_with_an_old_id_is_reported_when_it_is_committed(database: Database) -> None:
    feed = Feed(database)
    early = new_gid(Kind.ATTEMPT)
    await attempt(database, 2)
    await feed.news(10)
    await attempt(database, 1, early)
    assert [attempt.number for attempt in (await feed.news(10)).attempts] == [1]


async def test_news_beyond_the_limit_is_counted_and_skipped(database: Database) -> None:
    feed = Feed(database)
    for number in range(1, 6):
        await attempt(database, number)
    news = await feed.news(2)
    assert [attempt.number for attempt in news.attempts] == [1, 2]
    assert news.skipped == 3
    assert (await feed.news(2)).skipped == 0


async def test_an_event_comes_with_its_subject(database: Database) -> None:
    feed = Feed(database)
    async with database.writing() as session:
        record_event(session, "endpoint.circuit_opened", endpoint_gid=ENDPOINT, data={"failures": 5})
        record_event(
            session,
            "delivery.dead_lettered",
            endpoint_gid=ENDPOINT,
            delivery_gid=DELIVERY,
            data={"reason": DeadLetterReason.REJECTED.value},
        )
    events = {event.kind: event for event in (await feed.news(10)).events}
    assert events["endpoint.circuit_opened"].url == "http://x/"
    assert events["delivery.dead_lettered"].event_type == "order.created"
    assert not (await feed.news(10)).events


async def test_what_cannot_be_read_is_logged_once(database: Database) -> None:
    feed = Feed(database)
    broken = """UPDATE endpoint SET url = '', options = '{"name": "M\\ud800"}'"""
    await change(database, broken)
    await attempt(database, 1)
    with capture_logs() as logs:
        for _ in range(3):
            assert not (await feed.news(10)).attempts
    assert [entry["event"] for entry in logs] == ["the news cannot be read"]
