"""Channels, from creation to deletion."""

from datetime import datetime

import pytest

from testing.api import ON_SHARED, Api, assert_problem, created, ok


async def test_a_channel_is_created_and_shown(api: Api) -> None:
    channel = created(await api.post("/v1/channels", {"name": "orders", "policy": {"preset": "patient"}}))

    assert channel.keys() == {
        "name", "policy", "circuit", "gates", "validation", "retentionDays", "createdAt",
    }  # fmt: skip
    assert (channel["name"], channel["policy"]) == ("orders", {"preset": "patient"})
    assert datetime.fromisoformat(channel["createdAt"]).tzinfo is not None
    assert ok(await api.get("/v1/channels/orders")) == channel


async def test_a_name_is_taken_once(api: Api) -> None:
    await api.channel("orders", policy={"preset": "brisk"})

    assert_problem(await api.post("/v1/channels", {"name": "orders"}), 409)
    assert ok(await api.get("/v1/channels/orders"))["policy"] == {"preset": "brisk"}


@ON_SHARED
@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "a\n", "a\x00", "ü", "x" * 101, None, 7, ["a"]])
async def test_a_bad_name_is_refused(shared: Api, name: object) -> None:
    assert_problem(await shared.post("/v1/channels", {"name": name}), 422, "name")
    assert await shared.count("channel") == 3


async def test_names_have_a_hundred_characters_at_most(api: Api) -> None:
    assert (await api.channel("x" * 100))["name"] == "x" * 100


async def test_a_misspelt_field_is_named(api: Api) -> None:
    assert_problem(await api.post("/v1/channels", {"name": "a", "polcy": {}}), 422, "polcy")
    assert_problem(await api.post("/v1/channels", {}), 422, "name")


async def test_channels_are_listed_by_name(api: Api) -> None:
    for name in ("b", "C", "a", "orders.eu"):
        await api.channel(name)

    names = [channel["name"] for channel in await api.walk("/v1/channels", limit=2)]
    assert names == ["C", "a", "b", "everhook.events", "everhook.tasks", "orders.eu"]


async def test_the_channel_of_operational_events_exists_and_is_reserved(api: Api) -> None:
    assert ok(await api.get("/v1/channels/everhook.events"))["policy"] is None
    assert_problem(await api.post("/v1/channels", {"name": "everhook.mine"}), 422, "name")
    assert_problem(await api.delete("/v1/channels/everhook.events"), 409)
    assert_problem(await api.try_publish({"type": "a", "payload": 1}, "everhook.events"), 403)
    assert_problem(await api.try_batch([{"type": "a", "payload": 1}], "everhook.events"), 403)
    assert await api.count("message") == 0
    changed = ok(await api.patch("/v1/channels/everhook.events", {"policy": {"preset": "patient"}}))
    assert changed["policy"] == {"preset": "patient"}
    await api.endpoint(channel="everhook.events", events=["endpoint.*"])


async def test_a_policy_is_changed_and_removed(api: Api) -> None:
    await api.channel()

    changed = ok(await api.patch("/v1/channels/orders", {"policy": {"delaysSeconds": [1, 2]}}))
    assert changed["policy"] == {"delaysSeconds": [1, 2]}
    assert ok(await api.get("/v1/channels/orders")) == changed

    assert ok(await api.patch("/v1/channels/orders", {"policy": None}))["policy"] is None
    assert ok(await api.get("/v1/channels/orders"))["policy"] is None


async def test_each_given_setting_has_one_audit_entry(api: Api) -> None:
    await api.channel("orders", policy={"preset": "brisk"}, retentionDays=3)
    circuit = {"failureThreshold": 9}
    for patch, expected in (
        ({"circuit": circuit}, [{"circuit": circuit}]),
        ({"policy": {"preset": "brisk"}}, [{"policy": {"preset": "brisk"}}]),  # the same again
        (
            {"circuit": None, "retentionDays": None, "validation": "warn", "policy": None, "gates": None},
            [{"gates": []}, {"policy": None}, {"validation": "warn"}, {"retentionDays": None}, {"circuit": None}],
        ),
    ):
        before = await api.walk("/v1/audit", action="channel.changed")
        ok(await api.patch("/v1/channels/orders", patch))
        entries = await api.walk("/v1/audit", action="channel.changed")
        assert [each["detail"] for each in reversed(entries[: len(entries) - len(before)])] == expected


async def test_an_empty_change_is_refused(api: Api) -> None:
    await api.channel(policy={"preset": "brisk"})

    assert_problem(await api.patch("/v1/channels/orders", {}), 422, "policy")
    assert_problem(await api.patch("/v1/channels/orders", {"policy": None, "name": "other"}), 422, "name")
    assert ok(await api.get("/v1/channels/orders"))["policy"] == {"preset": "brisk"}


async def test_a_channel_has_its_own_retention_of_payloads(api: Api) -> None:
    assert (await api.channel(retentionDays=7.5))["retentionDays"] == 7.5

    changed = ok(await api.patch("/v1/channels/orders", {"retentionDays": 90}))
    assert changed["retentionDays"] == 90
    for days in (90.5, 0, -1, "7", True):
        assert_problem(await api.patch("/v1/channels/orders", {"retentionDays": days}), 422, "retentionDays")
    assert_problem(await api.post("/v1/channels", {"name": "x", "retentionDays": 91}), 422, "retentionDays")
    assert ok(await api.patch("/v1/channels/orders", {"retentionDays": None}))["retentionDays"] is None


async def test_a_channel_can_be_deleted_once_it_has_no_subscriptions(api: Api) -> None:
    await api.channel()
    subscription = (await api.endpoint(channel="orders"))["subscriptionGid"]

    assert_problem(await api.delete("/v1/channels/orders"), 409)
    ok(await api.get("/v1/channels/orders"))

    assert (await api.delete(f"/v1/subscriptions/{subscription}")).status_code == 204
    response = await api.delete("/v1/channels/orders")
    assert (response.status_code, response.content) == (204, b"")
    assert_problem(await api.get("/v1/channels/orders"), 404)


async def test_an_unknown_resource_is_not_found(api: Api) -> None:
    assert_problem(await api.get("/v1/channels/none"), 404)
    assert_problem(await api.patch("/v1/channels/none", {"policy": None}), 404)
    assert_problem(await api.delete("/v1/channels/none"), 404)


async def test_a_deleted_channel_takes_no_messages(api: Api) -> None:
    await api.channel()
    await api.publish()
    assert (await api.delete("/v1/channels/orders")).status_code == 204

    assert_problem(await api.try_publish({"type": "a", "payload": 1}), 404)
    assert await api.count("message") == 1


async def test_a_channel_has_no_routes_of_an_earlier_channel_with_its_name(api: Api) -> None:
    await api.channel()
    first, second = [(await api.endpoint())["endpointGid"] for _ in range(2)]
    earlier = created(await api.post("/v1/subscriptions", {"endpointGid": first, "channel": "orders"}))
    await api.publish()
    await api.delete(f"/v1/subscriptions/{earlier['subscriptionGid']}")
    await api.delete("/v1/channels/orders")

    await api.channel()
    created(await api.post("/v1/subscriptions", {"endpointGid": second, "channel": "orders"}))

    assert [each["endpointGid"] for each in (await api.publish())["deliveries"]] == [second]
