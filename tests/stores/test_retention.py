"""Rows past their time are deleted, in small transactions; messages that still have to be sent stay whole."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select, text, update
from sqlmodel import SQLModel, col

from everhook.channels import store as channels
from everhook.contracts import DeliveryStatus, RetentionResult
from everhook.ids import Kind, new_gid
from everhook.publishing.erasure_store import erase_payload
from everhook.settings import Settings
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database
from everhook.storage.statements import table_of
from everhook.storage.tables import (
    ApiKey,
    Attempt,
    AuditEntry,
    Batch,
    BatchState,
    Delivery,
    EndpointMinute,
    EndpointMinuteError,
    EndpointSecret,
    Message,
    OperationalEvent,
    PayloadErasure,
    Receipt,
    ReplayMode,
    now,
)
from everhook.tenants.retention_store import RetentionPeriods, apply_retention
from tests.stores import past
from tests.stores.factories import Store, accepted, publication
from tests.stores.past import has_response, interrupted_everywhere, keep, message_of
from tests.stores.plans import plan_of, reads_whole, recorded

PERIODS = RetentionPeriods()
FOR_EVER = RetentionPeriods(None, None, None, None, None)
OPEN = [status for status in DeliveryStatus if status not in (DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED)]


async def passed(store: Store, periods: RetentionPeriods = PERIODS, *, rows: int = 1_000) -> RetentionResult:
    return await apply_retention(Bulk(store.database, rows=rows), periods)


async def history(store: Store, days: float, *, ended: float | None, **changes: Any) -> Delivery:
    """A message of this many days, with its one delivery and an attempt of it."""
    message = past.message(days)
    delivery = past.delivery(message, await store.subscribed(), ended=ended, **changes)
    await keep(store.database, message, delivery, past.attempt(delivery))
    return delivery


async def test_a_message_is_deleted_with_its_deliveries_and_attempts_once_they_ended_long_ago(store: Store) -> None:
    await history(store, 91, ended=90.5)
    await keep(store.database, past.message(91))  # no endpoint subscribed to it
    assert (await passed(store)).messages == 2
    assert [await store.count(table) for table in (Message, Delivery, Attempt)] == [0, 0, 0]


@pytest.mark.parametrize(("days", "ended"), [(89, 89), (200, 89), (200, 0)])
async def test_a_delivery_that_ended_recently_is_kept_with_its_message_of_any_age(
    store: Store, days: float, ended: float
) -> None:
    await history(store, days, ended=ended)
    assert (await passed(store)).messages == 0
    assert [await store.count(table) for table in (Message, Delivery, Attempt)] == [1, 1, 1]


@pytest.mark.parametrize("status", OPEN)
async def test_nothing_of_a_message_is_deleted_while_one_of_its_deliveries_is_open(
    store: Store, status: DeliveryStatus
) -> None:
    delivery = await history(store, 400, ended=None, status=status)
    message = await message_of(store.database, delivery)
    assert message is not None
    other = past.delivery(message, await store.subscribed(), ended=399)
    await keep(store.database, other, past.attempt(other))
    assert await passed(store) == RetentionResult()
    kept = await message_of(store.database, delivery)
    assert kept is not None and kept.payload == b'{"a":1}' and kept.payload_erased_at is None
    assert [await store.count(table) for table in (Delivery, Attempt)] == [2, 2]
    assert all(has_response(row) for row in [*await store.attempts(delivery), *await store.attempts(other)])


async def test_content_is_deleted_earlier_and_the_record_of_what_happened_stays(store: Store) -> None:
    delivery = await history(store, 31, ended=1)
    before = now()
    assert await passed(store) == RetentionResult(payloads=1)
    message = await message_of(store.database, delivery)
    assert message is not None and message.payload is None
    assert message.payload_erased_at is not None and message.payload_erased_at >= before
    [attempt] = await store.attempts(delivery)
    assert not has_response(attempt)
    assert (attempt.status_code, attempt.error, attempt.response_sha256) == (500, "http_500", "ab")
    assert await passed(store) == RetentionResult()
    again = await message_of(store.database, delivery)
    assert again is not None and again.payload_erased_at == message.payload_erased_at


@pytest.mark.both_databases
@pytest.mark.parametrize("period", ["payloads", "deliveries"])
async def test_a_message_that_is_replayed_after_a_pass_has_looked_at_it_stays_whole(
    store: Store, other_database: Database, period: str
) -> None:
    """A replay locks the message, and opens its deliveries."""
    delivery = await history(store, 91, ended=90.5)
    async with other_database.write_connection() as replay:
        await replay.execute(select(col(Message.gid)).with_for_update())
        reopened = update(Delivery).values(status=DeliveryStatus.RETRYING, completed_at=None)
        await replay.execute(reopened)
        passing = asyncio.create_task(passed(store, replace(FOR_EVER, **{period: timedelta(days=30)})))
        await asyncio.sleep(0.2)
        assert not passing.done()
    assert await passing == RetentionResult()
    message = await message_of(store.database, delivery)
    assert message is not None and message.payload == b'{"a":1}'
    assert [await store.count(table) for table in (Delivery, Attempt)] == [1, 1]


@pytest.mark.parametrize("period", ["payloads", "deliveries"])
async def test_a_message_that_is_replayed_and_erased_while_a_pass_waits_for_another_stays(
    store: Store, other_database: Database, period: str
) -> None:
    """Its delivery ends as a dead letter, and the response to its attempt in flight is still to be erased."""
    first, second = await history(store, 92, ended=90.6), await history(store, 91, ended=90.5)
    async with other_database.write_connection() as holder:
        await holder.execute(select(col(Message.gid)).where(col(Message.gid) == first.message_gid).with_for_update())
        passing = asyncio.create_task(passed(store, replace(FOR_EVER, **{period: timedelta(days=30)})))
        await asyncio.sleep(0.2)
        assert not passing.done()
        async with other_database.writing() as session:
            reopened = update(Delivery).where(col(Delivery.gid) == second.gid)
            await session.execute(reopened.values(status=DeliveryStatus.RETRYING, completed_at=None))
            assert await erase_payload(session, second.message_gid)
    await passing
    async with store.database.reading() as session:
        assert await session.get(Delivery, second.gid) is not None
        assert await session.get(PayloadErasure, second.message_gid) is not None


async def of_channel(store: Store, name: str, ages: Sequence[float], days: float | None = None) -> list[Message]:
    """Messages of a channel, of this many days, without deliveries. `days`: of its payloads."""
    async with store.database.writing() as session:
        await channels.create(session, name, None, retention_days=days)
    rows = [past.message(age, channel=name) for age in ages]
    await keep(store.database, *rows)
    return rows


async def test_payloads_of_a_channel_are_kept_for_a_shorter_or_a_longer_time(store: Store) -> None:
    of_channels = {
        "short": await of_channel(store, "short", (8, 6), 7),
        "long": await of_channel(store, "long", (61, 59, 31), 60),
        "usual": await of_channel(store, "usual", (31, 29)),
    }
    deleted = past.message(31, channel="deleted")
    await keep(store.database, deleted)

    assert await passed(store) == RetentionResult(payloads=4)

    async with store.database.reading() as session:
        rows = (await session.execute(select(col(Message.gid)).where(col(Message.payload).is_not(None)))).scalars()
    kept = set(rows)
    assert {name: [row.gid in kept for row in rows] for name, rows in of_channels.items()} == {
        "short": [False, True], "long": [False, True, True], "usual": [False, True],
    }  # fmt: skip
    assert await passed(store) == RetentionResult()


async def test_a_channel_has_its_own_time_also_where_payloads_are_kept_for_ever(store: Store) -> None:
    await of_channel(store, "short", (8, 6), 7)
    await of_channel(store, "usual", (400,))

    assert await passed(store, FOR_EVER) == RetentionResult(payloads=1)


async def test_content_that_is_not_past_its_time_stays(store: Store) -> None:
    delivery = await history(store, 29, ended=29)
    assert await passed(store) == RetentionResult()
    assert has_response(*await store.attempts(delivery))


async def test_a_key_expires_while_its_message_is_under_way_and_then_publishes_anew(store: Store) -> None:
    endpoint = await store.subscribed()
    old = past.message(31, idempotency_key="order-1")
    young = past.message(29, idempotency_key="order-2")
    await keep(store.database, old, young, past.delivery(old, endpoint, ended=None))
    assert await passed(store) == RetentionResult(idempotency_keys=1)
    acceptor = store.acceptor()
    anew = accepted(await acceptor.accept(publication(key="order-1", body_sha256="another")))
    assert not anew.duplicate and anew.message_gid != old.gid
    assert accepted(await acceptor.accept(publication(key="order-2", body_sha256=""))).duplicate


async def test_events_and_minutes_are_deleted_by_their_age(store: Store) -> None:
    endpoint = await store.subscribed()
    rows: list[SQLModel] = []
    for days in (91, 89):
        rows.append(OperationalEvent(gid=past.gid_of(Kind.EVENT, days), kind="endpoint.paused"))
        replay: dict[str, Any] = {"actor": "ann", "channel": "orders", "mode": ReplayMode.ALL}
        replay |= {"since": now(), "until": now()}
        for state in (BatchState.COMPLETED, BatchState.RUNNING):
            rows.append(Batch(gid=past.gid_of(Kind.BATCH, days), state=state, **replay))
    for days in (31, 29):
        minute = now() - timedelta(days=days)
        rows.append(EndpointMinute(endpoint_gid=endpoint.gid, tenant_gid=endpoint.tenant_gid, minute=minute))
        for error in ("dns", "http_500"):
            rows.append(EndpointMinuteError(endpoint_gid=endpoint.gid, minute=minute, error=error))
    await keep(store.database, *rows)
    assert await passed(store, rows=1) == RetentionResult(events=2, minutes=3)
    tables = (OperationalEvent, Batch, EndpointMinute, EndpointMinuteError)
    assert [await store.count(table) for table in tables] == [1, 3, 1, 2]


@pytest.mark.both_databases
async def test_expired_secrets_and_keys_that_ended_long_ago_are_deleted(store: Store) -> None:
    endpoint = await store.subscribed()

    def secret(hours: float) -> EndpointSecret:
        return EndpointSecret(endpoint_gid=endpoint.gid, secret="s", expires_at=now() + timedelta(hours=hours))

    def key(name: str, **over: float) -> ApiKey:
        ends: dict[str, Any] = {field: now() - timedelta(days=days) for field, days in over.items()}
        return ApiKey(name=name, sha256="", scopes=["read"], created_by="test", **ends)

    await keep(
        store.database,
        secret(-1),
        secret(1),
        key("lasting"),
        key("revoked", revoked_at=31),
        key("just revoked", revoked_at=1),
        key("expired", expires_at=31),
        key("just expired", expires_at=1),
    )
    assert await passed(store) == RetentionResult(credentials=3)
    assert await store.count(EndpointSecret) == 2  # the endpoint's own, and the one in its grace period
    async with store.database.reading() as session:
        names = set((await session.execute(select(col(ApiKey.name)))).scalars())
    assert names == {"lasting", "just revoked", "just expired"}


@pytest.mark.both_databases
async def test_unlimited_retention_deletes_nothing(store: Store) -> None:
    delivery = await history(store, 4_000, ended=4_000)
    await keep(
        store.database,
        past.message(4_000, idempotency_key="k"),
        OperationalEvent(gid=past.gid_of(Kind.EVENT, 4_000), kind="endpoint.paused"),
        EndpointMinute(endpoint_gid="ep_1", tenant_gid="ten_1", minute=now() - timedelta(days=4_000)),
    )
    assert await passed(store, FOR_EVER) == RetentionResult()
    assert has_response(*await store.attempts(delivery))
    assert await store.count(OperationalEvent) == await store.count(EndpointMinute) == 1


def test_retention_periods_come_from_the_settings_and_zero_days_means_for_ever() -> None:
    assert RetentionPeriods.from_settings(Settings(dev=True)) == PERIODS
    never = {f"{name}_retention_days": 0 for name in ("payload", "delivery", "idempotency", "event", "health")}
    assert RetentionPeriods.from_settings(Settings(dev=True, **never)) == FOR_EVER  # type: ignore[arg-type]


async def test_receipts_and_the_audit_trail_are_not_for_retention_to_remove(store: Store) -> None:
    delivery = await history(store, 4_000, ended=4_000)
    receipt = Receipt(
        gid=past.gid_of(Kind.RECEIPT, 4_000),
        tenant_gid=delivery.tenant_gid,
        delivery_gid=delivery.gid,
        attempt_gid="att_1",
        round=1,
        number=1,
        jws="a.b.c",
        created_at=now() - timedelta(days=4_000),
    )
    entry = AuditEntry(gid=past.gid_of(Kind.AUDIT, 4_000), actor="ann", action="endpoint.created", subject="ep_1")
    await keep(store.database, receipt, entry)
    assert (await passed(store)).messages == 1
    assert await store.count(Receipt) == await store.count(AuditEntry) == 1


@pytest.mark.both_databases
async def test_a_pass_that_is_interrupted_anywhere_is_taken_up_by_the_next(store: Store) -> None:
    """And none of its transactions changes more than a few rows."""
    endpoint = await store.subscribed()
    for number in range(4):
        message = past.message(100 + number, idempotency_key=f"k-{number}")
        deliveries = [past.delivery(message, endpoint, ended=95) for _ in range(5)]
        await keep(store.database, message, *deliveries, *(past.attempt(delivery) for delivery in deliveries))
    recent = past.message(40, idempotency_key="recent")
    delivery = past.delivery(recent, endpoint, ended=40)
    await keep(store.database, recent, delivery, past.attempt(delivery))
    passes = await interrupted_everywhere(lambda beat: apply_retention(Bulk(store.database, beat, rows=3), PERIODS))
    assert passes > 10
    assert [await store.count(table) for table in (Message, Delivery, Attempt)] == [1, 1, 1]
    kept = await message_of(store.database, recent)
    assert kept is not None and kept.payload is None and kept.idempotency_key is None
    assert not has_response(*await store.attempts(delivery))


async def test_a_step_changes_a_bounded_number_of_rows_and_beats_after_each(store: Store) -> None:
    await keep(
        store.database, *(OperationalEvent(gid=past.gid_of(Kind.EVENT, 100), kind="endpoint.paused") for _ in range(10))
    )
    counts: list[int] = []

    class Counting(Bulk):
        async def change(self, *statements: Any) -> int:
            counts.append(await super().change(*statements))
            return counts[-1]

    beats: list[None] = []
    await apply_retention(Counting(store.database, lambda: beats.append(None), rows=4), PERIODS)
    assert [count for count in counts if count] == [4, 4, 2]
    assert len(beats) >= len(counts)


@pytest.mark.parametrize("days", [0, 31])
async def test_rows_without_anything_to_remove_cost_no_write(store: Store, days: float) -> None:
    endpoint = await store.subscribed()
    message = past.message(days, payload=None)
    await keep(store.database, message, past.delivery(message, endpoint, ended=days))

    class Refusing(Bulk):
        async def change(self, *statements: Any) -> int:
            tables = {statement.table.name for statement in statements}
            assert not tables & {"message", "delivery", "attempt"}
            return 0

    await apply_retention(Refusing(store.database), PERIODS)


# --- plans

MANY = 500
GROWING = ("message", "delivery", "attempt", "operational_event", "endpoint_minute", "endpoint_minute_error")


@pytest.fixture
async def full(store: Store) -> Store:
    """A database with enough rows, on both sides of every bound, for meaningful plans."""
    endpoint = await store.subscribed()
    ages = [100 * n / MANY for n in range(MANY)]
    messages = [
        past.message(age, payload=None if 32 < age < 88 else b"{}", idempotency_key=str(age) if age < 40 else None)
        for age in ages
    ]
    deliveries = [past.delivery(message, endpoint, ended=age) for message, age in zip(messages, ages, strict=True)]
    attempts = [past.attempt(delivery) for delivery in deliveries]
    events = [OperationalEvent(gid=past.gid_of(Kind.EVENT, age), kind="endpoint.paused") for age in ages]
    minutes = [
        EndpointMinute(endpoint_gid=new_gid(Kind.ENDPOINT), tenant_gid="", minute=now() - timedelta(days=age))
        for age in ages
    ]
    errors = [EndpointMinuteError(endpoint_gid=row.endpoint_gid, minute=row.minute, error="dns") for row in minutes]
    tables: list[Sequence[SQLModel]] = [messages, deliveries, attempts, events, minutes, errors]
    async with store.database.write_connection() as connection:
        for rows in tables:
            table = table_of(type(rows[0]))
            await connection.execute(insert(table), [row.model_dump(by_alias=False) for row in rows])
        await connection.execute(text("ANALYZE"))
    return store


@pytest.mark.both_databases
async def test_every_statement_of_a_pass_uses_an_index(full: Store) -> None:
    statements = recorded(full.database)
    await passed(full, rows=100)
    assert len(statements) > 12
    plans = {sql: await plan_of(full.database, sql, parameters) for sql, parameters in list(statements.items())}
    for sql, plan in plans.items():
        for table in GROWING:
            assert not reads_whole(plan, table), f"{sql[:200]}\n{plan[:500]}"
    for part, index in {
        "message.channel": "ix_message_payload",
        "message_key.message_gid <": "ix_message_key_message",
        "delivery.message_gid IN": "ix_delivery_message",
        "endpoint_minute.minute <": "ix_endpoint_minute_minute",
        "endpoint_minute_error.minute <": "ix_endpoint_minute_error_minute",
        "endpoint_secret.expires_at <": "ix_endpoint_secret_expiry",
    }.items():
        of_part = [plan for sql, plan in plans.items() if part in sql]
        assert of_part and all(index in plan for plan in of_part), f"{part}: {[plan[:300] for plan in of_part]}"


# --- publishing meanwhile


@pytest.mark.both_databases
async def test_a_key_that_expires_in_the_very_moment_of_a_repeat_publishes_anew(store: Store) -> None:
    """Between the insert that finds the key taken and the read of its owner."""
    await store.subscribed()
    acceptor = store.acceptor()
    first = accepted(await acceptor.accept(publication(key="k")))
    expired = False

    def expire(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal expired
        if not expired and statement.startswith("SELECT") and "body_sha256" in statement:
            expired = True
            connection.exec_driver_sql("UPDATE message SET idempotency_key = NULL")
            connection.exec_driver_sql("DELETE FROM message_key")

    event.listen(store.database._writer.sync_engine, "before_cursor_execute", expire)
    repeat = accepted(await acceptor.accept(publication(key="k")))
    assert expired
    assert repeat.message_gid != first.message_gid and not repeat.duplicate and len(repeat.new) == 1
    assert await store.count(Message) == 2
