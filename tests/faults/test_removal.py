"""The background removal of rows is killed in the middle, and is completed after a restart."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from everhook.contracts import DeliveryStatus
from everhook.ids import Kind, first_gid_at, new_gid
from everhook.storage.statements import table_of
from everhook.storage.tables import DEFAULT_TENANT_GID, Delivery, Message, now
from testing.publisher import CreatedEndpoint
from testing.scene import Scene
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = 6_000
OLD = now() - timedelta(days=200)


async def test_the_removal_of_rows_continues_after_a_worker_is_killed(postgres: Scene, sqlite: Scene) -> None:
    """Concurrently, because each waits for Temporal to time out the dead worker's activity."""
    await asyncio.gather(_erased_in_spite_of_a_kill(postgres), _retained_in_spite_of_a_kill(sqlite))


async def _erased_in_spite_of_a_kill(scene: Scene) -> None:
    endpoint = await scene.endpoint("erased", tenant=scene.channel)
    other = await scene.endpoint("other")
    await scene.respond(404, name="erased")
    await scene.publish(5)
    await scene.has_statuses(endpoint, dead_lettered=5)
    await scene.has_statuses(other, delivered=5)
    [(tenant_gid,)] = await scene.sql("SELECT tenant_gid FROM endpoint WHERE gid = :gid", gid=endpoint.gid)
    await _fill(scene, endpoint, tenant_gid, ended=now())
    await scene.respond(200, name="erased")
    asked = await scene.stack.client.delete(f"/v1/tenants/{tenant_gid}")
    assert asked.status_code == 202

    await _kill_while_they_go(scene, endpoint)

    async def is_removed() -> None:
        assert await scene.sql("SELECT gid FROM tenant WHERE gid = :gid", gid=tenant_gid) == []

    await assert_eventually(is_removed, 120, interval=0.25)
    assert await scene.statuses(endpoint) == {}
    assert await scene.statuses(other) == {"delivered": 5}
    assert len(scene.arrivals("erased")) == 5
    client = await scene.stack.temporal.client()
    assert (await client.count_workflows(f'ExecutionStatus="Running" AND Endpoint="{endpoint.gid}"')).count == 0


async def _retained_in_spite_of_a_kill(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    await scene.publish(5)
    await scene.has_statuses(endpoint, delivered=5)
    await _fill(scene, endpoint, DEFAULT_TENANT_GID, ended=OLD)

    client = await scene.stack.temporal.client()
    await client.get_schedule_handle("retention").trigger()
    await _kill_while_they_go(scene, endpoint)

    async def are_removed() -> None:
        assert await scene.statuses(endpoint) == {"delivered": 5}
        assert await scene.sql("SELECT gid FROM message WHERE event_type = 'old'") == []

    await assert_eventually(are_removed, 120, interval=0.25)
    report = await scene.finish()
    report.assert_all_recorded()


async def _fill(scene: Scene, endpoint: CreatedEndpoint, tenant_gid: str, *, ended: datetime) -> None:
    """Thousands of messages to a tenant alone, accepted long ago and without a payload, each with a delivery."""
    time = first_gid_at(Kind.MESSAGE, OLD).removeprefix("msg_")[:10]
    messages: list[dict[str, Any]] = []
    deliveries: list[dict[str, Any]] = []
    for _ in range(MANY):
        suffix = time + new_gid(Kind.MESSAGE)[-16:]
        both = {"channel": scene.channel, "event_type": "old", "tenant_gid": tenant_gid, "accepted_at": OLD}
        message = {"gid": f"msg_{suffix}", "body_sha256": "", "idempotency_scope": tenant_gid, "published_at": OLD}
        delivery = {"gid": f"dlv_{suffix}", "message_gid": f"msg_{suffix}", "endpoint_gid": endpoint.gid}
        over = {"status": DeliveryStatus.DELIVERED, "round": 1, "attempts": 1, "dispatched_at": OLD}
        messages.append(both | message)
        deliveries.append(both | delivery | over | {"completed_at": ended})
    async with scene.stack.engine.begin() as connection:
        await connection.execute(insert(table_of(Message)), messages)
        await connection.execute(insert(table_of(Delivery)), deliveries)


async def _kill_while_they_go(scene: Scene, endpoint: CreatedEndpoint) -> None:
    """Kill the worker when some of them are gone and others are not, and start it again."""

    async def left() -> int:
        return sum((await scene.statuses(endpoint)).values())

    async def some_are_gone() -> None:
        assert await left() < MANY

    await assert_eventually(some_are_gone, 60, interval=0.02)
    await scene.stack.worker.kill9()
    assert await left() > MANY / 10, "it was too quick to be killed in the middle"
    await scene.stack.restart_worker()
