"""API keys over the API: shown once, listed without themselves, revoked at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from testing.api import JSON, ON_SHARED, UNKNOWN_SUFFIX, Api, assert_problem, created, ok
from tests.api.test_pulling import acks, poll, pull_endpoint


async def made(api: Api, **body: Any) -> JSON:
    return created(await api.post("/v1/api-keys", {"name": "billing", "scopes": ["read"], **body}))


async def test_a_key_is_shown_once_and_opens(api: Api) -> None:
    key = await made(api)

    assert key["key"].startswith(key["keyGid"] + "_")
    assert (key["name"], key["scopes"], key["tenant"], key["state"]) == ("billing", ["read"], None, "active")
    assert key["createdBy"] == "environment"
    assert ok(await api.presenting(key["key"]).get("/v1/endpoints"))["data"] == []
    shown = ok(await api.get(f"/v1/api-keys/{key['keyGid']}"))
    assert shown == {name: value for name, value in key.items() if name != "key"}
    assert await api.walk("/v1/api-keys") == [shown]


async def test_a_revoked_key_is_refused_as_soon_as_the_revocation_returns(api: Api) -> None:
    key = await made(api)
    holder = api.presenting(key["key"])
    ok(await holder.get("/v1/channels"))

    assert (await api.delete(f"/v1/api-keys/{key['keyGid']}")).status_code == 204

    response = await holder.get("/v1/channels")
    assert_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"
    shown = ok(await api.get(f"/v1/api-keys/{key['keyGid']}"))
    assert shown["state"] == "revoked" and shown["revokedAt"] is not None


async def test_revoking_twice_keeps_the_first_time(api: Api) -> None:
    path = f"/v1/api-keys/{(await made(api))['keyGid']}"
    await api.delete(path)
    first = ok(await api.get(path))
    assert (await api.delete(path)).status_code == 204
    assert ok(await api.get(path)) == first


async def test_a_key_expires_by_itself(api: Api) -> None:
    moment = datetime.now(UTC) + timedelta(hours=1)
    key = await made(api, expiresAt=moment.isoformat())
    assert datetime.fromisoformat(key["expiresAt"]) == moment
    ok(await api.presenting(key["key"]).get("/v1/channels"))

    await api.change_rows("UPDATE api_key SET expires_at = '2026-01-31 12:00:00'")

    assert_problem(await api.presenting(key["key"]).get("/v1/channels"), 401)
    assert ok(await api.get(f"/v1/api-keys/{key['keyGid']}"))["state"] == "expired"


async def test_a_key_of_a_tenant_is_created_by_the_tenants_name_or_gid(api: Api) -> None:
    tenant = created(await api.post("/v1/tenants", {"name": "acme"}))["tenantGid"]
    for named in ("acme", tenant):
        key = await made(api, scopes=["publish"], tenant=named)
        assert (key["scopes"], key["tenant"]) == (["publish", f"tenant:{tenant}"], "acme")


@ON_SHARED
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes[0]"),
        ({"scopes": ["tenant"]}, "scopes[0]"),
        ({"tenant": "default", "scopes": ["admin"]}, "scopes"),
        ({"tenant": "default", "scopes": ["read"]}, "scopes"),
        ({"tenant": "nobody", "scopes": []}, "tenant"),
        ({"expiresAt": "2020-01-31T12:00:00Z"}, "expiresAt"),
        ({"expiresAt": "2099-01-31T12:00:00"}, "expiresAt"),
        ({"key": "ek_of_mine"}, "key"),
    ],
)
async def test_an_invalid_key_request_names_the_field(shared: Api, body: JSON, field: str) -> None:
    assert_problem(await shared.post("/v1/api-keys", {"name": "billing", "scopes": ["read"], **body}), 422, field)


@ON_SHARED
async def test_revoking_an_unknown_key_is_not_found(shared: Api) -> None:
    for gid in (f"ek_{UNKNOWN_SUFFIX}", "ek_1"):
        assert_problem(await shared.get(f"/v1/api-keys/{gid}"), 404)
        assert_problem(await shared.delete(f"/v1/api-keys/{gid}"), 404)


async def test_the_example_works_unmodified(api: Api) -> None:
    schema = api.app.openapi()["components"]["schemas"]["ApiKeyIn"]
    assert created(await api.post("/v1/api-keys", schema["examples"][0]))["key"]


async def test_a_key_to_receive_takes_the_deliveries_of_one_endpoint_and_opens_nothing_else(api: Api) -> None:
    await api.channel()
    mine = await pull_endpoint(api, tenant="acme")
    other = await pull_endpoint(api, tenant="acme")
    key = await made(api, scopes=[f"receive:{mine}"])
    assert (key["scopes"], key["tenant"]) == ([f"receive:{mine}"], "acme")
    consumer = api.presenting(key["key"])
    await api.publish({"n": 1}, tenant="acme")
    (item,) = await poll(consumer, mine)
    assert [each["status"] for each in await acks(consumer, mine, acks=[{"lease": item["lease"]}])] == ["acked"]
    problem = assert_problem(await consumer.get(f"/v1/endpoints/{other}/poll"), 403)
    assert "`receive:<gid>`" in problem["detail"]
    for path in ("", f"/{mine}", f"/{mine}/queue"):
        assert_problem(await consumer.get(f"/v1/endpoints{path}"), 403)
    assert_problem(await consumer.try_publish({"type": "order.created", "payload": 1}), 403)
    await api.change_rows("UPDATE endpoint SET deleted_at = '2026-01-01 00:00:00.000000' WHERE gid = :gid", gid=mine)
    assert_problem(await consumer.get(f"/v1/endpoints/{mine}/poll"), 404)


async def test_a_key_to_receive_names_an_endpoint_that_is_pulled_and_of_the_tenant(api: Api) -> None:
    await api.channel()
    await api.post("/v1/tenants", {"name": "globex"})
    mine, webhook = await pull_endpoint(api, tenant="acme"), (await api.endpoint())["endpointGid"]
    default = await pull_endpoint(api)
    bad: list[JSON] = [
        {"scopes": [f"receive:ep_{UNKNOWN_SUFFIX}"]},
        {"scopes": [f"receive:{webhook}"]},
        {"scopes": [f"receive:{mine}"], "tenant": "globex"},
        {"scopes": [f"receive:{mine}", f"receive:{default}"]},
        {"scopes": [f"receive:{mine}", "read"]},
        {"scopes": [f"receive:{mine}", "publish"], "tenant": "acme"},
    ]
    for body in bad:
        assert_problem(await api.post("/v1/api-keys", {"name": "x", **body}), 422, "scopes")
    assert_problem(await api.post("/v1/api-keys", {"name": "x", "scopes": ["receive:ep_1"]}), 422, "scopes[0]")


async def test_a_key_for_tasks_decides_those_of_one_inbox_and_opens_nothing_else(api: Api) -> None:
    await api.channel()
    options = {"name": "Managers"}
    mine, other = [
        created(
            await api.post(
                "/v1/endpoints", {"mode": "inbox", "channel": "orders", "tenant": "acme", "options": options}
            )
        )["endpointGid"]
        for _ in range(2)
    ]
    key = await made(api, name="ann@acme.example", scopes=[f"tasks:{mine}"])
    assert (key["scopes"], key["tenant"]) == ([f"tasks:{mine}"], "acme")
    ann = api.presenting(key["key"])
    await api.publish({"n": 1}, tenant="acme")
    by_inbox = {each["inbox"]: each["taskGid"] for each in ok(await api.get("/v1/tasks"))["data"]}
    assert [each["taskGid"] for each in ok(await ann.get("/v1/tasks"))["data"]] == [by_inbox[mine]]
    assert ok(await ann.get("/v1/tasks", inbox=other))["data"] == []
    shown = ok(await ann.get(f"/v1/tasks/{by_inbox[mine]}"))
    assert [each["inbox"] for each in shown["chain"]] == [mine]
    decision = {"outcome": "approved", "version": 1}
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/decide", decision),
        ("POST", "/delegate", {"to": "bo"}),
        ("POST", "/comment", {"comment": "x"}),
    ):
        response = await ann.http.request(method, f"/v1/tasks/{by_inbox[other]}{path}", json=body)
        assert_problem(response, 404)
    for path in ("/endpoints", f"/endpoints/{mine}", f"/endpoints/{mine}/poll", "/deliveries", "/receipts/rcp_1"):
        assert_problem(await ann.get(f"/v1{path}"), 403)
    assert_problem(await ann.post(f"/v1/tasks/{by_inbox[mine]}/links", {"assignee": "bo"}), 403)
    assert_problem(await ann.try_publish({"type": "order.created", "payload": 1}), 403)
    ok(await ann.post(f"/v1/tasks/{by_inbox[mine]}/comment", {"comment": "looked at it"}))
    assert ok(await ann.post(f"/v1/tasks/{by_inbox[mine]}/decide", decision))["decidedBy"] == "ann@acme.example"
    receiver = await pull_endpoint(api, tenant="acme")
    for scope in (f"tasks:{receiver}", f"receive:{mine}"):
        assert_problem(await api.post("/v1/api-keys", {"name": "x", "scopes": [scope]}), 422, "scopes")
    consumer = api.presenting((await made(api, scopes=[f"receive:{receiver}"]))["key"])
    assert "`tasks:<gid>`" in assert_problem(await consumer.get("/v1/tasks"), 403)["detail"]
