"""Erasing a tenant: what is left at the end."""

from datetime import timedelta

from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.retention import RetentionActivities
from everhook.ids import delivery_workflow_id, endpoint_workflow_id, erasure_workflow_id
from everhook.storage.keyring import KeyRing
from everhook.tenants.retention_store import RetentionPeriods
from testing.api import JSON, MASTER_KEY, assert_problem, ok
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live
from tests.api.test_tenant_erasure import erase, gid_of

pytestmark = ON_STACK


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


async def test_a_dead_letter_of_a_tenant_that_is_being_erased_starts_no_workflow(live: Live) -> None:
    _, gids = await busy(live, live.name)
    gid = await gid_of(live.api, live.name)
    await live.api.change_rows("UPDATE tenant SET erasing_since = '2026-01-01' WHERE gid = :gid", gid=gid)
    assert_problem(await live.api.post(f"/v1/dead-letters/{gids['dead_lettered']}/replay"), 404)


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
