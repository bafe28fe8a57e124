"""The audit trail: who, what, when, from where; one entry for each change and each command, and none for a refusal."""

import socket
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import httpx
import pytest

from api.main import create_app
from everhook.serving.server import serving
from everhook.settings import Settings
from everhook.temporal.client import connect
from testing.api import API_KEY, JSON, ON_SHARED, Api, assert_problem, created, ok, openapi_document, running_api
from testing.processes import refusing_port
from tests.api.walking import make_world, operations

OPERATIONS = {operation.name: operation for operation in operations(openapi_document())}
CHANGES = [name for name, operation in OPERATIONS.items() if operation.is_change]
OF_TENANTS = ("/v1/endpoints/{gid}", "/v1/subscriptions/{gid}", "/v1/deliveries/{gid}", "/v1/dead-letters/{gid}")


async def entries(api: Api, **filters: str) -> list[JSON]:
    return await api.walk("/v1/audit", **filters)


@ON_SHARED
@pytest.mark.parametrize("name", CHANGES)
async def test_every_change_leaves_one_entry(shared: Api, name: str) -> None:
    world = await make_world(shared, f"tenant-{CHANGES.index(name)}")
    operation = OPERATIONS[name]
    admin = await shared.key("admin", name="alice")
    before = datetime.now(UTC)

    response = await operation.request(world).send(admin)

    assert response.status_code < 300 or response.status_code == 503, response.text  # Temporal is stopped
    (entry,) = await entries(shared, since=before.isoformat())
    assert (entry["actor"], entry["address"]) == ("alice", "127.0.0.1")
    assert entry["keyGid"].startswith("ek_")
    assert ("failed" in entry["detail"]) == (response.status_code == 503)
    assert datetime.now(UTC) - datetime.fromisoformat(entry["createdAt"]) < timedelta(minutes=1)
    if operation.path.startswith(OF_TENANTS):
        assert entry["tenant"] == world.tenant
        assert entry["subject"] in world.ids.values()


async def test_an_audit_entry_is_committed_only_with_its_change(api: Api) -> None:
    await api.channel()
    assert_problem(await api.post("/v1/channels", {"name": "orders"}), 409)
    assert_problem(await api.patch("/v1/channels/other", {"policy": None}), 404)

    assert [entry["action"] for entry in await entries(api)] == ["channel.created"]


async def test_entries_say_what_changed_but_no_secret_and_no_url(api: Api) -> None:
    await api.channel()
    endpoint = await api.endpoint("https://1.1.1.1/token-of-mine", headers={"x-token": "token-of-mine"})
    gid = endpoint["endpointGid"]
    ok(await api.patch(f"/v1/endpoints/{gid}", {"url": "https://1.1.1.1/token-of-mine/2", "rateLimit": 5}))
    key = created(await api.post("/v1/api-keys", {"name": "billing", "scopes": ["publish"]}))

    shown = await entries(api)

    assert shown[1]["detail"] == {"changed": ["rateLimit", "url"]}
    assert shown[0]["detail"] == {"name": "billing", "scopes": ["publish"]}
    for secret in ("token-of-mine", endpoint["secret"], key["key"]):
        assert secret not in str(shown)


async def test_filters_and_pages(api: Api) -> None:
    alice, bob = await api.key("admin", name="alice"), await api.key("admin", name="bob")
    await alice.endpoint(tenant="acme")
    gid = (await bob.endpoint(tenant="acme"))["endpointGid"]
    assert (await bob.delete(f"/v1/endpoints/{gid}")).status_code == 204

    async def actions(**filters: str) -> list[tuple[str, str]]:
        return [(entry["actor"], entry["action"]) for entry in await api.walk("/v1/audit", limit=1, **filters)]

    created_, deleted = "endpoint.created", "endpoint.deleted"
    assert (await actions())[:3] == [("bob", deleted), ("bob", created_), ("alice", created_)]
    assert await actions(actor="alice") == [("alice", created_)]
    assert await actions(action=deleted) == [("bob", deleted)]
    assert await actions(subject=gid) == [("bob", deleted), ("bob", created_)]
    assert len(await actions(tenant="acme")) == 3
    assert await actions(tenant="nobody") == []
    moment = (await entries(api))[1]["createdAt"]
    assert await actions(since=moment) == [("bob", deleted), ("bob", created_)]
    assert ("bob", deleted) not in await actions(until=moment)


async def test_a_tenant_sees_the_actor_of_each_entry_but_the_address_only_for_its_own_keys(api: Api) -> None:
    gid = (await api.endpoint(tenant="acme"))["endpointGid"]
    acme = await api.key(tenant="acme", name="portal")
    ok(await acme.patch(f"/v1/endpoints/{gid}", {"rateLimit": 5}))

    def who_and_where(shown: list[JSON]) -> list[tuple[str, str | None]]:
        return [(entry["actor"], entry["address"]) for entry in shown]

    assert who_and_where(await entries(acme, subject=gid)) == [("portal", "127.0.0.1"), ("environment", None)]
    assert who_and_where(await entries(api, subject=gid)) == [
        ("portal", "127.0.0.1"),
        ("environment", "127.0.0.1"),
    ]


async def test_the_forwarded_address_is_taken_from_trusted_proxies_only(settings: Settings) -> None:
    forwarded = {"x-forwarded-for": "203.0.113.7"}
    for proxies, address in (("", "127.0.0.1"), ("127.0.0.0/8", "203.0.113.7")):
        networks = [ip_network(proxies)] if proxies else []
        trusting = settings.model_copy(update={"trusted_proxies": networks})
        async with running_api(trusting) as api:
            api.http.headers.update(forwarded)
            await api.channel(f"of-{address}")
            assert (await entries(api))[0]["address"] == address


async def test_the_server_itself_ignores_forwarding_headers(settings: Settings) -> None:
    """By default uvicorn trusts the header of any client that connects from this machine."""
    app = create_app(settings, temporal=await connect(lazy=True, target_host=f"127.0.0.1:{refusing_port()}"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        headers = {"authorization": f"Bearer {API_KEY}", "x-forwarded-for": "203.0.113.7"}
        async with serving(app, listener), httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
            created(await http.post("/v1/channels", json={"name": "orders"}))
            (entry,) = ok(await http.get("/v1/audit"))["data"]

    assert entry["address"] == "127.0.0.1"


async def test_a_change_whose_audit_entry_cannot_be_written_is_not_made(api: Api) -> None:
    await api.channel()
    await api.change_rows("ALTER TABLE audit_entry RENAME TO audit_away")

    assert_problem(await api.post("/v1/channels", {"name": "other"}), 503)
    assert_problem(await api.delete("/v1/channels/orders"), 503)
    await api.change_rows("ALTER TABLE audit_away RENAME TO audit_entry")

    assert [row["name"] for row in await api.walk("/v1/channels")] == ["everhook.events", "everhook.tasks", "orders"]
