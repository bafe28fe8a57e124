"""First attempts are made by the process that accepted the message: what happens to them when it dies or ends."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from testing.publisher import Publisher
from testing.scene import Scene, slowly
from testing.stack import Process, free_port
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

MORE_THAN_THE_LANE_SENDS_AT_ONCE = 30
BURST = 36
"""Two APIs and two workers share them."""

DRAIN_S = 60.0


async def test_a_publishing_process_killed_with_its_lane_full_loses_nothing(postgres: Scene) -> None:
    await postgres.endpoint()
    await postgres.respond(slowly(1.0))
    acks = await postgres.publish(MORE_THAN_THE_LANE_SENDS_AT_ONCE)
    assert len(acks) == MORE_THAN_THE_LANE_SENDS_AT_ONCE
    assert len(postgres.arrivals()) < MORE_THAN_THE_LANE_SENDS_AT_ONCE, "nothing waited in the lane"
    await postgres.kill_in_mid_request(postgres.stack.api)
    await postgres.respond(200)
    await postgres.stack.start_api()
    report = await postgres.finish(90)
    report.assert_no_duplicates(allowed=postgres.in_flight_at_a_kill())
    await postgres.assert_recorded_requests_are_not_repeated()


async def test_a_publishing_process_asked_to_end_finishes_the_first_attempts_under_way(postgres: Scene) -> None:
    await postgres.endpoint()
    await postgres.respond(slowly(0.2))
    assert len(await postgres.publish(40)) == 40
    await postgres.in_flight()
    api = postgres.stack.api
    api.send_signal(signal.SIGTERM)
    assert await api.wait(DRAIN_S) in (0, -signal.SIGTERM)
    await postgres.stack.start_api()
    report = await postgres.finish()
    report.assert_no_duplicates()
    report.assert_all_recorded()


async def test_a_burst_through_two_publishing_processes_and_two_workers_makes_one_workflow_a_delivery(
    postgres: Scene,
) -> None:
    """Some messages fail once, so that workflows start before and after their first attempts."""
    endpoint = await postgres.endpoint()
    flaky = await postgres.endpoint("flaky", policy={"delaysSeconds": [1] * 5, "timeoutSeconds": 5})
    await postgres.respond(302, 200, name="flaky", each_message=True)
    await postgres.stack.start_worker()
    async with _api(postgres, "api-2") as one, _api(postgres, "api-3") as other:
        await asyncio.gather(*(api.publish_many(postgres.channel, BURST // 2) for api in (one, other)))
        postgres.publisher.acks.extend([*one.acks, *other.acks])
        await postgres.stack.drained(240, of=postgres.publisher)
        for each in (endpoint, flaky):
            await _assert_one_workflow_each(postgres, each.gid)
        report = await postgres.finish()
    report.assert_no_duplicates()


async def _assert_one_workflow_each(scene: Scene, endpoint_gid: str) -> None:
    """Every delivery has a workflow, which ran once, unless it was late enough to seem lost: the reconciler started
    that one again."""
    client = await scene.stack.temporal.client()

    async def found() -> None:
        query = f'WorkflowType="Delivery" AND Endpoint="{endpoint_gid}"'
        runs = [run.id async for run in client.list_workflows(query)]
        assert len(set(runs)) == BURST
        outputs = "".join(worker.output() for worker in scene.stack.workers)
        again = sum(int(number) for number in re.findall(r"\brestarted\W+(\d+)", outputs))
        assert len(runs) - BURST <= again, f"{len(runs)} workflows, of which {again} were started again"

    await assert_eventually(found, timeout=120, interval=0.5)


@asynccontextmanager
async def _api(scene: Scene, name: str) -> AsyncIterator[Publisher]:
    """Another process of the same stack, which also starts workflows for what it delivered, and a publisher that knows
    only it."""
    stack, port = scene.stack, free_port()
    command = [sys.executable, "-m", "cli", "serve", "--port", str(port)]
    env = stack.env | {"EVERHOOK_TEMPORAL_HISTORY": "all"}
    process = Process(command, log=stack.directory / f"{name}.log", env=env, forked=True)
    process.start()
    try:
        url = f"http://127.0.0.1:{port}"
        await process.wait_ready(url=f"{url}/readyz")
        headers = {"authorization": stack.client.headers["authorization"]}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
            yield Publisher(client, endpoints=scene.publisher.endpoints)
    finally:
        await process.kill9()
