"""PostgreSQL or Temporal's store is restored from a backup while the other one is ahead. The steps are those of the
runbook "A restored backup" in docs/operating.md."""

import pytest
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import DELIVERY_WORKFLOW
from testing.scene import Scene
from testing.script import Response
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

EACH = 3
OF_STATUS = f'WorkflowType="{DELIVERY_WORKFLOW}" AND ExecutionStatus="{{}}" AND Channel="{{}}"'
BUSY = Response(429, headers=(("retry-after", "1"),))
POLICY = {"delaysSeconds": [1] * 40, "timeoutSeconds": 5}


async def test_the_database_is_restored_to_a_point_in_time_while_temporal_is_ahead(postgres: Scene) -> None:
    scene, stack, server = postgres, postgres.stack, postgres.stack.postgres
    assert server is not None
    await scene.respond(BUSY, name="busy")
    await scene.respond(404, name="dead")
    await scene.respond(BUSY, name="lost")
    names = ("well", "busy", "dead", "lost")
    well, busy, dead, _ = [await scene.endpoint(name, events=[name], policy=POLICY) for name in names]
    await server.base_backup()
    for kind in ("well", "busy", "dead"):
        await scene.publish(EACH, type=kind)
    await scene.has_statuses(well, delivered=EACH)
    await scene.has_statuses(busy, retrying=EACH)
    await scene.has_statuses(dead, dead_lettered=EACH)
    [[moment]] = await scene.sql("SELECT clock_timestamp()::text")
    after = {await _publish(scene, type) for type in ("well", "lost")}
    for name in ("busy", "dead"):
        await scene.respond(200, name=name)
    await scene.has_statuses(busy, delivered=EACH)
    await scene.findable(OF_STATUS.format("Running", scene.channel) + ' AND DeliveryStatus="dead_lettered"', EACH)
    await scene.replay_all(endpointGid=dead.gid)
    await scene.has_statuses(dead, delivered=EACH)

    # 1. and 2. of the runbook
    await stack.api.terminate()
    await stack.worker.terminate()
    await stack.engine.dispose()
    await server.restore(moment)
    assert await scene.statuses(busy) == {"retrying": EACH}
    assert await scene.statuses(dead) == {"dead_lettered": EACH}

    # If Temporal is not emptied, workflows of deliveries that no longer exist end.
    await stack.restart_worker()
    await scene.findable(OF_STATUS.format("Failed", scene.channel), 1)
    await stack.worker.terminate()

    # 3. and 4.
    await stack.temporal.restart(kill=True, delete_store=True)
    await stack.command("setup")
    await stack.restart_worker()
    await stack.start_api()
    await scene.has_statuses(busy, delivered=EACH)
    one = (await scene.get("/v1/dead-letters", endpointGid=dead.gid, limit=1))["data"][0]["deliveryGid"]
    await scene.post(f"/v1/dead-letters/{one}/replay")
    await scene.has_statuses(dead, delivered=1, dead_lettered=EACH - 1)

    _assert_sent_again_with_the_same_id(scene, "busy", EACH)
    assert len(scene.arrivals("well")) == EACH + 1  # what was delivered before the moment was not sent again
    await _assert_lost(scene, after)
    assert {await _publish(scene, type) for type in ("well", "lost")}.isdisjoint(after)


async def test_the_store_of_temporal_is_restored_while_the_database_is_ahead(postgres: Scene) -> None:
    scene, stack = postgres, postgres.stack
    await scene.respond(BUSY, name="busy")
    await scene.respond(BUSY, name="new")
    await scene.respond(404, name="dead")
    busy, dead, new = [await scene.endpoint(name, events=[name], policy=POLICY) for name in ("busy", "dead", "new")]
    for kind in ("busy", "dead"):
        await scene.publish(EACH, type=kind)
    await scene.has_statuses(busy, retrying=EACH)
    await scene.has_statuses(dead, dead_lettered=EACH)
    await scene.findable(OF_STATUS.format("Running", scene.channel), 2 * EACH)
    await stack.temporal.stop()
    stack.temporal.back_up()
    await stack.temporal.start()
    await scene.publish(EACH, type="new")
    await scene.has_statuses(new, retrying=EACH)
    for name in ("busy", "dead"):
        await scene.respond(200, name=name)
    await scene.has_statuses(busy, delivered=EACH)
    await scene.replay_all(endpointGid=dead.gid)
    await scene.has_statuses(dead, delivered=EACH)

    await stack.temporal.kill9()
    await stack.worker.kill9()  # workflows in its cache are ahead of the backup
    stack.temporal.restore()
    await stack.temporal.start()
    await stack.restart_worker()
    await scene.respond(200, name="new")
    await scene.has_statuses(new, delivered=EACH)  # their workflows are not in the backup
    # Those of the dead letters, already replayed. Some of the backup had not got that far, and a replay of a delivery
    # that is under way is ignored.
    running = OF_STATUS.format("Running", scene.channel)
    await scene.findable(f"{running} AND DeliveryStatus='dead_lettered'", EACH)
    report = await scene.finish(90)
    report.assert_no_duplicates()

    client = await stack.temporal.client()  # a replay by query signals them too: nothing is sent again
    async for execution in client.list_workflows(running):
        try:
            await client.get_workflow_handle(execution.id).signal("replay")
        except RPCError as error:  # the index is late: some have completed
            assert error.status is RPCStatusCode.NOT_FOUND
    await scene.findable(running, 0)
    (await scene.finish(90)).assert_no_duplicates()


async def _publish(scene: Scene, type: str) -> str:
    """Publish one message with an idempotency key; returns its gid once it has arrived."""
    before = len(scene.arrivals(type))
    body = {"payload": {"type": type}, "type": type, "idempotencyKey": f"again-{type}"}
    sent = await scene.post(f"/v1/channels/{scene.channel}/messages", body)

    async def arrived() -> None:
        assert len(scene.arrivals(type)) > before

    await assert_eventually(arrived, 30, interval=0.05)
    assert not sent["duplicate"]
    return str(sent["messageGid"])


def _assert_sent_again_with_the_same_id(scene: Scene, name: str, count: int) -> None:
    """Each message got the response 200 twice."""
    accepted = [line.id for line in scene.arrivals(name) if line.status == 200]
    assert len(set(accepted)) == count
    assert len(accepted) == 2 * count


async def _assert_lost(scene: Scene, messages: set[str]) -> None:
    """The restored database has none of these."""
    for gid in messages:
        assert (await scene.stack.client.get(f"/v1/messages/{gid}")).status_code == 404
