"""The check of messages against the catalogue, in the transaction that accepts them, on both databases."""

from typing import Any

import pytest
from sqlalchemy import event, select
from sqlmodel import col
from structlog.testing import capture_logs

from everhook.channels import store as channels
from everhook.event_types import store as event_types
from everhook.event_types.modes import FaultKind, ValidationMode
from everhook.event_types.service import NewEventType, _row
from everhook.publishing.publication import Accepted, PayloadRefused
from everhook.storage.engine import Database
from everhook.storage.tables import Message
from tests.stores.factories import Store, publication

SCHEMA: dict[str, Any] = {"properties": {"n": {"type": "integer"}}}


async def described(database: Database, schema: Any = SCHEMA, name: str = "order.created") -> None:
    async with database.writing() as session:
        await event_types.create(session, _row(NewEventType(name, schema=schema, example={"n": 1})))


async def channel_that(store: Store, validation: ValidationMode) -> None:
    async with store.database.writing() as session:
        await channels.create(session, "orders", None, validation=validation)


@pytest.mark.both_databases
async def test_an_invalid_message_of_a_group_is_refused_and_the_others_are_accepted(store: Store) -> None:
    await described(store.database)
    await channel_that(store, ValidationMode.REJECT)
    acceptor = store.acceptor()
    sent = [publication({"n": n}) for n in (1, "x", 3)] + [publication(event_type="order.other")]

    fits, wrong, other_fits, unknown = [await acceptor.accept(each) for each in sent]

    assert isinstance(fits, Accepted) and isinstance(other_fits, Accepted)
    assert isinstance(wrong, PayloadRefused) and str(wrong.fault).startswith("payload.n: is not of type")
    assert isinstance(unknown, PayloadRefused) and unknown.fault.kind is FaultKind.UNKNOWN_TYPE
    assert await store.count(Message) == 2


@pytest.mark.both_databases
async def test_an_invalid_message_is_stored_with_the_reason_on_a_channel_that_warns(store: Store) -> None:
    await described(store.database)
    await channel_that(store, ValidationMode.WARN)

    result = await store.acceptor().accept(publication({"n": "x"}))

    assert isinstance(result, Accepted) and result.fault is not None
    async with store.database.reading() as session:
        (stored,) = (await session.execute(select(col(Message.validation_error)))).scalars()
    assert stored == str(result.fault)


@pytest.mark.both_databases
async def test_a_schema_that_another_process_changed_counts_for_the_next_message(
    store: Store, other_database: Database
) -> None:
    await described(store.database)
    await channel_that(store, ValidationMode.REJECT)
    acceptor = store.acceptor()
    assert isinstance(await acceptor.accept(publication({"n": "x"})), PayloadRefused)

    async with other_database.writing() as session:
        row = await event_types.get(session, "order.created")
        assert row is not None
        await event_types.change(session, row, {"payload_schema": True, "schema_sha256": "another"})

    assert isinstance(await acceptor.accept(publication({"n": "x"})), Accepted)


@pytest.mark.both_databases
@pytest.mark.parametrize("name", ["Z", "a/b:c", "é"])
async def test_rows_are_found_by_the_name_that_they_were_given(store: Store, name: str) -> None:
    await described(store.database, name=name)

    async with store.database.reading() as session:
        row = await event_types.get(session, name)
        assert row is not None and (row.payload_schema, row.example) == (SCHEMA, {"n": 1})
        page = await event_types.page(session, archived=False, after=None, limit=5)
        assert [each.name for each in page.rows] == [name]


@pytest.mark.both_databases
async def test_a_schema_that_cannot_be_used_any_more_does_not_block_publishing(store: Store) -> None:
    await described(store.database, {"type": "no such type"})
    await channel_that(store, ValidationMode.REJECT)

    with capture_logs() as logs:
        assert isinstance(await store.acceptor().accept(publication({"n": "x"})), Accepted)

    assert [entry["type"] for entry in logs if entry["log_level"] == "error"] == ["order.created"]


async def test_a_compiled_schema_is_kept_until_it_changes(store: Store) -> None:
    await described(store.database)
    await channel_that(store, ValidationMode.REJECT)
    acceptor = store.acceptor()
    await acceptor.accept(publication({"n": 1}))
    statements: list[str] = []
    event.listen(
        store.database._writer.sync_engine,
        "before_cursor_execute",
        lambda *seen: statements.append(seen[2]),
    )

    await acceptor.accept(publication({"n": 2}))

    assert len([each for each in statements if "event_type" in each and "FROM event_type" in each]) == 1
