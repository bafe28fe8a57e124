"""Circuit settings and requests in flight with a real Temporal, real workers and a receiver."""

import asyncio
from itertools import pairwise
from typing import Any

from testing.api import JSON, ok
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live

pytestmark = ON_STACK

BRISK = {"delaysSeconds": [0.2] * 40}


async def endpoint(live: Live, **body: Any) -> str:
    await live.api.channel(live.name)
    created = await live.api.endpoint(live.url, channel=live.name, tenant=live.name, policy=BRISK, **body)
    return str(created["endpointGid"])


async def until_circuit(live: Live, gid: str, state: str, failures: int = 0) -> JSON:
    async def is_so() -> JSON:
        circuit: JSON = ok(await live.api.get(f"/v1/endpoints/{gid}"))["circuit"]
        assert circuit["state"] == state and circuit["failures"] >= failures, circuit
        return circuit

    return await assert_eventually(is_so)


async def test_changed_settings_of_an_endpoint_apply_to_the_circuit_that_runs(live: Live) -> None:
    gid = await endpoint(live, circuit={"failureThreshold": 50})
    live.receiver.respond(Response(500), path=live.path)
    message = await live.api.publish({"n": 1}, live.name)
    await until_circuit(live, gid, "closed", failures=2)
    ok(await live.api.patch(f"/v1/endpoints/{gid}", {"circuit": {"failureThreshold": 3, "cooldownSeconds": 3_600}}))
    await until_circuit(live, gid, "open")
    live.receiver.respond(200, path=live.path)
    ok(await live.api.patch(f"/v1/endpoints/{gid}", {"circuit": {"cooldownSeconds": 1}}))
    await live.wait_for_status(message["deliveries"][0]["deliveryGid"], "delivered")
    await until_circuit(live, gid, "closed")


async def test_changed_settings_of_a_channel_apply_to_the_circuits_that_run(live: Live) -> None:
    gid = await endpoint(live)
    ok(await live.api.patch(f"/v1/channels/{live.name}", {"circuit": {"failureThreshold": 2, "cooldownSeconds": 600}}))
    live.receiver.respond(Response(500), path=live.path)
    message = await live.api.publish({"n": 1}, live.name)
    circuit = await until_circuit(live, gid, "open")
    assert 2 <= circuit["failures"] < 5
    live.receiver.respond(200, path=live.path)
    ok(await live.api.patch(f"/v1/channels/{live.name}", {"circuit": {"cooldownSeconds": 1}}))
    await live.wait_for_status(message["deliveries"][0]["deliveryGid"], "delivered")


async def test_an_endpoint_created_paused_gets_its_messages_when_it_is_resumed(live: Live) -> None:
    gid = await endpoint(live, paused=True)
    live.receiver.respond(200, path=live.path)
    message = await live.api.publish({"n": 1}, live.name)
    assert message["deliveries"][0]["status"] == "parked"
    assert ok(await live.api.post(f"/v1/endpoints/{gid}/resume"))["status"] == "enabled"
    await live.wait_for_status(message["deliveries"][0]["deliveryGid"], "delivered")


async def test_requests_to_an_endpoint_with_a_limit_follow_each_other(live: Live) -> None:
    await endpoint(live, maxInFlight=1)
    live.receiver.respond(Response(200, delay=0.05), path=live.path)
    messages = await asyncio.gather(*(live.api.publish({"n": n}, live.name) for n in range(8)))
    for message in messages:
        delivery = await live.wait_for_status(message["deliveries"][0]["deliveryGid"], "delivered")
        assert [attempt["number"] for attempt in delivery["attempts"]] == [1]
    arrivals = [arrival.monotonic for arrival in live.receiver.at(live.path)]
    assert len(arrivals) == 8
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(arrivals))
