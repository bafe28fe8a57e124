"""Tenants: created by name or by endpoints, renamed, and addressed by gid or name."""

import pytest

from everhook.storage.tables import DEFAULT_TENANT_GID
from testing.api import ON_SHARED, UNKNOWN_SUFFIX, Api, assert_problem, created, ok


async def test_a_tenant_is_created_shown_and_listed(api: Api) -> None:
    tenant = created(await api.post("/v1/tenants", {"name": "acme"}))

    assert tenant["tenantGid"].startswith("ten_")
    for named in ("acme", tenant["tenantGid"]):
        assert ok(await api.get(f"/v1/tenants/{named}")) == tenant
    assert [row["name"] for row in await api.walk("/v1/tenants", limit=1)] == ["acme", "default"]


async def test_an_endpoint_creates_its_tenant_or_uses_an_existing_one(api: Api) -> None:
    tenant = created(await api.post("/v1/tenants", {"name": "acme"}))["tenantGid"]
    for named in ("acme", tenant, "globex"):
        await api.endpoint(tenant=named)

    assert [row["name"] for row in await api.walk("/v1/tenants")] == ["globex", "acme", "default"]
    assert (
        len(await api.walk("/v1/endpoints", tenant="acme")) == len(await api.walk("/v1/endpoints", tenant=tenant)) == 2
    )


async def test_a_renamed_tenant_keeps_its_resources(api: Api) -> None:
    await api.channel()
    endpoint = await api.endpoint(tenant="acme", channel="orders")
    tenant = ok(await api.get("/v1/tenants/acme"))["tenantGid"]
    await api.publish(1, tenant="acme")

    renamed = ok(await api.patch("/v1/tenants/acme", {"name": "acme-inc"}))

    assert (renamed["tenantGid"], renamed["name"]) == (tenant, "acme-inc")
    assert_problem(await api.get("/v1/tenants/acme"), 404)
    assert ok(await api.get(f"/v1/endpoints/{endpoint['endpointGid']}"))["tenant"] == "acme-inc"
    for named in ("acme-inc", tenant):
        assert len((await api.publish(1, tenant=named))["deliveries"]) == 1
    assert_problem(await api.try_publish({"type": "a", "payload": 1, "tenant": "acme"}), 422, "tenant")
    assert ok(await api.patch("/v1/tenants/acme-inc", {"name": "acme-inc"})) == renamed


async def test_renaming_a_tenant_invalidates_its_cached_endpoints_and_routes(api: Api) -> None:
    await api.channel()
    await api.endpoint(tenant="acme", channel="orders")
    versions = "SELECT endpoint.version, routes_version FROM endpoint, channel WHERE channel.name = 'orders'"
    before = await api.rows(versions)

    ok(await api.patch("/v1/tenants/acme", {"name": "acme-inc"}))

    after = await api.rows(versions)
    assert after[0][0] > before[0][0] and after[0][1] > before[0][1]


@ON_SHARED
@pytest.mark.parametrize("name", ["default", f"ten_{UNKNOWN_SUFFIX}", DEFAULT_TENANT_GID])
async def test_a_name_belongs_to_one_tenant_and_is_not_a_gid(shared: Api, name: str) -> None:
    await shared.post("/v1/tenants", {"name": "globex"})

    assert_problem(await shared.post("/v1/tenants", {"name": name}), 409)
    assert_problem(await shared.patch("/v1/tenants/globex", {"name": name}), 409)
    assert ok(await shared.get("/v1/tenants/globex"))["name"] == "globex"


@ON_SHARED
@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 101, None])
async def test_an_invalid_name_is_refused(shared: Api, name: str | None) -> None:
    assert_problem(await shared.post("/v1/tenants", {"name": name}), 422, "name")
    assert_problem(await shared.patch("/v1/tenants/default", {"name": name}), 422, "name")


@ON_SHARED
async def test_an_endpoint_cannot_create_a_tenant_from_an_unknown_gid(shared: Api) -> None:
    body = {"url": "http://127.0.0.1:9999/", "tenant": f"ten_{UNKNOWN_SUFFIX}"}
    assert_problem(await shared.post("/v1/endpoints", body), 422, "tenant")


@ON_SHARED
async def test_a_tenant_that_is_being_erased_is_not_found(shared: Api) -> None:
    created(await shared.post("/v1/tenants", {"name": "leaving"}))
    await shared.change_rows("UPDATE tenant SET erasing_since = '2026-01-31 12:00:00' WHERE name = 'leaving'")

    assert_problem(await shared.get("/v1/tenants/leaving"), 404)
    assert "leaving" not in [row["name"] for row in await shared.walk("/v1/tenants")]
    assert_problem(await shared.post("/v1/tenants", {"name": "leaving"}), 409)
    assert_problem(
        await shared.post("/v1/endpoints", {"url": "http://127.0.0.1:9999/", "tenant": "leaving"}), 422, "tenant"
    )
