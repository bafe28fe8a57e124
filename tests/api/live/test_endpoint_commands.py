"""Commands to an endpoint's entity: each returns the endpoint's new state, and deliveries obey it."""

import pytest

from testing.api import JSON, UNKNOWN_SUFFIX, assert_problem, ok
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live

pytestmark = ON_STACK


async def subscribed(live: Live) -> str:
    await live.api.channel(live.name)
    live.receiver.respond(200, path=live.path)
    gid: str = (await live.api.endpoint(live.url, channel=live.name, tenant=live.name))["endpointGid"]
    return gid


async def command(live: Live, gid: str, name: str) -> JSON:
    """Carry out the command; the state that it returns must be the state that is shown afterwards."""
    state = ok(await live.api.post(f"/v1/endpoints/{gid}/{name}"))
    assert ok(await live.api.get(f"/v1/endpoints/{gid}")) == state
    return state


async def publish(live: Live) -> str:
    gid: str = (await live.api.publish(1, live.name))["deliveries"][0]["deliveryGid"]
    return gid


async def test_a_paused_endpoint_keeps_its_messages_until_it_is_resumed(live: Live) -> None:
    endpoint = await subscribed(live)

    assert (await command(live, endpoint, "pause"))["status"] == "paused"
    delivery = await publish(live)
    await live.wait_for_status(delivery, "parked")
    assert live.receiver.at(live.path) == []

    assert (await command(live, endpoint, "resume"))["status"] == "enabled"
    await live.wait_for_status(delivery, "delivered")
    assert len(live.receiver.at(live.path)) == 1


async def test_a_disabled_endpoint_is_not_resumed_but_enabled(live: Live) -> None:
    endpoint = await subscribed(live)

    disabled = await command(live, endpoint, "disable")
    assert disabled["status"] == "disabled"
    assert disabled["statusReason"]
    delivery = await publish(live)
    await live.wait_for_status(delivery, "parked")
    assert (await command(live, endpoint, "resume"))["status"] == "disabled"
    assert (await command(live, endpoint, "pause"))["status"] == "disabled"

    enabled = await command(live, endpoint, "enable")
    assert (enabled["status"], enabled["statusReason"]) == ("enabled", "")
    await live.wait_for_status(delivery, "delivered")


async def test_a_tripped_circuit_parks_until_it_is_reset(live: Live) -> None:
    endpoint = await subscribed(live)

    tripped = await command(live, endpoint, "circuit/trip")
    assert (tripped["status"], tripped["circuit"]["state"]) == ("enabled", "open")
    assert tripped["circuit"]["until"] is not None
    delivery = await publish(live)
    await live.wait_for_status(delivery, "parked")

    reset = await command(live, endpoint, "circuit/reset")
    closed = {"state": "closed", "failures": 0, "failingSince": None, "until": None, "settings": None}
    assert reset["circuit"] == closed
    await live.wait_for_status(delivery, "delivered")


async def test_a_circuit_that_failures_opened_says_so(live: Live) -> None:
    endpoint = await subscribed(live)
    live.receiver.respond(503, path=live.path)
    for _ in range(5):
        await publish(live)

    async def is_open() -> JSON:
        shown = ok(await live.api.get(f"/v1/endpoints/{endpoint}"))
        assert shown["circuit"]["state"] == "open"
        return shown

    circuit = (await assert_eventually(is_open))["circuit"]
    assert circuit["failures"] >= 5
    assert circuit["failingSince"] is not None


async def test_a_deleted_endpoint_has_its_parked_deliveries_dead_lettered(live: Live) -> None:
    endpoint = await subscribed(live)
    await command(live, endpoint, "pause")
    delivery = await publish(live)
    await live.wait_for_status(delivery, "parked")

    assert (await live.api.delete(f"/v1/endpoints/{endpoint}")).status_code == 204

    assert (await live.wait_for_status(delivery, "dead_lettered"))["deadLetterReason"] == "endpoint_deleted"
    assert_problem(await live.api.post(f"/v1/endpoints/{endpoint}/resume"), 404)


@pytest.mark.parametrize("name", ["pause", "resume", "enable", "disable", "circuit/trip", "circuit/reset"])
async def test_commands_to_an_unknown_endpoint_start_no_workflow(live: Live, name: str) -> None:
    gid = f"ep_{UNKNOWN_SUFFIX}"

    assert_problem(await live.api.post(f"/v1/endpoints/{gid}/{name}"), 404)
    assert (await live.temporal.count_workflows(f'WorkflowId = "endpoint/{gid}"')).count == 0
