"""Subscriptions: created, changed, deleted, each with its effect on the next publish."""

from typing import Any

import pytest

from everhook.settings import Settings
from testing.api import JSON, UNKNOWN_SUFFIX, Api, accepted, assert_problem, created, ok, running_api


async def subscribed(api: Api, **body: Any) -> JSON:
    await api.channel()
    endpoint = await api.endpoint()
    body = {"endpointGid": endpoint["endpointGid"], "channel": "orders", **body}
    return created(await api.post("/v1/subscriptions", body))


async def takers(api: Api, payload: object = None, **body: Any) -> int:
    return len((await api.publish(payload, **body))["deliveries"])


async def test_a_subscription_is_created_shown_and_takes_effect_at_once(api: Api) -> None:
    await api.channel()
    assert await takers(api) == 0
    endpoint = await api.endpoint()
    body = {
        "endpointGid": endpoint["endpointGid"],
        "channel": "orders",
        "events": ["order.*"],
        "filter": {"data.amount": {"$gt": 1000}},
    }

    subscription = created(await api.post("/v1/subscriptions", body))

    assert {key: subscription[key] for key in body} == body
    assert subscription["enabled"] is True
    assert ok(await api.get(f"/v1/subscriptions/{subscription['subscriptionGid']}")) == subscription
    assert await takers(api, {"data": {"amount": 1001}}) == 1
    assert await takers(api, {"data": {"amount": 1000}}) == 0
    assert await takers(api, {"data": {"amount": 1001}}, type="invoice.created") == 0


async def test_a_disabled_subscription_matches_nothing_until_it_is_enabled(api: Api) -> None:
    path = f"/v1/subscriptions/{(await subscribed(api))['subscriptionGid']}"
    assert await takers(api) == 1

    assert ok(await api.patch(path, {"enabled": False}))["enabled"] is False
    assert await takers(api) == 0

    assert ok(await api.patch(path, {"enabled": True}))["enabled"] is True
    assert await takers(api) == 1


async def test_events_and_filter_are_changed_each_by_itself(api: Api) -> None:
    path = f"/v1/subscriptions/{(await subscribed(api, events=['order.*'], filter={'vip': True}))['subscriptionGid']}"

    changed = ok(await api.patch(path, {"events": ["*"]}))
    assert (changed["events"], changed["filter"]) == (["*"], {"vip": True})
    assert await takers(api, {"vip": True}, type="invoice.created") == 1
    assert await takers(api, {"vip": 1}) == 0

    changed = ok(await api.patch(path, {"filter": None}))
    assert (changed["events"], changed["filter"]) == (["*"], None)
    assert await takers(api, {"vip": 1}) == 1
    assert ok(await api.get(path)) == changed


async def test_a_deleted_subscription_matches_nothing(api: Api) -> None:
    path = f"/v1/subscriptions/{(await subscribed(api))['subscriptionGid']}"

    response = await api.delete(path)

    assert (response.status_code, response.content) == (204, b"")
    assert await takers(api) == 0
    assert_problem(await api.get(path), 404)
    assert_problem(await api.delete(path), 404)


async def test_two_subscriptions_of_one_endpoint_make_one_delivery(api: Api) -> None:
    first = await subscribed(api, events=["order.*"])
    created(await api.post("/v1/subscriptions", {"endpointGid": first["endpointGid"], "channel": "orders"}))

    assert await takers(api) == 1


@pytest.mark.parametrize("field", ["events", "enabled"])
async def test_null_is_refused_for_a_required_field(api: Api, field: str) -> None:
    subscription = await subscribed(api, events=["order.*"])
    path = f"/v1/subscriptions/{subscription['subscriptionGid']}"

    assert_problem(await api.patch(path, {field: None}), 422, field)
    assert ok(await api.get(path)) == subscription


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"channel": "other"}, "channel"),
        ({"endpointGid": "ep_x"}, "endpointGid"),
        ({"event": ["order.*"]}, "event"),
        ({"events": ["or der"]}, "events[0]"),
        ({"enabled": "maybe"}, "enabled"),
        ({"filter": {"a": {"$regex": "x"}}}, "filter"),
    ],
)
async def test_a_bad_change_is_refused(api: Api, changes: dict[str, Any], named: str) -> None:
    subscription = await subscribed(api, events=["order.*"])
    path = f"/v1/subscriptions/{subscription['subscriptionGid']}"

    assert_problem(await api.patch(path, changes), 422, named)
    assert ok(await api.get(path)) == subscription


def nested(depth: int) -> dict[str, Any]:
    return {"$not": nested(depth - 1)} if depth else {"a": 1}


@pytest.mark.parametrize(
    "conditions",
    [
        [],
        "a",
        {"$where": "1"},
        {"$gt": 5},
        {"a": {"$regex": "(a+)+"}},
        {"a": {"$gt": 1, "b": 2}},
        {"a": {"$in": 5}},
        {"a": {"$exists": "yes"}},
        {"a": {"$prefix": 5}},
        {"$any": []},
        {"$any": {"a": 1}},
        {"$all": [1]},
        {"$all": [{"a": {"$nope": 1}}]},
        {"$not": [{"a": 1}]},
        nested(10),
        {f"k{n}": n for n in range(101)},
        {"a": "x" * 16 * 1024},
    ],
    ids=str,
)
async def test_an_invalid_filter_is_refused(api: Api, conditions: object) -> None:
    await api.channel()
    endpoint = await api.endpoint()
    body = {"endpointGid": endpoint["endpointGid"], "channel": "orders", "filter": conditions}

    assert_problem(await api.post("/v1/subscriptions", body), 422, "filter")
    assert await api.count("subscription") == 0


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"\\ud800"', "[" * 300 + "]" * 300])
async def test_a_filter_that_could_not_be_returned_is_refused(api: Api, value: str) -> None:
    await api.channel()
    endpoint = await api.endpoint()
    body = f'{{"endpointGid":"{endpoint["endpointGid"]}","channel":"orders","filter":{{"a":{{"$eq":{value}}}}}}}'

    response = await api.http.post("/v1/subscriptions", content=body, headers={"content-type": "application/json"})

    assert_problem(response, 422, "filter")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"endpointGid": f"ep_{UNKNOWN_SUFFIX}"}, "endpointGid"),
        ({"endpointGid": "x\x00"}, "endpointGid"),
        ({"endpointGid": None}, "endpointGid"),
        ({"channel": "ordres"}, "channel"),
        ({"channel": "a b"}, "channel"),
        ({"events": None}, "events"),
        ({"enabled": False}, "enabled"),
    ],
)
async def test_a_bad_subscription_is_refused(api: Api, change: dict[str, Any], named: str) -> None:
    await api.channel()
    body = {"endpointGid": (await api.endpoint())["endpointGid"], "channel": "orders", **change}

    assert_problem(await api.post("/v1/subscriptions", body), 422, named)
    assert await api.count("subscription") == 0


async def test_a_deleted_endpoint_takes_no_subscription(api: Api) -> None:
    await api.channel()
    gid = (await api.endpoint())["endpointGid"]
    await api.delete(f"/v1/endpoints/{gid}")

    response = await api.post("/v1/subscriptions", {"endpointGid": gid, "channel": "orders"})

    assert_problem(response, 422, "endpointGid")


async def test_subscriptions_are_listed_newest_first_by_endpoint_and_channel(api: Api) -> None:
    for name in ("a", "b"):
        await api.channel(name)
    endpoints = [(await api.endpoint())["endpointGid"] for _ in range(2)]
    gids = {
        (endpoint, channel): created(
            await api.post("/v1/subscriptions", {"endpointGid": endpoint, "channel": channel})
        )["subscriptionGid"]
        for endpoint in endpoints
        for channel in ("a", "b")
    }

    async def listed(**params: str) -> list[str]:
        return [s["subscriptionGid"] for s in await api.walk("/v1/subscriptions", limit=1, **params)]

    assert await listed() == list(gids.values())[::-1]
    assert await listed(endpointGid=endpoints[0]) == [gids[endpoints[0], "b"], gids[endpoints[0], "a"]]
    assert await listed(channel="b") == [gids[endpoints[1], "b"], gids[endpoints[0], "b"]]
    assert await listed(endpointGid=endpoints[1], channel="a") == [gids[endpoints[1], "a"]]
    assert await listed(endpointGid=f"ep_{UNKNOWN_SUFFIX}") == []


async def test_subscriptions_are_within_the_quotas_of_the_settings(settings: Settings) -> None:
    quotas = {
        "subscriptions_per_endpoint": 1,
        "subscriptions_per_tenant": 2,
        "subscription_cost": 20,
        "subscription_cost_per_tenant": 1_000,
    }
    async with running_api(settings.model_copy(update=quotas)) as api:
        await _assert_quotas_hold(api)


async def _assert_quotas_hold(api: Api) -> None:
    await api.channel()
    ours = await api.key(tenant=created(await api.post("/v1/tenants", {"name": "ours"}))["name"])
    gids = [(await ours.endpoint())["endpointGid"] for _ in range(3)]

    async def subscribe(gid: str, **body: Any) -> Any:
        return await ours.post("/v1/subscriptions", {"endpointGid": gid, "channel": "orders", **body})

    first = created(await subscribe(gids[0]))
    assert "EVERHOOK_SUBSCRIPTIONS_PER_ENDPOINT" in assert_problem(await subscribe(gids[0]), 409)["detail"]
    costly = {f"k{number}": number for number in range(10)}
    assert (
        "EVERHOOK_SUBSCRIPTION_COST" in assert_problem(await subscribe(gids[1], filter=costly), 422, "filter")["detail"]
    )
    path = f"/v1/subscriptions/{first['subscriptionGid']}"
    assert_problem(await ours.patch(path, {"filter": costly}), 422, "filter")
    assert ok(await ours.get(path))["filter"] is None
    created(await subscribe(gids[1]))
    assert "EVERHOOK_SUBSCRIPTIONS_PER_TENANT" in assert_problem(await subscribe(gids[2]), 409)["detail"]
    response = await ours.post("/v1/endpoints", {"url": "http://127.0.0.1:9999/", "channel": "orders"})
    assert "EVERHOOK_SUBSCRIPTIONS_PER_TENANT" in assert_problem(response, 409)["detail"]
    assert await api.count("endpoint") == 3, "neither is created without the other"


async def test_a_filter_compares_integers_of_any_length(api: Api) -> None:
    await api.channel()
    gid = (await api.endpoint())["endpointGid"]
    created(await api.post("/v1/subscriptions", {"endpointGid": gid, "channel": "orders", "filter": {"n": 2**64}}))

    async def takers(number: str) -> int:
        body = b'{"type": "a", "payload": {"n": ' + number.encode() + b"}}"
        return len(accepted(await api.try_publish(body))["deliveries"])

    assert [await takers(str(number)) for number in (2**64, 2**64 + 1, 10**23)] == [1, 0, 0]
    assert await takers("1.8446744073709551616e19") == 1
