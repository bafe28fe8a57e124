"""Lists: every row once, also when rows arrive in between; and each filter by itself."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from everhook.channels import store as channels
from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.dead_letters import store as dead_letters
from everhook.dead_letters.store import DeadLetterFilter
from everhook.delivery import store as deliveries
from everhook.delivery.store import DeliveryFilter
from everhook.endpoints import store as endpoints
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.ids import Kind, first_gid_at
from everhook.notifications.events import EVENTS_CHANNEL, TASKS_CHANNEL
from everhook.publishing import store as messages
from everhook.publishing.store import MessageFilter
from everhook.storage.engine import Database
from everhook.storage.paging import Page
from everhook.storage.tables import Delivery
from tests.stores.factories import Store, moment, publication

DEAD = DeliveryStatus.DEAD_LETTERED


async def walk(load: Callable[[str | None], Awaitable[Page[Any]]], key: str = "gid") -> list[list[str]]:
    """The keys of every page to the last."""
    pages: list[list[str]] = []
    after: str | None = None
    while True:
        page = await load(after)
        pages.append([getattr(row, key) for row in page.rows])
        if page.next_key is None:
            return pages
        assert page.next_key == pages[-1][-1]
        after = page.next_key


@pytest.mark.parametrize(
    ("count", "limit", "sizes"),
    [(0, 3, [0]), (1, 3, [1]), (3, 3, [3]), (4, 3, [3, 1]), (6, 3, [3, 3]), (3, 1, [1, 1, 1])],
)
async def test_pages_hold_every_row_once_newest_first(
    store: Store, database: Database, count: int, limit: int, sizes: list[int]
) -> None:
    rows = await store.deliveries(count)

    async def load(after: str | None) -> Page[Delivery]:
        async with database.reading() as session:
            return await deliveries.page(session, DeliveryFilter(), after=after, limit=limit)

    pages = await walk(load)
    assert [len(page) for page in pages] == sizes
    assert [gid for page in pages for gid in page] == [row.gid for row in reversed(rows)]


async def test_rows_that_come_while_paging_neither_shift_nor_repeat_the_rest(store: Store, database: Database) -> None:
    end = await store.subscribed()
    rows = await store.deliveries(5, end)

    async def load(after: str | None) -> Page[Delivery]:
        await store.delivery(end)
        async with database.reading() as session:
            return await deliveries.page(session, DeliveryFilter(), after=after, limit=2)

    seen = [gid for page in await walk(load) for gid in page]
    assert len(seen) == len(set(seen))
    assert [gid for gid in seen if gid in {row.gid for row in rows}] == [row.gid for row in reversed(rows)]


async def test_channels_are_listed_by_name(store: Store, database: Database) -> None:
    for name in ("b", "c", "a"):
        await store.channel(name)

    async def load(after: str | None) -> Page[Any]:
        async with database.reading() as session:
            return await channels.page(session, after=after, limit=2)

    assert await walk(load, "name") == [["a", "b"], ["c", EVENTS_CHANNEL], [TASKS_CHANNEL]]


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({}, True),
        ({"tenant_gid": "theirs"}, True),
        ({"tenant_gid": "other"}, False),
        ({"channel": "orders"}, True),
        ({"channel": "invoices"}, False),
        ({"endpoint_gid": "theirs"}, True),
        ({"endpoint_gid": "ep_other"}, False),
        ({"event_type": "order.created"}, True),
        ({"event_type": "order"}, False),
        ({"reason": DeadLetterReason.REJECTED}, True),
        ({"reason": DeadLetterReason.EXHAUSTED}, False),
        ({"status_code": 404}, True),
        ({"status_code": 400}, False),
        ({"since": moment(10)}, True),
        ({"since": moment(10.001)}, False),
        ({"until": moment(10.001)}, True),
        ({"until": moment(10)}, False),
        ({"since": moment(9), "until": moment(11), "status_code": 404, "channel": "orders"}, True),
        ({"since": moment(9), "until": moment(11), "status_code": 404, "channel": "invoices"}, False),
    ],
)
async def test_dead_letters_are_chosen_by_every_part_of_the_filter(
    store: Store, database: Database, chosen: dict[str, Any], kept: bool
) -> None:
    end = await store.subscribed(await store.tenant("acme"))
    dead = await store.delivery(
        end, status=DEAD, reason=DeadLetterReason.REJECTED, last_status_code=404, dead_lettered_at=moment(10)
    )
    theirs: dict[str, Any] = {"tenant_gid": end.tenant_gid, "endpoint_gid": end.gid}
    wanted = DeadLetterFilter(**{k: theirs[k] if v == "theirs" else v for k, v in chosen.items()})
    async with database.reading() as session:
        found = await dead_letters.page(session, wanted, after=None, limit=10)
        assert [row.gid for row in found.rows] == ([dead.gid] if kept else [])
        assert await dead_letters.count(session, wanted) == kept


@pytest.mark.both_databases
@pytest.mark.parametrize("status", [status for status in DeliveryStatus if status is not DEAD])
async def test_a_delivery_with_another_status_is_not_counted_as_a_dead_letter(
    store: Store, database: Database, status: DeliveryStatus
) -> None:
    await store.delivery(status=status, dead_lettered_at=moment(), reason=DeadLetterReason.EXHAUSTED)
    async with database.reading() as session:
        assert await dead_letters.count(session, DeadLetterFilter()) == 0


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({"status": DeliveryStatus.ACCEPTED}, True),
        ({"status": DeliveryStatus.DELIVERED}, False),
        ({"channel": "orders"}, True),
        ({"channel": "invoices"}, False),
        ({"event_type": "order.created"}, True),
        ({"event_type": "x"}, False),
        ({"tenant_gid": "ten_other"}, False),
        ({"endpoint_gid": "ep_other"}, False),
        ({"message_gid": "msg_other"}, False),
        ({"since": moment()}, True),
        ({"since": moment(1)}, False),
        ({"until": moment()}, False),
        ({"until": moment(1)}, True),
    ],
)
async def test_deliveries_are_chosen_by_every_part_of_the_filter(
    store: Store, database: Database, chosen: dict[str, Any], kept: bool
) -> None:
    await store.delivery(gid=first_gid_at(Kind.DELIVERY, moment()))
    async with database.reading() as session:
        found = await deliveries.page(session, DeliveryFilter(**chosen), after=None, limit=10)
    assert len(found.rows) == kept


@pytest.mark.both_databases
async def test_messages_are_listed_by_tenant_without_their_payloads(store: Store, database: Database) -> None:
    await store.channel()
    acme = await store.tenant("acme")
    acceptor = store.acceptor()
    published = publication(tenant_gid=acme)
    await acceptor.accept_all([published, publication(), publication(event_type="x", tenant_gid=acme)])
    chosen = MessageFilter(tenant_gid=acme, channel="orders", event_type="order.created")
    async with database.reading() as session:
        (row,) = (await messages.page(session, chosen, after=None, limit=10)).rows
    assert row.gid == published.message_gid
    assert "payload" not in vars(row)


@pytest.mark.both_databases
async def test_endpoints_are_listed_by_tenant_and_deleted_ones_are_not(store: Store, database: Database) -> None:
    acme = await store.tenant("acme")
    ends = [await store.endpoint(acme) for _ in range(3)]
    await store.endpoint()
    async with database.writing() as session:
        await endpoints.remove(session, ends[1])
    async with database.reading() as session:
        views, next_key = await endpoints.page(session, tenant_gid=acme, after=None, limit=1)
        rest, last_key = await endpoints.page(session, tenant_gid=acme, after=next_key, limit=1)
        assert await endpoints.view(session, ends[1].gid) is None
    assert [view.endpoint.gid for view in [*views, *rest]] == [ends[2].gid, ends[0].gid]
    assert {view.tenant for view in views} == {"acme"}
    assert last_key is None


async def test_subscriptions_are_listed_by_endpoint_and_channel(store: Store, database: Database) -> None:
    await store.channel("invoices")
    end, other = await store.subscribed(), await store.subscribed()
    wanted = await store.subscription(end, "invoices")
    await store.subscription(other, "invoices")
    async with database.reading() as session:
        of_both = await subscriptions.page(session, endpoint_gid=end.gid, channel="invoices", after=None, limit=10)
        of_end = await subscriptions.page(session, endpoint_gid=end.gid, channel=None, after=None, limit=10)
    assert [row.gid for row in of_both.rows] == [wanted.gid]
    assert len(of_end.rows) == 2


async def test_a_channel_with_subscriptions_is_not_removed(store: Store, database: Database) -> None:
    await store.subscribed()
    await store.channel("empty")
    async with database.writing() as session:
        assert not await channels.remove(session, "orders")
        assert await channels.remove(session, "empty")
        assert await channels.get(session, "orders") is not None
        assert await channels.get(session, "empty") is None


async def test_a_channels_name_is_given_once(store: Store, database: Database) -> None:
    async with database.writing() as session:
        assert await channels.create(session, "orders", {"preset": "brisk"}) is not None
        assert await channels.create(session, "orders", None) is None
        kept = await channels.get(session, "orders")
    assert kept is not None and kept.policy == {"preset": "brisk"}
