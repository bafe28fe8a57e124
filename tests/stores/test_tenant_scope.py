"""A tenant's session reads and changes only its own rows, with any statement."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import aliased
from sqlmodel import SQLModel, col

from everhook.audit.store import Actor, record_audit
from everhook.channels import store as channels
from everhook.contracts import Verdict
from everhook.delivery import store as deliveries
from everhook.endpoints import store as endpoints
from everhook.publishing import store as messages
from everhook.storage.engine import Database
from everhook.storage.tables import (
    ApiKey,
    Attempt,
    AuditEntry,
    Channel,
    CircuitRow,
    Delivery,
    DeliveryRound,
    Endpoint,
    EndpointMinute,
    EndpointMinuteError,
    EndpointSecret,
    Message,
    OperationalEvent,
    PayloadErasure,
    PendingHistory,
    Receipt,
    ReceiptHash,
    ReceiptSeal,
    Subscription,
    Tenant,
)
from everhook.storage.tenant_scope import CLOSED, OPEN_TO_ALL, TenantScope, bounds, tenant_bound
from everhook.tenants import store as tenants
from tests.stores.factories import CHANNEL, Store, accepted, moment, publication

OF_TENANTS: tuple[Any, ...] = (
    ApiKey, Attempt, AuditEntry, CircuitRow, Delivery, DeliveryRound, Endpoint, EndpointMinute, EndpointMinuteError,
    EndpointSecret, Message, OperationalEvent, Receipt, ReceiptHash, ReceiptSeal, Subscription, Tenant,
)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One row of everything, of one tenant."""

    tenant: str
    endpoint: Endpoint
    delivery: Delivery


@pytest.fixture
async def sides(store: Store) -> tuple[Side, Side]:
    await store.channel("everhook.events")
    return await _side(store, "ours"), await _side(store, "theirs")


@pytest.fixture
async def ours(database: Database, sides: tuple[Side, Side]) -> AsyncIterator[TenantScope]:
    yield TenantScope(database, sides[0].tenant)


async def _side(store: Store, name: str) -> Side:
    tenant = await store.tenant(name)
    endpoint = await store.subscribed(tenant)
    delivery = await store.delivery(endpoint)
    same: dict[str, Any] = {"tenant_gid": tenant, "endpoint_gid": endpoint.gid}
    async with store.database.writing() as session:
        record_audit(session, Actor("alice"), "endpoint.created", endpoint.gid, tenant_gid=tenant)
        session.add_all(
            [
                ApiKey(name=name, sha256="", scopes=["tenant"], tenant_gid=tenant, created_by="alice"),
                _attempt(delivery),
                DeliveryRound(delivery_gid=delivery.gid, round=2, began_at=moment()),
                EndpointMinute(minute=moment(), **same),
                EndpointMinuteError(endpoint_gid=endpoint.gid, minute=moment(), error="refused"),
                PayloadErasure(message_gid=delivery.message_gid),
                PendingHistory(delivery_gid=delivery.gid, settled_at=moment()),
                OperationalEvent(kind="delivery.dead_lettered", **same),
                Receipt(tenant_gid=tenant, delivery_gid=delivery.gid, attempt_gid="att_1", round=1, number=1, jws=""),
                ReceiptHash(tenant_gid=tenant, level=0, index=0, hash=b""),
                ReceiptSeal(tenant_gid=tenant, size=1, root=b"", note=""),
            ]
        )
    return Side(tenant, endpoint, delivery)


def _attempt(delivery: Delivery) -> Attempt:
    return Attempt(
        delivery_gid=delivery.gid,
        endpoint_gid=delivery.endpoint_gid,
        round=1,
        number=1,
        verdict=Verdict.RETRY,
        started_at=moment(),
        duration_ms=1,
    )


def test_every_table_has_a_tenant_condition_or_is_open_to_all() -> None:
    tables = {model for model in SQLModel.__subclasses__() if hasattr(model, "__table__")}
    assert bounds("ten_1").keys() | set(OPEN_TO_ALL) == tables


async def test_without_a_tenant_everything_is_reached(database: Database, sides: tuple[Side, Side]) -> None:
    async with TenantScope(database).reading() as session:
        assert tenant_bound(session) is None
        for model in OF_TENANTS:
            assert len((await session.execute(select(model))).scalars().all()) >= 2, model


async def test_a_tenant_sees_only_its_own_rows_of_every_table(ours: TenantScope) -> None:
    async with ours.reading() as session:
        for model in OF_TENANTS:
            assert len((await session.execute(select(model))).scalars().all()) == 1, model
            assert (await session.execute(select(func.count()).select_from(model))).scalar_one() == 1, model


async def test_a_tenant_sees_nothing_of_the_system_tables(ours: TenantScope) -> None:
    async with ours.reading() as session:
        for model in CLOSED:
            assert (await session.execute(select(model))).scalars().all() == [], model


async def test_a_row_of_another_is_not_got_by_its_key(ours: TenantScope, sides: tuple[Side, Side]) -> None:
    own, other = sides
    async with ours.reading() as session:
        assert await session.get(Delivery, own.delivery.gid) is not None
        assert await session.get(Delivery, other.delivery.gid) is None
        assert await session.get(Message, other.delivery.message_gid) is None
        assert await endpoints.view(session, own.endpoint.gid) is not None
        assert await endpoints.view(session, other.endpoint.gid) is None


async def test_columns_aliases_and_joins_are_bound_too(ours: TenantScope, sides: tuple[Side, Side]) -> None:
    own, _ = sides
    alias: Any = aliased(Delivery)
    async with ours.reading() as session:
        columns = await session.execute(select(col(Delivery.gid)))
        aliases = await session.execute(select(alias.gid))
        joined = await session.execute(
            select(col(Message.gid), col(Delivery.gid)).join(Delivery, col(Delivery.message_gid) == col(Message.gid))
        )
        crossed = await session.execute(
            select(col(Endpoint.gid), col(EndpointSecret.gid), col(Delivery.gid), col(Message.gid)).where(
                col(Message.gid) == col(Delivery.message_gid),
                col(Endpoint.gid) == col(Delivery.endpoint_gid),
                col(Endpoint.gid) == col(EndpointSecret.endpoint_gid),
            )
        )
        within = await session.execute(
            select(func.count()).select_from(select(Delivery).where(col(Delivery.round) == 1).subquery())
        )
    assert columns.scalars().all() == aliases.scalars().all() == [own.delivery.gid]
    assert [row[1] for row in joined] == [own.delivery.gid]
    assert len(crossed.all()) == within.scalar_one() == 1


async def test_updates_and_deletes_leave_the_rows_of_others_alone(
    ours: TenantScope, store: Store, sides: tuple[Side, Side]
) -> None:
    own, other = sides
    async with ours.writing() as session:
        await session.execute(update(Delivery).values(round=7))
        await session.execute(delete(Subscription))
        await session.execute(delete(EndpointSecret))
    assert ((await store.read(own.delivery)).round, (await store.read(other.delivery)).round) == (7, 1)
    assert await store.count(Subscription) == await store.count(EndpointSecret) == 1


async def test_a_message_to_all_tenants_is_shown_with_the_readers_own_deliveries(
    ours: TenantScope, store: Store
) -> None:
    gid = accepted(await store.acceptor().accept(publication())).message_gid
    async with ours.reading() as session:
        assert await messages.get(session, gid) is not None
        assert list((await deliveries.counts_of_message(session, gid)).values()) == [1]


async def test_a_tenant_sees_its_own_message_without_subscribers(
    ours: TenantScope, database: Database, sides: tuple[Side, Side]
) -> None:
    own, other = sides
    rows = [
        Message(
            tenant_gid=side.tenant, channel="quiet", event_type="a", payload=b"1", body_sha256="", published_at=moment()
        )
        for side in (own, other)
    ]
    async with database.writing() as session:
        session.add_all(rows)
    async with ours.reading() as session:
        assert await messages.get(session, rows[0].gid) is not None
        assert await messages.get(session, rows[1].gid) is None


@pytest.mark.both_databases
async def test_channels_are_seen_by_all_but_those_of_the_system(ours: TenantScope) -> None:
    async with ours.reading() as session:
        page = await channels.page(session, after=None, limit=10)
        assert [row.name for row in page.rows] == [CHANNEL]
        assert await session.get(Channel, "everhook.events") is None


async def test_a_tenant_finds_itself_by_name_and_gid_and_makes_no_other(
    ours: TenantScope, store: Store, sides: tuple[Side, Side]
) -> None:
    own, other = sides
    before = await store.count(Tenant)
    async with ours.writing() as session:
        for named in ("ours", own.tenant):
            found = await tenants.ensure_tenant(session, named)
            assert found is not None and found.gid == own.tenant
        for named in ("theirs", other.tenant, "default", "nosuch"):
            assert await tenants.ensure_tenant(session, named) is None
            assert await tenants.find_tenant(session, named) is None
    assert await store.count(Tenant) == before
