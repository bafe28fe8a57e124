"""Options of a publish with a real Temporal, real workers and a receiver."""

from datetime import UTC, datetime

from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from everhook.observability.metrics import REGISTRY
from testing.api import accepted, ok
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live

pytestmark = ON_STACK


async def status_of(live: Live, message_gid: str) -> WorkflowExecutionStatus | None:
    try:
        return (await live.temporal.get_workflow_handle(f"scheduled/{message_gid}").describe()).status
    except RPCError as error:
        raise AssertionError("it has no workflow yet") from error


async def has_status(live: Live, message_gid: str, expected: WorkflowExecutionStatus) -> None:
    async def has_it() -> None:
        assert await status_of(live, message_gid) is expected

    await assert_eventually(has_it)


async def test_a_scheduled_message_arrives_at_its_time(live: Live) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name)
    live.receiver.respond(200, path=live.path)
    message = await live.api.publish({"n": 1}, live.name, delaySeconds=1.5)
    due = datetime.fromisoformat(message["deliverAt"])
    waited = ok(await live.api.get(f"/v1/messages/{message['messageGid']}/wait", timeoutSeconds=20))
    assert (waited["state"], waited["outcome"]) == ("settled", "delivered")
    (arrival,) = live.receiver.at(live.path)
    assert datetime.now(UTC) > due
    assert arrival.id == message["messageGid"]
    await has_status(live, message["messageGid"], WorkflowExecutionStatus.COMPLETED)


async def test_the_planned_delay_of_a_scheduled_message_does_not_count_as_latency(live: Live) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name)
    live.receiver.respond(200, path=live.path)

    def counted() -> float:
        return REGISTRY.get_sample_value("everhook_delivery_seconds_count") or 0.0

    before = counted()
    for options in ({"delaySeconds": 0.2}, {"groupKey": "a"}, {"groupKey": "a"}):
        await live.api.publish(1, live.name, **options)
    await live.receiver.wait_for(3, path=live.path)
    plain = await live.api.publish(1, live.name)
    await live.wait_for_status(plain["deliveries"][0]["deliveryGid"], "delivered")
    assert counted() == before + 1


async def test_the_workflow_of_a_cancelled_message_ends(live: Live) -> None:
    await live.api.channel(live.name)
    gid = (await live.api.publish({"n": 1}, live.name, delaySeconds=3600))["messageGid"]
    await has_status(live, gid, WorkflowExecutionStatus.RUNNING)
    ok(await live.api.post(f"/v1/messages/{gid}/cancel"))
    await has_status(live, gid, WorkflowExecutionStatus.TERMINATED)


async def test_without_retries_the_first_failure_is_a_dead_letter_and_so_is_that_of_a_replay(live: Live) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name)
    live.receiver.respond(Response(500), path=live.path)
    message = await live.api.publish({"n": 1}, live.name, retry=False)
    gid = message["deliveries"][0]["deliveryGid"]
    found = await live.wait_for_status(gid, "dead_lettered")
    assert (found["deadLetterReason"], len(found["attempts"])) == ("exhausted", 1)
    assert (await live.api.post(f"/v1/dead-letters/{gid}/replay")).status_code == 202
    await live.receiver.wait_for(2, path=live.path)
    found = await live.wait_for_status(gid, "dead_lettered")
    assert (found["round"], len(found["attempts"])) == (2, 2)


async def test_metadata_arrives_in_the_body_and_in_headers_if_the_endpoint_is_set_so(live: Live) -> None:
    await live.api.channel(live.name)
    endpoint = await live.api.endpoint(live.url, channel=live.name, options={"metadataHeaders": True})
    assert endpoint["options"] == {"metadataHeaders": True}
    live.receiver.respond(200, path=live.path)
    message = await live.api.publish({"n": 1}, live.name, metadata={"Region": "eu", "note": "100 % Grüße"})
    gid = message["deliveries"][0]["deliveryGid"]
    found = await live.wait_for_status(gid, "delivered")
    (arrival,) = live.receiver.at(live.path)
    assert arrival.json()["metadata"]["attributes"] == {"Region": "eu", "note": "100 % Grüße"}
    headers = {name.lower(): value for name, value in arrival.headers}
    assert headers["x-webhook-meta-region"] == "eu"
    assert headers["x-webhook-meta-note"] == "100 %25 Gr%C3%BC%C3%9Fe"
    attempt = found["attempts"][0]["attemptGid"]
    shown = await live.api.get(f"/v1/attempts/{attempt}/body")
    assert (shown.status_code, shown.content) == (200, arrival.body)


async def test_a_group_of_a_deleted_endpoint_is_dead_lettered_and_not_parked(live: Live) -> None:
    await live.api.channel(live.name)
    endpoint = (await live.api.endpoint(live.url, channel=live.name))["endpointGid"]
    live.receiver.respond(Response(500), path=live.path)
    bodies = [{"payload": number, "type": "a", "groupKey": "a"} for number in range(3)]
    data = accepted(await live.api.try_batch(bodies, live.name))["data"]
    gids = [each["deliveries"][0]["deliveryGid"] for each in data]
    await live.wait_for_status(gids[0], "retrying")
    assert (await live.api.delete(f"/v1/endpoints/{endpoint}")).is_success
    assert (await live.api.post(f"/v1/deliveries/{gids[0]}/attempt-now")).is_success
    for gid in gids:
        assert (await live.wait_for_status(gid, "dead_lettered"))["deadLetterReason"] == "endpoint_deleted"
