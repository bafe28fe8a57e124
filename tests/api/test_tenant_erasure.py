"""Erasing a tenant: what callers see at once, and what is left at the end with all processes running."""

from datetime import timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.retention import RetentionActivities
from everhook.ids import delivery_workflow_id, endpoint_workflow_id, erasure_workflow_id
from everhook.storage.bulk import Bulk
from everhook.storage.keyring import KeyRing
from everhook.storage.tables import DEFAULT_TENANT_GID
from everhook.tenants.erasure_store import remove
from everhook.tenants.retention_store import RetentionPeriods
from testing.api import JSON, MASTER_KEY, UNKNOWN_SUFFIX, Api, assert_problem, created, ok
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.api.conftest import Live

on_module = pytest.mark.asyncio(loop_scope="module")


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


async def busy(live: Live, tenant: str) -> tuple[JSON, dict[str, str]]:
    """An endpoint of a tenant with a delivery that waits for an attempt, a dead letter, and a parked one."""
    await live.api.channel(live.name, policy={"delaysSeconds": [3600]})
    endpoint = await live.api.endpoint(live.url, channel=live.name, tenant=tenant)
    gids = {}
    for status, code in {"dead_lettered": 422, "retrying": 500}.items():
        live.receiver.respond(Response(code, b"no"), path=live.path)
        [delivery] = (await live.api.publish({"n": status}, live.name, tenant=tenant))["deliveries"]
        gids[status] = delivery["deliveryGid"]
        await live.wait_for_status(gids[status], status)
    ok(await live.api.post(f"/v1/endpoints/{endpoint['endpointGid']}/pause"))
    [delivery] = (await live.api.publish({"n": "parked"}, live.name, tenant=tenant))["deliveries"]
    gids["parked"] = delivery["deliveryGid"]
    await live.wait_for_status(gids["parked"], "parked")
    live.receiver.respond(200, path=live.path)

    async def are_guarded() -> None:
        for status in ("dead_lettered", "retrying"):
            assert await status_of(live, delivery_workflow_id(gids[status])) is WorkflowExecutionStatus.RUNNING

    await assert_eventually(are_guarded)
    return endpoint, gids


async def status_of(live: Live, workflow_id: str) -> WorkflowExecutionStatus | None:
    """None where there is no such workflow."""
    try:
        return (await live.temporal.get_workflow_handle(workflow_id).describe()).status
    except RPCError as error:
        assert error.status is RPCStatusCode.NOT_FOUND
        return None


@on_module
async def test_an_erasure_removes_every_row_of_the_tenant_and_sends_nothing(live: Live) -> None:
    endpoint, gids = await busy(live, live.name)
    gid = await gid_of(live.api, live.name)
    sent = len(live.receiver.at(live.path))

    await erase(live.api, gid)

    async def is_removed() -> None:
        assert await live.api.rows("SELECT gid FROM tenant WHERE gid = :gid", gid=gid) == []

    await assert_eventually(is_removed)
    for table in ("delivery", "endpoint", "operational_event"):
        assert await live.api.rows(f"SELECT gid FROM {table} WHERE tenant_gid = :gid", gid=gid) == []
    assert await live.api.rows("SELECT gid FROM message WHERE idempotency_scope = :gid", gid=gid) == []
    for status, delivery_gid in gids.items():
        ended = None if status == "parked" else WorkflowExecutionStatus.TERMINATED  # parked without a workflow
        assert await status_of(live, delivery_workflow_id(delivery_gid)) is ended
        assert_problem(await live.api.get(f"/v1/deliveries/{delivery_gid}"), 404)
        assert_problem(await live.api.post(f"/v1/dead-letters/{delivery_gid}/replay"), 404)
    entity = endpoint_workflow_id(endpoint["endpointGid"])
    assert await status_of(live, entity) is WorkflowExecutionStatus.TERMINATED
    assert len(live.receiver.at(live.path)) == sent


@on_module
async def test_a_dead_letter_of_a_tenant_that_is_being_erased_starts_no_workflow(live: Live) -> None:
    _, gids = await busy(live, live.name)
    gid = await gid_of(live.api, live.name)
    await live.api.change_rows("UPDATE tenant SET erasing_since = '2026-01-01' WHERE gid = :gid", gid=gid)
    assert_problem(await live.api.post(f"/v1/dead-letters/{gids['dead_lettered']}/replay"), 404)


@on_module
async def test_retention_resumes_an_erasure_whose_start_was_lost(live: Live) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name, tenant=live.name)
    gid = await gid_of(live.api, live.name)
    await live.api.change_rows("UPDATE tenant SET erasing_since = '2026-01-01' WHERE gid = :gid", gid=gid)
    periods = RetentionPeriods(erasure_grace=timedelta(milliseconds=1))

    activities = RetentionActivities(live.temporal, live.api.database, periods, KeyRing([MASTER_KEY]))
    await ActivityEnvironment().run(activities.resume_erasures)

    await live.temporal.get_workflow_handle(erasure_workflow_id(gid)).result()
    assert await live.api.rows("SELECT gid FROM tenant WHERE gid = :gid", gid=gid) == []
