"""Replays of a channel whose worker is killed."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from testing.scene import Scene, slowly
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = 90
BEFORE_THE_KILL = 15


async def test_a_replay_goes_on_where_it_was_when_its_worker_is_killed(postgres: Scene, sqlite: Scene) -> None:
    """Side by side, for each waits for Temporal to give the dead worker's activity up."""
    await asyncio.gather(_killed(postgres), _killed(sqlite))


async def _killed(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    await scene.respond(slowly(0.2))
    acks = await scene.publish(MANY)
    await scene.has_statuses(endpoint, delivered=MANY)
    since = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
    body = {"since": since, "mode": "all", "reason": "they lost it"}
    batch = await scene.post(f"/v1/channels/{scene.channel}/replay", body)
    assert batch["matched"] == MANY
    await scene.arrived(MANY + BEFORE_THE_KILL)
    await scene.kill_in_mid_request(scene.stack.worker)
    found = await scene.get(f"/v1/batches/{batch['batchGid']}")
    assert (found["state"], found["started"] < MANY) == ("running", True)
    await scene.stack.restart_worker()

    async def is_done() -> None:
        found = await scene.get(f"/v1/batches/{batch['batchGid']}")
        assert (found["state"], found["started"], found["skipped"]) == ("completed", MANY, 0)

    await assert_eventually(is_done, 90, interval=0.25)
    await scene.finish()
    # Each message in one further round: no page was opened twice.
    rows = await scene.sql(
        "SELECT round, status, count(*) FROM delivery WHERE endpoint_gid = :gid GROUP BY round, status",
        gid=endpoint.gid,
    )
    assert [tuple(row) for row in rows] == [(2, "delivered", MANY)]
    arrivals = Counter(line.id for line in scene.arrivals())
    twice = {ack.message_gid for ack in acks if arrivals[ack.message_gid] == 2}
    assert {ack.message_gid for ack in acks} - twice <= scene.in_flight_at_a_kill()
    assert min(arrivals.values()) == 2
