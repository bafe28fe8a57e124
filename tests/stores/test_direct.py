"""Deliveries that are leased in the transaction that accepts them, on both databases."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import select

from everhook.circuit.machine import Hold
from everhook.delivery.inputs_store import InputDefaults
from everhook.publishing.store import Acceptor
from everhook.pulling.direct import DirectHandOut, Offer
from everhook.pulling.leases import Item, Lease, Request
from everhook.storage.tables import CircuitRow, PullItem
from tests.stores.factories import Store, accepted, publication
from tests.stores.test_pull_queue import pulled, queue_of

pytestmark = [pytest.mark.both_databases, pytest.mark.asyncio(loop_scope="session")]


async def test_a_lease_is_inserted_with_its_delivery_and_can_be_acknowledged(store: Store) -> None:
    endpoint = await pulled(store)
    queue, direct = await queue_of(store.database), DirectHandOut()
    settled: list[Sequence[Item] | None] = []
    queued: list[str] = []
    offer = Offer(
        endpoint,
        Request("con one", limit=2, lease=timedelta(minutes=5), position=7),
        may_hand_out=lambda state: queue.may_hand_out(endpoint, state),
        begin=lambda: None,
        settle=settled.append,
    )
    acceptor = Acceptor(store.database, InputDefaults(), queued.extend, direct)
    with direct.offered(offer):
        messages = await acceptor.accept_all([publication({"n": n}) for n in range(3)])
    (items,) = settled
    assert items is not None
    gids = [accepted(each).deliveries[0].delivery_gid for each in messages]
    assert [item.lease for item in items] == [Lease(gid, 1, 1) for gid in gids[:2]]
    assert queued == [endpoint.gid]  # for the third
    async with store.database.reading() as session:
        rows = (await session.execute(select(PullItem).order_by(PullItem.delivery_gid))).scalars().all()
    assert [(row.consumer, row.position, row.number) for row in rows] == [
        ("con one", 7, 1),
        ("con one", 8, 1),
        (None, None, 0),
    ]
    assert [row.lease_until for row in rows] == [items[0].lease_until, items[1].lease_until, None]
    assert [row.available_at > items[0].lease_until for row in rows] == [True, True, False]
    claim = await queue.claim(endpoint, Request("con two"))
    assert [item.lease.delivery_gid for item in claim.items] == gids[2:]


async def test_nothing_is_leased_for_an_endpoint_that_is_held(store: Store) -> None:
    endpoint = await pulled(store)
    queue, direct = await queue_of(store.database), DirectHandOut()
    async with store.database.writing() as session:
        await session.execute(update(CircuitRow).values(hold=Hold.PAUSED))
    offer = Offer(
        endpoint,
        Request("con one"),
        may_hand_out=lambda state: queue.may_hand_out(endpoint, state),
        begin=lambda: pytest.fail("the offer was taken"),
        settle=lambda _: None,
    )
    with direct.offered(offer):
        await Acceptor(store.database, InputDefaults(), direct=direct).accept(publication({"n": 1}))
    async with store.database.reading() as session:
        row = (await session.execute(select(PullItem))).scalar_one()
    assert row.consumer is None


async def test_streams_of_a_limited_endpoint_take_nothing_from_publishes_on_postgresql(store: Store) -> None:
    """Its leases are counted under a lock, for which a publish would have to wait."""
    endpoint, queue = await pulled(store), await queue_of(store.database)
    assert queue.may_offer(endpoint)
    assert queue.may_offer(replace(endpoint, is_limited=True)) == store.database.is_sqlite
