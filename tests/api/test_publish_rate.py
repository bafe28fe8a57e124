"""Publish rates of keys and tenants: beyond them 429 with `Retry-After`, before anything is read or accepted."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from everhook.errors import ConfigurationError
from everhook.settings import Settings, load_settings
from testing.api import Api, accepted, assert_problem, created, ok, running_api

RATE = "5/hour"


@pytest.fixture
async def limited(settings: Settings) -> AsyncIterator[Api]:
    async with running_api(settings.model_copy(update={"publish_rate": RATE})) as api:
        await api.channel()
        yield api


def message(n: int) -> dict[str, object]:
    return {"type": "a", "payload": n}


async def test_a_publish_beyond_the_rate_is_a_429_and_is_not_accepted(limited: Api) -> None:
    for n in range(5):
        accepted(await limited.try_publish(message(n)))

    response = await limited.try_publish(message(5))

    problem = assert_problem(response, 429)
    assert problem["type"] == "/problems/rate-limited"
    assert "5 per 1 hour" in problem["detail"]
    assert 1 <= int(response.headers["retry-after"]) <= 3600
    assert await limited.count("message") == 5


async def test_each_message_of_a_batch_counts_and_all_or_none_are_accepted(limited: Api) -> None:
    accepted(await limited.try_batch([message(n) for n in range(3)]))

    assert_problem(await limited.try_batch([message(n) for n in range(3)]), 429)
    accepted(await limited.try_batch([message(n) for n in range(2)]))
    assert_problem(await limited.try_publish(message(0)), 429)
    assert await limited.count("message") == 5


async def test_a_batch_larger_than_the_rate_is_refused_as_invalid(limited: Api) -> None:
    assert_problem(await limited.try_batch([message(n) for n in range(6)]), 422, "messages")
    accepted(await limited.try_batch([message(n) for n in range(5)]))


async def test_each_key_has_its_own_rate(limited: Api) -> None:
    first, second = await limited.key("publish"), await limited.key("publish")
    for n in range(5):
        accepted(await first.try_publish(message(n)))

    assert_problem(await first.try_publish(message(5)), 429)
    accepted(await second.try_publish(message(5)))


@pytest.mark.parametrize("path", ["/v1/channels/orders/messages", "/v1/channels/orders/messages/batch"])
async def test_the_body_of_a_request_beyond_the_rate_is_not_read(limited: Api, path: str) -> None:
    async def body() -> object:
        raise AssertionError("the body was read")
        yield b""

    accepted(await limited.try_batch([message(n) for n in range(5)]))

    assert_problem(await limited.http.post(path, content=body()), 429)  # type: ignore[arg-type]


async def test_publishing_is_accepted_again_after_a_moment(settings: Settings) -> None:
    async with running_api(settings.model_copy(update={"publish_rate": "2/second"})) as api:
        await api.channel()
        statuses = {(await api.try_publish(message(n))).status_code for n in range(30)}
        assert statuses == {202, 429}


async def test_other_calls_are_not_counted(limited: Api) -> None:
    accepted(await limited.try_batch([message(n) for n in range(5)]))

    assert len(await limited.walk("/v1/messages", limit=1)) == 5


# Headers


async def test_the_remaining_rate_is_in_the_headers(limited: Api) -> None:
    first = await limited.try_publish(message(1))
    assert first.headers["ratelimit-policy"] == '"key";q=5;w=3600'
    assert left(first) == {"key": 4}
    batch = await limited.try_batch([message(n) for n in range(4)])
    assert left(batch) == {"key": 0}

    refused = await limited.try_publish(message(2))

    assert_problem(refused, 429)
    assert left(refused) == {"key": 0}
    assert refused.headers["ratelimit-policy"] == '"key";q=5;w=3600'
    assert f"t={refused.headers['retry-after']}" in refused.headers["ratelimit"]


async def test_without_a_limit_there_are_no_headers(api: Api) -> None:
    await api.channel()

    response = await api.try_publish(message(1))

    assert not [name for name in response.headers if name.startswith("ratelimit")]


def left(response: httpx.Response) -> dict[str, int]:
    """The remaining messages by policy, parsed from the headers as a client does."""
    found = re.findall(r'"(\w+)";r=(\d+);t=\d+', response.headers["ratelimit"])
    return {policy: int(remaining) for policy, remaining in found}


# Tenants


async def test_the_rate_of_a_tenant_is_shared_by_its_keys(limited: Api) -> None:
    created(await limited.post("/v1/tenants", {"name": "acme", "publishRate": "2/hour"}))
    keys = [await limited.key("publish"), await limited.key("publish", tenant="acme")]
    responses = [
        await keys[0].try_publish({**message(1), "tenant": "acme"}),
        await keys[1].try_publish(message(2)),
    ]
    assert [accepted(each)["duplicate"] for each in responses] == [False, False]
    assert left(responses[1]) == {"key": 4, "tenant": 0}

    for again in (keys[0].try_publish({**message(3), "tenant": "acme"}), keys[1].try_publish(message(3))):
        problem = assert_problem(await again, 429)
        assert "This tenant may publish 2 per 1 hour" in problem["detail"]
    accepted(await keys[0].try_publish(message(4)))
    assert await limited.count("message") == 3


async def test_a_batch_for_several_tenants_counts_for_all_of_them_or_none(api: Api) -> None:
    await api.channel()
    for name, rate in (("acme", "2/hour"), ("globex", "1/hour"), ("initech", None)):
        created(await api.post("/v1/tenants", {"name": name, "publishRate": rate}))
    batch = [{**message(n), "tenant": name} for n, name in enumerate(["acme", "globex", "acme", "initech"])]

    assert_problem(await api.try_batch([*batch, {**message(9), "tenant": "globex"}]), 422, "messages")
    assert left(await api.try_batch(batch)) == {"tenant": 0}
    assert_problem(await api.try_batch(batch[:1]), 429)
    accepted(await api.try_batch(batch[3:]))


async def test_transactional_messages_count_as_those_of_a_batch(limited: Api) -> None:
    created(await limited.post("/v1/tenants", {"name": "acme", "publishRate": "3/hour"}))
    messages = [{"channel": "orders", **message(n), "tenant": "acme"} for n in range(2)]

    assert left(await limited.post("/v1/messages/transactional", {"messages": messages})) == {"key": 3, "tenant": 1}
    refused = await limited.post("/v1/messages/transactional", {"messages": messages})
    assert_problem(refused, 429)
    assert left(refused) == {"tenant": 1}


async def test_a_message_to_an_endpoint_counts_for_its_tenant(api: Api) -> None:
    await api.channel()
    created(await api.post("/v1/tenants", {"name": "acme", "publishRate": "3/hour"}))
    endpoints = [await api.endpoint(tenant=name) for name in ("acme", "globex")]
    to_limited, to_free = ({**message(1), "endpointGid": each["endpointGid"]} for each in endpoints)
    batch = [to_limited, to_free]

    assert left(await api.try_publish(to_limited)) == {"tenant": 2}
    assert left(await api.try_batch(batch)) == {"tenant": 1}
    transactional = [{"channel": "orders", **each} for each in batch]
    assert left(await api.post("/v1/messages/transactional", {"messages": transactional})) == {"tenant": 0}

    assert_problem(await api.try_publish(to_limited), 429)
    assert_problem(await api.try_batch(batch), 429)
    assert not [name for name in (await api.try_publish(to_free)).headers if name.startswith("ratelimit")]


async def test_the_rate_of_a_tenant_is_changed_and_removed(api: Api) -> None:
    await api.channel()
    tenant = created(await api.post("/v1/tenants", {"name": "acme"}))
    assert tenant["publishRate"] is None

    assert ok(await api.patch("/v1/tenants/acme", {"publishRate": "1/hour"}))["publishRate"] == "1/hour"
    accepted(await api.try_publish({**message(1), "tenant": "acme"}))
    assert_problem(await api.try_publish({**message(2), "tenant": "acme"}), 429)
    assert ok(await api.patch("/v1/tenants/acme", {"publishRate": None}))["name"] == "acme"
    accepted(await api.try_publish({**message(2), "tenant": "acme"}))
    for body, field in (({"publishRate": "often"}, "publishRate"), ({"name": None}, "name"), ({}, "name")):
        assert_problem(await api.patch("/v1/tenants/acme", body), 422, field)
    actions = [row.action for row in await api.rows("SELECT action FROM audit_entry WHERE action LIKE 'tenant%'")]
    assert actions == ["tenant.created", "tenant.changed", "tenant.changed"]
    assert ok(await api.patch("/v1/tenants/acme", {"publishRate": "1/hour\n"}))["publishRate"] == "1/hour"
    for rate in ("9" * 16 + "/day", f"1/{'9' * 9}day"):  # no integers of a header
        assert_problem(await api.patch("/v1/tenants/acme", {"publishRate": rate}), 422, "publishRate")


@pytest.mark.parametrize("rate", ["many", "0/second", "5", "5/fortnight", "5/second;6/second"])
def test_an_invalid_rate_is_refused(monkeypatch: pytest.MonkeyPatch, rate: str) -> None:
    monkeypatch.setenv("EVERHOOK_PUBLISH_RATE", rate)
    with pytest.raises(ConfigurationError, match="EVERHOOK_PUBLISH_RATE"):
        load_settings(dev=True)
