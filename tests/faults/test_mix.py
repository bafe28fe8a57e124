"""Groups, schedules, single attempts and a replay in progress, while the API and the worker are killed."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from testing.ledgers import Ack
from testing.publisher import CreatedEndpoint
from testing.scene import Scene, slowly
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = 20
BEFORE_THE_KILL = 4
GROUPS, EACH = 2, 6
SINGLE = 6
SCHEDULED, CANCELLED_AT_ONCE, CANCELLED_IN_TIME = 8, 2, 2
DELAY_S = 6.0
PAUSE_S = 0.4
"""Between two messages of a group, so that they are published before, during and after the kills."""

FAILING = [*[slowly(0.05)] * 6, slowly(0.05, 503)]


async def test_all_ledgers_agree_after_api_and_worker_are_killed(postgres: Scene, sqlite: Scene) -> None:
    """Concurrently, because each waits for Temporal to time out the dead worker's activity."""
    await asyncio.gather(_mixed(postgres), _mixed(sqlite))


async def _mixed(scene: Scene) -> None:
    endpoint, single = await scene.endpoint(), await scene.endpoint("single", channel=None)
    await scene.respond(slowly(0.05))
    await scene.respond(*[slowly(0.05), slowly(0.05, 503)] * SINGLE, slowly(0.05), name="single")
    replayed = await scene.publish(MANY)
    await scene.has_statuses(endpoint, delivered=MANY)
    await scene.respond(*FAILING * (2 * MANY // len(FAILING)), slowly(0.05))
    batch = await _replay(scene)
    mix = asyncio.gather(
        _schedule(scene), _publish_singly(scene, single), *(_publish_group(scene, f"group-{n}") for n in range(GROUPS))
    )
    await _has_started(scene, batch, BEFORE_THE_KILL)
    await scene.kill_in_mid_request(scene.stack.api, scene.stack.worker)
    [progress] = await scene.sql("SELECT state, started FROM batch WHERE gid = :gid", gid=batch)
    assert (progress.state, progress.started < MANY) == ("running", True)
    await asyncio.gather(scene.stack.start_api(), scene.stack.restart_worker())
    await mix
    await _is_replayed(scene, batch)
    await _nothing_is_scheduled(scene)
    report = await scene.finish()
    assert report.promised == MANY + GROUPS * EACH + SINGLE + SCHEDULED - len(scene.publisher.ledger.cancelled)
    report.assert_no_duplicates({ack.message_gid for ack in replayed} | scene.in_flight_at_a_kill())
    await _assert_one_further_round(scene, endpoint, replayed)
    assert await scene.sql(
        "SELECT count(*) FROM grouped_delivery g JOIN delivery d ON d.gid = g.delivery_gid WHERE d.channel = :channel",
        channel=scene.channel,
    ) == [(0,)]


async def _replay(scene: Scene) -> str:
    since = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
    body = {"since": since, "mode": "all", "reason": "they lost it"}
    batch = await scene.post(f"/v1/channels/{scene.channel}/replay", body)
    assert batch["matched"] == MANY
    return str(batch["batchGid"])


async def _publish_group(scene: Scene, group: str) -> None:
    """One after the other, so that the publisher knows the order."""
    for n in range(EACH):
        assert await scene.publisher.publish(scene.channel, f'{{"n": {n}}}'.encode(), type="step", groupKey=group)
        await asyncio.sleep(PAUSE_S)


async def _publish_singly(scene: Scene, endpoint: CreatedEndpoint) -> None:
    options: dict[str, Any] = {"endpointGid": endpoint.gid, "retry": False}
    for n in range(SINGLE):
        assert await scene.publisher.publish(scene.channel, f'{{"single": {n}}}'.encode(), type="once", **options)
        await asyncio.sleep(PAUSE_S)


async def _schedule(scene: Scene) -> None:
    """Half of them in one transaction. Some are cancelled at once, and some when they are nearly due."""
    half = SCHEDULED // 2
    options: dict[str, Any] = {"type": "later", "delaySeconds": DELAY_S}
    payloads = [f'{{"later": {n}}}'.encode() for n in range(SCHEDULED)]
    acks = await scene.publisher.publish_transactional(scene.channel, payloads[:half], [options] * half)
    acks += [ack for each in payloads[half:] if (ack := await scene.publisher.publish(scene.channel, each, **options))]
    assert len(acks) == SCHEDULED
    for ack in acks[:CANCELLED_AT_ONCE]:
        assert await scene.publisher.cancel(ack) or time.time() >= ack.not_before
    late = acks[-CANCELLED_IN_TIME:]
    await asyncio.sleep(late[0].not_before - time.time())
    await asyncio.gather(*(scene.publisher.cancel(ack) for ack in late))


async def _has_started(scene: Scene, batch: str, n: int) -> None:
    async def so_many() -> None:
        assert (await scene.get(f"/v1/batches/{batch}"))["started"] >= n

    await assert_eventually(so_many, 60, interval=0.1)


async def _is_replayed(scene: Scene, batch: str) -> None:
    async def is_done() -> None:
        found = await scene.get(f"/v1/batches/{batch}")
        assert (found["state"], found["started"], found["skipped"]) == ("completed", MANY, 0)

    await assert_eventually(is_done, 90, interval=0.25)


async def _nothing_is_scheduled(scene: Scene) -> None:
    waiting = (
        "SELECT count(*) FROM scheduled_message s JOIN message m ON m.gid = s.message_gid WHERE m.channel = :channel"
    )

    async def none_waits() -> None:
        assert await scene.sql(waiting, channel=scene.channel) == [(0,)]

    await assert_eventually(none_waits, 60, interval=0.25)


async def _assert_one_further_round(scene: Scene, endpoint: CreatedEndpoint, replayed: list[Ack]) -> None:
    """Of each message that was replayed: no page was opened twice."""
    rows = await scene.sql(
        "SELECT message_gid, round, status FROM delivery WHERE endpoint_gid = :gid", gid=endpoint.gid
    )
    gids = {ack.message_gid for ack in replayed}
    assert {tuple(row)[1:] for row in rows if row.message_gid in gids} == {(2, "delivered")}
    assert {tuple(row)[1:] for row in rows if row.message_gid not in gids} == {(1, "delivered")}
    arrivals = Counter(line.id for line in scene.arrivals() if not line.refused)
    assert min(arrivals[gid] for gid in gids) == 2
    assert {gid for gid in gids if arrivals[gid] > 2} <= scene.in_flight_at_a_kill()
