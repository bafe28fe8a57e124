"""`Idempotency-Key` on calls that create something: the same key and call, the same response, for a day."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from testing.api import JSON, Api, assert_problem, created, ok, openapi_document
from tests.api.walking import operations

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@dataclass(frozen=True)
class Creation:
    """A call that creates a row, and its body. `{endpoint}` stands for an endpoint's gid."""

    path: str
    body: JSON | None
    table: str
    status: int = 201


CREATIONS = [
    Creation("/v1/channels", {"name": "invoices"}, "channel"),
    Creation("/v1/tenants", {"name": "globex"}, "tenant"),
    Creation("/v1/api-keys", {"name": "billing", "scopes": ["publish"]}, "api_key"),
    Creation("/v1/endpoints", {"url": "http://127.0.0.1:9999/", "events": ["a"], "secret": SECRET}, "endpoint"),
    Creation("/v1/subscriptions", {"endpointGid": "{endpoint}", "channel": "orders"}, "subscription"),
    Creation("/v1/endpoints/{endpoint}/secret/rotate", {"gracePeriodSeconds": 60}, "endpoint_secret", 200),
    Creation("/v1/endpoints/{endpoint}/test", None, "message", 202),
]
NOT_CREATING = {
    "POST /v1/channels/{name}/messages": "has a key that holds for longer",
    "POST /v1/channels/{name}/messages/batch": "has a key that holds for longer",
    **dict.fromkeys(
        (
            f"POST /v1/endpoints/{{gid}}/{command}"
            for command in ("pause", "resume", "enable", "disable", "circuit/trip", "circuit/reset")
        ),
        "twice is as good as once",
    ),
    "POST /v1/endpoints/{gid}/acks": "twice is as good as once",
    "POST /v1/event-types/import": "twice is as good as once",
    "POST /v1/messages/transactional": "has keys that hold for longer",
    "POST /v1/messages/{gid}/cancel": "twice is as good as once",
    "POST /v1/batches/{gid}/cancel": "twice is as good as once",
    "POST /v1/subscriptions/test": "changes nothing",
    "POST /v1/deliveries/{gid}/attempt-now": "twice is as good as once",
    "POST /v1/tasks/{gid}/decide": "a person decides a task once; sent again it gets the same response",
    "POST /v1/tasks/{gid}/delegate": "who is asked already is refused",
    "POST /v1/tasks/{gid}/comment": "a repeated comment is harmless",
    "POST /v1/tasks/{gid}/links": "nothing is stored: another link is harmless",
    "POST /v1/tenants/{gid}/portal-link": "a link works once and for minutes: another is harmless",
}
by_path = pytest.mark.parametrize("creation", CREATIONS, ids=lambda creation: creation.path)


async def post(api: Api, path: str, body: JSON | None, key: str = "k1") -> httpx.Response:
    return await api.http.post(path, json=body, headers={"idempotency-key": key})


async def ready(api: Api, creation: Creation) -> tuple[str, JSON | None]:
    """The path and body of a creation, whose prerequisites are created first."""
    await api.channel()
    gid = (await api.endpoint())["endpointGid"]
    body = {name: gid if value == "{endpoint}" else value for name, value in (creation.body or {}).items()}
    return creation.path.replace("{endpoint}", gid), body if creation.body is not None else None


def test_every_creating_call_takes_a_key() -> None:
    takers = {
        operation.name
        for operation in operations(openapi_document())
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.spec.get("parameters", []))
    }
    posts = {o.name for o in operations(openapi_document()) if o.method == "POST"}
    publishing = {name for name, why in NOT_CREATING.items() if why.endswith("for longer")}
    assert takers == (posts - NOT_CREATING.keys()) | publishing


@by_path
async def test_a_repeated_call_gets_the_same_response_and_creates_nothing(api: Api, creation: Creation) -> None:
    path, body = await ready(api, creation)
    before = await api.count(creation.table)

    first = await post(api, path, body)
    audited = await api.count("audit_entry")
    again = await post(api, path, body)

    assert (first.status_code, again.status_code) == (creation.status, creation.status), first.text
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert (again.headers["idempotent-replayed"], again.headers["content-type"]) == ("true", "application/json")
    assert await api.count(creation.table) == before + 1
    assert await api.count("audit_entry") == audited


@by_path
async def test_calls_at_the_same_time_create_once(api: Api, creation: Creation) -> None:
    path, body = await ready(api, creation)
    before = await api.count(creation.table)

    responses = await asyncio.gather(*(post(api, path, body) for _ in range(5)))

    bodies = [response.json() for response in responses if response.status_code == creation.status]
    assert len(bodies) >= 1
    assert all(one == bodies[0] for one in bodies)
    assert {response.status_code for response in responses} <= {creation.status, 409}
    assert (await post(api, path, body)).json() == bodies[0]
    assert await api.count(creation.table) == before + 1


@by_path
async def test_the_response_is_not_readable_in_the_database(api: Api, creation: Creation) -> None:
    path, body = await ready(api, creation)
    response = (await post(api, path, body)).json()

    ((kept,),) = await api.rows("SELECT response FROM idempotent_response")

    assert kept.startswith("v1.")
    values = [value for value in response.values() if isinstance(value, str) and len(value) > 6]
    assert [value for value in values if value in kept] == []


async def test_without_a_key_no_response_is_stored(api: Api) -> None:
    await api.channel()

    assert await api.count("idempotent_response") == 0


async def test_a_key_used_for_another_call_is_refused(api: Api) -> None:
    first = created(await post(api, "/v1/channels", {"name": "a"}))

    for path, body in (("/v1/channels", {"name": "b"}), ("/v1/tenants", {"name": "a"})):
        problem = assert_problem(await post(api, path, body), 409)
        assert "another call" in problem["detail"]
    assert created(await post(api, "/v1/channels", {"name": "a"})) == first
    created(await post(api, "/v1/channels", {"name": "b"}, key="k2"))


async def test_a_refusal_leaves_the_key_free(api: Api) -> None:
    assert_problem(await post(api, "/v1/channels", {"name": "a b"}), 422, "name")
    assert_problem(await post(api, "/v1/channels", {"name": "everhook.x"}), 422, "name")
    assert_problem(await post(api, "/v1/subscriptions", {"endpointGid": "ep_x", "channel": "a"}), 422, "endpointGid")

    created(await post(api, "/v1/channels", {"name": "a"}))


async def test_idempotency_keys_of_tenants_and_admins_are_separate(api: Api) -> None:
    ours, theirs = await api.key(tenant=await tenant(api, "ours")), await api.key(tenant=await tenant(api, "theirs"))
    body = {"url": "http://127.0.0.1:9999/"}

    of_all = [created(await post(caller, "/v1/endpoints", body)) for caller in (api, ours, theirs)]

    assert [endpoint["tenant"] for endpoint in of_all] == ["default", "ours", "theirs"]
    for caller, endpoint in zip((api, ours, theirs), of_all, strict=True):
        assert created(await post(caller, "/v1/endpoints", body)) == endpoint


async def test_a_key_without_the_scope_does_not_get_the_stored_response(api: Api) -> None:
    created(await post(api, "/v1/channels", {"name": "a"}))

    assert_problem(await post(await api.key("read"), "/v1/channels", {"name": "a"}), 403)
    assert_problem(await post(api.presenting("wrong"), "/v1/channels", {"name": "a"}), 401)


async def test_after_a_day_a_key_is_new(api: Api) -> None:
    first = created(await post(api, "/v1/api-keys", {"name": "a", "scopes": ["read"]}))
    await age(api, "-23 hours")
    assert created(await post(api, "/v1/api-keys", {"name": "a", "scopes": ["read"]})) == first

    await age(api, "-2 hours")

    assert created(await post(api, "/v1/api-keys", {"name": "a", "scopes": ["read"]})) != first


async def test_a_repeated_call_gets_its_response_even_if_creating_would_now_fail(api: Api) -> None:
    expiry = datetime.now(UTC) + timedelta(seconds=1.5)
    body = {"name": "a", "scopes": ["read"], "expiresAt": expiry.isoformat()}
    first = created(await post(api, "/v1/api-keys", body))
    await asyncio.sleep((expiry - datetime.now(UTC)).total_seconds())
    assert_problem(await post(api, "/v1/api-keys", body, key="k2"), 422, "expiresAt")

    assert created(await post(api, "/v1/api-keys", body)) == first


async def test_a_call_that_was_cut_off_may_be_sent_again_a_minute_later(api: Api) -> None:
    await api.channel()
    gid = (await api.endpoint())["endpointGid"]
    await post(api, f"/v1/endpoints/{gid}/test", None)
    await api.change_rows("UPDATE idempotent_response SET response = NULL, status_code = NULL")

    response = await post(api, f"/v1/endpoints/{gid}/test", None)
    assert_problem(response, 409)
    assert response.headers["retry-after"]

    await age(api, "-61 seconds")
    assert (await post(api, f"/v1/endpoints/{gid}/test", None)).status_code == 202


async def test_a_call_that_fails_to_reach_temporal_may_be_repeated_at_once(api: Api) -> None:
    """Temporal is stopped here."""
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await api.publish())["deliveries"][0]["deliveryGid"]
    await api.change_rows("UPDATE delivery SET status = 'dead_lettered', reason = 'rejected'")

    for _ in range(2):
        assert_problem(await post(api, f"/v1/dead-letters/{gid}/replay", None), 503)
    assert await api.count("idempotent_response") == 0


@pytest.mark.parametrize("key", ["", "a\tb", "x" * 256])
async def test_a_bad_key_is_refused(api: Api, key: str) -> None:
    assert_problem(await post(api, "/v1/channels", {"name": "a"}, key), 422, "Idempotency-Key")
    assert await api.count("channel") == 2


@pytest.mark.parametrize("path", ["/v1/channels", "/v1/channels/orders/messages", "/v1/channels/orders/messages/batch"])
async def test_two_idempotency_keys_are_refused(api: Api, path: str) -> None:
    await api.channel()
    body = b'{"type": "a", "payload": 1, "messages": []}'
    headers = [("idempotency-key", "a"), ("idempotency-key", "b"), ("content-type", "application/json")]

    assert_problem(await api.http.post(path, content=body, headers=headers), 400, "Idempotency-Key")


async def test_a_call_whose_stored_response_cannot_be_decrypted_is_refused_and_not_repeated(api: Api) -> None:
    created(await post(api, "/v1/channels", {"name": "a"}))
    await api.change_rows("UPDATE idempotent_response SET response = 'v1.00000000.AAAA'")

    problem = assert_problem(await post(api, "/v1/channels", {"name": "a"}), 409)

    assert "another key" in problem["detail"]


async def test_erasing_a_tenant_deletes_its_stored_responses(api: Api) -> None:
    created(await post(api, "/v1/endpoints", {"url": "http://127.0.0.1:9999/", "tenant": "acme"}))
    created(await post(api, "/v1/channels", {"name": "a"}, key="k2"))
    gid = ok(await api.get("/v1/tenants/acme"))["tenantGid"]

    assert (await api.delete(f"/v1/tenants/{gid}")).status_code == 202

    assert await api.count("idempotent_response") == 1


async def tenant(api: Api, name: str) -> str:
    gid: str = created(await api.post("/v1/tenants", {"name": name}))["tenantGid"]
    return gid


async def age(api: Api, by: str) -> None:
    await api.change_rows(
        "UPDATE idempotent_response SET created_at = strftime('%Y-%m-%d %H:%M:%f000', created_at, :by)", by=by
    )


async def batch(api: Api, messages: list[JSON], key: str) -> list[Any]:
    response = await api.http.post(
        "/v1/channels/orders/messages/batch", json={"messages": messages}, headers={"idempotency-key": key}
    )
    assert response.status_code == 202, response.text
    found: list[Any] = response.json()["data"]
    return found


async def test_a_batch_that_is_sent_again_publishes_nothing(api: Api) -> None:
    await api.channel()
    messages = [{"type": "a", "payload": n} for n in range(3)] + [{"type": "a", "payload": 9, "idempotencyKey": "own"}]

    first, again = [await batch(api, messages, "k") for _ in range(2)]

    assert [message["duplicate"] for message in first] == [False] * 4
    assert [message["duplicate"] for message in again] == [True] * 4
    assert [message["messageGid"] for message in again] == [message["messageGid"] for message in first]
    keys = {row[0] for row in await api.rows("SELECT idempotency_key FROM message")}
    assert keys == {"k[0]", "k[1]", "k[2]", "own"}


async def test_only_the_entry_whose_key_was_used_is_refused(api: Api) -> None:
    await api.channel()
    await batch(api, [{"type": "a", "payload": 1}], "k")

    refused, published = await batch(api, [{"type": "a", "payload": 2}, {"type": "a", "payload": 3}], "k")

    assert (refused["status"], published["duplicate"]) == (409, False)
    assert "messages[0].idempotencyKey" in refused["detail"]
    assert "This message was not published" in refused["detail"]


async def test_the_key_of_a_batch_leaves_room_for_the_index(api: Api) -> None:
    await api.channel()
    await batch(api, [{"type": "a", "payload": 1}], "k" * 249)

    response = await api.http.post(
        "/v1/channels/orders/messages/batch", json={"messages": []}, headers={"idempotency-key": "k" * 250}
    )
    assert_problem(response, 422, "Idempotency-Key")
