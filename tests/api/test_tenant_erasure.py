"""Erasing a tenant: what callers see at once, and what is left at the end with all processes running."""

from everhook.storage.bulk import Bulk
from everhook.storage.tables import DEFAULT_TENANT_GID
from everhook.tenants.erasure_store import remove
from testing.api import UNKNOWN_SUFFIX, Api, assert_problem, created, ok


async def gid_of(api: Api, name: str) -> str:
    [row] = await api.rows("SELECT gid FROM tenant WHERE name = :name", name=name)
    return str(row.gid)


async def erase(api: Api, gid: str) -> None:
    response = await api.delete(f"/v1/tenants/{gid}")
    assert response.status_code == 202, response.text


async def test_a_tenant_is_gone_as_soon_as_its_erasure_returns_even_without_temporal(api: Api) -> None:
    await api.channel()
    endpoint = await api.endpoint(channel="orders", tenant="acme")
    other = await api.endpoint(channel="orders", tenant="other")
    gid = await gid_of(api, "acme")

    await erase(api, gid)

    assert_problem(await api.delete(f"/v1/tenants/{gid}"), 404)
    assert_problem(await api.get(f"/v1/endpoints/{endpoint['endpointGid']}"), 404)
    assert [e["endpointGid"] for e in await api.walk("/v1/endpoints")] == [other["endpointGid"]]
    assert_problem(await api.try_publish({"type": "a", "payload": 1, "tenant": "acme"}), 422, "tenant")
    [delivery] = (await api.publish(1))["deliveries"]
    assert delivery["endpointGid"] == other["endpointGid"]
    again = await api.endpoint(channel="orders", tenant="acme")
    assert again["tenant"] == "acme" and await gid_of(api, "acme") != gid


async def test_keys_of_an_erased_tenant_are_refused_and_one_audit_entry_names_its_gid(api: Api) -> None:
    gid = created(await api.post("/v1/tenants", {"name": "acme"}))["tenantGid"]
    key = created(await api.post("/v1/api-keys", {"name": "of acme", "tenant": "acme"}))["key"]
    by_key = {"authorization": f"Bearer {key}"}
    ok(await api.http.get("/v1/endpoints", headers=by_key))

    await erase(api, gid)

    assert_problem(await api.http.get("/v1/endpoints", headers=by_key), 401)
    assert_problem(await api.get(f"/v1/tenants/{gid}"), 404)
    assert gid not in [tenant["tenantGid"] for tenant in await api.walk("/v1/tenants")]
    await remove(Bulk(api.database), gid)
    entries = await api.walk("/v1/audit")
    assert [(e["action"], e["subject"], e["tenant"], e["detail"]) for e in entries] == [
        ("tenant.erased", gid, None, {})
    ]


async def test_the_default_tenant_cannot_be_erased(api: Api) -> None:
    endpoint = await api.endpoint()
    assert_problem(await api.delete(f"/v1/tenants/{DEFAULT_TENANT_GID}"), 409)
    ok(await api.get(f"/v1/endpoints/{endpoint['endpointGid']}"))


async def test_an_unknown_tenant_cannot_be_erased(api: Api) -> None:
    for gid in (f"ten_{UNKNOWN_SUFFIX}", "default"):
        assert_problem(await api.delete(f"/v1/tenants/{gid}"), 404)
