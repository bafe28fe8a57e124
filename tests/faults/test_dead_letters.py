"""Retries, dead letters, and replaying them: by the API, and by Temporal's own command line."""

import os
import sys
import time
from pathlib import Path

import pytest

from testing.publisher import CreatedEndpoint
from testing.scene import PATIENCE_S, Scene
from testing.stack import Process

BIG = os.environ.get("EVERHOOK_BIG") == "1"

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(3600 if BIG else 300)]

MANY = 10_000 if BIG else 40
"""`EVERHOOK_BIG=1` for the ten thousand; that takes minutes."""

THRESHOLD, LANE = 5, 12
"""Failures that open a circuit, and requests in flight with them. In addition there is one probe a second."""


def dead_letters_of(endpoint: CreatedEndpoint) -> str:
    return f'DeliveryStatus="dead_lettered" AND ExecutionStatus="Running" AND Endpoint="{endpoint.gid}"'


async def test_the_third_attempt_delivers_what_failed_twice(postgres: Scene) -> None:
    scene = postgres
    delays = [0.3, 0.6, 30]
    endpoint = await scene.endpoint(policy={"delaysSeconds": delays})
    await scene.respond(500, 500, 200)
    [ack] = await scene.publish(1)
    report = await scene.finish()
    report.assert_all_recorded()
    delivery = await scene.get(f"/v1/deliveries/{ack.deliveries[0].delivery_gid}")
    assert [(a["number"], a["statusCode"], a["verdict"]) for a in delivery["attempts"]] == [
        (1, 500, "retry"),
        (2, 500, "retry"),
        (3, 200, "delivered"),
    ]
    times = [line.monotonic for line in scene.arrivals()]
    assert all(later - earlier >= delay for earlier, later, delay in zip(times, times[1:], delays, strict=False))
    assert await scene.statuses(endpoint) == {"delivered": 1}


async def test_the_command_line_of_temporal_replays_dead_letters_by_query(postgres: Scene, tmp_path: Path) -> None:
    scene = postgres
    endpoint = await scene.endpoint()
    await scene.respond(404)
    await scene.publish(10)
    await scene.has_statuses(endpoint, dead_lettered=10)
    await scene.findable(dead_letters_of(endpoint), 10)
    await scene.respond(200)
    binary = Path(sys.executable).parent / "temporal"
    place = ["--address", scene.stack.temporal.address, "--namespace", "everhook"]
    query = ["--query", dead_letters_of(endpoint), "--reason", "the receiver was fixed", "--yes"]
    await Process([binary, "workflow", "signal", *place, "--name", "replay", *query], log=tmp_path / "cli.log").run()
    await scene.has_statuses(endpoint, delivered=10)
    report = await scene.finish()
    report.assert_no_duplicates()
    rounds = await scene.sql(
        "SELECT DISTINCT round, decided_by FROM delivery WHERE endpoint_gid = :gid", gid=endpoint.gid
    )
    assert [tuple(row) for row in rounds] == [(2, "temporal")]


async def test_a_bulk_replay_to_an_endpoint_that_is_down_again_parks_instead_of_hammering(postgres: Scene) -> None:
    scene, patience = postgres, PATIENCE_S * max(1, MANY / 120)
    endpoint = await scene.endpoint()
    await scene.respond(404)
    await scene.publish(MANY)
    await scene.has_statuses(endpoint, patience, dead_lettered=MANY)
    await scene.findable(dead_letters_of(endpoint), MANY, patience)
    before, began = len(scene.arrivals()), time.monotonic()
    await scene.respond(500)
    assert await scene.replay_all(endpointGid=endpoint.gid) == MANY
    await scene.has_statuses(endpoint, patience, parked=MANY)
    hammered = len(scene.arrivals()) - before
    probes = time.monotonic() - began
    assert THRESHOLD <= hammered <= THRESHOLD + 2 * LANE + probes, f"{hammered} requests to an endpoint that is down"
    await scene.respond(200)
    report = await scene.finish(patience)
    report.assert_no_duplicates()
