"""Circuit settings, limits and alerts of endpoints: valid ones are stored as given, invalid ones refused by name."""

import json
from typing import Any

import pytest

from testing.api import ON_SHARED, RECEIVER_URL, Api, assert_problem, created, ok

CIRCUIT = {
    "failureThreshold": 5,
    "cooldownSeconds": 30,
    "cooldownMaxSeconds": 600,
    "disableAfterHours": 120,
    "releasePerSecond": 5,
    "releasePerSecondMax": 100,
}
GOOD_CIRCUITS: list[dict[str, Any]] = [CIRCUIT, {"failureThreshold": 1}, {"cooldownSeconds": 0.5 + 1}]
BAD_CIRCUITS: list[tuple[Any, str]] = [
    ({"failuresThreshold": 5}, "circuit.failuresThreshold"),
    ({"failureThreshold": 0}, "circuit.failureThreshold"),
    ({"failureThreshold": 1_001}, "circuit.failureThreshold"),
    ({"failureThreshold": 2.5}, "circuit.failureThreshold"),
    ({"failureThreshold": True}, "circuit.failureThreshold"),
    ({"cooldownSeconds": 0}, "circuit.cooldownSeconds"),
    ({"cooldownSeconds": "30"}, "circuit.cooldownSeconds"),
    ({"cooldownMaxSeconds": 86_401}, "circuit.cooldownMaxSeconds"),
    ({"disableAfterHours": 0}, "circuit.disableAfterHours"),
    ({"disableAfterHours": 8_761}, "circuit.disableAfterHours"),
    ({"releasePerSecond": 0}, "circuit.releasePerSecond"),
    ({"releasePerSecondMax": 1_001}, "circuit.releasePerSecondMax"),
    ({"cooldownSeconds": 60, "cooldownMaxSeconds": 30}, "circuit"),
    ({"releasePerSecond": 60, "releasePerSecondMax": 30}, "circuit"),
    (5, "circuit"),
]
ALERTS = {
    "successRateBelow": 0.9,
    "overMinutes": 10,
    "minAttempts": 20,
    "deadLettersAbove": 100,
    "latencyAboveMs": None,
}
BAD_ALERTS: list[tuple[Any, str]] = [
    ({"successRate": 0.9}, "alerts.successRate"),
    ({"successRateBelow": 1.1}, "alerts.successRateBelow"),
    ({"successRateBelow": 0}, "alerts.successRateBelow"),
    ({"overMinutes": 61}, "alerts.overMinutes"),
    ({"overMinutes": 0.5}, "alerts.overMinutes"),
    ({"overMinutes": None}, "alerts"),
    ({"minAttempts": 0}, "alerts.minAttempts"),
    ({"minAttempts": None}, "alerts"),
    ({"deadLettersAbove": -1}, "alerts.deadLettersAbove"),
    ({"deadLettersAbove": 10_001}, "alerts.deadLettersAbove"),
    ({"latencyAboveMs": 0}, "alerts.latencyAboveMs"),
]


@pytest.mark.parametrize("circuit", GOOD_CIRCUITS, ids=json.dumps)
async def test_circuit_settings_are_stored_as_given(api: Api, circuit: dict[str, Any]) -> None:
    channel = created(await api.post("/v1/channels", {"name": "a", "circuit": circuit}))
    endpoint = await api.endpoint(circuit=circuit)
    assert channel["circuit"] == circuit
    assert ok(await api.get("/v1/channels/a"))["circuit"] == circuit
    assert endpoint["circuit"]["settings"] == circuit
    shown = ok(await api.get(f"/v1/endpoints/{endpoint['endpointGid']}"))
    assert (shown["circuit"]["settings"], shown["circuit"]["state"]) == (circuit, "closed")


async def test_circuit_settings_are_changed_and_removed(api: Api) -> None:
    await api.channel("a", circuit={"failureThreshold": 3})
    endpoint = await api.endpoint(circuit={"failureThreshold": 4})
    at = f"/v1/endpoints/{endpoint['endpointGid']}"
    assert ok(await api.patch("/v1/channels/a", {"circuit": CIRCUIT}))["circuit"] == CIRCUIT
    assert ok(await api.patch("/v1/channels/a", {"policy": {}}))["circuit"] == CIRCUIT
    assert ok(await api.patch(at, {"circuit": CIRCUIT}))["circuit"]["settings"] == CIRCUIT
    assert ok(await api.patch(at, {"description": "x"}))["circuit"]["settings"] == CIRCUIT
    assert ok(await api.patch("/v1/channels/a", {"circuit": None}))["circuit"] is None
    nothings: list[dict[str, Any] | None] = [None, {}]
    for nothing in nothings:
        assert ok(await api.patch(at, {"circuit": nothing}))["circuit"]["settings"] is None
    details = [entry["detail"] for entry in ok(await api.get("/v1/audit", subject="a"))["data"]]
    assert {"circuit": CIRCUIT} in details and {"circuit": None} in details


@ON_SHARED
@pytest.mark.parametrize(("circuit", "named"), BAD_CIRCUITS, ids=lambda value: json.dumps(value)[:60])
async def test_invalid_circuit_settings_are_refused_with_the_name_of_the_field(
    shared: Api, circuit: Any, named: str
) -> None:
    for path, body in [
        ("/v1/channels", {"name": "a", "circuit": circuit}),
        ("/v1/endpoints", {"url": RECEIVER_URL, "circuit": circuit}),
    ]:
        assert_problem(await shared.post(path, body), 422, named)


@ON_SHARED
async def test_a_setting_out_of_order_is_named_in_the_message(shared: Api) -> None:
    body = {"url": RECEIVER_URL, "circuit": {"cooldownSeconds": 60, "cooldownMaxSeconds": 30}}
    problem = assert_problem(await shared.post("/v1/endpoints", body), 422, "circuit")
    assert "cooldownSeconds: is above cooldownMaxSeconds" in problem["detail"]


@ON_SHARED
async def test_an_inbox_has_no_circuit_settings_and_a_queue_no_requests(shared: Api) -> None:
    inbox = {"mode": "inbox", "options": {"name": "x"}}
    assert_problem(await shared.post("/v1/endpoints", {**inbox, "circuit": CIRCUIT}), 422, "circuit")
    assert_problem(await shared.post("/v1/endpoints", {"mode": "poll", "maxInFlight": 2}), 422, "maxInFlight")


@ON_SHARED
@pytest.mark.parametrize("wrong", [0, -1, 1_001, 2.5, "2", True])
async def test_requests_in_flight_are_a_number_from_one_to_a_thousand(shared: Api, wrong: Any) -> None:
    assert_problem(await shared.post("/v1/endpoints", {"url": RECEIVER_URL, "maxInFlight": wrong}), 422, "maxInFlight")


async def test_requests_in_flight_are_set_and_removed(api: Api) -> None:
    endpoint = await api.endpoint(maxInFlight=4)
    at = f"/v1/endpoints/{endpoint['endpointGid']}"
    assert endpoint["maxInFlight"] == 4
    assert ok(await api.patch(at, {"maxInFlight": 1}))["maxInFlight"] == 1
    assert ok(await api.patch(at, {"maxInFlight": None}))["maxInFlight"] is None


async def test_an_endpoint_that_is_created_paused_parks_its_messages(api: Api) -> None:
    await api.channel()
    endpoint = await api.endpoint(channel="orders", paused=True)
    assert (endpoint["status"], endpoint["statusReason"]) == ("paused", "")
    [delivery] = (await api.publish())["deliveries"]
    assert delivery["status"] == "parked"
    details = [entry["detail"] for entry in ok(await api.get("/v1/audit", subject=endpoint["endpointGid"]))["data"]]
    assert details[0]["paused"] is True
    assert [row.kind for row in await api.rows("SELECT kind FROM operational_event")] == ["endpoint.paused"]
    assert_problem(await api.patch(f"/v1/endpoints/{endpoint['endpointGid']}", {"paused": False}), 422, "paused")


# Alerts


async def test_alerts_are_stored_as_given(api: Api) -> None:
    endpoint = await api.endpoint(tenant="acme", alerts=ALERTS)
    at = f"/v1/endpoints/{endpoint['endpointGid']}"
    assert endpoint["alerts"] == ALERTS
    assert ok(await api.patch(at, {"alerts": {"minAttempts": 5}}))["alerts"] == {"minAttempts": 5}
    assert ok(await api.patch(at, {"alerts": None}))["alerts"] is None
    assert ok(await api.patch("/v1/tenants/acme", {"alerts": ALERTS}))["alerts"] == ALERTS
    renamed = ok(await api.patch("/v1/tenants/acme", {"name": "apex"}))
    assert (renamed["name"], renamed["alerts"]) == ("apex", ALERTS)
    both = ok(await api.patch("/v1/tenants/apex", {"name": "acme", "alerts": None}))
    assert (both["name"], both["alerts"]) == ("acme", None)
    assert_problem(await api.patch("/v1/tenants/acme", {}), 422, "name")


@ON_SHARED
@pytest.mark.parametrize(("alerts", "named"), BAD_ALERTS, ids=lambda value: json.dumps(value)[:60])
async def test_invalid_alerts_are_refused_with_the_name_of_the_field(shared: Api, alerts: Any, named: str) -> None:
    assert_problem(await shared.post("/v1/endpoints", {"url": RECEIVER_URL, "alerts": alerts}), 422, named)
    assert_problem(await shared.patch("/v1/tenants/default", {"alerts": alerts}), 422, named)


# Subscriptions of deliveries


async def test_deliveries_are_found_by_the_subscription_that_caused_them(api: Api) -> None:
    for name in ("a", "b"):
        await api.channel(name)
    endpoint = await api.endpoint(channel="a")
    gid = endpoint["endpointGid"]
    other = created(await api.post("/v1/subscriptions", {"endpointGid": gid, "channel": "b", "events": ["x"]}))
    later = created(await api.post("/v1/subscriptions", {"endpointGid": gid, "channel": "b"}))
    for channel, type_ in (("a", "x"), ("b", "x"), ("b", "y")):
        await api.publish(1, channel, type=type_)
    await api.post(f"/v1/endpoints/{gid}/test")
    subscriptions = [endpoint["subscriptionGid"], other["subscriptionGid"], later["subscriptionGid"]]

    async def found(**params: Any) -> list[str]:
        return [f"{each['channel']} {each['type']}" for each in await api.walk("/v1/deliveries", **params)]

    assert [await found(subscriptionGid=each) for each in subscriptions] == [["a x"], ["b x"], ["b y"]]
    assert await found(subscriptionGid=subscriptions[1:]) == ["b y", "b x"]
    assert await found(subscriptionGid=subscriptions[0], channel="b") == []
    shown = {each["type"]: each["subscriptionGid"] for each in await api.walk("/v1/deliveries")}
    assert shown["everhook.test"] is None
    await api.change_rows("UPDATE delivery SET status = 'dead_lettered'")
    dead = await api.walk("/v1/dead-letters", subscriptionGid=subscriptions[2])
    assert [each["type"] for each in dead] == ["y"]

    await api.delete(f"/v1/subscriptions/{subscriptions[2]}")
    problem = assert_problem(await api.get("/v1/deliveries", subscriptionGid=subscriptions[2]), 422, "subscriptionGid")
    assert "give endpointGid" in problem["detail"]
    assert await found(subscriptionGid=subscriptions[2], endpointGid=gid) == ["b y"]
