"""`everhook consume`, against a real API on a real port."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from testing.api import API_KEY, JSON, created, ok
from testing.processes import Process
from testing.waiting import assert_eventually
from tests.cli.conftest import ON_LIVE, Everhook, Live

pytestmark = ON_LIVE


async def queued(live: Live, count: int, **endpoint: Any) -> str:
    """An endpoint that is streamed, on its own channel, with that many messages."""
    channel = f"c{len(await live.api.rows('SELECT 1 FROM channel'))}"
    await live.api.channel(channel)
    body = {"mode": "stream", "channel": channel, **endpoint}
    gid: str = created(await live.api.post("/v1/endpoints", body))["endpointGid"]
    for n in range(count):
        await live.api.publish({"n": n, "price": 1.10}, channel)
    return gid


async def queue(live: Live, gid: str) -> JSON:
    return ok(await live.api.get(f"/v1/endpoints/{gid}/queue"))


@pytest.mark.parametrize("how", ["--stream", "--poll"])
async def test_messages_are_printed_and_acknowledged(live: Live, everhook: Everhook, how: str) -> None:
    gid = await queued(live, 3)
    result = await everhook.ok("consume", "--endpoint", gid, how, "--count", "3")
    assert [each["payload"] for each in result.json_lines] == [{"n": n, "price": 1.10} for n in range(3)]
    assert result.err.count(": acked after") == 3
    assert (await queue(live, gid))["oldestSeconds"] is None


async def test_a_command_gets_each_message_and_its_status_decides(
    live: Live, everhook: Everhook, elsewhere: Path
) -> None:
    gid = await queued(live, 2, policy={"delaysSeconds": [0]})
    script = elsewhere / "handle.py"
    script.write_text(
        "import json, sys, pathlib\n"
        "n = json.load(sys.stdin)['payload']['n']\n"
        "seen = pathlib.Path(f'seen-{n}')\n"
        "first = not seen.exists()\n"
        "seen.touch()\n"
        "print('handled', n)\n"
        "sys.exit(3 if n == 0 and first else 0)\n"
    )
    result = await everhook.ok(
        "consume", "--endpoint", gid, "--exec", f"{sys.executable} {script}", "--count", "3", "--lease-seconds", "300"
    )
    assert "nacked: the command ended with status 3" in result.err
    assert result.err.count(": acked after") == 2
    assert (await queue(live, gid))["oldestSeconds"] is None


async def test_a_command_under_way_is_finished_before_it_ends(live: Live, tmp_path: Path) -> None:
    gid = await queued(live, 2)
    begun, go_on, done = (tmp_path / name for name in ("begun", "go-on", "done"))
    command = f"touch {begun}; until test -e {go_on}; do sleep 0.05; done; touch {done}"
    process = Process(
        [sys.executable, "-m", "cli", "consume", "--endpoint", gid, "--exec", command, "--lease-seconds", "5"],
        log=tmp_path / "consume.log",
        env={"EVERHOOK_URL": live.url, "EVERHOOK_API_KEY": API_KEY},
        forked=True,
    )
    async with process:
        await assert_eventually(lambda: _assert_exists(begun))
        before = await lease_ends(live, gid)
        process.send_signal(signal.SIGTERM)

        async def is_extended() -> None:
            assert max(await lease_ends(live, gid)) > max(before)

        await assert_eventually(is_extended)
        go_on.touch()
        assert await process.wait() == 0
    _assert_exists(done)
    assert "stopping after the current command" in process.output()
    left = await queue(live, gid)
    assert (left["available"], left["leased"]) == (1, 0)  # one was acknowledged
    attempts = await live.api.rows(
        "SELECT verdict FROM attempt JOIN delivery ON delivery.gid = delivery_gid WHERE delivery.endpoint_gid = :gid",
        gid=gid,
    )
    assert [each.verdict for each in attempts] == ["delivered"]


async def lease_ends(live: Live, gid: str) -> list[str]:
    rows = await live.api.rows(
        "SELECT lease_until FROM pull_queue WHERE endpoint_gid = :gid AND lease_until IS NOT NULL", gid=gid
    )
    return [row.lease_until for row in rows]


def _assert_exists(file: Path) -> None:
    assert file.exists()


async def test_consuming_from_a_webhook_or_an_unknown_endpoint_is_an_error(live: Live, everhook: Everhook) -> None:
    webhook = (await live.api.endpoint())["endpointGid"]
    result = await everhook("consume", "--endpoint", webhook)
    assert (result.status, "http" in result.err) == (1, True)
    assert (await everhook("consume", "--endpoint", "ep_1", "--poll")).status == 1


async def test_an_endpoint_without_a_url(live: Live, everhook: Everhook) -> None:
    made = await everhook.json("endpoints", "create", "--mode", "poll", "--channel", "orders", "--lease-seconds", "30")
    assert (made["mode"], made["options"]["leaseSeconds"]) == ("poll", 30)
    shown = await everhook.ok("endpoints", "create", "--mode", "stream", "--channel", "orders")
    assert "everhook consume --endpoint ep_" in shown.out
    assert "secret" not in shown.out and "signatures" not in shown.out
    assert "(poll)" in (await everhook.ok("endpoints", "list")).out
    refused = await everhook("endpoints", "create", "https://hooks.example.com/", "--mode", "poll")
    assert (refused.status, "has no URL" in refused.err) == (2, True)
    assert json.loads((await everhook.ok("endpoints", "show", made["endpointGid"], "--json")).out)["mode"] == "poll"
