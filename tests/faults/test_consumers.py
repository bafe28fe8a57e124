"""Consumers that compete for a queue, while the API, PostgreSQL and one of them are killed."""

import asyncio
import json
import sys
import time
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest

from testing.processes import Process
from testing.scene import Scene
from testing.stack import API_KEY
from testing.waiting import assert_eventually
from tests.faults.consuming import (
    Polling,
    Streaming,
    acknowledge,
    assert_no_lease_began_before_the_last_one_ended,
    pulled_endpoint,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

MESSAGES, PER_CALL = 400, 100
SHARED, SHARED_RATE, LEASE = 120, 80, timedelta(seconds=5)
IDLE_STREAMS, PER_ENDPOINT, TO_IDLE = 120, 40, 70
BACK_WITHIN_S, TIMES_FIRST = 10.0, 5
"""Streams are back within 10 s, or on a busy machine within a multiple of the time it took to open them first."""


async def test_nothing_is_lost_and_only_messages_of_a_killed_consumer_arrive_twice(
    postgres: Scene, tmp_path: Path
) -> None:
    stack, channel = postgres.stack, postgres.channel
    async with httpx.AsyncClient(
        base_url=stack.url, headers={"authorization": f"Bearer {API_KEY}"}, timeout=30, trust_env=False
    ) as http:
        created = await http.post("/v1/endpoints", json={"mode": "stream", "channel": channel})
        gid = created.raise_for_status().json()["endpointGid"]
        consumers = [consumer(stack.url, API_KEY, gid, tmp_path / f"{n}.log") for n in range(2)]
        for each in consumers:
            each.start()
        for first in range(0, MESSAGES, PER_CALL):
            messages = [{"type": "order.created", "payload": {"n": n}} for n in range(first, first + PER_CALL)]
            (await http.post(f"/v1/channels/{channel}/messages/batch", json={"messages": messages})).raise_for_status()
        await assert_eventually(lambda: at_least(consumers, 70), 30)
        await stack.api.kill9()
        await stack.start_api()
        await assert_eventually(lambda: at_least(consumers, 170), 60)
        await consumers[0].kill9()
        await assert_eventually(lambda: at_least(consumers, MESSAGES), 60)

        async def is_empty() -> None:
            assert (await http.get(f"/v1/endpoints/{gid}/queue")).json()["oldestSeconds"] is None

        await assert_eventually(is_empty, 60)
        await consumers[1].terminate()
    seen = Counter(taken(consumers))
    assert set(seen) == set(range(MESSAGES))
    expired = await postgres.sql(
        "SELECT a.gid FROM attempt a JOIN delivery d ON d.gid = a.delivery_gid "
        "WHERE d.endpoint_gid = :gid AND a.error = 'lease_expired'",
        gid=gid,
    )
    assert sum(seen.values()) - MESSAGES <= len(expired)


def consumer(url: str, key: str, gid: str, log: Path) -> Process:
    return Process(
        [sys.executable, "-m", "cli", "consume", "--endpoint", gid, "--lease-seconds", "5"],
        log=log,
        env={"EVERHOOK_URL": url, "EVERHOOK_API_KEY": key},
        forked=True,
    )


def taken(consumers: list[Process]) -> list[int]:
    lines = [line for each in consumers for line in each.log.read_text().splitlines() if line.startswith("{")]
    return [json.loads(line)["payload"]["n"] for line in lines if line.endswith("}}")]


def at_least(consumers: list[Process], count: int) -> None:
    assert len(set(taken(consumers))) >= count


async def test_streams_and_polls_share_the_work_while_postgresql_is_killed(postgres: Scene) -> None:
    """Some deliveries are leased by claims, others in the transaction that accepts them."""
    server, http = postgres.stack.postgres, postgres.stack.client
    assert server is not None
    gid = await pulled_endpoint(postgres, channel=postgres.channel)
    streams = [Streaming(postgres.stack.api_port, gid, 8, LEASE) for _ in range(3)]
    polls = [Polling(http, gid, 8, LEASE) for _ in range(2)]
    consumers: list[Streaming | Polling] = [*streams, *polls]

    async def work(each: Streaming | Polling) -> None:
        while True:
            items = [await each.arrived.get()]
            await asyncio.sleep(0.01)
            while not each.arrived.empty():
                items.append(each.arrived.get_nowait())
            await acknowledge(http, gid, items)
            for _ in items:
                each.arrived.task_done()

    def are_accepted(count: int) -> None:
        assert len(postgres.publisher.acks) >= count

    async with asyncio.TaskGroup() as running:
        tasks = [running.create_task(part) for each in consumers for part in (each.run(), work(each))]
        publishing = running.create_task(postgres.publish(SHARED, rate=SHARED_RATE))
        for count in (SHARED // 6, SHARED // 2):
            await assert_eventually(partial(are_accepted, count), 60, interval=0.002)
            await server.kill9()
            await server.start()
        acks = await publishing
        assert len(acks) == SHARED

        async def all_are_delivered() -> None:
            rows = await postgres.sql(
                "SELECT status, count(*) FROM delivery WHERE endpoint_gid = :gid GROUP BY status", gid=gid
            )
            assert [tuple(row) for row in rows] == [("delivered", SHARED)]

        await assert_eventually(all_are_delivered, 60, interval=0.1)
        for task in tasks:
            task.cancel()
    taken = [item for each in consumers for item in each.taken]
    assert {item.n for item in taken} == set(range(SHARED))
    assert max(ack.tries for ack in acks) > 1, "the kills hit no publish"
    assert_no_lease_began_before_the_last_one_ended(taken, LEASE)


async def test_idle_streams_are_all_back_after_a_restart(postgres: Scene) -> None:
    """The API is killed while it hands deliveries out, and its clients reconnect all at once. Nothing is acknowledged
    before they are back, and no lease ends: only what never arrived may be handed out again."""
    http, lease = postgres.stack.client, timedelta(hours=1)
    gid = await pulled_endpoint(postgres, channel=postgres.channel)
    idle = [await pulled_endpoint(postgres) for _ in range(IDLE_STREAMS // PER_ENDPOINT - 1)]
    streams = [Streaming(postgres.stack.api_port, each, 1, lease) for each in [gid, *idle] for _ in range(PER_ENDPOINT)]
    consumers = streams[:PER_ENDPOINT]

    def are_open() -> None:
        assert sum(each.is_open for each in streams) == IDLE_STREAMS

    def have_taken(count: int) -> None:
        assert sum(len(each.taken) for each in consumers) >= count

    def have_no_credit() -> None:
        assert {len(each.connections[-1]) for each in consumers} == {1}

    async with asyncio.TaskGroup() as running:
        began = time.monotonic()
        tasks = [running.create_task(each.run()) for each in streams]
        await assert_eventually(are_open, 60)
        opened_in = time.monotonic() - began
        publishing = running.create_task(postgres.publish(TO_IDLE))
        await assert_eventually(partial(have_taken, PER_ENDPOINT // 4), 60, interval=0.002)
        await postgres.stack.api.kill9()
        await postgres.stack.start_api()
        await assert_eventually(are_open, max(BACK_WITHIN_S, TIMES_FIRST * opened_in))
        assert len(await publishing) == TO_IDLE
        await assert_eventually(have_no_credit, 60)
        assert max(len(connection) for each in consumers for connection in each.connections) == 1
        acknowledged: set[str] = set()
        while len(acknowledged) < TO_IDLE:
            await assert_eventually(partial(have_taken, len(acknowledged) + 1), 60)
            new = [item for each in consumers for item in each.taken if item.lease not in acknowledged]
            await acknowledge(http, gid, new)
            acknowledged.update(item.lease for item in new)
        for task in tasks:
            task.cancel()
    taken = Counter(item.delivery for each in streams for item in each.taken)
    assert (len(taken), max(taken.values())) == (TO_IDLE, 1)
