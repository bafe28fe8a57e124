"""Workers that are killed, and workers that are asked to end."""

import asyncio
import signal

import pytest

from testing.scene import Scene, slowly

pytestmark = pytest.mark.asyncio(loop_scope="session")

GRACE_S = 40.0
KILLS = 2


async def test_a_worker_killed_in_mid_request_loses_nothing_on_either_database(postgres: Scene, sqlite: Scene) -> None:
    """Concurrently, because each waits for Temporal to time out the dead worker's activities."""
    await asyncio.gather(_killed_in_mid_request(postgres), _killed_in_mid_request(sqlite))


async def _killed_in_mid_request(scene: Scene) -> None:
    # Workers make the first attempts to an endpoint with a rate limit, and the second ones to any.
    await scene.endpoint("limited", rateLimit=1000)
    await scene.respond(slowly(0.1), name="limited")
    # A redirect is retried and says nothing against the endpoint.
    await scene.endpoint("queue", channel=None, policy={"delaysSeconds": [0.3], "timeoutSeconds": 1})
    await scene.respond(slowly(0.1, 302), slowly(0.3), name="queue", each_message=True)
    await _subscribe(scene, "queue", "order.queued")
    publishing = asyncio.gather(scene.publish(10, type="order.queued"), scene.publish(20, rate=5))
    await scene.arrived(13, "queue")
    for _ in range(KILLS):
        await scene.kill_in_mid_request(scene.stack.worker)
        await scene.stack.restart_worker()
        await scene.arrived(min(30, len(scene.arrivals("limited")) + 3), "limited")
    await publishing
    report = await scene.finish(90)
    report.assert_no_duplicates(allowed=scene.in_flight_at_a_kill())
    await scene.assert_recorded_requests_are_not_repeated()
    assert report.promised == 40


async def _subscribe(scene: Scene, name: str, type: str) -> None:
    gid = next(gid for gid, url in scene.publisher.endpoints.items() if url.endswith(scene.path(name)))
    await scene.post("/v1/subscriptions", {"endpointGid": gid, "channel": scene.channel, "events": [type]})


async def test_a_worker_asked_to_end_finishes_what_is_in_flight(postgres: Scene) -> None:
    await _under_load(postgres)
    publishing = asyncio.create_task(postgres.publish(24, rate=18))
    await postgres.arrived(8)
    worker = postgres.stack.worker
    worker.send_signal(signal.SIGTERM)
    assert await worker.wait(GRACE_S) == 0
    await publishing
    await postgres.stack.restart_worker()
    report = await postgres.finish()
    report.assert_no_duplicates()
    report.assert_all_recorded()


async def test_an_old_worker_hands_over_to_a_new_one_without_a_duplicate(postgres: Scene) -> None:
    await _under_load(postgres)
    publishing = asyncio.create_task(postgres.publish(24, rate=15))
    old, new = postgres.stack.worker, await postgres.stack.start_worker()
    await postgres.arrived(8)
    old.send_signal(signal.SIGTERM)
    assert await old.wait(GRACE_S) == 0
    await publishing
    report = await postgres.finish()
    report.assert_no_duplicates()
    report.assert_all_recorded()
    assert new.running


async def _under_load(scene: Scene) -> None:
    """Half of the messages are retried once, so that both lanes are busy."""
    await scene.endpoint()
    await scene.respond(slowly(0.2, 302), slowly(0.2), each_message=True)
