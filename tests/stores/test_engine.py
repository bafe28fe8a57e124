"""Sessions commit or roll back, errors are mute about what was written, and time is UTC."""

import asyncio
import re
import traceback
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError, StatementError

from everhook.storage import engine
from everhook.storage.engine import Database
from everhook.storage.statements import table_of
from everhook.storage.tables import Message, Tenant
from everhook.tenants import store as tenants
from tests.stores.factories import Store, moment, publication

pytestmark = pytest.mark.both_databases

SECRET_TEXT = "4111-1111-1111-1111"


async def test_a_writing_block_commits_when_it_ends(store: Store, other_database: Database) -> None:
    await store.tenant("acme")
    async with other_database.reading() as session:
        assert await tenants.find_tenant(session, "acme") is not None


async def test_a_writing_block_that_raises_leaves_nothing(store: Store, database: Database) -> None:
    with pytest.raises(RuntimeError, match="after all not"):
        async with database.writing() as session:
            await tenants.ensure_tenant(session, "acme")
            raise RuntimeError("after all not")
    async with database.reading() as session:
        assert await tenants.find_tenant(session, "acme") is None


async def test_a_tenant_named_by_many_at_once_is_made_once(store: Store) -> None:
    gids = await asyncio.gather(*(store.tenant("acme") for _ in range(20)))
    assert len(set(gids)) == 1
    assert await store.count(Tenant) == 2


async def test_readers_do_not_wait_for_a_writer(store: Store, database: Database) -> None:
    async with database.writing() as session:
        await tenants.ensure_tenant(session, "acme")
        async with asyncio.timeout(30):
            assert await store.count(Tenant) == 1


async def test_a_ping_succeeds_if_the_database_responds_and_fails_if_it_is_away(
    database: Database, lost_database: Database
) -> None:
    await database.ping()
    with pytest.raises(OSError):
        await lost_database.ping()


async def test_the_version_and_the_clock_of_the_server_are_read(database: Database) -> None:
    assert re.match(r"3\.\d+\.\d+$" if database.is_sqlite else r"\d+[. ]", await database.server_version())
    if database.is_sqlite:
        return
    before = datetime.now(UTC)
    found, took = await database.server_clock()
    assert before <= found <= datetime.now(UTC) and timedelta() < took < timedelta(seconds=30)


async def test_closing_waits_for_a_connection_that_is_being_returned(database: Database) -> None:
    """Its pool closes it. A connection that is returned to a pool that was disposed of is never closed."""
    closing = None
    async with database.read_connection() as connection:
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        await connection.execute(text("SELECT 1"))
    await closing


async def test_closing_does_not_wait_for_ever(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RETURN_TIMEOUT_S", 0.05)
    async with database.read_connection() as connection, asyncio.timeout(30):
        await database.close()
        await connection.invalidate()  # for its pool does not close it any more


def chain(error: BaseException | None) -> str:
    """All that a log would print of an error and of what caused it."""
    texts: list[str] = []
    while error is not None:
        texts.append(f"{error!s} {error!r}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


async def test_the_error_of_a_duplicate_row_does_not_show_its_values(store: Store, database: Database) -> None:
    await store.channel()
    published = publication({"card": SECRET_TEXT}, key="k")
    await store.acceptor().accept(published)
    row = {
        "gid": published.message_gid, "channel": "orders", "event_type": "order.created", "payload": published.payload,
        "body_sha256": "", "idempotency_scope": "", "published_at": moment(), "accepted_at": moment(),
    }  # fmt: skip
    with pytest.raises(IntegrityError) as refused:
        async with database.write_connection() as connection:
            await connection.execute(insert(table_of(Message)), [row])
    for secret in (SECRET_TEXT, published.payload.hex()[:40]):
        assert secret not in chain(refused.value)


@pytest.mark.parametrize(
    "zone", [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))], ids=str
)
async def test_a_moment_comes_back_as_the_same_moment_in_utc(store: Store, zone: timezone) -> None:
    there = datetime(2026, 1, 31, 23, 59, 59, 123_456, tzinfo=UTC).astimezone(zone)
    row = await store.read(await store.delivery(accepted_at=there))
    assert row.accepted_at == there
    assert row.accepted_at.utcoffset() == timedelta()


async def test_a_naive_moment_is_refused(store: Store) -> None:
    with pytest.raises(StatementError, match="naive"):
        await store.delivery(accepted_at=datetime(2026, 1, 31))


async def test_enumerations_are_stored_as_their_text(store: Store, database: Database) -> None:
    await store.delivery()
    async with database.read_connection() as connection:
        assert (await connection.execute(text("SELECT status FROM delivery"))).scalar_one() == "accepted"


async def test_absent_json_is_null_and_not_the_word(store: Store, database: Database) -> None:
    await store.channel()
    async with database.read_connection() as connection:
        count = await connection.execute(text("SELECT count(*) FROM channel WHERE policy IS NOT NULL"))
        assert count.scalar_one() == 0


async def test_the_exception_chain_of_a_refused_row_does_not_show_its_values(store: Store) -> None:
    await store.channel()
    published = publication({"card": SECRET_TEXT}, event_type=None)
    with pytest.raises(IntegrityError) as refused:
        await store.acceptor().accept_all([published])
    for secret in (SECRET_TEXT, published.payload.hex()[:20]):
        assert secret not in chain(refused.value) + "".join(traceback.format_exception(refused.value))
