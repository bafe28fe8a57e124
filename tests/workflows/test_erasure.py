"""The order in which a tenant is removed: nothing is taken away while something may still be written."""

from datetime import timedelta

import pytest
from temporalio.client import WorkflowHandle

from everhook.contracts import TenantErasure
from everhook.ids import Kind, erasure_workflow_id, new_gid
from everhook.tenants.erasure import start_erasure
from tests.workflows.engine import Engine, run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTLE = timedelta(minutes=2)


async def begun(engine: Engine) -> tuple[TenantErasure, WorkflowHandle[object, None]]:
    erasure = TenantErasure(new_gid(Kind.TENANT), SETTLE)
    await start_erasure(engine.client, erasure.tenant_gid, SETTLE)
    await engine.until_called("end_tenant_workflows", 1)
    return erasure, engine.client.get_workflow_handle(erasure_workflow_id(erasure.tenant_gid))


async def test_workflows_are_ended_twice_and_in_between_all_that_was_in_flight_has_time_to_settle(
    engine: Engine,
) -> None:
    erasure, handle = await begun(engine)
    await engine.skip(SETTLE)
    await handle.result()
    first, second, third = engine.fakes.calls
    assert [call.name for call in (first, second, third)] == ["end_tenant_workflows"] * 2 + ["remove_tenant"]
    assert {call.argument for call in engine.fakes.calls} == {erasure}
    assert second.at - first.at >= SETTLE


async def test_each_step_is_repeated_until_it_succeeds(engine: Engine) -> None:
    engine.fakes.fail("end_tenant_workflows", 2)
    engine.fakes.fail("remove_tenant", 1)
    _, handle = await begun(engine)
    for seconds, tries in ((1.5, 2), (2.5, 3)):
        await engine.skip(timedelta(seconds=seconds))
        await engine.until_called("end_tenant_workflows", tries)
    await engine.skip(SETTLE)
    await engine.until_called("remove_tenant", 1)
    await engine.skip(timedelta(seconds=1.5))
    await handle.result()
    names = [call.name for call in engine.fakes.calls]
    assert names == ["end_tenant_workflows"] * 4 + ["remove_tenant"] * 2


async def test_an_erasure_that_is_under_way_is_not_begun_again(engine: Engine) -> None:
    erasure, handle = await begun(engine)
    before = await run_id(handle)
    await start_erasure(engine.client, erasure.tenant_gid, SETTLE)
    assert await run_id(handle) == before
    await engine.skip(SETTLE)
    await handle.result()
    assert len(engine.fakes.of("remove_tenant")) == 1
