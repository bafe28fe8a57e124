"""The transaction of every 202: who gets a delivery, what a repeated key returns, and all or nothing."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from everhook.channels import store as channels
from everhook.contracts import DeliveryInput, DeliveryStatus
from everhook.delivery.policy import resolve
from everhook.endpoints import store as endpoints
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.publishing.publication import Acceptance, Accepted, KeyReused, Publication, UnknownChannel
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.statements import table_of
from everhook.storage.tables import DEFAULT_TENANT_GID, Delivery, Endpoint, Message, MessageKey, Subscription
from tests.stores.factories import Store, accepted, moment, publication
from tests.stores.locks import until_a_lock_is_awaited

pytestmark = pytest.mark.both_databases


def receivers(result: Acceptance) -> set[str]:
    return {delivery.endpoint_gid for delivery in accepted(result).deliveries}


async def deliveries_in(store: Store) -> list[Delivery]:
    async with store.database.reading() as session:
        return list((await session.execute(select(Delivery).order_by(col(Delivery.gid)))).scalars())


# Fan-out


async def test_a_message_and_one_delivery_for_each_endpoint_are_committed(store: Store) -> None:
    ends = [await store.subscribed() for _ in range(3)]
    published = publication({"n": 1}, key="k")
    bounds = {"lane_wait": timedelta(seconds=2), "first_attempt_grace": timedelta(seconds=3)}
    result = accepted(await store.acceptor(**bounds).accept(published))
    assert receivers(result) == {end.gid for end in ends}
    assert not result.duplicate
    rows = await deliveries_in(store)
    assert [row.gid for row in rows] == sorted(d.delivery_gid for d in result.deliveries)
    for row in rows:
        assert (row.message_gid, row.status, row.round, row.attempts) == (
            published.message_gid,
            DeliveryStatus.ACCEPTED,
            1,
            0,
        )
        assert (row.dispatched_at, row.due_at) == (None, row.accepted_at + timedelta(seconds=2 + 15 + 3))
        assert (row.channel, row.event_type) == ("orders", "order.created")


async def test_a_message_is_kept_as_the_very_bytes_that_came(store: Store) -> None:
    await store.channel()
    published = replace(publication({"a": 1}), payload=b' {"a" : 1.0e2, "\\u00e9": "\xc3\xa9"}\n')
    await store.acceptor().accept(published)
    async with store.database.reading() as session:
        message = await session.get(Message, published.message_gid)
    assert message is not None
    assert (message.payload, message.published_at) == (published.payload, published.published_at)


async def test_new_deliveries_have_the_policies_and_the_limits_of_their_endpoints(store: Store) -> None:
    tenant = await store.tenant("acme")
    await store.channel(policy={"preset": "brisk", "timeoutSeconds": 3})
    limited = await store.endpoint(tenant, rate_limit=2.0, policy={"timeoutSeconds": 7})
    plain = await store.endpoint(tenant)
    for end in (limited, plain):
        await store.subscription(end)
    published = publication()
    result = accepted(await store.acceptor().accept(published))
    inputs = {new.input.endpoint_gid: new.input for new in result.new}
    gids = {delivery.endpoint_gid: delivery.delivery_gid for delivery in result.deliveries}
    common: dict[str, Any] = {
        "message_gid": published.message_gid,
        "tenant": "acme",
        "channel": "orders",
        "event_type": "order.created",
        "round": 1,
        "attempt": 1,
        "dead_letter": None,
    }
    assert inputs == {
        limited.gid: DeliveryInput(
            delivery_gid=gids[limited.gid],
            endpoint_gid=limited.gid,
            policy=resolve({"preset": "brisk", "timeoutSeconds": 7}),
            rate_limit=2.0,
            **common,
        ),
        plain.gid: DeliveryInput(
            delivery_gid=gids[plain.gid],
            endpoint_gid=plain.gid,
            policy=resolve({"preset": "brisk", "timeoutSeconds": 3}),
            **common,
        ),
    }


@pytest.mark.parametrize(
    ("subscription", "event_type", "content", "delivered"),
    [
        ({}, "order.created", {}, True),
        ({"events": ["order.*"]}, "order.created", {}, True),
        ({"events": ["invoice.*"]}, "order.created", {}, False),
        ({"filter": {"amount": {"$gt": 5}}}, "order.created", {"amount": 6}, True),
        ({"filter": {"amount": {"$gt": 5}}}, "order.created", {"amount": 5}, False),
        ({"events": ["order.*"], "filter": {"vip": True}}, "order.created", {"vip": False}, False),
        ({"enabled": False}, "order.created", {}, False),
    ],
)
async def test_a_subscription_takes_what_its_patterns_and_its_filter_let_through(
    store: Store, subscription: dict[str, Any], event_type: str, content: Any, delivered: bool
) -> None:
    await store.channel()
    await store.subscription(await store.endpoint(), **subscription)
    result = accepted(await store.acceptor().accept(publication(content, event_type=event_type)))
    assert len(result.deliveries) == len(await deliveries_in(store)) == delivered


async def test_overlapping_subscriptions_of_one_endpoint_make_one_delivery(store: Store) -> None:
    end = await store.subscribed()
    await store.subscription(end, events=["order.*"])
    await store.subscription(end, events=["order.created"])
    result = accepted(await store.acceptor().accept(publication()))
    assert [delivery.endpoint_gid for delivery in result.deliveries] == [end.gid]
    assert len(await deliveries_in(store)) == 1


async def test_a_message_for_one_tenant_reaches_its_endpoints_only(store: Store) -> None:
    acme, globex = await store.tenant("acme"), await store.tenant("globex")
    of_acme, of_globex, of_default = (
        await store.subscribed(acme),
        await store.subscribed(globex),
        await store.subscribed(),
    )
    acceptor = store.acceptor()
    assert receivers(await acceptor.accept(publication(tenant_gid=acme))) == {of_acme.gid}
    assert receivers(await acceptor.accept(publication(tenant_gid=globex))) == {of_globex.gid}
    assert receivers(await acceptor.accept(publication())) == {of_acme.gid, of_globex.gid, of_default.gid}
    assert {row.tenant_gid for row in await deliveries_in(store)} == {acme, globex, DEFAULT_TENANT_GID}


async def test_a_message_without_subscribers_is_accepted(store: Store) -> None:
    await store.channel()
    result = accepted(await store.acceptor().accept(publication()))
    assert (result.deliveries, result.new) == ((), ())
    assert await store.count(Message) == 1


async def test_an_unknown_channel_is_reported_and_nothing_is_stored(store: Store) -> None:
    assert await store.acceptor().accept(publication(channel="nowhere")) == UnknownChannel("nowhere")
    assert await store.count(Message) == 0


async def test_a_channels_messages_do_not_reach_another_channels_subscribers(store: Store) -> None:
    await store.subscribed()
    await store.channel("invoices")
    assert receivers(await store.acceptor().accept(publication(channel="invoices"))) == set()


# Idempotency


async def test_a_repeated_key_returns_the_first_message(store: Store) -> None:
    await store.subscribed()
    acceptor = store.acceptor()
    first = accepted(await acceptor.accept(publication(key="k")))
    again = accepted(await acceptor.accept(publication(key="k", published_at=first.published_at.replace(year=2030))))
    assert again == replace(first, duplicate=True, new=())
    assert (await store.count(Message), await store.count(Delivery)) == (1, 1)


async def test_a_repeated_key_returns_the_present_status_of_its_deliveries(store: Store, database: Database) -> None:
    await store.subscribed()
    acceptor = store.acceptor()
    await acceptor.accept(publication(key="k"))
    async with database.write_connection() as connection:
        await connection.execute(text("UPDATE delivery SET status = 'delivered'"))
    again = accepted(await acceptor.accept(publication(key="k")))
    assert [delivery.status for delivery in again.deliveries] == [DeliveryStatus.DELIVERED]


async def test_a_key_with_another_body_is_refused_and_the_error_names_its_message(store: Store) -> None:
    await store.subscribed()
    acceptor = store.acceptor()
    first = accepted(await acceptor.accept(publication({"a": 1}, key="k")))
    assert await acceptor.accept(publication({"a": 2}, key="k")) == KeyReused(first.message_gid)
    assert (await store.count(Message), await store.count(Delivery)) == (1, 1)


async def test_a_key_counts_within_its_channel_and_its_tenant(store: Store) -> None:
    acme, globex = await store.tenant("acme"), await store.tenant("globex")
    await store.channel()
    await store.channel("invoices")
    acceptor = store.acceptor()
    places: list[dict[str, Any]] = [
        {"key": "k"},
        {"key": "k", "channel": "invoices"},
        {"key": "k", "tenant_gid": acme},
        {"key": "k", "tenant_gid": globex},
        {"key": "K"},
    ]
    first = [accepted(await acceptor.accept(publication(**place))) for place in places]
    assert not any(result.duplicate for result in first)
    again = [accepted(await acceptor.accept(publication(**place))) for place in places]
    assert [result.message_gid for result in again] == [result.message_gid for result in first]
    assert all(result.duplicate for result in again)
    assert await store.count(Message) == 5


async def test_without_a_key_every_message_is_a_new_one(store: Store) -> None:
    await store.channel()
    acceptor = store.acceptor()
    results = await asyncio.gather(*(acceptor.accept(publication()) for _ in range(20)))
    assert len({accepted(result).message_gid for result in results}) == 20


async def test_a_thousand_duplicates_at_once_make_one_message_and_one_set_of_deliveries(store: Store) -> None:
    ends = {(await store.subscribed()).gid, (await store.subscribed()).gid}
    acceptor = store.acceptor()
    results = [
        accepted(result)
        for result in await asyncio.gather(*(acceptor.accept(publication(key="k")) for _ in range(1_000)))
    ]
    assert (await store.count(Message), await store.count(Delivery)) == (1, 2)
    _assert_one_message(results, ends)


async def test_duplicates_through_two_processes_at_once_make_one_message(
    store: Store, other_database: Database
) -> None:
    ends = {(await store.subscribed()).gid, (await store.subscribed()).gid}
    acceptors = [store.acceptor(), Store(other_database).acceptor()]
    results = [
        accepted(result)
        for result in await asyncio.gather(*(acceptors[n % 2].accept(publication(key="k")) for n in range(1_000)))
    ]
    assert (await store.count(Message), await store.count(Delivery)) == (1, 2)
    _assert_one_message(results, ends)


async def test_many_keys_through_two_processes_at_once_do_not_block_each_other(
    store: Store, other_database: Database
) -> None:
    await store.subscribed()
    acceptors = [store.acceptor(), Store(other_database).acceptor()]
    keys = [f"key-{n:03}" for n in range(100)]

    async def publish_all(number: int) -> list[Acceptance]:
        input = keys if number % 2 else list(reversed(keys))
        return list(await acceptors[number % 2].accept_all([publication(key=key) for key in input]))

    results = [accepted(a) for batch in await asyncio.gather(*map(publish_all, range(8))) for a in batch]
    assert sum(not result.duplicate for result in results) == len(keys)
    assert len({result.message_gid for result in results}) == len(keys)
    assert (await store.count(Message), await store.count(Delivery)) == (len(keys), len(keys))


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_keys_are_taken_in_their_order_so_that_processes_never_wait_in_a_circle(
    store: Store, database: Database, other_database: Database
) -> None:
    await store.channel()
    taken = publication(key="m")
    async with database.write_connection() as holder:
        await holder.execute(insert(table_of(MessageKey)), [_key_row(taken)])
        await holder.execute(insert(table_of(Message)), [_row(taken)])
        batch = [publication(key="z"), publication(key="m")]
        waiting = asyncio.create_task(Store(other_database).acceptor().accept_all(batch))
        await until_a_lock_is_awaited(database)
        async with asyncio.timeout(30):  # the one that waits for m has not taken z yet
            last = accepted(await store.acceptor().accept(publication(key="z")))
    assert not last.duplicate
    assert [accepted(result).message_gid for result in await waiting] == [last.message_gid, taken.message_gid]


def _key_row(published: Publication) -> dict[str, Any]:
    names = ("idempotency_scope", "channel", "idempotency_key")
    return {"message_gid": published.message_gid, **dict(zip(names, published.key or (), strict=True))}


def _row(published: Publication) -> dict[str, Any]:
    fields = vars(published).items()
    row = {k: v for k, v in fields if k not in ("message_gid", "content")}
    return row | {"gid": published.message_gid, "idempotency_scope": "", "accepted_at": moment()}


def _assert_one_message(results: list[Accepted], endpoints: set[str]) -> None:
    assert [result.duplicate for result in results].count(False) == 1
    assert len({result.message_gid for result in results}) == 1
    assert len({frozenset(d.delivery_gid for d in result.deliveries) for result in results}) == 1
    assert all(receivers(result) == endpoints for result in results)
    assert sum(len(result.new) for result in results) == len(endpoints)


# Batches


async def test_a_batch_returns_one_result_for_each_message_in_order(store: Store) -> None:
    await store.subscribed()
    acceptor = store.acceptor()
    before = accepted(await acceptor.accept(publication(key="before")))
    batch = [
        publication(),
        publication(channel="nowhere"),
        publication(key="new"),
        publication(key="before"),
        publication({"other": True}, key="before"),
        publication(key="new"),
        publication({"other": True}, key="new"),
    ]
    plain, unknown, new, known, reused, twin, rival = await acceptor.accept_all(batch)
    assert accepted(plain).message_gid == batch[0].message_gid
    assert unknown == UnknownChannel("nowhere")
    assert (accepted(new).message_gid, accepted(new).duplicate) == (batch[2].message_gid, False)
    assert (accepted(known).message_gid, accepted(known).duplicate) == (before.message_gid, True)
    assert reused == KeyReused(before.message_gid)
    assert twin == replace(accepted(new), duplicate=True, new=())
    assert rival == KeyReused(batch[2].message_gid)
    assert (await store.count(Message), await store.count(Delivery)) == (3, 3)


async def test_a_batch_is_committed_whole_or_not_at_all(store: Store) -> None:
    await store.subscribed()
    acceptor = store.acceptor()
    poisoned = publication(event_type=None)
    with pytest.raises(DBAPIError):
        await acceptor.accept_all([publication(), poisoned, publication()])
    assert (await store.count(Message), await store.count(Delivery)) == (0, 0)
    assert len(await acceptor.accept_all([publication(), publication()])) == 2
    assert (await store.count(Message), await store.count(Delivery)) == (2, 2)


async def test_an_empty_batch_returns_no_results(store: Store) -> None:
    assert list(await store.acceptor().accept_all([])) == []


async def test_one_message_that_the_database_refuses_does_not_take_others_with_it(store: Store) -> None:
    await store.subscribed()
    acceptor = store.acceptor()
    good = [publication(key=f"k{n}") for n in range(40)]
    results = await asyncio.gather(
        *(acceptor.accept(p) for p in [*good[:20], publication(event_type=None), *good[20:]]), return_exceptions=True
    )
    failed = [n for n, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [20]
    assert (await store.count(Message), await store.count(Delivery)) == (40, 40)


async def test_publishing_raises_unavailable_while_the_database_is_away(lost_database: Database) -> None:
    acceptor = Store(lost_database).acceptor()
    results = await asyncio.gather(*(acceptor.accept(publication()) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(result, Exception) and is_unavailable(result) for result in results), results[0]


# The route cache


async def _rename(store: Store, end: Endpoint, subscription: Subscription) -> None:
    async with store.database.writing() as session:
        await subscriptions.change(session, subscription, {"events": ["invoice.*"]})


async def _disable(store: Store, end: Endpoint, subscription: Subscription) -> None:
    async with store.database.writing() as session:
        await subscriptions.change(session, subscription, {"enabled": False})


async def _unsubscribe(store: Store, end: Endpoint, subscription: Subscription) -> None:
    async with store.database.writing() as session:
        await subscriptions.remove(session, subscription)


async def _delete(store: Store, end: Endpoint, subscription: Subscription) -> None:
    async with store.database.writing() as session:
        await endpoints.remove(session, end)


@pytest.mark.parametrize("change", [_rename, _disable, _unsubscribe, _delete])
async def test_a_change_in_another_process_counts_from_its_commit_on(
    store: Store, other_database: Database, change: Any
) -> None:
    await store.channel()
    end = await store.endpoint()
    subscription = await store.subscription(end)
    acceptor = Store(other_database).acceptor()
    assert receivers(await acceptor.accept(publication())) == {end.gid}
    await change(store, end, subscription)
    assert receivers(await acceptor.accept(publication())) == set()


async def test_a_subscription_made_in_another_process_gets_every_later_message(
    store: Store, other_database: Database
) -> None:
    await store.channel()
    acceptor = Store(other_database).acceptor()
    assert receivers(await acceptor.accept(publication())) == set()
    end = await store.endpoint()
    await store.subscription(end)
    assert receivers(await acceptor.accept(publication())) == {end.gid}


async def test_a_channel_made_in_another_process_is_known_at_once(store: Store, other_database: Database) -> None:
    acceptor = Store(other_database).acceptor()
    assert isinstance(await acceptor.accept(publication()), UnknownChannel)
    await store.channel()
    assert isinstance(await acceptor.accept(publication()), Accepted)


async def test_policies_and_limits_changed_in_another_process_are_in_the_next_order(
    store: Store, other_database: Database
) -> None:
    end = await store.subscribed()
    acceptor = Store(other_database).acceptor()
    await acceptor.accept(publication())
    async with store.database.writing() as session:
        await endpoints.change(session, end, {"policy": {"timeoutSeconds": 2}, "rate_limit": 3.0})
        channel = await channels.get(session, "orders")
        assert channel is not None
        await channels.set_policy(session, channel, {"preset": "patient"})
    (new,) = accepted(await acceptor.accept(publication())).new
    assert (new.input.policy, new.input.rate_limit) == (resolve({"preset": "patient"}, {"timeoutSeconds": 2}), 3.0)


async def test_a_change_that_was_rolled_back_is_not_seen(store: Store, other_database: Database) -> None:
    end = await store.subscribed()
    gid = end.gid
    acceptor = Store(other_database).acceptor()
    await acceptor.accept(publication())
    with pytest.raises(RuntimeError, match="after all not"):
        async with store.database.writing() as session:
            await endpoints.remove(session, end)
            raise RuntimeError("after all not")
    assert receivers(await acceptor.accept(publication())) == {gid}
