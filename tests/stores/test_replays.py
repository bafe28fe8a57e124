"""Replays of a channel on both databases, through the API. Temporal is stopped: the pages are opened here."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from everhook.ids import Kind, new_gid
from everhook.publishing.store import Acceptor
from everhook.redelivery import pages, replays
from everhook.redelivery.pages import ReplayPages
from testing.api import JSON, Api, accepted, assert_problem, created, ok, running_api, settings_for
from tests.api.gating import inbox

LONG_AGO = "2026-01-31T12:00:00Z"


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with running_api(settings_for(database_url)) as running:
        yield running


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


async def replay(api: Api, mode: str, channel: str = "orders", **body: Any) -> JSON:
    return accepted(await api.post(f"/v1/channels/{channel}/replay", {"since": ago(hours=1), "mode": mode, **body}))


async def counted(api: Api, mode: str, **body: Any) -> tuple[int, int]:
    """Matched and erased, by a dry run."""
    wanted = {"since": ago(hours=1), "mode": mode, "dryRun": True, **body}
    found = ok(await api.post("/v1/channels/orders/replay", wanted))
    assert (found["matchedAtLeast"], found["batchGid"]) == (False, None)
    return found["matched"], found["erased"]


def pages_of(api: Api) -> ReplayPages:
    services = api.services
    return ReplayPages(
        services.database, Acceptor(services.database, services.messages._defaults), services.messages._defaults
    )


async def run(api: Api, batch_gid: str, size: int = 3) -> list[str]:
    """Open all pages, as workers do. Returns the deliveries whose workflows are to be started."""
    opener, started = pages_of(api), []
    while some := await opener.next_pages(batch_gid, size):
        for page in some:
            opened = await opener.open(page)
            if opened is None:
                break
            started += [each.input.delivery_gid for each in opened.new]
    return started


async def settle(api: Api, delivery_gid: str, status: str) -> None:
    await api.change_rows(
        "UPDATE delivery SET status = :status, attempts = 1, due_at = NULL, completed_at = accepted_at, "
        "dispatched_at = accepted_at WHERE gid = :gid",
        status=status,
        gid=delivery_gid,
    )


async def published(api: Api, *statuses: str, **body: Any) -> list[str]:
    """One message for each status, to one endpoint. Returns the deliveries."""
    gids = []
    for status in statuses:
        message = await api.publish({"n": 1}, **body)
        (delivery,) = message["deliveries"]
        if status != "accepted":
            await settle(api, delivery["deliveryGid"], status)
        gids.append(delivery["deliveryGid"])
    return gids


async def rounds(api: Api) -> dict[str, tuple[str, int]]:
    rows = await api.rows("SELECT gid, status, round FROM delivery")
    return {row.gid: (row.status, row.round) for row in rows}


async def subscribed(api: Api) -> str:
    await api.channel()
    return str((await api.endpoint(channel="orders"))["endpointGid"])


async def test_each_mode_takes_what_it_names_and_leaves_the_rest_alone(api: Api) -> None:
    await subscribed(api)
    sent, dead, gone, open_ = await published(api, "delivered", "dead_lettered", "discarded", "accepted")
    assert await counted(api, "failed") == (2, 0)
    assert await counted(api, "all") == (3, 0)

    batch = await replay(api, "failed", reason="they are back")
    assert sorted(await run(api, batch["batchGid"])) == sorted([dead, gone])
    assert await rounds(api) == {
        sent: ("delivered", 1),
        dead: ("accepted", 2),
        gone: ("accepted", 2),
        open_: ("accepted", 1),
    }
    found = ok(await api.get(f"/v1/batches/{batch['batchGid']}"))
    assert (found["state"], found["matched"], found["started"], found["skipped"]) == ("completed", 2, 2, 0)
    assert (found["channel"], found["mode"], found["reason"], found["actor"]) == (
        "orders",
        "failed",
        "they are back",
        "environment",
    )
    (entry,) = await api.walk("/v1/audit", action="channel.replayed")
    assert (entry["subject"], entry["detail"]["matched"]) == (batch["batchGid"], 2)
    row = (
        await api.rows("SELECT decided_by, decided_why, due_at, dispatched_at FROM delivery WHERE gid = :g", g=dead)
    )[0]
    assert (row.decided_by, row.decided_why, row.dispatched_at) == ("environment", "they are back", None)
    assert row.due_at is not None  # without a workflow the reconciler starts it

    again = await replay(api, "all")
    assert await run(api, again["batchGid"]) == [sent]


@pytest.mark.both_databases
async def test_types_times_endpoint_and_tenant_narrow_a_replay(api: Api) -> None:
    one = await subscribed(api)
    await published(api, "delivered", "delivered")
    two = (await api.endpoint(channel="orders"))["endpointGid"]
    created(await api.post("/v1/tenants", {"name": "acme"}))
    theirs = (await api.endpoint(channel="orders", tenant="acme"))["endpointGid"]
    await api.publish({"n": 2}, type="order.paid")
    await api.change_rows("UPDATE delivery SET status = 'delivered', dispatched_at = accepted_at")
    assert await counted(api, "all") == (5, 0)
    assert await counted(api, "all", endpointGid=one) == (3, 0)
    assert await counted(api, "all", endpointGid=two, types=["order.created", "order.paid"]) == (1, 0)
    assert await counted(api, "all", types=["order.paid"]) == (3, 0)
    assert await counted(api, "all", types=["order.none"]) == (0, 0)
    assert await counted(api, "all", tenant="acme") == (1, 0)
    assert await counted(api, "all", since=ago(minutes=30), until=ago(minutes=20)) == (0, 0)
    await api.change_rows("UPDATE delivery SET status = 'dead_lettered' WHERE endpoint_gid = :gid", gid=theirs)
    assert await counted(api, "failed", tenant="acme") == (1, 0)
    assert await counted(api, "failed", endpointGid=two) == (0, 0)
    # What belongs to endpoints that were deleted is not matched.
    await api.delete(f"/v1/endpoints/{two}")
    assert await counted(api, "all") == (4, 0)
    assert_problem(
        await api.post("/v1/channels/orders/replay", {"since": LONG_AGO, "mode": "all", "endpointGid": two}), 409
    )


async def test_erased_messages_and_messages_declined_by_their_gate_are_counted_and_skipped(api: Api) -> None:
    await subscribed(api)
    erased, kept, declined = await published(api, "delivered", "delivered", "discarded")
    rows = {row.gid: row.message_gid for row in await api.rows("SELECT gid, message_gid FROM delivery")}
    await api.change_rows("UPDATE message SET payload = NULL WHERE gid = :gid", gid=rows[erased])
    await api.change_rows(
        "INSERT INTO gate (gid, message_gid, steps, step, delivery_gid, task, state, created_at) VALUES "
        "('gat_1', :m, '[]', 0, 'dlv_1', '{}', 'declined', CURRENT_TIMESTAMP)",
        m=rows[declined],
    )
    assert await counted(api, "all") == (3, 1)
    batch = await replay(api, "all")
    assert batch["erased"] == 1
    assert await run(api, batch["batchGid"]) == [kept]
    found = ok(await api.get(f"/v1/batches/{batch['batchGid']}"))
    assert (found["matched"], found["started"], found["skipped"], found["erased"]) == (3, 1, 1, 1)
    assert (found["total"], found["completed"], found["failed"]) == (3, 3, 0)


@pytest.mark.both_databases
async def test_a_new_endpoint_gets_what_it_subscribes_to_and_never_had(api: Api) -> None:
    old = await subscribed(api)
    created(await api.post("/v1/tenants", {"name": "acme"}))
    await api.publish({"n": 1})
    await api.publish({"n": 20})
    await api.publish({"n": 30}, type="order.paid")
    await api.publish({"n": 40}, tenant="default")
    await api.publish({"n": 50}, tenant="acme")
    await api.publish({"n": 51}, endpointGid=old)
    await api.publish({"n": 52}, delaySeconds=3_600)
    cancelled = await api.publish({"n": 53}, delaySeconds=3_600)
    ok(await api.post(f"/v1/messages/{cancelled['messageGid']}/cancel"))
    new = (await api.endpoint())["endpointGid"]
    taking = {"endpointGid": new, "channel": "orders", "events": ["order.created"], "filter": {"n": {"$gt": 10}}}
    created(await api.post("/v1/subscriptions", taking))
    had = await api.publish({"n": 60})
    assert len(had["deliveries"]) == 2

    assert await counted(api, "missing", endpointGid=new) == (2, 0)
    batch = await replay(api, "missing", endpointGid=new)
    started = await run(api, batch["batchGid"], size=2)
    sent = await api.rows(
        "SELECT d.gid, d.status, d.round, m.payload FROM delivery d JOIN message m ON m.gid = d.message_gid "
        "WHERE d.endpoint_gid = :e",
        e=new,
    )
    assert sorted(bytes(row.payload) for row in sent) == [b'{"n": 20}', b'{"n": 40}', b'{"n": 60}']
    assert sorted(started) == sorted(row.gid for row in sent if bytes(row.payload) != b'{"n": 60}')
    assert {(row.status, row.round) for row in sent} == {("accepted", 1)}
    assert await counted(api, "missing", endpointGid=new) == (0, 0)


@pytest.mark.parametrize("changes", [0, 1, pages.MATCHED_BEFORE])
async def test_filters_are_matched_without_locks_and_hold_as_they_are_at_the_commit(
    api: Api, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    await api.channel()
    for n in (1, 20):
        await api.publish({"n": n})
    new = (await api.endpoint())["endpointGid"]
    taking = {"endpointGid": new, "channel": "orders", "filter": {"n": {"$gt": 0}}}
    subscription = created(await api.post("/v1/subscriptions", taking))["subscriptionGid"]
    batch = await replay(api, "missing", endpointGid=new)
    calls, taken = itertools.count(1), Acceptor.taken

    async def taken_slowly(acceptor: Acceptor, publications: Any, routes: Any) -> Any:
        found = await taken(acceptor, publications, routes)
        if (call := next(calls)) <= changes:  # others can write meanwhile, also to the messages
            async with asyncio.timeout(5):
                await api.change_rows("UPDATE message SET is_unrouted = is_unrouted")
                ok(await api.patch(f"/v1/subscriptions/{subscription}", {"filter": {"n": {"$gt": 10 + call}}}))
        return found

    monkeypatch.setattr(Acceptor, "taken", taken_slowly)
    assert len(await run(api, batch["batchGid"])) == (1 if changes else 2)
    assert next(calls) == changes + 2
    found = ok(await api.get(f"/v1/batches/{batch['batchGid']}"))
    assert (found["state"], found["skipped"], found["erased"]) == ("completed", 0, 0)


@pytest.mark.both_databases
async def test_a_tenant_is_not_sent_what_it_cannot_see(api: Api) -> None:
    await subscribed(api)
    created(await api.post("/v1/tenants", {"name": "acme"}))
    tenant = await api.key(tenant="acme")
    await api.publish({"n": 1})
    await api.publish({"n": 2}, tenant="acme")
    await api.publish({"n": 3}, tenant="default")
    endpoint = (await api.endpoint(channel="orders", tenant="acme"))["endpointGid"]
    assert await counted(api, "missing", endpointGid=endpoint) == (2, 0)
    assert await counted(tenant, "missing", endpointGid=endpoint) == (1, 0)
    assert await counted(tenant, "all") == (0, 0)
    batch = await replay(tenant, "missing", endpointGid=endpoint)
    # A tenant has one replay at a time.
    body = {"since": ago(hours=1), "mode": "missing", "endpointGid": endpoint}
    assert_problem(await tenant.post("/v1/channels/orders/replay", body), 429)
    assert len(await run(api, batch["batchGid"])) == 1
    assert [each["batchGid"] for each in await tenant.walk("/v1/batches")] == [batch["batchGid"]]


async def test_an_invalid_replay_is_refused_and_the_response_names_the_field(api: Api) -> None:
    endpoint = await subscribed(api)
    other = (await api.endpoint())["endpointGid"]

    async def refused(status: int, field: str | None, channel: str = "orders", **body: Any) -> str:
        wanted = {"since": ago(hours=1), "mode": "all", **body}
        response = await api.post(f"/v1/channels/{channel}/replay", wanted)
        return str(assert_problem(response, status, field)["detail"])

    await refused(422, "endpointGid", mode="missing")
    assert "has no subscription" in await refused(422, "endpointGid", mode="missing", endpointGid=other)
    await refused(422, "tenant", endpointGid=endpoint, tenant="default")
    await refused(422, "tenant", tenant="nobody")
    await refused(422, "endpointGid", endpointGid=endpoint[:-1] + ("0" if endpoint[-1] != "0" else "1"))
    await refused(422, "since", until=ago(hours=2))
    await refused(422, "since", since=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    await refused(422, "mode", mode="some")
    await refused(404, None, channel="none")
    assert await api.count("batch") == 0


@pytest.mark.both_databases
async def test_a_page_is_opened_once_by_concurrent_runs(api: Api) -> None:
    await subscribed(api)
    gids = await published(api, *["delivered"] * 7)
    batch = await replay(api, "all")
    opener = pages_of(api)
    first, *_ = await opener.next_pages(batch["batchGid"], 2)
    assert await opener.open(first) is not None
    assert await opener.open(first) is None  # a worker that died before it could say so runs it again
    found = await asyncio.gather(*(run(api, batch["batchGid"], size=1) for _ in range(3)))
    assert sorted(gid for some in found for gid in some) == sorted(gids)[2:]
    assert {round_ for _, round_ in (await rounds(api)).values()} == {2}
    assert ok(await api.get(f"/v1/batches/{batch['batchGid']}"))["started"] == 7


@pytest.mark.both_databases
async def test_a_page_to_an_endpoint_that_was_deleted_a_moment_ago_skips_its_messages(api: Api) -> None:
    await api.channel()
    await api.publish({"n": 1})
    endpoint = (await api.endpoint(channel="orders"))["endpointGid"]
    batch = (await replay(api, "missing", endpointGid=endpoint))["batchGid"]
    opener = pages_of(api)
    (page,) = await opener.next_pages(batch, 10)
    await api.change_rows("UPDATE endpoint SET deleted_at = created_at WHERE gid = :gid", gid=endpoint)
    opened = await opener.open(page)
    assert opened is not None
    assert (opened.started, opened.new, opened.progress.skipped) == (0, (), 1)
    assert (await api.count("delivery"), await api.count("delivery_round")) == (0, 0)


async def test_windows_and_pages_end_anywhere(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await subscribed(api)
    statuses = ["dead_lettered", "accepted", "discarded", "delivered", "accepted", "dead_lettered", "discarded"]
    await published(api, *statuses)
    for window in (1, 2, 3, 7, 8):
        monkeypatch.setattr(pages, "WINDOW", window)
        monkeypatch.setattr(replays, "COUNT_ROWS", window)
        assert await counted(api, "failed") == (4, 0)
        assert await counted(api, "all") == (5, 0)
        batch = await replay(api, "failed")
        assert len(await run(api, batch["batchGid"], size=2)) == 4
        for gid, (status, round_) in (await rounds(api)).items():
            if status == "accepted" and round_ > 1:
                await api.change_rows("UPDATE delivery SET status = 'discarded', round = 1 WHERE gid = :gid", gid=gid)
                await api.change_rows("DELETE FROM delivery_round WHERE delivery_gid = :gid", gid=gid)


async def test_a_count_that_takes_long_is_a_lower_bound(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await subscribed(api)
    await published(api, *["delivered"] * 3)
    monkeypatch.setattr(replays, "COUNT_S", 0.0)
    monkeypatch.setattr(replays, "COUNT_ROWS", 1)
    batch = await replay(api, "all")
    assert (batch["matched"], batch["matchedAtLeast"]) == (1, True)
    await run(api, batch["batchGid"])
    found = ok(await api.get(f"/v1/batches/{batch['batchGid']}"))
    assert (found["matched"], found["matchedAtLeast"], found["started"]) == (3, False, 3)


@pytest.mark.both_databases
async def test_a_replay_is_cancelled_at_its_next_page(api: Api) -> None:
    await subscribed(api)
    await published(api, *["delivered"] * 4)
    batch = (await replay(api, "all"))["batchGid"]
    opener = pages_of(api)
    first, second = await opener.next_pages(batch, 2)
    assert await opener.open(first) is not None
    found = accepted(await api.post(f"/v1/batches/{batch}/cancel"))
    assert (found["state"], found["started"]) == ("cancelled", 2)
    assert accepted(await api.post(f"/v1/batches/{batch}/cancel"))["state"] == "cancelled"
    assert await opener.open(second) is None
    assert await opener.next_pages(batch, 2) == ()
    done = (await replay(api, "all"))["batchGid"]
    await run(api, done)
    assert_problem(await api.post(f"/v1/batches/{done}/cancel"), 409)
    assert_problem(await api.post(f"/v1/batches/{new_gid(Kind.BATCH)}/cancel"), 404)
    assert [each["batchGid"] for each in await api.walk("/v1/batches", state="cancelled")] == [batch]
    assert [each["batchGid"] for each in await api.walk("/v1/batches", channel="orders", limit=1)] == [done, batch]
    actions = [entry["action"] for entry in await api.walk("/v1/audit", subject=batch)]
    assert actions == ["channel.replay_cancelled", "channel.replayed"]


@pytest.mark.both_databases
async def test_a_key_that_only_publishes_replays_its_own_messages(api: Api) -> None:
    await subscribed(api)
    alice, bob = await api.key("publish"), await api.key("publish", name="bob")
    await published(alice, "accepted")
    await published(bob, "accepted", "accepted")
    await api.change_rows("UPDATE delivery SET status = 'delivered', dispatched_at = accepted_at")
    assert await counted(bob, "all") == (2, 0)
    batch = (await replay(bob, "all"))["batchGid"]
    assert len(await run(api, batch)) == 2
    assert ok(await bob.get(f"/v1/batches/{batch}"))["started"] == 2
    assert_problem(await alice.get(f"/v1/batches/{batch}"), 404)
    assert_problem(await alice.post(f"/v1/batches/{batch}/cancel"), 404)
    assert await alice.walk("/v1/batches") == []


@pytest.mark.both_databases
async def test_a_repeated_call_starts_one_replay(api: Api) -> None:
    await subscribed(api)
    await published(api, "delivered")
    body, headers = {"since": ago(hours=1), "mode": "all"}, {"idempotency-key": "once"}
    first = accepted(await api.http.post("/v1/channels/orders/replay", json=body, headers=headers))
    assert accepted(await api.http.post("/v1/channels/orders/replay", json=body, headers=headers)) == first
    assert await api.count("batch") == 1


async def test_pulled_deliveries_are_queued_and_inboxes_ask_again(api: Api) -> None:
    await api.channel()
    poll = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["endpointGid"]
    await inbox(api, channel="orders")
    await api.publish({"n": 1})
    await api.change_rows("DELETE FROM pull_queue")
    await api.change_rows("UPDATE task SET state = 'decided'")
    await api.change_rows("UPDATE delivery SET status = 'delivered', dispatched_at = accepted_at")
    batch = await replay(api, "all")
    assert len(await run(api, batch["batchGid"])) == 2
    (item,) = ok(await api.get(f"/v1/endpoints/{poll}/poll"))["data"]
    assert item["lease"].split(".")[1] == "2"
    assert [row.state for row in await api.rows("SELECT state FROM task")] == ["open"]
    later = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["endpointGid"]
    missing = await replay(api, "missing", endpointGid=later)
    await run(api, missing["batchGid"])
    assert len(ok(await api.get(f"/v1/endpoints/{later}/poll"))["data"]) == 1
