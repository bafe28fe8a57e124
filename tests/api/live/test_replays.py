"""A replay of a channel with a real Temporal, real workers and a receiver."""

from datetime import UTC, datetime, timedelta

from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from everhook.ids import delivery_workflow_id, replay_workflow_id
from testing.api import JSON, accepted, ok
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live

pytestmark = ON_STACK


async def replayed(live: Live, mode: str, **body: object) -> JSON:
    """Replay the messages published a moment ago. Returns the batch when it has ended."""
    since = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
    started = accepted(await live.api.post(f"/v1/channels/{live.name}/replay", {"since": since, "mode": mode, **body}))

    async def is_done() -> JSON:
        batch = ok(await live.api.get(f"/v1/batches/{started['batchGid']}"))
        assert batch["state"] == "completed"
        return batch

    return await assert_eventually(is_done, timeout=30)


async def test_a_channel_is_replayed_to_an_old_and_to_a_new_endpoint(live: Live) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name, tenant=live.name)
    live.receiver.respond(200, 200, Response(422), 200, path=live.path)
    messages = []
    for n in range(3):
        messages.append(await live.api.publish({"n": n}, live.name))
        await live.wait_for_status(
            messages[-1]["deliveries"][0]["deliveryGid"], "dead_lettered" if n == 2 else "delivered"
        )

    batch = await replayed(live, "failed", reason="they fixed it")
    assert (batch["started"], batch["skipped"]) == (1, 0)
    dead = messages[2]["deliveries"][0]["deliveryGid"]
    delivery = await live.wait_for_status(dead, "delivered")
    assert (delivery["round"], delivery["resolvedBy"], delivery["resolutionReason"]) == (
        2,
        "environment",
        "they fixed it",
    )

    assert (await replayed(live, "all"))["started"] == 3
    await live.receiver.wait_for(7, path=live.path)
    for each in messages:
        await live.wait_for_status(each["deliveries"][0]["deliveryGid"], "delivered")
    last = live.receiver.at(live.path)[-3:]
    assert {arrival.id for arrival in last} == {each["messageGid"] for each in messages}
    assert sorted(dict(arrival.headers)["x-webhook-round"] for arrival in last) == ["2", "2", "3"]

    new = live.receiver.url_for(f"{live.path}/new")
    endpoint = (await live.api.endpoint(new, channel=live.name, tenant=live.name))["endpointGid"]
    assert (await replayed(live, "missing", endpointGid=endpoint))["started"] == 3
    arrivals = await live.receiver.wait_for(3, path=f"{live.path}/new")
    assert {arrival.id for arrival in arrivals} == {each["messageGid"] for each in messages}

    # Replays have a lower priority than fresh messages, the first rounds of a new endpoint too.
    (first,) = ok(await live.api.get("/v1/deliveries", endpointGid=endpoint, limit=1))["data"]

    async def priority() -> None:
        try:
            found = await live.temporal.get_workflow_handle(delivery_workflow_id(first["deliveryGid"])).describe()
        except RPCError as error:  # it waits until no fresh messages flow
            raise AssertionError(str(error)) from error
        assert found.raw_description.workflow_execution_info.priority.priority_key > 3

    await assert_eventually(priority)
    handle = live.temporal.get_workflow_handle(replay_workflow_id(batch["batchGid"]))
    assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED
