"""Consumers that compete for a queue, while the API and one of them are killed."""

import json
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

from testing.processes import Process
from testing.scene import Scene
from testing.stack import API_KEY
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

MESSAGES, PER_CALL = 1_000, 100


async def test_nothing_is_lost_and_only_what_a_killed_consumer_held_comes_twice(
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
        await assert_eventually(lambda: at_least(consumers, 100), 30)
        await stack.api.kill9()
        await stack.start_api()
        await assert_eventually(lambda: at_least(consumers, 400), 60)
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
    )


def taken(consumers: list[Process]) -> list[int]:
    lines = [line for each in consumers for line in each.log.read_text().splitlines() if line.startswith("{")]
    return [json.loads(line)["payload"]["n"] for line in lines if line.endswith("}}")]


def at_least(consumers: list[Process], count: int) -> None:
    assert len(set(taken(consumers))) >= count
