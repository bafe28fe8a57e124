"""Pulled deliveries and their workflows: a real Temporal, real workers."""

from typing import Any

from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from everhook.ids import delivery_workflow_id
from testing.api import JSON, created, ok
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live
from tests.api.test_pulling import acks, end_lease, poll

pytestmark = ON_STACK

LIVE = {"delaysSeconds": [0]}
"""A policy of two attempts, the second one at once."""


async def published(live: Live, **endpoint: Any) -> tuple[str, str]:
    """A message to an endpoint that is polled: the gids of the endpoint and of its delivery."""
    await live.api.channel(live.name)
    body = {"mode": "poll", "channel": live.name, "policy": LIVE, **endpoint}
    gid: str = created(await live.api.post("/v1/endpoints", body))["endpointGid"]
    (delivery,) = (await live.api.publish({"n": 1}, live.name))["deliveries"]
    return gid, delivery["deliveryGid"]


async def run_of(live: Live, delivery: str, status: WorkflowExecutionStatus) -> JSON:
    """Wait until the workflow of a delivery has this status; its search attributes."""

    async def has_it() -> JSON:
        try:
            described = await live.temporal.get_workflow_handle(delivery_workflow_id(delivery)).describe()
        except RPCError as error:
            raise AssertionError("it has no workflow") from error
        assert described.status is status
        return {pair.key.name: pair.value for pair in described.typed_search_attributes}

    return await assert_eventually(has_it)


async def test_a_healthy_pull_is_one_workflow_that_completed(live: Live) -> None:
    endpoint, delivery = await published(live)
    (item,) = await poll(live.api, endpoint)
    await acks(live.api, endpoint, acks=[{"lease": item["lease"]}])
    attributes = await run_of(live, delivery, WorkflowExecutionStatus.COMPLETED)
    assert attributes["DeliveryStatus"] == "delivered"


async def test_a_returned_delivery_is_guarded_and_its_workflow_completes_with_the_acknowledgement(live: Live) -> None:
    endpoint, delivery = await published(live)
    (item,) = await poll(live.api, endpoint)
    await acks(live.api, endpoint, nacks=[{"lease": item["lease"]}])
    attributes = await run_of(live, delivery, WorkflowExecutionStatus.RUNNING)
    assert attributes["DeliveryStatus"] == "available"
    (item,) = await poll(live.api, endpoint)
    await acks(live.api, endpoint, acks=[{"lease": item["lease"]}])
    await run_of(live, delivery, WorkflowExecutionStatus.COMPLETED)


async def test_a_used_up_delivery_is_a_dead_letter_and_a_replay_queues_it_again(live: Live) -> None:
    endpoint, delivery = await published(live)
    for _ in range(2):
        (item,) = await poll(live.api, endpoint)
        await acks(live.api, endpoint, nacks=[{"lease": item["lease"], "reason": "no"}])
    shown = await live.wait_for_status(delivery, "dead_lettered")
    assert shown["deadLetterReason"] == "exhausted"
    (conflict,) = await acks(live.api, endpoint, acks=[{"lease": item["lease"]}])
    assert conflict["status"] == "conflict"
    assert (await live.api.post(f"/v1/dead-letters/{delivery}/replay")).status_code == 202
    await live.wait_for_status(delivery, "available")
    (item,) = await poll(live.api, endpoint, waitSeconds=10)
    assert item["metadata"] == item["metadata"] | {"round": 2, "attempt": 1}
    await acks(live.api, endpoint, acks=[{"lease": item["lease"]}])
    await live.wait_for_status(delivery, "delivered")
    await run_of(live, delivery, WorkflowExecutionStatus.COMPLETED)


async def test_a_refused_delivery_is_a_dead_letter_at_once(live: Live) -> None:
    endpoint, delivery = await published(live)
    (item,) = await poll(live.api, endpoint)
    await acks(live.api, endpoint, nacks=[{"lease": item["lease"], "deadLetter": True}])
    shown = await live.wait_for_status(delivery, "dead_lettered")
    assert (shown["deadLetterReason"], shown["attempts"][0]["verdict"]) == ("rejected", "rejected")


async def test_the_last_lease_that_expires_is_noticed_without_another_poll(live: Live) -> None:
    endpoint, delivery = await published(live)
    await poll(live.api, endpoint)
    await end_lease(live.api, endpoint)
    await poll(live.api, endpoint, leaseSeconds=5)
    shown = await live.wait_for_status(delivery, "dead_lettered")
    assert shown["deadLetterReason"] == "exhausted"
    assert [each["error"] for each in shown["attempts"]] == ["lease_expired", "lease_expired"]


async def test_a_message_that_no_consumer_takes_is_dead_lettered_after_the_window(live: Live) -> None:
    endpoint, delivery = await published(live, policy={"delaysSeconds": [0], "maxWindowSeconds": 1})
    await live.api.change_rows(
        "UPDATE pull_queue SET queued_at = :past WHERE delivery_gid = :gid",
        past="2026-01-01 00:00:00.000000",
        gid=delivery,
    )
    shown = await live.wait_for_status(delivery, "dead_lettered")
    assert shown["deadLetterReason"] == "unclaimed"
    assert await poll(live.api, endpoint) == []


async def test_the_queue_of_a_deleted_endpoint_is_dead_lettered(live: Live) -> None:
    endpoint, delivery = await published(live)
    assert (await live.api.delete(f"/v1/endpoints/{endpoint}")).status_code == 204
    shown = await live.wait_for_status(delivery, "dead_lettered")
    assert shown["deadLetterReason"] == "endpoint_deleted"


async def test_returned_deliveries_open_the_circuit_and_a_probe_closes_it(live: Live) -> None:
    endpoint, _ = await published(live)
    for n in range(6):
        await live.api.publish({"n": n}, live.name)
    for _ in range(5):
        (item,) = await poll(live.api, endpoint, limit=1)
        await acks(live.api, endpoint, nacks=[{"lease": item["lease"], "retryAfterSeconds": 3600}])

    async def is_open() -> None:
        assert ok(await live.api.get(f"/v1/endpoints/{endpoint}"))["circuit"]["state"] == "open"

    await assert_eventually(is_open)
    assert ok(await live.api.get(f"/v1/endpoints/{endpoint}/poll"))["held"] == "circuit_open"
    await live.api.post(f"/v1/endpoints/{endpoint}/circuit/reset")
    assert len(await poll(live.api, endpoint)) == 2


async def test_a_discarded_delivery_leaves_the_queue(live: Live) -> None:
    endpoint, delivery = await published(live)
    (item,) = await poll(live.api, endpoint)
    await acks(live.api, endpoint, nacks=[{"lease": item["lease"], "retryAfterSeconds": 3600}])
    await run_of(live, delivery, WorkflowExecutionStatus.RUNNING)
    await live.temporal.get_workflow_handle(delivery_workflow_id(delivery)).signal("discard")
    await live.wait_for_status(delivery, "discarded")
    assert (await live.api.rows("SELECT count(*) AS n FROM pull_queue WHERE delivery_gid = :g", g=delivery))[0].n == 0
