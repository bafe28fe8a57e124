"""A round of attempts keeps the policy that it began with when the policies change later."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from everhook.channels import store as channels
from everhook.contracts import DeliveryStatus, OperatorAction
from everhook.delivery import store as deliveries
from everhook.delivery.policy import DeliveryPolicy, one_attempt, resolve
from everhook.delivery.policy_history_store import policies_of, remove_policies
from everhook.endpoints import store as endpoints
from everhook.ordering.store import settle
from everhook.storage.bulk import Bulk
from everhook.storage.tables import Channel, Delivery, DeliveryRound, Endpoint, PastPolicy, now
from everhook.storage.tenant_scope import TenantScope
from everhook.tenants.retention_store import RetentionPeriods, apply_retention
from tests.stores import past
from tests.stores.factories import CHANNEL, Store, accepted, publication
from tests.stores.plans import plan_of, reads_whole, recorded

BRISK, PATIENT, SLOW = {"preset": "brisk"}, {"preset": "patient"}, {"timeoutSeconds": 30}


async def published(store: Store) -> Delivery:
    await store.subscribed()
    (made,) = accepted(await store.acceptor().accept(publication())).deliveries
    async with store.database.reading() as session:
        return await session.get_one(Delivery, made.delivery_gid)


async def of_channel(store: Store, policy: dict[str, Any] | None) -> None:
    async with store.database.writing() as session:
        await channels.set_policy(session, await session.get_one(Channel, CHANNEL), policy)


async def of_endpoint(store: Store, gid: str, policy: dict[str, Any] | None) -> None:
    async with store.database.writing() as session:
        await endpoints.change(session, await session.get_one(Endpoint, gid), {"policy": policy})


async def replayed(store: Store, gid: str, after: int) -> None:
    async with store.database.writing() as session:
        await deliveries.open_round(session, gid, after, OperatorAction("ada"))


async def policies(store: Store, delivery: Delivery, *rounds: int) -> dict[int, DeliveryPolicy]:
    async with store.database.reading() as session:
        return {number: policy for number, (_, policy) in (await policies_of(session, delivery, rounds)).items()}


async def test_each_round_has_the_policies_of_channel_and_endpoint_that_it_began_with(store: Store) -> None:
    delivery = await published(store)
    await of_channel(store, BRISK)
    await replayed(store, delivery.gid, 1)
    await of_endpoint(store, delivery.endpoint_gid, SLOW)
    await replayed(store, delivery.gid, 2)
    await replayed(store, delivery.gid, 2)  # an activity may run twice
    await of_channel(store, PATIENT)
    await of_endpoint(store, delivery.endpoint_gid, None)
    assert await policies(store, delivery, 1, 2, 3) == {
        1: DeliveryPolicy(),
        2: resolve(BRISK),
        3: resolve(BRISK, SLOW),
    }
    await replayed(store, delivery.gid, 3)
    assert await policies(store, delivery, 4) == {4: resolve(PATIENT)}


async def test_a_channel_that_was_deleted_and_made_again_had_no_policy_in_between(store: Store) -> None:
    async with store.database.writing() as session:
        await channels.create(session, "gone", BRISK)
    delivery = await store.delivery(channel="gone", accepted_at=now())
    async with store.database.writing() as session:
        assert await channels.remove(session, "gone")
    await replayed(store, delivery.gid, 1)
    assert await policies(store, delivery, 1, 2) == {1: resolve(BRISK), 2: DeliveryPolicy()}
    async with store.database.writing() as session:
        await channels.create(session, "gone", PATIENT)
    await replayed(store, delivery.gid, 2)
    assert await policies(store, delivery, 1, 2, 3) == {1: resolve(BRISK), 2: DeliveryPolicy(), 3: resolve(PATIENT)}


async def test_a_round_of_a_release_that_kept_no_history_has_no_policy(store: Store) -> None:
    delivery = await store.delivery(round=3)
    assert await policies(store, delivery, 1, 2, 3) == {1: DeliveryPolicy()}


@pytest.mark.both_databases
async def test_a_delivery_that_waited_for_its_group_has_the_policies_of_when_it_began(store: Store) -> None:
    end = await store.subscribed()
    gids = [
        each.delivery_gid
        for _ in range(3)
        for each in accepted(await store.acceptor().accept(publication(group_key="a"))).deliveries
    ]

    async def settled(gid: str) -> None:
        async with store.database.write_connection() as connection:
            await settle(connection, [gid])

    async def of_first_round(gid: str) -> DeliveryPolicy:
        async with store.database.reading() as session:
            delivery = await session.get_one(Delivery, gid)
        return (await policies(store, delivery, 1))[1]

    await of_channel(store, BRISK)
    await settled(gids[0])
    await of_endpoint(store, end.gid, SLOW)
    assert [await of_first_round(gid) for gid in gids[:2]] == [DeliveryPolicy(), resolve(BRISK)]
    await settled(gids[1])
    await of_channel(store, PATIENT)
    assert [await of_first_round(gid) for gid in gids[1:]] == [resolve(BRISK), resolve(BRISK, SLOW)]


async def test_while_no_policy_changes_a_group_stores_no_rounds(store: Store) -> None:
    await store.subscribed()
    await of_channel(store, BRISK)
    (first,) = accepted(await store.acceptor().accept(publication(group_key="a"))).deliveries
    accepted(await store.acceptor().accept(publication(group_key="a")))
    async with store.database.write_connection() as connection:
        assert len(await settle(connection, [first.delivery_gid])) == 1
    assert await store.count(DeliveryRound) == 0


@pytest.mark.both_databases
async def test_a_round_without_retries_has_one_attempt(store: Store) -> None:
    delivery = await store.delivery(single_attempt=True)
    assert await policies(store, delivery, 1) == {1: one_attempt(DeliveryPolicy())}


async def test_changes_that_leave_the_policy_as_it_was_store_no_past_policy(store: Store) -> None:
    end = await store.subscribed(policy=BRISK)
    before = await store.count(PastPolicy)
    async with store.database.writing() as session:
        row = await session.get_one(Endpoint, end.gid)
        await endpoints.change(session, row, {"description": "new"})
        await endpoints.change(session, row, {"policy": dict(BRISK)})
        await channels.set_policy(session, await session.get_one(Channel, CHANNEL), None)
    assert await store.count(PastPolicy) == before


async def test_policies_are_kept_for_as_long_as_a_message_may_need_them(store: Store) -> None:
    message = past.message(100)
    delivery = past.delivery(message, await store.subscribed(), ended=None)
    ended = {days: PastPolicy(channel=CHANNEL, until=now() - timedelta(days=days), policy=BRISK) for days in (99, 101)}
    await past.keep(store.database, message, delivery, *ended.values())
    assert await remove_policies(Bulk(store.database)) == 1
    assert await policies(store, delivery, 1) == {1: resolve(BRISK)}
    async with store.database.writing() as session:
        await session.delete(await session.get_one(type(message), message.gid))
    assert await remove_policies(Bulk(store.database)) == 1


async def test_the_rounds_of_a_message_are_deleted_with_it(store: Store) -> None:
    message = past.message(100)
    delivery = past.delivery(message, await store.subscribed(), ended=95)
    await past.keep(
        store.database, message, delivery, DeliveryRound(delivery_gid=delivery.gid, round=2, began_at=now())
    )
    await apply_retention(Bulk(store.database), RetentionPeriods())
    assert await store.count(DeliveryRound) == 0


async def test_a_tenant_reads_the_policies_of_its_endpoints_and_of_open_channels(store: Store) -> None:
    mine, theirs = [await store.subscribed(await store.tenant(name)) for name in ("mine", "theirs")]
    await store.channel("everhook.events")
    for end in (mine, theirs):
        await of_endpoint(store, end.gid, SLOW)
    async with TenantScope(store.database, mine.tenant_gid).reading() as session:
        rows = (await session.execute(select(PastPolicy))).scalars().all()
    assert {row.endpoint_gid or row.channel for row in rows} == {mine.gid, CHANNEL}


@pytest.mark.both_databases
async def test_history_is_read_by_its_keys(store: Store) -> None:
    delivery = await store.delivery(status=DeliveryStatus.DEAD_LETTERED)
    asked = recorded(store.database)
    await policies(store, delivery, 1, 2)
    await remove_policies(Bulk(store.database))
    for sql, parameters in list(asked.items()):
        plan = await plan_of(store.database, sql, parameters)
        assert not any(reads_whole(plan, table) for table in ("past_policy", "delivery_round")), (sql, plan)
