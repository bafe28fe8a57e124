"""Temporal loses its store, with thirty deliveries open. All of them are restored from the database."""

from collections import defaultdict

import pytest

from testing.publisher import CreatedEndpoint
from testing.scene import Scene
from testing.script import Response

pytestmark = pytest.mark.asyncio(loop_scope="session")

EACH = 6
COOLDOWN_S = 8
"""Longer than it takes to come to the loss: a probe that is lost as well holds the circuit for a minute."""

DEAD = 'DeliveryStatus="dead_lettered" AND ExecutionStatus="Running" AND Channel="{}"'
# Retried, and nothing that the circuit counts: the endpoint named a time to come back.
BUSY = Response(429, headers=(("retry-after", "4"),))


async def test_the_temporal_store_may_be_deleted_with_thirty_deliveries_open(postgres: Scene) -> None:
    scene, stack = postgres, postgres.stack
    paused, well, broken, busy, dead, late = await _endpoints(scene)
    for endpoint in (paused, well):
        await scene.post(f"/v1/endpoints/{endpoint.gid}/pause")
    for type in ("paused", "well", "broken", "busy", "dead"):
        await scene.publish(EACH, type=type)
    for endpoint in (paused, well):
        await scene.has_statuses(endpoint, parked=EACH)
    await scene.has_statuses(broken, parked=EACH)
    await scene.has_statuses(dead, dead_lettered=EACH)
    await scene.has_statuses(busy, retrying=EACH)
    await scene.circuit_is(broken, "open")
    await stack.temporal.kill9()
    await scene.publish(EACH, type="late")
    stack.temporal.delete_store()
    await _lose_its_release(scene, well)
    await scene.has_statuses(late, delivered=EACH)  # a healthy endpoint does not wait for Temporal

    await stack.temporal.start()
    await stack.command("setup")
    for name in ("broken", "busy", "dead"):
        await scene.respond(200, name=name)
    await scene.post(f"/v1/endpoints/{paused.gid}/resume")
    report = await scene.finish(90, dead_letters_allowed=True)
    report.assert_no_duplicates()
    assert len(report.dead_lettered) == EACH
    await _assert_attempts_continued(scene, busy)

    await _assert_dead_letters_are_replayable(scene, dead)


async def _endpoints(scene: Scene) -> list[CreatedEndpoint]:
    await scene.respond(500, name="broken")
    await scene.respond(BUSY, name="busy")
    await scene.respond(404, name="dead")
    policy = {"delaysSeconds": [1] * 20, "timeoutSeconds": 5}
    circuit = {"cooldownSeconds": COOLDOWN_S}
    return [
        await scene.endpoint(name, events=[name], policy=policy, circuit=circuit)
        for name in ("paused", "well", "broken", "busy", "dead", "late")
    ]


async def _lose_its_release(scene: Scene, well: CreatedEndpoint) -> None:
    """As if the store were lost after the circuit had closed, and before parked deliveries were released: no entity has
    them, no command comes, and the deliveries check by themselves in ten minutes. The reconciler finds them, for the
    circuit has been closed for a while."""
    lose = "UPDATE circuit SET hold = NULL, updated_at = updated_at - interval '1 minute' WHERE endpoint_gid = :gid"
    await scene.sql(lose, gid=well.gid)


async def _assert_attempts_continued(scene: Scene, busy: CreatedEndpoint) -> None:
    """One row for each request, numbered without a gap, with requests before and after the loss."""
    rows = await scene.sql(
        "SELECT delivery_gid, number FROM attempt WHERE endpoint_gid = :gid ORDER BY number", gid=busy.gid
    )
    numbers = defaultdict(list)
    for row in rows:
        numbers[row.delivery_gid].append(row.number)
    assert len(numbers) == EACH
    assert all(taken == list(range(1, len(taken) + 1)) and len(taken) > 1 for taken in numbers.values())
    assert len(rows) == len(scene.arrivals("busy"))


async def _assert_dead_letters_are_replayable(scene: Scene, dead: CreatedEndpoint) -> None:
    one = (await scene.get("/v1/dead-letters", endpointGid=dead.gid, limit=1))["data"][0]["deliveryGid"]
    await scene.post(f"/v1/dead-letters/{one}/replay")
    await scene.has_statuses(dead, delivered=1, dead_lettered=EACH - 1)
    # New ones may not be visible yet, so the audit checks those that are older than a minute; it runs once a minute,
    # and when a worker starts.
    await scene.sql(
        "UPDATE delivery SET dead_lettered_at = accepted_at - interval '1 hour' WHERE status = 'dead_lettered'"
    )
    await scene.stack.worker.terminate()
    await scene.stack.restart_worker()
    await scene.findable(DEAD.format(scene.channel), EACH - 1)
    assert await scene.replay_all(channel=scene.channel) == EACH - 1
    await scene.has_statuses(dead, delivered=EACH)
    report = await scene.finish()
    report.assert_no_duplicates()
