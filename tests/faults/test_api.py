"""The API is killed at the two worst moments: between commit and start, and between commit and response."""

import asyncio
import json
import time
from functools import partial

import pytest

from testing.publisher import sample_payload
from testing.scene import Scene, post_without_reading
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

MORE_THAN_START_AT_ONCE = 24
"""The API has 16 starts in flight at most, so some of these were never asked for."""

UNDER_LOAD = 80


async def test_the_reconciler_delivers_what_a_killed_api_had_accepted_and_not_started(postgres: Scene) -> None:
    """Workflows make the first attempts to an endpoint with a rate limit."""
    await postgres.endpoint(rateLimit=1000)
    postgres.stack.temporal.suspend()
    acks = await postgres.publish(MORE_THAN_START_AT_ONCE)
    assert len(acks) == MORE_THAN_START_AT_ONCE
    await postgres.stack.api.kill9()
    assert postgres.arrivals() == []
    postgres.stack.temporal.resume()
    report = await postgres.finish()
    report.assert_no_duplicates()
    assert not postgres.stack.api.running
    assert '"reconciled"' in postgres.stack.worker.output()


async def test_a_publisher_that_got_no_response_and_retries_publishes_once(postgres: Scene) -> None:
    await postgres.endpoint()
    payload = sample_payload(1)
    body = b'{"payload":' + payload + b"}"
    headers = {"idempotency-key": "the-same-key", "content-type": "application/json"}
    async with post_without_reading(postgres.stack, f"/v1/channels/{postgres.channel}/messages", body, headers):
        await assert_eventually(lambda: _assert_messages(postgres, 1))
        await postgres.stack.api.kill9()
        postgres.kills.append(time.monotonic())
    await postgres.stack.start_api()
    ack = await postgres.publisher.publish(postgres.channel, payload, key="the-same-key")
    assert ack is not None and ack.duplicate
    report = await postgres.finish()
    report.assert_no_duplicates(allowed=postgres.in_flight_at_a_kill())
    await _assert_messages(postgres, 1)


async def test_an_api_killed_under_load_accepts_each_message_once(postgres: Scene) -> None:
    await postgres.endpoint()
    publishing = asyncio.create_task(postgres.publish(UNDER_LOAD))
    for wanted in (20, 50):
        await assert_eventually(partial(_assert_acks, postgres, wanted), 30, interval=0.005)
        await postgres.stack.api.kill9()
        postgres.kills.append(time.monotonic())
        await postgres.stack.start_api()
    assert len(await publishing) == UNDER_LOAD
    report = await postgres.finish()
    report.assert_no_duplicates(allowed=postgres.in_flight_at_a_kill())
    await _assert_messages(postgres, UNDER_LOAD)
    assert max(ack.tries for ack in postgres.publisher.acks) > 1, "the kills hit no publish"


def _assert_acks(scene: Scene, n: int) -> None:
    assert len(scene.publisher.acks) >= n


async def _assert_messages(scene: Scene, n: int) -> None:
    rows = await scene.sql("SELECT payload FROM message WHERE channel = :channel", channel=scene.channel)
    assert len(rows) == n
    assert len({json.loads(row.payload)["n"] for row in rows}) == n
