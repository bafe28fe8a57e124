"""How many subscriptions there may be, and what they may cost, on both databases."""

import asyncio
from typing import Any

import pytest

from everhook.endpoints import subscriptions_store as subscriptions
from everhook.endpoints.quotas_store import Quotas
from everhook.errors import InvalidField, QuotaExceeded
from everhook.storage.engine import Database
from everhook.storage.tables import DEFAULT_TENANT_GID, Endpoint, Subscription
from tests.stores.factories import CHANNEL, Store

pytestmark = pytest.mark.both_databases

FILTER, FILTER_COST = {"a": 1, "b": 2, "c": 3}, 10


def subscription(endpoint: Endpoint, **changes: Any) -> Subscription:
    return Subscription(tenant_gid=endpoint.tenant_gid, endpoint_gid=endpoint.gid, channel=CHANNEL, **changes)


async def create(database: Database, quotas: Quotas, new: Subscription) -> Subscription:
    async with database.writing() as session:
        await subscriptions.create(session, new, quotas)
    return new


async def endpoint_of(store: Store, tenant: str = "acme") -> Endpoint:
    await store.channel()
    return await store.endpoint(await store.tenant(tenant))


async def test_the_number_of_subscriptions_of_an_endpoint_is_limited(store: Store) -> None:
    quotas, endpoint = Quotas(subscriptions_per_endpoint=2), await endpoint_of(store)
    for _ in range(2):
        await create(store.database, quotas, subscription(endpoint))

    with pytest.raises(QuotaExceeded, match="EVERHOOK_SUBSCRIPTIONS_PER_ENDPOINT"):
        await create(store.database, quotas, subscription(endpoint))
    await create(store.database, quotas, subscription(await store.endpoint(endpoint.tenant_gid)))


async def test_the_number_of_subscriptions_of_a_tenant_is_limited_except_for_the_default_tenant(store: Store) -> None:
    quotas, endpoint = Quotas(subscriptions_per_tenant=1), await endpoint_of(store)
    await create(store.database, quotas, subscription(endpoint))

    with pytest.raises(QuotaExceeded, match="EVERHOOK_SUBSCRIPTIONS_PER_TENANT"):
        await create(store.database, quotas, subscription(await store.endpoint(endpoint.tenant_gid)))
    for owner in (await store.tenant("other"), DEFAULT_TENANT_GID, DEFAULT_TENANT_GID):
        await create(store.database, quotas, subscription(await store.endpoint(owner)))


async def test_a_subscription_costs_what_its_events_and_its_filter_do(store: Store) -> None:
    endpoint = await endpoint_of(store)
    cheap = await create(store.database, Quotas(), subscription(endpoint))
    dear = await create(store.database, Quotas(), subscription(endpoint, events=["a", "b"], filter=FILTER))

    assert dear.cost > max(cheap.cost + 2, FILTER_COST)
    with pytest.raises(InvalidField, match="EVERHOOK_SUBSCRIPTION_COST"):
        await create(
            store.database, Quotas(cost=dear.cost - 1), subscription(endpoint, events=["a", "b"], filter=FILTER)
        )


async def test_the_total_cost_of_the_subscriptions_of_a_tenant_is_limited(store: Store) -> None:
    endpoint = await endpoint_of(store)
    first = await create(store.database, Quotas(), subscription(endpoint, filter=FILTER))
    quotas = Quotas(cost_per_tenant=2 * first.cost)
    second = await create(store.database, quotas, subscription(endpoint))

    with pytest.raises(QuotaExceeded, match="EVERHOOK_SUBSCRIPTION_COST_PER_TENANT"):
        await create(store.database, quotas, subscription(endpoint, filter=FILTER))
    async with store.database.writing() as session:
        await subscriptions.change(session, await session.merge(second), {"filter": FILTER}, quotas)
    with pytest.raises(QuotaExceeded, match="EVERHOOK_SUBSCRIPTION_COST_PER_TENANT"):
        async with store.database.writing() as session:
            changed = {"filter": {**FILTER, "d": 1}}
            await subscriptions.change(session, await session.merge(second), changed, quotas)
    assert [row.filter for row in await rows(store)] == [FILTER, FILTER]


async def test_two_concurrent_subscriptions_do_not_both_get_the_last_place(
    store: Store, other_database: Database
) -> None:
    quotas, endpoint = Quotas(subscriptions_per_tenant=1), await endpoint_of(store)

    async with store.database.writing() as session:
        await subscriptions.create(session, subscription(endpoint), quotas)
        other = asyncio.create_task(create(other_database, quotas, subscription(endpoint)))
        await asyncio.sleep(0.05)

    with pytest.raises(QuotaExceeded):
        await other
    assert await store.count(Subscription) == 1


async def rows(store: Store) -> list[Subscription]:
    async with store.database.reading() as session:
        page = await subscriptions.page(session, endpoint_gid=None, channel=None, after=None, limit=10)
    return list(page.rows)
