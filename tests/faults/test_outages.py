"""Temporal or the database is away for twelve seconds under load."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from testing.ledgers import Ack, Report
from testing.scene import Scene, slowly

pytestmark = pytest.mark.asyncio(loop_scope="session")

OUTAGE_S = 12.0
"""Longer than any wait for either server that has an end (the longest: 10 s for an RPC of Temporal), and than it takes
until an attempt without a record is overdue."""

PROMPTLY_S = 2 * OUTAGE_S / 3
"""An accept takes about 5 ms; this allows for a machine that runs three other test suites."""


async def test_either_server_may_be_unavailable_for_twelve_seconds_under_load(postgres: Scene, sqlite: Scene) -> None:
    """Temporal of one stack and PostgreSQL of the other, concurrently: the test mostly waits."""
    await asyncio.gather(_without_temporal(sqlite), _without_postgres(postgres))


async def _without_temporal(scene: Scene) -> None:
    """Publishing and the arrivals at a healthy endpoint continue without a delay; failed deliveries continue when
    Temporal is back, and all of them arrive once."""
    report, acks = await _through_outage(scene, 1.5, scene.stack.temporal.kill9, scene.stack.temporal.start)
    assert all(ack.tries == 1 for ack in acks), "a publish was refused while Temporal was away"
    assert max(ack.responded - ack.due for ack in acks) < PROMPTLY_S
    due = {ack.message_gid: ack.due for ack in acks}
    assert max(line.monotonic - due[line.id] for line in scene.arrivals("steady")) < PROMPTLY_S
    report.assert_no_duplicates()


async def _without_postgres(scene: Scene) -> None:
    """Publishing is refused, and accepted messages arrive, without a second request for an attempt with a response."""
    postgres = scene.stack.postgres
    assert postgres is not None

    async def away() -> None:
        await postgres.kill9()
        scene.kills.append(time.monotonic())
        await _assert_refused(scene)

    report, acks = await _through_outage(scene, 1.5, away, postgres.start)
    assert any(ack.tries > 1 for ack in acks), "the outage hit no publish"
    report.assert_no_duplicates()
    report.assert_all_recorded()


async def _through_outage(
    scene: Scene, rate: float, down: Callable[[], Awaitable[None]], up: Callable[[], Awaitable[None]]
) -> tuple[Report, list[Ack]]:
    """Publish at `rate` before, during and after an outage; the report of all, and the acknowledgements."""
    await scene.endpoint("steady")
    await scene.respond(slowly(0.1), name="steady")
    await scene.endpoint("twice")
    await scene.respond(slowly(0.1, 302), slowly(0.1), name="twice", each_message=True)
    publishing = asyncio.create_task(scene.publish(int((OUTAGE_S + 4) * rate), rate=rate))
    await scene.arrived(int(rate), "twice")
    await scene.in_flight()
    await down()
    gone = time.monotonic()
    await asyncio.sleep(OUTAGE_S - (time.monotonic() - gone))
    await up()
    acks = await publishing
    assert len(acks) == int((OUTAGE_S + 4) * rate)
    return await scene.finish(90), acks


async def _assert_refused(scene: Scene) -> None:
    body = {"payload": {"event": "order.created"}}
    response = await scene.stack.client.post(f"/v1/channels/{scene.channel}/messages", json=body)
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["content-type"] == "application/problem+json"


async def test_messages_published_before_temporal_ever_ran_are_delivered_when_it_starts(sqlite: Scene) -> None:
    await sqlite.endpoint()
    await sqlite.stack.temporal.stop()
    await sqlite.stack.api.kill9()
    await sqlite.stack.start_api()
    acks = await sqlite.publish(20)
    assert [ack.tries for ack in acks] == [1] * 20
    assert max(ack.responded - ack.sent for ack in acks) < PROMPTLY_S
    await sqlite.stack.temporal.start()
    report = await sqlite.finish()
    report.assert_no_duplicates()
