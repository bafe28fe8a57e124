"""Delivery policies of channels and endpoints: valid ones are stored as given, invalid ones refused by name."""

import json
from typing import Any

import pytest

from testing.api import ON_SHARED, RECEIVER_URL, Api, assert_problem, created, ok

GOOD: list[dict[str, Any]] = [
    {},
    {"preset": "documented"},
    {"preset": "patient", "jitter": 0},
    {"delaysSeconds": []},
    {"delaysSeconds": [0, 1, 2.5], "maxWindowSeconds": 3.5},
    {"delaysSeconds": [604800], "maxWindowSeconds": 604800},
    {"exponential": {"initialSeconds": 1, "factor": 2, "capSeconds": 60, "attempts": 10}},
    {"exponential": {"initialSeconds": 604800, "factor": 100, "capSeconds": 604800, "attempts": 1}},
    {"timeoutSeconds": 30, "retryStatuses": [408, 425, 429]},
    {"retryStatuses": [408, "4xx", "5xx"]},
    {"maxWindowSeconds": 1},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"presett": "brisk"}, "policy.presett"),
    ({"preset": "eager"}, "policy.preset"),
    ({"preset": "brisk", "delaysSeconds": [1]}, "policy"),
    ({"delaysSeconds": [1], "exponential": {"initialSeconds": 1, "capSeconds": 1, "attempts": 2}}, "policy"),
    ({"delaysSeconds": [1, -1]}, "policy.delaysSeconds[1]"),
    ({"delaysSeconds": [1, 604801]}, "policy.delaysSeconds[1]"),
    ({"delaysSeconds": [1e300]}, "policy.delaysSeconds[0]"),
    ({"delaysSeconds": [float("nan")]}, "policy.delaysSeconds[0]"),
    ({"delaysSeconds": [float("inf")]}, "policy.delaysSeconds[0]"),
    ({"delaysSeconds": [None]}, "policy.delaysSeconds[0]"),
    ({"delaysSeconds": ["soon"]}, "policy.delaysSeconds[0]"),
    ({"delaysSeconds": [[1]]}, "policy.delaysSeconds[0]"),
    ({"delaysSeconds": 5}, "policy.delaysSeconds"),
    ({"delaysSeconds": [1] * 50}, "policy.delaysSeconds"),
    ({"delaysSeconds": [100, 100], "maxWindowSeconds": 199}, "policy"),
    ({"delaysSeconds": [604800]}, "policy"),
    ({"preset": "patient", "maxWindowSeconds": 3600}, "policy"),
    ({"exponential": {"initialSeconds": 1, "capSeconds": 1}}, "policy.exponential.attempts"),
    ({"exponential": {"initialSeconds": -1, "capSeconds": 1, "attempts": 2}}, "policy.exponential.initialSeconds"),
    ({"exponential": {"initialSeconds": 1, "capSeconds": 1, "attempts": 51}}, "policy.exponential.attempts"),
    ({"exponential": {"initialSeconds": 1, "capSeconds": 1, "attempts": 2, "f": 1}}, "policy.exponential.f"),
    (
        {"exponential": {"initialSeconds": 1, "capSeconds": 1, "attempts": 2, "factor": 0.5}},
        "policy.exponential.factor",
    ),
    ({"jitter": -0.1}, "policy.jitter"),
    ({"jitter": 1.1}, "policy.jitter"),
    ({"jitter": float("nan")}, "policy.jitter"),
    ({"timeoutSeconds": 0}, "policy.timeoutSeconds"),
    ({"timeoutSeconds": 31}, "policy.timeoutSeconds"),
    ({"maxWindowSeconds": 0}, "policy.maxWindowSeconds"),
    ({"maxWindowSeconds": 31 * 24 * 3600}, "policy.maxWindowSeconds"),
    ({"retryStatuses": [500]}, "policy.retryStatuses[0]"),
    ({"retryStatuses": [408, 200]}, "policy.retryStatuses[1]"),
    ({"retryStatuses": [429] * 21}, "policy.retryStatuses"),
    ({"retryStatuses": ["x"]}, "policy.retryStatuses[0]"),
    ({"retryStatuses": ["4xx", "3xx"]}, "policy.retryStatuses[1]"),
    ({"retryStatuses": [4]}, "policy.retryStatuses[0]"),
    ({"retryStatuses": [True]}, "policy.retryStatuses[0]"),
    ({"retryStatuses": [[408]]}, "policy.retryStatuses[0]"),
]


@pytest.mark.parametrize("policy", GOOD, ids=json.dumps)
async def test_a_valid_policy_is_stored_as_given(api: Api, policy: dict[str, Any]) -> None:
    channel = created(await api.post("/v1/channels", {"name": "a", "policy": policy}))
    endpoint = await api.endpoint(policy=policy)

    assert channel["policy"] == policy
    assert ok(await api.get("/v1/channels/a"))["policy"] == policy
    assert ok(await api.get(f"/v1/endpoints/{endpoint['endpointGid']}"))["policy"] == policy


@ON_SHARED
@pytest.mark.parametrize(("policy", "named"), BAD, ids=lambda value: json.dumps(value)[:60])
async def test_an_invalid_policy_is_refused_with_the_name_of_the_field(
    shared: Api, policy: dict[str, Any], named: str
) -> None:
    for path, body in [
        ("/v1/channels", {"name": "a", "policy": policy}),
        ("/v1/endpoints", {"url": RECEIVER_URL, "policy": policy}),
    ]:
        assert_problem(await shared.post(path, body), 422, named)

    assert (await shared.count("channel"), await shared.count("endpoint")) == (3, 0)


@ON_SHARED
async def test_a_policy_that_is_not_an_object_is_refused(shared: Api) -> None:
    policies: list[object] = ["brisk", [], 5, True]
    for policy in policies:
        assert_problem(await shared.post("/v1/channels", {"name": "a", "policy": policy}), 422, "policy")


async def test_a_delivery_shows_the_policy_that_its_round_began_with(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    (delivery,) = (await api.publish({}))["deliveries"]
    await api.patch("/v1/channels/orders", {"policy": {"preset": "brisk", "timeoutSeconds": 3}})
    shown = ok(await api.get(f"/v1/deliveries/{delivery['deliveryGid']}"))
    assert shown["rounds"] == [
        {
            "round": 1,
            "beganAt": shown["acceptedAt"],
            "policy": {
                "delaysSeconds": [1, 30, 300, 1800, 7200],
                "jitter": 0.1,
                "timeoutSeconds": 15,
                "maxWindowSeconds": 259200,
                "retryStatuses": [],
            },
        }
    ]
