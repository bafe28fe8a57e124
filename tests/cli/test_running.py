"""Commands that run for a while, as real processes: what they print, how they end, and what they leave over."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import cli.doctor.temporal
import everhook.storage.engine
from everhook.ids import Kind, new_gid
from everhook.signing.schemes import new_secret, secret_key, signature_headers
from everhook.storage.keyring import new_master_key
from everhook.temporal.client import connect
from everhook.temporal.provisioning import setup
from testing.api import API_KEY, created, ok
from testing.processes import Process, free_port, refusing_port
from testing.waiting import assert_eventually
from tests.cli.conftest import ON_LIVE, Everhook, Live

pytestmark = ON_LIVE

TIMEOUT_S = 60


class Running:
    """One `everhook …` with its two outputs apart."""

    def __init__(self, process: Process, errors: Path) -> None:
        self.process = process
        self._errors = errors

    @property
    def out(self) -> list[str]:
        return self.process.output().splitlines()

    @property
    def err(self) -> list[str]:
        return self._errors.read_text().splitlines() if self._errors.exists() else []

    async def says(self, text: str, *, aside: bool = False) -> None:
        """Wait until it has printed this."""

        def said() -> None:
            assert any(text in line for line in (self.err if aside else self.out)), (text, self.out, self.err)

        await assert_eventually(said, timeout=30)

    async def ended(self, *, by: signal.Signals | None = None) -> int:
        """Its exit status. `by`: end it with that signal."""
        if by is not None:
            self.process.send_signal(by)
        return await self.process.wait(TIMEOUT_S)

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.out]


Start = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@pytest.fixture
def running(tmp_path: Path) -> Start:
    """Runs `everhook …` with the API at an address, until the block ends."""

    @contextlib.asynccontextmanager
    async def started(url: str, *arguments: str) -> AsyncIterator[Running]:
        process = Process(
            [sys.executable, "-m", "tests.cli.apart", tmp_path / "errors", *arguments],
            log=tmp_path / "output.log",
            env={"EVERHOOK_URL": url, "EVERHOOK_API_KEY": API_KEY},
            forked=True,
        )
        process.start()
        try:
            yield Running(process, tmp_path / "errors")
        finally:
            await process.kill9()

    return started


def signed(secret: str, body: bytes, at: int | None = None) -> dict[str, str]:
    moment = int(time.time()) if at is None else at
    return dict(signature_headers(new_gid(Kind.MESSAGE), moment, body, [secret_key(secret)]))


# receive


async def test_a_receiver_verifies_requests_and_responds_as_configured(running: Start) -> None:
    secret, port = new_secret(), free_port()
    url, options = f"http://127.0.0.1:{port}/hook", ["--port", str(port), "--secret", secret, "--count", "4"]
    async with running("http://127.0.0.1:1", "receive", *options, "--status", "500,200", "--json") as receiver:
        await receiver.says("receiving at", aside=True)
        async with httpx.AsyncClient(trust_env=False) as client:
            headers = signed(secret, b'{"a": 1}')
            statuses = [(await client.post(url, content=b'{"a": 1}', headers=headers)).status_code for _ in range(2)]
            forged = await client.post(url, content=b'{"a": 2}', headers=headers)
            unsigned = await client.post(url, content=b"\x1b[2J\xff")
        assert (statuses, forged.status_code, unsigned.status_code) == ([500, 200], 401, 401)
        assert await receiver.ended() == 0
    assert [one["genuine"] for one in receiver.documents] == [True, True, False, False]
    assert [one["status"] for one in receiver.documents] == [500, 200, 401, 401]
    assert [one["request"] for one in receiver.documents] == [1, 2, 3, 1]
    assert receiver.documents[3]["why"] == "it is not signed"
    assert all(line.isascii() for line in receiver.out)


async def test_a_receiver_prints_requests_without_terminal_control_sequences(running: Start) -> None:
    port = free_port()
    async with running("http://127.0.0.1:1", "receive", "--port", str(port), "--count", "2") as receiver:
        await receiver.says("not verifying signatures", aside=True)
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.post(
                f"http://127.0.0.1:{port}/", content=b'{"orderId": 7}', headers={"x-webhook-event": "a.b"}
            )
            await client.post(f"http://127.0.0.1:{port}/", content=b"\x1b[2J [red]\xff")
        assert await receiver.ended() == 0
    printed = "\n".join(receiver.out)
    assert "a.b" in printed and '"orderId": 7' in printed and "[red]" in printed
    assert "\x1b" not in printed


async def test_a_receiver_with_a_channel_creates_an_endpoint_checks_it_and_deletes_it(
    live: Live, running: Start
) -> None:
    await live.api.channel("received")
    port = str(free_port())
    async with running(live.url, "receive", "--port", port, "--channel", "received", "--status", "500,200") as receiver:
        await receiver.says("verifying signatures", aside=True)
        await live.api.publish({"n": 1}, "received")
        await receiver.says("request 2")
        assert await receiver.ended(by=signal.SIGINT) == 130
    assert sum("✓ genuine" in line for line in receiver.out) == 2
    assert "Traceback" not in "\n".join(receiver.err)
    assert await _endpoints(live, "received") == []


async def test_a_receiver_that_is_terminated_deletes_its_endpoint_too(live: Live, running: Start) -> None:
    await live.api.channel("terminated")
    options = ["--port", str(free_port()), "--channel", "terminated"]
    async with running(live.url, "receive", *options) as receiver:
        await receiver.says("verifying signatures", aside=True)
        assert len(await _endpoints(live, "terminated")) == 1
        assert await receiver.ended(by=signal.SIGTERM) == 0
    assert await _endpoints(live, "terminated") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--secret", "hunter2"], "--secret"),
        (["--status", "99"], "--status"),
        (["--status", "ok"], "--status"),
        (["--event", "a.*"], "--event needs --channel"),
    ],
)
async def test_a_receiver_with_invalid_options_does_not_start(options: list[str], message: str, running: Start) -> None:
    async with running("http://127.0.0.1:1", "receive", *options) as receiver:
        assert await receiver.ended() == 2
    (line,) = receiver.err
    assert message in line and "hunter2" not in line


async def _endpoints(live: Live, channel: str) -> list[str]:
    subscriptions = ok(await live.api.get("/v1/subscriptions", channel=channel))["data"]
    return [subscription["endpointGid"] for subscription in subscriptions]


# simulate


async def test_a_simulation_delivers_everything_measures_it_and_cleans_up(live: Live, running: Start) -> None:
    before = await _counts(live)
    async with running(live.url, "simulate", "--rate", "20", "--count", "30", "--json") as simulation:
        assert await simulation.ended() == 0
    *_, result = simulation.documents
    assert result["ended"] is True
    assert (result["published"], result["messagesArrived"], result["forged"]) == (30, 30, 0)
    assert result["deliveries"] == {"delivered": 30}
    latency = result["latencyMs"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["max"]
    assert await _counts(live) == before


async def test_a_simulation_with_failures_ends_with_status_1_and_cleans_up(live: Live, running: Start) -> None:
    before = await _counts(live)
    options = ["--rate", "20", "--count", "4", "--status", "400", "--drain", "5"]
    async with running(live.url, "simulate", *options) as simulation:
        assert await simulation.ended() == 1
    assert any("dead letter" in line and " 4 " in line for line in simulation.out)
    assert await _counts(live) == before


async def test_a_simulation_that_is_interrupted_says_what_it_saw(live: Live, running: Start) -> None:
    before = await _counts(live)
    async with running(live.url, "simulate", "--rate", "5", "--duration", "600") as simulation:
        await simulation.says("published")
        assert await simulation.ended(by=signal.SIGINT) == 130
    assert any(line.startswith("deliveries") for line in simulation.out)
    assert "Traceback" not in "\n".join(simulation.err)
    assert await _counts(live) == before


async def test_a_simulation_may_publish_to_an_existing_channel(live: Live, running: Start) -> None:
    await live.api.channel("lively")
    await live.api.endpoint(live.receiver.url_for("/lively"), channel="lively")
    async with running(live.url, "simulate", "--rate", "20", "--count", "5", "--channel", "lively", "--json") as run:
        assert await run.ended() == 0
    assert run.documents[-1]["deliveries"] == {"delivered": 5}
    assert run.documents[-1]["messagesArrived"] is None, "it does not see what arrives elsewhere"
    assert len(live.receiver.at("/lively")) == 5


async def test_a_simulation_publishes_the_examples_of_the_catalogue(live: Live, running: Start) -> None:
    described = {"name": "described.type", "schema": {"required": ["own"]}, "example": {"own": 1}}
    created(await live.api.post("/v1/event-types", described))
    await live.api.channel("strict", validation="reject")
    await live.api.endpoint(live.receiver.url_for("/strict"), channel="strict")
    try:
        async with running(
            live.url, "simulate", "--rate", "20", "--count", "2", "--channel", "strict", "--json"
        ) as run:
            assert await run.ended() == 0
    finally:
        await live.api.delete("/v1/event-types/described.type")
    assert [b'"own": 1' in arrival.body for arrival in live.receiver.at("/strict")] == [True, True]


async def test_a_simulation_ends_at_the_first_message_that_is_refused_for_good(live: Live, running: Start) -> None:
    async with running(live.url, "simulate", "--rate", "0.5", "--channel", "nowhere") as simulation:
        assert await simulation.ended() == 1
    assert any("1: There is no channel nowhere. (404)" in line for line in simulation.out)


async def _counts(live: Live) -> dict[str, int]:
    """What a simulation has to remove."""
    return {
        "channels": await live.api.count("channel"),
        "endpoints": len(await live.api.walk("/v1/endpoints", limit=500)),
        "dead letters": len(await live.api.walk("/v1/dead-letters", limit=500)),
        "open": len(await live.api.rows("SELECT gid FROM delivery WHERE status IN ('accepted','retrying','parked')")),
    }


# watch


async def test_a_watch_prints_a_line_for_each_change_until_ctrl_c(live: Live, running: Start) -> None:
    await live.api.channel("watched")
    await live.api.endpoint(live.receiver.url_for("/watched"), channel="watched")
    live.receiver.respond(400, path="/watched")
    (before,) = (await live.api.publish({"n": 0}, "watched"))["deliveries"]
    await _ended(live, before["deliveryGid"])
    async with running(live.url, "deliveries", "watch", "--channel", "watched", "--json") as watch:
        await watch.says("watching", aside=True)
        (delivery,) = (await live.api.publish({"n": 1}, "watched"))["deliveries"]
        await watch.says('"status": "dead_lettered"')
        assert await watch.ended(by=signal.SIGINT) == 130
    assert {document["deliveryGid"] for document in watch.documents} == {delivery["deliveryGid"]}
    assert "Traceback" not in "\n".join(watch.err)


async def _ended(live: Live, delivery_gid: str) -> None:
    async def has_ended() -> None:
        assert ok(await live.api.get(f"/v1/deliveries/{delivery_gid}"))["status"] == "dead_lettered"

    await assert_eventually(has_ended)


# doctor


def doctor_env(live: Live) -> dict[str, str]:
    return {
        "EVERHOOK_DATABASE_URL": live.settings.database_url,
        "EVERHOOK_MASTER_KEYS": live.settings.master_keys[0].get_secret_value(),
        "EVERHOOK_API_KEY": API_KEY,
        "EVERHOOK_EGRESS_ALLOW": "127.0.0.0/8",
        "EVERHOOK_EGRESS_HTTP": "true",
        "TEMPORAL_ADDRESS": live.temporal_address,
    }


async def diagnose(tmp_path: Path, env: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """The status, and the findings by name. Nothing else is printed."""
    command, log = [sys.executable, "-m", "cli", "doctor", "--json"], tmp_path.with_suffix(".log")
    process = Process(command, log=log, env=env, cwd=tmp_path, forked=True)
    process.start()
    status = await process.wait()
    return status, {finding["name"]: finding for finding in json.loads(process.output())["findings"]}


async def test_the_doctor_reports_a_running_stack_as_healthy(live: Live, tmp_path: Path) -> None:
    created(await live.api.post("/v1/endpoints", {"mode": "poll"}))  # has no URL that could be refused
    status, findings = await diagnose(tmp_path, doctor_env(live))
    assert status == 0, findings
    assert {name for name, finding in findings.items() if finding["level"] != "ok"} == {"egress rules"}


async def test_the_doctor_finds_what_is_missing_and_how_to_fix_it(live: Live, tmp_path: Path) -> None:
    env = doctor_env(live)
    env["TEMPORAL_ADDRESS"] = f"127.0.0.1:{refusing_port()}"
    env["EVERHOOK_DATABASE_URL"] = "sqlite:///nowhere.db"
    env["EVERHOOK_EGRESS_PROXY"] = f"http://user:hunter2@127.0.0.1:{refusing_port()}"
    status, findings = await diagnose(tmp_path, env)
    assert status == 1
    assert {name for name, finding in findings.items() if finding["level"] == "wrong"} == {
        "database", "Temporal", "egress proxy"
    }  # fmt: skip
    assert "everhook migrate" in findings["database"]["fix"]
    assert findings["Temporal"]["detail"].endswith("cannot be reached: Connection refused")
    assert "hunter2" not in json.dumps(findings)
    assert os.listdir(tmp_path) == [], "the doctor creates nothing"


async def test_the_doctor_finds_servers_that_do_not_respond(
    live: Live, plain: Everhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers like a stopped process or a hanging disk: connections are accepted, and nothing else happens."""
    monkeypatch.setattr(cli.doctor.temporal, "REACH_S", 0.5)
    monkeypatch.setattr(everhook.storage.engine, "CONNECT_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        database = f"postgresql://everhook@{address}/everhook"
        for name, value in (
            doctor_env(live) | {"TEMPORAL_ADDRESS": address, "EVERHOOK_DATABASE_URL": database}
        ).items():
            monkeypatch.setenv(name, value)
        result = await plain("doctor", "--json")
    assert result.status == 1
    findings = {finding["name"]: finding for finding in result.json["findings"]}
    for name, setting in (("database", "EVERHOOK_DATABASE_URL"), ("Temporal", "TEMPORAL_ADDRESS")):
        detail = findings[name]["detail"]
        assert address in detail and detail.endswith(("does not respond", "does not answer"))
        assert setting in findings[name]["fix"]


async def test_the_doctor_finds_missing_setup(live: Live, tmp_path: Path) -> None:
    env = doctor_env(live) | {"EVERHOOK_DATABASE_URL": "sqlite:///empty.db", "TEMPORAL_NAMESPACE": "nowhere"}
    with contextlib.closing(sqlite3.connect(tmp_path / "empty.db")) as empty:
        empty.execute("CREATE TABLE other (a)")
    status, findings = await diagnose(tmp_path, env)
    assert status == 1
    assert fixes(findings) == {
        "migrations": "everhook migrate",
        "namespace": "everhook setup, or fix TEMPORAL_NAMESPACE",
    }
    assert findings["workers"]["level"] == "skipped"


async def test_the_doctor_finds_a_paused_schedule_missing_workers_and_a_lost_master_key(
    live: Live, tmp_path: Path
) -> None:
    await live.api.endpoint(live.receiver.url)
    namespace = f"idle-{new_gid(Kind.EVENT)}"
    client = await connect(target_host=live.temporal_address, namespace=namespace)
    await setup(client, live.settings)
    await client.get_schedule_handle("reconcile").pause(note="a test")
    env = doctor_env(live) | {"EVERHOOK_MASTER_KEYS": new_master_key(), "TEMPORAL_NAMESPACE": namespace}
    status, findings = await diagnose(tmp_path, env)
    assert status == 1
    assert set(fixes(findings)) == {"master keys", "schedules", "workers"}
    assert "cannot be decrypted" in findings["master keys"]["detail"]
    assert "reconcile is paused (a test)" in findings["schedules"]["detail"]
    assert "--unpause" in findings["schedules"]["fix"]
    assert "sends-limited" in findings["workers"]["detail"]
    assert findings["workers"]["fix"] == "everhook worker"


def fixes(findings: dict[str, Any]) -> dict[str, str]:
    return {name: finding["fix"] for name, finding in findings.items() if finding["level"] == "wrong"}
