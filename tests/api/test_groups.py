"""Groups of messages, with Temporal stopped: which delivery waits for which, in the database."""

from collections.abc import Sequence
from typing import Any

import pytest

from everhook.contracts import AttemptRecord, DeadLetterReason, OperatorAction, Verdict
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.store import dead_letter, discard
from everhook.ids import Kind, new_gid
from everhook.ordering.store import Freed, free_stalled
from everhook.pulling.queue_store import unguarded
from everhook.storage.tables import now
from testing.api import JSON, Api, accepted, assert_problem, created, ok
from tests.stores.plans import executed


async def publish(api: Api, *keys: str | None) -> list[str]:
    """The gids of the deliveries, one for each message; there is one endpoint."""
    bodies = [{"payload": index, "type": "a", **({"groupKey": key} if key else {})} for index, key in enumerate(keys)]
    data = accepted(await api.try_batch(bodies))["data"]
    return [each["deliveries"][0]["deliveryGid"] for each in data]


async def statuses(api: Api, gids: list[str]) -> list[str]:
    rows = await api.rows("SELECT gid, status FROM delivery")
    found = {row.gid: str(row.status) for row in rows}
    return [found[gid] for gid in gids]


class Settling:
    """Settles deliveries as senders and activities do, and records which ones were freed."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.all: list[Freed] = []
        self.freed: list[str] = []
        self._recorder = Recorder(api.database)
        self._recorder.free_by(self._note)

    def _note(self, freed: Sequence[Freed]) -> None:
        self.all += freed
        self.freed += [each.delivery_gid for each in freed]

    async def deliver(self, *gids: str) -> None:
        for gid in gids:
            ((endpoint, round_, attempts),) = await self._api.rows(
                "SELECT endpoint_gid, round, attempts FROM delivery WHERE gid = :gid", gid=gid
            )
            record = AttemptRecord(
                attempt_gid=new_gid(Kind.ATTEMPT),
                delivery_gid=gid,
                endpoint_gid=endpoint,
                round=round_,
                number=attempts + 1,
                verdict=Verdict.DELIVERED,
                started_at=now(),
                duration_ms=1,
                request_sha256="",
            )
            await self._recorder.attempt(record, Transcript())

    async def dead_letter(self, gid: str, reason: DeadLetterReason = DeadLetterReason.EXHAUSTED) -> None:
        async with self._api.database.writing() as session:
            self._note((await dead_letter(session, gid, 1, reason, now())).freed)

    async def discard(self, gid: str) -> None:
        async with self._api.database.writing() as session:
            self._note(await discard(session, gid, OperatorAction("ann", "")))

    async def free_stalled(self) -> list[Freed]:
        async with self._api.database.write_connection() as connection:
            _, freed = await free_stalled(connection, now(), 10)
        self._note(freed)
        return freed


@pytest.fixture
def settling(api: Api) -> Settling:
    return Settling(api)


async def ready(api: Api, **settings: Any) -> JSON:
    await api.channel()
    return await api.endpoint(channel="orders", **settings)


async def test_each_delivery_waits_for_the_one_before_it_in_its_group_only(api: Api, settling: Settling) -> None:
    await ready(api)
    gids = await publish(api, "a", "a", "b", None, "a", "b", None)
    assert await statuses(api, gids) == ["accepted", "queued", "accepted", "accepted", "queued", "queued", "accepted"]
    (later,) = await publish(api, "a")
    assert await statuses(api, [later]) == ["queued"]

    await settling.deliver(gids[3])
    assert settling.freed == []
    await settling.deliver(gids[0], gids[2])
    assert settling.freed == [gids[1], gids[5]]
    assert await statuses(api, [gids[1], gids[4], gids[5], later]) == ["accepted", "queued", "accepted", "queued"]
    await settling.deliver(gids[1], gids[4], later)
    assert settling.freed[2:] == [gids[4], later]
    await settling.deliver(gids[5])
    assert await api.count("delivery_group") == await api.count("grouped_delivery") == 0
    (again,) = await publish(api, "a")
    assert await statuses(api, [again]) == ["accepted"]


async def test_a_batch_is_in_order_for_any_subscription_that_matches_its_messages(api: Api) -> None:
    endpoint = await ready(api)
    body: JSON = {"payload": 1, "type": "a", "groupKey": "a"}
    to = {**body, "endpointGid": endpoint["endpointGid"]}
    data = accepted(await api.try_batch([to, body, to]))["data"]
    assert [each["deliveries"][0]["status"] for each in data] == ["accepted", "queued", "queued"]
    rows = await api.rows("SELECT delivery_gid FROM grouped_delivery ORDER BY position")
    assert [row[0] for row in rows] == [each["deliveries"][0]["deliveryGid"] for each in data]


async def test_groups_of_endpoints_do_not_wait_for_each_other(api: Api, settling: Settling) -> None:
    await ready(api)
    await api.endpoint(channel="orders")
    first, second = [
        accepted(await api.try_publish({"payload": n, "type": "a", "groupKey": "a"}))["deliveries"] for n in (1, 2)
    ]
    assert [each["status"] for each in (*first, *second)] == ["accepted", "accepted", "queued", "queued"]
    await settling.deliver(first[0]["deliveryGid"])
    (of_same_endpoint,) = [e["deliveryGid"] for e in second if e["endpointGid"] == first[0]["endpointGid"]]
    assert settling.freed == [of_same_endpoint]


async def test_settling_a_delivery_twice_frees_one_successor(api: Api, settling: Settling) -> None:
    await ready(api)
    gids = await publish(api, "a", "a", "a")
    await settling.deliver(gids[0])
    await settling.discard(gids[0])
    await settling.dead_letter(gids[0])
    assert settling.freed == [gids[1]]
    assert await statuses(api, gids) == ["delivered", "accepted", "queued"]


@pytest.mark.parametrize("how", ["dead_letter", "discard"])
async def test_a_group_continues_after_a_dead_letter_and_after_a_discard(
    api: Api, settling: Settling, how: str
) -> None:
    await ready(api)
    gids = await publish(api, "a", "a")
    await getattr(settling, how)(gids[0])
    assert settling.freed == [gids[1]]
    await settling.deliver(gids[1])
    assert await api.count("delivery_group") == 0


async def test_a_dead_letter_blocks_its_group_if_the_endpoint_is_set_so(api: Api, settling: Settling) -> None:
    endpoint = await ready(api, onGroupFailure="block")
    assert endpoint["onGroupFailure"] == "block"
    gids = await publish(api, "a", "a", "b")
    await settling.dead_letter(gids[0])
    assert settling.freed == []
    assert await settling.free_stalled() == []
    assert await statuses(api, await publish(api, "a")) == ["queued"]
    await settling.discard(gids[0])
    assert settling.freed == [gids[1]]


async def test_a_replay_that_delivers_the_dead_letter_frees_its_group(api: Api, settling: Settling) -> None:
    await ready(api, onGroupFailure="block")
    gids = await publish(api, "a", "a")
    await settling.dead_letter(gids[0])
    ((message,),) = await api.rows("SELECT message_gid FROM delivery WHERE gid = :gid", gid=gids[0])
    (replayed,) = accepted(await api.post(f"/v1/messages/{message}/redeliver"))["deliveries"]
    assert replayed["result"] == "round_opened"
    await settling.deliver(gids[0])
    assert settling.freed == [gids[1]]


@pytest.mark.parametrize("reason", [DeadLetterReason.ENDPOINT_DELETED, DeadLetterReason.PAYLOAD_ERASED])
async def test_a_dead_letter_that_no_replay_can_deliver_does_not_block_its_group(
    api: Api, settling: Settling, reason: DeadLetterReason
) -> None:
    await ready(api, onGroupFailure="block")
    gids = await publish(api, "a", "a")
    await settling.dead_letter(gids[0], reason)
    assert settling.freed == [gids[1]]


async def test_a_blocked_group_continues_when_its_endpoint_is_changed_to_continue(api: Api, settling: Settling) -> None:
    endpoint = await ready(api, onGroupFailure="block")
    gids = await publish(api, "a", "a")
    await settling.dead_letter(gids[0])
    ok(await api.patch(f"/v1/endpoints/{endpoint['endpointGid']}", {"onGroupFailure": "continue"}))
    assert [each.delivery_gid for each in await settling.free_stalled()] == [gids[1]]


async def test_the_reconciler_frees_a_head_that_waits_and_leaves_others_alone(api: Api, settling: Settling) -> None:
    await ready(api)
    gids = await publish(api, "a", "a")
    assert await settling.free_stalled() == []
    await api.change_rows("UPDATE delivery SET status = 'queued' WHERE gid = :gid", gid=gids[0])  # a fault
    assert [each.delivery_gid for each in await settling.free_stalled()] == [gids[0]]
    await api.change_rows("UPDATE delivery SET status = 'delivered' WHERE gid = :gid", gid=gids[0])
    assert [each.delivery_gid for each in await settling.free_stalled()] == [gids[1]]


async def test_checking_groups_in_progress_costs_the_same_for_any_number(api: Api, settling: Settling) -> None:
    await ready(api)
    await publish(api, *(f"group-{number}" for number in range(10)))
    statements = executed(api.database)
    assert await settling.free_stalled() == []
    assert sum("group" in statement for statement in statements) == 3


async def test_consumers_get_a_group_in_order(api: Api) -> None:
    await api.channel()
    gid = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["endpointGid"]
    gids = await publish(api, "a", "a", "b", "a")
    taken: list[str] = []
    while items := ok(await api.get(f"/v1/endpoints/{gid}/poll", limit=10))["data"]:
        taken += [item["deliveryGid"] for item in items]
        ok(await api.post(f"/v1/endpoints/{gid}/acks", {"acks": [{"lease": item["lease"]} for item in items]}))
    assert taken == [gids[0], gids[2], gids[1], gids[3]]
    assert await api.count("pull_queue") == await api.count("grouped_delivery") == 0


async def test_a_nack_that_ends_the_round_frees_the_next_one(api: Api, settling: Settling) -> None:
    """As the workflow of the delivery does it."""
    await api.channel()
    gid = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["endpointGid"]
    gids = await publish(api, "a", "a")
    (item,) = ok(await api.get(f"/v1/endpoints/{gid}/poll", limit=10))["data"]
    ok(await api.post(f"/v1/endpoints/{gid}/acks", {"nacks": [{"lease": item["lease"], "deadLetter": True}]}))
    await settling.dead_letter(gids[0])
    (following,) = ok(await api.get(f"/v1/endpoints/{gid}/poll", limit=10))["data"]
    assert following["deliveryGid"] == gids[1]


async def test_a_delivery_that_waits_for_its_group_has_no_due_attempt(api: Api) -> None:
    await ready(api)
    _, waiting = await publish(api, "a", "a")
    problem = assert_problem(await api.post(f"/v1/deliveries/{waiting}/attempt-now"), 409)
    assert "in its group" in problem["detail"]
    assert ok(await api.get(f"/v1/deliveries/{waiting}/live"))["waitingFor"] == "those before it in its group"
    assert [each["deliveryGid"] for each in await api.walk("/v1/deliveries", status="queued")] == [waiting]


async def test_a_gate_and_a_group_are_refused_together(api: Api) -> None:
    inbox = created(await api.post("/v1/endpoints", {"mode": "inbox", "options": {"name": "Managers"}}))
    await api.channel(gates=[{"inbox": inbox["endpointGid"]}])
    await api.endpoint(channel="orders")
    body = {"payload": 1, "type": "a", "groupKey": "a"}
    assert_problem(await api.try_publish(body), 422, "groupKey")
    assert len(accepted(await api.try_publish({**body, "gates": []}))["deliveries"]) == 1
    for wrong in ("", "x" * 129, "a\nb"):
        assert_problem(await api.try_publish({**body, "gates": [], "groupKey": wrong}), 422, "groupKey")


async def test_the_key_is_shown(api: Api) -> None:
    await ready(api)
    await publish(api, "a", "a")
    assert ok(await api.get("/v1/messages"))["data"][0]["groupKey"] == "a"


async def test_a_dead_letter_that_can_no_longer_be_replayed_does_not_hold_its_group(
    api: Api, settling: Settling
) -> None:
    endpoint = await ready(api, onGroupFailure="block")
    gids = await publish(api, "a", "a", "b", "b")
    await settling.dead_letter(gids[0])
    await settling.dead_letter(gids[2])
    assert await settling.free_stalled() == []
    ((message,),) = await api.rows("SELECT message_gid FROM delivery WHERE gid = :gid", gid=gids[2])
    assert (await api.delete(f"/v1/messages/{message}/payload")).is_success
    assert [each.delivery_gid for each in await settling.free_stalled()] == [gids[3]]
    assert (await api.delete(f"/v1/endpoints/{endpoint['endpointGid']}")).is_success
    assert [each.delivery_gid for each in await settling.free_stalled()] == [gids[1]]


@pytest.mark.parametrize("how", ["endpoint_deleted", "payload_erased"])
async def test_a_pulled_delivery_that_no_consumer_can_be_handed_gets_its_workflow_soon(
    api: Api, settling: Settling, how: str
) -> None:
    """It starts at the delivery's turn, or by the reconciler if that start was lost; not at the end of its window."""
    await api.channel()
    gid = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["endpointGid"]
    gids = await publish(api, "a", "a")
    if how == "endpoint_deleted":
        assert (await api.delete(f"/v1/endpoints/{gid}")).is_success
    else:
        ((message,),) = await api.rows("SELECT message_gid FROM delivery WHERE gid = :gid", gid=gids[1])
        assert (await api.delete(f"/v1/messages/{message}/payload")).is_success
    await settling.deliver(gids[0])
    assert [(each.delivery_gid, each.needs_workflow) for each in settling.all] == [(gids[1], True)]
    async with api.database.read_connection() as connection:
        assert gids[1] in await unguarded(connection, now(), 10)
