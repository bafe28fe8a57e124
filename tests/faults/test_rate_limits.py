"""An endpoint's rate limit in every second, over all processes, from the moment it is set."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from testing.publisher import CreatedEndpoint
from testing.scene import Scene, slowly
from testing.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.alone]

WINDOW_S = 0.9
"""A second, less what requests may take to arrive on a busy machine."""

PATIENT = {"delaysSeconds": [0.3] * 3, "timeoutSeconds": 5}


async def test_a_limit_holds_in_every_second_and_from_the_moment_it_is_set(postgres_stack: Stack) -> None:
    """All at the same time, for each mostly waits."""
    await postgres_stack.start_worker()
    steady, waiting, bursting = (Scene(postgres_stack) for _ in range(3))
    for scene in (steady, waiting, bursting):
        await scene.open()
    await asyncio.gather(
        from_two_workers(steady),
        for_what_waits_when_it_is_changed(waiting),
        in_the_lane_and_for_retries_when_it_is_set(bursting),
    )


async def from_two_workers(scene: Scene) -> None:
    limits = {"two": 2, "five": 5}
    for name, limit in limits.items():
        await scene.endpoint(name, rateLimit=limit)
    await scene.publish(10)
    report = await scene.finish()
    report.assert_no_duplicates()
    for name, limit in limits.items():
        times = arrivals(scene, name)
        assert busiest(times) <= limit, name
        assert times[-1] - times[0] < 2.5 * len(times) / limit, f"{name}: the limit held back more than it should"


async def for_what_waits_when_it_is_changed(scene: Scene) -> None:
    before = {"raised": 1, "lifted": 1, "lowered": 8}
    endpoints = {name: await scene.endpoint(name, rateLimit=limit) for name, limit in before.items()}
    await scene.publish(36)
    await scene.arrived(2, "raised")
    await scene.arrived(12, "lowered")
    await asyncio.gather(
        limit_to(scene, endpoints["raised"], 50),
        limit_to(scene, endpoints["lifted"], None),
        limit_to(scene, endpoints["lowered"], 2),
    )
    changed = time.monotonic()
    await scene.has_statuses(endpoints["raised"], timeout=20, delivered=36)
    await scene.has_statuses(endpoints["lifted"], timeout=20, delivered=36)
    await scene.arrived(len(arrivals(scene, "lowered")) + 4, "lowered")
    after = [at for at in arrivals(scene, "lowered") if at > changed + 0.1]
    assert busiest(after) <= 2
    await limit_to(scene, endpoints["lowered"], None)
    report = await scene.finish()
    report.assert_no_duplicates()


async def in_the_lane_and_for_retries_when_it_is_set(scene: Scene) -> None:
    """One endpoint has a queue in the lane, the other's deliveries wait for their second attempts."""
    lane = await scene.endpoint("lane", events=["lane"], policy=PATIENT)
    retried = await scene.endpoint("retried", events=["retried"], policy=PATIENT | {"delaysSeconds": [3] * 3})
    await scene.respond(slowly(0.3), name="lane")
    await scene.respond(*[302] * 12, 200, name="retried")
    await scene.publish(12, type="retried")
    await scene.arrived(12, "retried")
    await scene.publish(40, type="lane")
    await scene.arrived(12, "lane")
    await asyncio.gather(limit_to(scene, lane, 2), limit_to(scene, retried, 2))
    changed = time.monotonic()
    await scene.arrived(12 + 6, "retried")
    await asyncio.sleep(max(0.0, changed + 3.0 - time.monotonic()))
    assert busiest([at for at in arrivals(scene, "lane") if at > changed + 0.5]) <= 2
    assert busiest([at for at in arrivals(scene, "retried") if at > changed + 0.5]) <= 2
    await asyncio.gather(limit_to(scene, lane, None), limit_to(scene, retried, None))
    report = await scene.finish(timeout=90)
    report.assert_nothing_lost()


def arrivals(scene: Scene, name: str) -> list[float]:
    return sorted(line.monotonic for line in scene.arrivals(name))


def busiest(times: Sequence[float]) -> int:
    """The most arrivals in any window, of a little less than a second."""
    return max((sum(start <= at < start + WINDOW_S for at in times) for start in times), default=0)


async def limit_to(scene: Scene, endpoint: CreatedEndpoint, limit: float | None) -> None:
    response = await scene.stack.client.patch(f"/v1/endpoints/{endpoint.gid}", json={"rateLimit": limit})
    assert response.is_success, response.text
