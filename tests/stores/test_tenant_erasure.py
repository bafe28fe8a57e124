"""An erased tenant is gone at once for all clients; then nothing of it is left, and nothing of others is removed."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlmodel import SQLModel, col

from everhook.contracts import DeliveryStatus
from everhook.delivery.inputs_store import InputDefaults, load_input
from everhook.endpoints import store as endpoints
from everhook.health.score import Level
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database
from everhook.storage.statements import insert_into, table_of
from everhook.storage.tables import (
    DEFAULT_TENANT_GID,
    ApiKey,
    Attempt,
    AuditEntry,
    Batch,
    CircuitRow,
    Delivery,
    DeliveryGroup,
    DeliveryRound,
    Endpoint,
    EndpointAlerts,
    EndpointMinute,
    EndpointMinuteError,
    EndpointRate,
    EndpointSecret,
    EndpointTurn,
    Gate,
    GroupedDelivery,
    IdempotentResponse,
    Message,
    MessageKey,
    OperationalEvent,
    PastPolicy,
    PendingHistory,
    PullItem,
    Receipt,
    ReceiptArchive,
    ReceiptHash,
    ReceiptSeal,
    ReplayMode,
    ScheduledMessage,
    Subscription,
    Task,
    TaskDecision,
    Tenant,
    now,
)
from everhook.tenants import store as tenants
from everhook.tenants.erasure_store import (
    begin,
    being_erased,
    deliveries_of,
    deliveries_to_others,
    open_ones,
    remove,
    shut,
)
from tests.stores import past
from tests.stores.factories import Store, accepted, publication
from tests.stores.past import interrupted_everywhere, keep
from tests.stores.plans import plan_of, reads_whole, recorded

ALL: tuple[type[SQLModel], ...] = (
    Tenant,
    ApiKey,
    AuditEntry,
    Batch,
    Endpoint,
    EndpointSecret,
    Subscription,
    CircuitRow,
    Message,
    Delivery,
    Attempt,
    PendingHistory,
    PullItem,
    Receipt,
    ReceiptArchive,
    ReceiptHash,
    ReceiptSeal,
    EndpointAlerts,
    EndpointTurn,
    EndpointMinute,
    EndpointMinuteError,
    EndpointRate,
    OperationalEvent,
    IdempotentResponse,
    PastPolicy,
    DeliveryRound,
    Task,
    TaskDecision,
    Gate,
    ScheduledMessage,
    MessageKey,
    DeliveryGroup,
    GroupedDelivery,
)


async def peopled(store: Store, name: str, deliveries: int = 3) -> str:
    """A tenant with something in every table, and deliveries of messages to it alone, to its endpoint alone (which name
    no tenant) and to all; returns its gid."""
    tenant_gid = await store.tenant(name)
    endpoint = await store.subscribed(tenant_gid)
    rows: list[SQLModel] = [
        ApiKey(name=name, sha256="", scopes=[], tenant_gid=tenant_gid, created_by="test"),
        AuditEntry(actor="ann", action="endpoint.created", subject=endpoint.gid, tenant_gid=tenant_gid),
        Batch(tenant_gid=tenant_gid, actor="ann", channel="orders", mode=ReplayMode.ALL, since=now(), until=now()),
        ReceiptHash(tenant_gid=tenant_gid, level=0, index=0, hash=b"h"),
        ReceiptHash(tenant_gid=tenant_gid, level=0, index=1, hash=b"h"),
        ReceiptArchive(tenant_gid=tenant_gid, start=0, end=1, file="f", sha256="", newest_at=now()),
        ReceiptSeal(tenant_gid=tenant_gid, size=2, root=b"r", note="n"),
        OperationalEvent(kind="endpoint.paused", tenant_gid=tenant_gid, endpoint_gid=endpoint.gid),
        EndpointMinute(endpoint_gid=endpoint.gid, tenant_gid=tenant_gid, minute=now()),
        EndpointMinuteError(endpoint_gid=endpoint.gid, minute=now(), error="dns"),
        EndpointRate(endpoint_gid=endpoint.gid, last_at=0.0),
        EndpointTurn(endpoint_gid=endpoint.gid, slot=0, holder="h", until=now()),
        EndpointAlerts(endpoint_gid=endpoint.gid, tenant_gid=tenant_gid, level=Level.FAILING, raised={}),
        PastPolicy(endpoint_gid=endpoint.gid, until=now()),
        IdempotentResponse(key_sha256=f"of {name}", request_sha256="", tenant_gid=tenant_gid),
    ]
    for number in range(deliveries):
        alone = {"tenant_gid": tenant_gid, "idempotency_scope": tenant_gid} if number else {}
        message = past.message(number, **alone)
        delivery = past.delivery(message, endpoint, ended=None if number % 2 else 1)
        attempt = past.attempt(delivery)
        receipt = Receipt(
            tenant_gid=tenant_gid, delivery_gid=delivery.gid, attempt_gid=attempt.gid, round=1, number=1, jws="j"
        )
        rows += [message, delivery, attempt, receipt, PendingHistory(delivery_gid=delivery.gid, settled_at=now())]
        rows += [DeliveryRound(delivery_gid=delivery.gid, round=2, began_at=now())]
        task = Task(
            tenant_gid=tenant_gid,
            delivery_gid=delivery.gid,
            message_gid=message.gid,
            endpoint_gid=endpoint.gid,
            document={},
            due_at=now(),
        )
        rows += [task, TaskDecision(task_gid=task.gid, actor="ann", outcome="approved")]
        if number:  # the gate of a message to all stays with it
            rows += [Gate(message_gid=message.gid, delivery_gid=delivery.gid, steps=[])]
            rows += [ScheduledMessage(message_gid=message.gid, deliver_at=now(), document={})]
        of_group: dict[str, Any] = {"endpoint_gid": endpoint.gid, "group_key": f"group-{number}"}
        rows += [DeliveryGroup(last=1, open=1, touched_at=now(), **of_group)]
        rows += [GroupedDelivery(delivery_gid=delivery.gid, position=1, **of_group)]
        rows += [
            PullItem(
                delivery_gid=delivery.gid,
                endpoint_gid=endpoint.gid,
                queued_at=now(),
                available_at=now(),
                window_until=now(),
            )
        ]
    delivered, scheduled = (past.message(number, endpoint_gid=endpoint.gid) for number in (100, 101))
    rows += [delivered, past.delivery(delivered, endpoint, ended=1)]
    rows += [scheduled, ScheduledMessage(message_gid=scheduled.gid, deliver_at=now(), document={})]
    for message in (delivered, scheduled):
        of_key = {"idempotency_scope": "", "channel": "orders", "idempotency_key": message.gid}
        rows += [MessageKey(message_gid=message.gid, **of_key)]
    await keep(store.database, *rows)
    return tenant_gid


async def begun(store: Store, tenant_gid: str) -> bool:
    async with store.database.writing() as session:
        return await begin(session, tenant_gid)


async def counts(store: Store) -> dict[str, int]:
    async with store.database.read_connection() as connection:
        return {
            model.__name__: int(
                (await connection.execute(select(func.count()).select_from(table_of(model)))).scalar_one()
            )
            for model in ALL
        }


@pytest.mark.both_databases
async def test_no_delivery_of_another_tenant_is_left_without_its_message(store: Store) -> None:
    """Operators receive the tenant's operational events, and may send a message for one of its endpoints to another."""
    tenant_gid, other_gid = await store.tenant("acme"), await store.tenant("other")
    its_own, operators, others = [await store.subscribed(gid) for gid in (tenant_gid, DEFAULT_TENANT_GID, other_gid)]
    event, sent_again = past.message(1, tenant_gid=tenant_gid), past.message(2, endpoint_gid=its_own.gid)
    reported, first, second = (
        past.delivery(event, operators, ended=None),
        past.delivery(sent_again, its_own, ended=1),
        past.delivery(sent_again, others, ended=None),
    )
    await keep(store.database, event, sent_again, reported, first, second, past.attempt(reported), past.attempt(second))
    await begun(store, tenant_gid)
    assert await Bulk(store.database).find(open_ones(deliveries_to_others([event.gid], tenant_gid))) == [reported.gid]

    await remove(Bulk(store.database), tenant_gid)

    async with store.database.reading() as session:
        [delivery] = (await session.execute(select(Delivery))).scalars()
        [message] = (await session.execute(select(Message))).scalars()
    assert (delivery.gid, message.gid) == (second.gid, sent_again.gid)
    assert await store.count(Attempt) == 1


async def test_a_message_that_is_sent_to_another_tenant_during_the_erasure_stays(
    store: Store, other_database: Database
) -> None:
    tenant_gid, other_gid = await store.tenant("acme"), await store.tenant("other")
    its_own, others = await store.subscribed(tenant_gid), await store.subscribed(other_gid)
    message = past.message(1, endpoint_gid=its_own.gid)
    await keep(store.database, message, past.delivery(message, its_own, ended=1))
    await begun(store, tenant_gid)
    async with other_database.write_connection() as replay:
        await replay.execute(select(col(Message.gid)).with_for_update())
        removing = asyncio.create_task(remove(Bulk(store.database), tenant_gid))
        await asyncio.sleep(0.2)
        assert not removing.done()
        again = past.delivery(message, others, ended=None)
        await replay.execute(insert_into(Delivery), [again.model_dump()])
    await removing
    assert [await store.count(table) for table in (Message, Delivery)] == [1, 1]


@pytest.mark.both_databases
async def test_everything_of_a_tenant_is_erased_and_nothing_of_another_after_a_crash_at_any_moment(
    store: Store,
) -> None:
    await peopled(store, "other")
    before = await counts(store)
    tenant_gid = await peopled(store, "acme", deliveries=8)
    assert all(count > before[name] for name, count in (await counts(store)).items())

    assert await begun(store, tenant_gid)
    runs = await interrupted_everywhere(lambda beat: remove(Bulk(store.database, beat, rows=3), tenant_gid))

    assert runs > 15
    assert await counts(store) == before | {"Message": before["Message"] + 1}  # the one that went to all tenants
    async with store.database.reading() as session:
        assert await session.get(Tenant, tenant_gid) is None


async def test_the_audit_entry_of_an_erasure_outlives_the_tenant(store: Store) -> None:
    tenant_gid = await peopled(store, "acme")
    await keep(store.database, AuditEntry(actor="ann", action="tenant.erased", subject=tenant_gid))
    await begun(store, tenant_gid)
    await remove(Bulk(store.database), tenant_gid)
    async with store.database.reading() as session:
        [entry] = (await session.execute(select(AuditEntry))).scalars()
    assert (entry.action, entry.subject) == ("tenant.erased", tenant_gid)


async def test_messages_are_not_delivered_to_a_tenant_whose_erasure_has_begun(store: Store) -> None:
    tenant_gid = await store.tenant("acme")
    endpoint = await store.subscribed(tenant_gid)
    acceptor = store.acceptor()
    assert len(accepted(await acceptor.accept(publication())).deliveries) == 1
    await begun(store, tenant_gid)
    assert accepted(await acceptor.accept(publication())).deliveries == ()
    assert accepted(await acceptor.accept(publication(tenant_gid=tenant_gid))).deliveries == ()
    async with store.database.reading() as session:
        assert await endpoints.view(session, endpoint.gid) is None
        changed = await session.get_one(Endpoint, endpoint.gid)
    assert changed.version == endpoint.version + 1  # senders forget what they know of it


async def test_an_erasure_frees_the_name_of_the_tenant_and_revokes_its_keys_at_once(store: Store) -> None:
    tenant_gid = await peopled(store, "acme")
    before = now()
    await begun(store, tenant_gid)
    async with store.database.writing() as session:
        assert await tenants.find_tenant(session, "acme") is None
        successor = await tenants.ensure_tenant(session, "acme")
        [key] = (await session.execute(select(ApiKey))).scalars()
        row = await session.get_one(Tenant, tenant_gid)
    assert successor is not None and successor.gid != tenant_gid
    assert key.revoked_at is not None and key.revoked_at >= before
    assert "acme" not in row.name
    await remove(Bulk(store.database), tenant_gid)
    async with store.database.reading() as session:
        assert await session.get(Tenant, successor.gid) is not None


async def test_deliveries_of_a_tenant_that_is_being_erased_have_no_input_for_a_workflow(store: Store) -> None:
    tenant_gid = await store.tenant("acme")
    delivery = await store.delivery(await store.subscribed(tenant_gid))
    async with store.database.read_connection() as connection:
        assert await load_input(connection, InputDefaults(), delivery.gid) is not None
    await begun(store, tenant_gid)
    async with store.database.read_connection() as connection:
        assert await load_input(connection, InputDefaults(), delivery.gid) is None


@pytest.mark.both_databases
async def test_a_tenant_is_erased_once(store: Store) -> None:
    tenant_gid = await peopled(store, "acme")
    assert not await begun(store, "ten_unknown")
    assert await begun(store, tenant_gid)
    assert not await begun(store, tenant_gid)
    async with store.database.reading() as session:
        assert await being_erased(session) == [tenant_gid]
    await remove(Bulk(store.database), tenant_gid)
    assert not await begun(store, tenant_gid)
    async with store.database.reading() as session:
        assert await being_erased(session) == []


async def test_a_tenant_without_a_requested_erasure_is_not_removed(store: Store) -> None:
    await remove(Bulk(store.database), DEFAULT_TENANT_GID)
    assert await store.count(Tenant) == 1


async def test_an_endpoint_created_while_its_tenant_was_shut_is_shut_as_well(store: Store) -> None:
    tenant_gid = await peopled(store, "acme")
    await begun(store, tenant_gid)
    late = await store.subscribed(tenant_gid)
    async with store.database.writing() as session:
        await shut(session, tenant_gid)
    assert accepted(await store.acceptor().accept(publication())).deliveries == ()
    await remove(Bulk(store.database), tenant_gid)
    async with store.database.reading() as session:
        assert await session.get(Endpoint, late.gid) is None


@pytest.mark.parametrize("status", DeliveryStatus)
async def test_the_workflows_to_end_are_those_of_deliveries_that_are_not_over(
    store: Store, status: DeliveryStatus
) -> None:
    tenant_gid = await store.tenant("acme")
    delivery = await store.delivery(await store.subscribed(tenant_gid), status=status)
    await store.delivery()
    found = await Bulk(store.database).find(open_ones(deliveries_of(tenant_gid)))
    assert found == ([] if status in (DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED) else [delivery.gid])


@pytest.mark.both_databases
async def test_every_statement_uses_an_index(store: Store) -> None:
    """As planned for tables of unknown size: what is small would be read whole."""
    tenant_gid = await peopled(store, "acme", deliveries=20)
    statements = recorded(store.database)
    await begun(store, tenant_gid)
    await Bulk(store.database).find(open_ones(deliveries_of(tenant_gid)))
    await remove(Bulk(store.database, rows=10), tenant_gid)
    plans: dict[str, Any] = {sql: await plan_of(store.database, sql, values) for sql, values in [*statements.items()]}
    assert len(plans) > 20
    few = {"tenant", "api_key"}  # looked through once, for references to the tenant
    for sql, plan in plans.items():
        for table in {table_of(model).name for model in ALL} - few:
            assert not reads_whole(plan, table), f"{sql}\n{plan[:500]}"


def test_every_table_with_a_tenant_or_an_endpoint_is_covered() -> None:
    named = {
        name
        for name, table in SQLModel.metadata.tables.items()
        if {"tenant_gid", "endpoint_gid", "delivery_gid"} & set(table.columns.keys())
    }
    assert named <= {table_of(model).name for model in ALL}
