"""`everhook serve --processes 2`, with PostgreSQL and without Temporal: one port, one page of metrics, one shutdown."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from testing.api import API_KEY, MASTER_KEY
from testing.postgres_server import PostgresServer
from testing.processes import Process, free_port, refusing_port
from testing.waiting import assert_eventually
from tests.limits.wire import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERHOOK = [sys.executable, "-m", "cli"]
MESSAGES = 40
BODY = b'{"type":"a","payload":{"n":1}}'


@dataclass
class Served:
    """Two processes and their parent."""

    process: Process
    port: int
    metrics_port: int

    def children(self) -> set[psutil.Process]:
        return set(psutil.Process(self.process.pid).children())

    async def publish(self) -> int:
        """Publish over a new connection; returns the status of the response."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, verify=False) as http:
            headers = {"authorization": f"Bearer {API_KEY}"}
            return (await http.post("/v1/channels/orders/messages", content=BODY, headers=headers)).status_code

    async def metric(self, name: str) -> dict[str, float]:
        """The values of a metric, by process."""
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            page = (await http.get(f"http://127.0.0.1:{self.metrics_port}/metrics")).text
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return {sample.labels["process"]: sample.value for sample in samples if sample.name == name}

    async def assert_serving(self) -> None:
        assert await self.metric("everhook_process_serving") == {"0": 1, "1": 1}


def environment(database_url: str) -> dict[str, str]:
    return {
        "EVERHOOK_DATABASE_URL": database_url,
        "EVERHOOK_API_KEY": API_KEY,
        "EVERHOOK_MASTER_KEYS": MASTER_KEY,
        "EVERHOOK_ISSUER": "hooks.example.com",
        "TEMPORAL_ADDRESS": f"127.0.0.1:{refusing_port()}",
    }


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def database_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    directory = tmp_path_factory.mktemp("processes")
    async with PostgresServer(directory / "postgres.log") as server:
        migrate = Process(
            [*EVERHOOK, "migrate"], log=directory / "migrate.log", env=environment(server.url), forked=True
        )
        await migrate.run()
        yield server.url


@pytest_asyncio.fixture(loop_scope="module")
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    port, metrics_port = free_port(), free_port()
    command = [*EVERHOOK, "serve", "--host", "127.0.0.1", "--port", str(port), "--processes", "2"]
    env = {**environment(database_url), "EVERHOOK_METRICS_PORT": str(metrics_port)}
    async with Process(command, log=tmp_path / "serve.log", env=env, forked=True) as process:
        served = Served(process, port, metrics_port)
        await process.wait_ready(url=f"http://127.0.0.1:{metrics_port}/metrics")
        await assert_eventually(served.assert_serving, 30, interval=0.2)
        children = served.children()
        try:
            yield served
        finally:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


async def test_one_port_is_shared_and_a_dead_process_replaced_and_all_drain_together(
    served: Served, database_url: str, tmp_path: Path
) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", trust_env=False, verify=False) as http:
        await http.post("/v1/channels", json={"name": "orders"}, headers={"authorization": f"Bearer {API_KEY}"})

    assert {await served.publish() for _ in range(MESSAGES)} == {202}

    accepted = await served.metric("everhook_messages_accepted_total")
    assert sum(accepted.values()) == MESSAGES
    assert all(accepted[process] > 0 for process in ("0", "1")), "connections go to both"
    for name in ("process_resident_memory_bytes", "everhook_undispatched", "everhook_build_info"):
        assert set(await served.metric(name)) == {"0", "1"}, name

    command = [*EVERHOOK, "serve", "--host", "127.0.0.1", "--port", str(served.port), "--processes", "2"]
    another = Process(command, log=tmp_path / "another.log", env=environment(database_url), forked=True)
    another.start()
    assert await another.wait() == 2
    assert f"cannot listen on 127.0.0.1:{served.port}" in another.output()

    first, second = served.children()
    first.kill()
    await assert_eventually(lambda: _assert_replaced(served, first))
    await assert_eventually(served.assert_serving, 30, interval=0.2)
    assert sum((await served.metric("everhook_process_restarts_total")).values()) == 1
    assert {await served.publish() for _ in range(10)} == {202}
    assert second in served.children()

    half_sent = await Client.connected(served.port)
    head = f"POST /v1/channels/orders/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {API_KEY}\r\n"
    await half_sent.send(head.encode() + b"content-length: %d\r\n\r\n" % len(BODY) + BODY[:10])
    await asyncio.sleep(0.5)  # until it is read
    served.process.send_signal(signal.SIGTERM)
    await assert_eventually(lambda: _assert_refused(served.port))
    await half_sent.send(BODY[10:])
    assert (await half_sent.response()).status_code == 202
    await half_sent.closed()
    assert await served.process.wait() == 0
    assert not any(child.is_running() for child in (first, second))


def _assert_replaced(served: Served, dead: psutil.Process) -> None:
    assert len(served.children() - {dead}) == 2


async def _assert_refused(port: int) -> None:
    try:
        client = await Client.connected(port)
    except ConnectionRefusedError:
        return
    await client.closed()
    raise AssertionError("it is still listened on")


async def test_several_processes_require_postgresql_and_say_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'everhook.db'}"
    process = Process(
        [*EVERHOOK, "serve", "--processes", "2"], log=tmp_path / "serve.log", env=environment(url), forked=True
    )
    process.start()

    assert await process.wait() == 2
    assert "SQLite" in process.output() and "EVERHOOK_DATABASE_URL" in process.output()
