"""Erasing content: what happens to deliveries that are still open, and to dead letters."""

from everhook.contracts import DELIVERY_WORKFLOW
from testing.api import JSON, accepted, assert_problem, ok
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live
from tests.api.test_erasure import erased

pytestmark = ON_STACK

RESPONSE = Response(422, b"you sent a secret", (("x-why", "secret"),))


def has_response(delivery: JSON) -> bool:
    parts = ("responseBody", "responseHeaders", "errorDetail")
    return any(attempt[part] is not None for attempt in delivery["attempts"] for part in parts)


async def test_a_delivery_that_waits_for_its_next_attempt_becomes_a_dead_letter_without_another_request(
    live: Live,
) -> None:
    await live.api.channel(live.name, policy={"delaysSeconds": [3600]})
    await live.api.endpoint(live.url, channel=live.name)
    live.receiver.respond(Response(500, b"you sent a secret"), path=live.path)
    message = await live.api.publish({"secret": 1}, live.name)
    [delivery] = message["deliveries"]
    retrying = await live.wait_for_status(delivery["deliveryGid"], "retrying")
    assert has_response(retrying)

    await erased(live.api, message["messageGid"])

    letter = await live.wait_for_status(delivery["deliveryGid"], "dead_lettered")
    assert letter["deadLetterReason"] == "payload_erased"
    assert len(letter["attempts"]) == 1 and not has_response(letter)
    assert len(live.receiver.at(live.path)) == 1


async def test_a_parked_delivery_becomes_a_dead_letter_and_the_circuit_stays_as_it_is(live: Live) -> None:
    await live.api.channel(live.name)
    endpoint = await live.api.endpoint(live.url, channel=live.name)
    path = f"/v1/endpoints/{endpoint['endpointGid']}"
    ok(await live.api.post(f"{path}/pause"))
    message = await live.api.publish({"secret": 1}, live.name)
    [delivery] = message["deliveries"]
    await live.wait_for_status(delivery["deliveryGid"], "parked")

    await erased(live.api, message["messageGid"])

    letter = await live.wait_for_status(delivery["deliveryGid"], "dead_lettered")
    assert letter["deadLetterReason"] == "payload_erased"
    assert ok(await live.api.get(path))["status"] == "paused"
    assert live.receiver.at(live.path) == []


async def test_a_dead_letter_whose_payload_was_erased_can_be_discarded_but_not_replayed(live: Live) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name)
    live.receiver.respond(RESPONSE, path=live.path)
    gid = await live.dead_letter(live.name)
    message_gid = ok(await live.api.get(f"/v1/deliveries/{gid}"))["messageGid"]

    message = await erased(live.api, message_gid)

    letter = ok(await live.api.get(f"/v1/dead-letters/{gid}"))
    assert (letter["payload"], letter["payloadErasedAt"]) == (None, message["payloadErasedAt"])
    assert letter["deadLetterReason"] == "rejected" and not has_response(letter)
    problem = assert_problem(await live.api.post(f"/v1/dead-letters/{gid}/replay"), 409)
    assert f"payload of {message_gid} was erased" in problem["detail"]
    assert problem["type"] == "/problems/payload-erased"
    assert ok(await live.api.get(f"/v1/deliveries/{gid}"))["round"] == 1
    accepted(await live.api.post(f"/v1/dead-letters/{gid}/discard"))
    await live.wait_for_status(gid, "discarded")
    assert len(live.receiver.at(live.path)) == 1


async def test_a_bulk_replay_skips_a_dead_letter_whose_payload_was_erased(live: Live) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name)
    live.receiver.respond(RESPONSE, path=live.path)
    gid = await live.dead_letter(live.name)
    query = f'WorkflowType="{DELIVERY_WORKFLOW}" AND DeliveryStatus="dead_lettered" AND Channel="{live.name}"'

    async def is_findable() -> None:
        assert (await live.temporal.count_workflows(query)).count == 1

    await assert_eventually(is_findable)
    await erased(live.api, ok(await live.api.get(f"/v1/deliveries/{gid}"))["messageGid"])
    live.receiver.respond(200, path=live.path)

    async def is_begun() -> None:
        response = await live.api.post("/v1/dead-letters/replay", {"channel": live.name})
        assert response.status_code == 202  # 429 while another test's batch runs

    await assert_eventually(is_begun)

    async def is_dead_again() -> None:
        letter = ok(await live.api.get(f"/v1/deliveries/{gid}"))
        assert (letter["status"], letter["round"], letter["deadLetterReason"]) == ("dead_lettered", 2, "payload_erased")

    await assert_eventually(is_dead_again)
    assert len(live.receiver.at(live.path)) == 1
