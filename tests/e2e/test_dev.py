"""`everhook dev` from the command line: one real process with Temporal inside, observed by its output."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import sys
import sysconfig
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from everhook.storage.keyring import new_master_key
from testing.ledgers import compare
from testing.processes import REPOSITORY, Process, free_port
from testing.publisher import Publisher
from testing.receiver import Receiver
from testing.waiting import PATIENCE_S, assert_eventually

WELCOME = "Deliveries as they happen"
# What takes a quarter of a minute by default: the reconciler's pass, and the deliveries it leaves to the dispatcher.
QUICK = {"EVERHOOK_RECONCILE_EVERY_SECONDS": "1"}
REAL_PYTHON = Path(sys.executable).resolve()


class Dev:
    """One `everhook dev`, which may be started again on the same ports and data. `forked`: as in `Process`."""

    def __init__(
        self, directory: Path, *arguments: str, env: Mapping[str, str] | None = None, forked: bool = True
    ) -> None:
        self.data_dir = directory / "data"
        self.port, self.temporal_port, self.temporal_ui_port = free_port(), free_port(), free_port()
        self.process = Process(
            [sys.executable, "-m", "cli", "dev", *self.options, *arguments],
            log=directory / "dev.log",
            env={**QUICK, **(env or {})},
            forked=forked,
        )

    @property
    def ports(self) -> Mapping[str, int]:
        return {
            "--port": self.port,
            "--temporal-port": self.temporal_port,
            "--temporal-ui-port": self.temporal_ui_port,
        }

    @property
    def options(self) -> list[str]:
        ports = [part for option, port in self.ports.items() for part in (option, str(port))]
        return ["--data-dir", str(self.data_dir), *ports]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.process.start()
        await self.process.wait_ready(line=WELCOME, timeout=60)

    async def prints(self, pattern: str, timeout: float = PATIENCE_S) -> None:
        """Wait until a line of the output fits the pattern."""

        def printed() -> None:
            self.process.check_alive()
            assert re.search(pattern, self.process.output()), f"no {pattern!r} in:\n{self.process.output()}"

        await assert_eventually(printed, timeout)

    async def interrupt(self) -> None:
        """Ctrl-C: ends with status 0, in time, and leaves no process."""
        self.process.send_signal(signal.SIGINT)
        assert await self.process.wait(timeout=40) == 0, self.process.tail()
        assert "Traceback" not in self.process.output()
        for port in self.ports.values():
            assert_no_listener(port)

    def temporal(self) -> psutil.Process:
        family = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in family if "start-dev" in child.cmdline())

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client with the key that the output names."""
        match = re.search(r"^API key\s+(\S+)", self.process.output(), re.MULTILINE)
        assert match is not None, self.process.output()
        headers = {"authorization": f"Bearer {match[1]}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, timeout=10) as client:
            yield client


@contextlib.asynccontextmanager
async def running(dev: Dev) -> AsyncIterator[Dev]:
    try:
        await dev.start()
        yield dev
    finally:
        await dev.process.kill9()


def assert_no_listener(port: int) -> None:
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0, f"somebody still listens on {port}"


async def endpoints_of(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = (await client.get("/v1/endpoints")).raise_for_status().json()["data"]
    return data


async def run_the_printed_command(dev: Dev, directory: Path) -> None:
    """The commands that the output offers for pasting work in a shell."""
    command = re.search(r"^Publish a message\n(curl .*?)\n\n", dev.process.output(), re.MULTILINE | re.DOTALL)
    assert command is not None
    if shutil.which("curl") is not None:
        output = await Process(["sh", "-c", command[1]], log=directory / "curl.log").run()
        assert '"type":"order.created"' in output
        await dev.prints(r"(order\.created +demo: always well +✓ delivered[\s\S]*){2}")


async def sign_in_by_the_printed_link(dev: Dev) -> None:
    link = re.search(r"^http://\S+/sign-in/link/(\S+)$", dev.process.output(), re.MULTILINE)
    assert link is not None
    async with httpx.AsyncClient(base_url=dev.url, trust_env=False, follow_redirects=True, timeout=10) as browser:
        assert "Open the dashboard" in (await browser.get(link[0])).text
        overview = await browser.post("/sign-in/link", data={"token": link[1]})
        assert overview.status_code == 200 and "Overview" in overview.text


async def look_from_the_directory(dev: Dev, directory: Path) -> None:
    """Commands in its directory need no configuration: neither those that call the API, nor those that use the
    database and Temporal."""
    (directory / ".everhook").symlink_to(dev.data_dir)
    assert (dev.data_dir / "environment").stat().st_mode & 0o777 == 0o600
    doctor, audit = [
        Process([sys.executable, "-m", "cli", *words], log=directory / f"{words[0]}.log", cwd=directory, forked=True)
        for words in (["doctor"], ["receipts", "audit"])
    ]
    elsewhere = f". .everhook/environment && cd / && {sys.executable} -m cli channels list --json"
    shell = Process(["sh", "-c", elsewhere], log=directory / "sh.log", cwd=directory)
    diagnosis, audited, channels = await asyncio.gather(doctor.run(), audit.run(), shell.run())
    assert "as the `everhook dev` of this directory configures it" in diagnosis
    assert "each with its receipt" in audited
    assert '"orders"' in channels


async def approve(client: httpx.AsyncClient) -> None:
    (task,) = (await client.get("/v1/tasks", params={"state": "open"})).json()["data"]
    decision = {"outcome": "approved", "version": task["version"]}
    (await client.post(f"/v1/tasks/{task['taskGid']}/decide", json=decision)).raise_for_status()


async def is_delivered(client: httpx.AsyncClient, message_gid: str) -> None:
    async def to_all() -> None:
        message = (await client.get(f"/v1/messages/{message_gid}")).raise_for_status().json()
        assert {delivery["status"] for delivery in message["deliveries"]} == {"delivered"}

    await assert_eventually(to_all)


async def fail_once(dev: Dev, receiver: Receiver) -> str:
    """Publish a message whose first attempt fails, and whose second is due five seconds later; its endpoint."""
    receiver.respond(503, 200)
    async with dev.client() as client:
        publisher = Publisher(client)
        await publisher.create_channel("later", {"delaysSeconds": [5]})
        hook = receiver.url_for("/hook")
        endpoint = await publisher.create_endpoint(hook, "later", description="waits\x1b[2Jhere")
        await publisher.publish("later", b"1", type="order.created")
    await dev.prints(r"order\.created +waits\N{REPLACEMENT CHARACTER}\[2Jhere +↻ failed +503 .* next in 5 s")
    return endpoint.gid


async def test_the_demo_shows_each_outcome_and_the_next_start_continues_and_creates_nothing_twice(
    tmp_path: Path,
) -> None:
    async with Receiver() as receiver:
        made = await the_first_start(tmp_path, receiver)
        master_key = tmp_path / "data" / "master-key"
        assert master_key.stat().st_mode & 0o777 == 0o600
        kept = master_key.read_text()
        await the_next_start(tmp_path, receiver, made)
        assert master_key.read_text() == kept


async def the_first_start(tmp_path: Path, receiver: Receiver) -> set[str]:
    """Until Ctrl-C. Returns its endpoints; a delivery to one of them waits for its second attempt."""
    async with running(Dev(tmp_path, forked=False)) as dev:
        await dev.prints(r"order\.created +demo: always well +✓ delivered +200")
        assert (dev.data_dir / "api-url").read_text() == f"{dev.url}\n", "commands in this directory find the API"
        await dev.prints(r"order\.paid +demo: fails at first +↻ failed +500 .* attempt 1, next in 1 s")
        await dev.prints(r"order\.paid +demo: fails at first +✓ delivered +200 .* attempt 2")
        await dev.prints(r"order\.cancelled +demo: says no +✗ rejected +400")
        await dev.prints(r"order\.cancelled +demo: says no +■ dead letter +rejected +dlv_")
        await dev.prints(r"order\.created +demo: streams +✓ delivered")
        await dev.prints(r"order\.large +demo: people decide +◌ task opened +Order \d+ of 5,000 EUR")
        assert "error:" not in dev.process.output()
        async with dev.client() as client:
            made = {endpoint["endpointGid"] for endpoint in await endpoints_of(client)}
            assert len(made) == 5
            await approve(client)
            published = await client.post("/v1/channels/orders/messages", json={"type": "order.created", "payload": []})
            await is_delivered(client, published.raise_for_status().json()["messageGid"])
            await dev.prints(r"order\.large +demo: always well +✓ delivered +200")
            assert (await client.get("/docs")).status_code == 200
            ui = f"http://127.0.0.1:{dev.temporal_ui_port}/namespaces/everhook/workflows"
            assert ui in dev.process.output()
            assert (await client.get(ui)).status_code == 200
        await sign_in_by_the_printed_link(dev)
        await run_the_printed_command(dev, tmp_path)
        await look_from_the_directory(dev, tmp_path)
        made.add(await fail_once(dev, receiver))
        await dev.interrupt()
        assert not [name for name in ("api-url", "environment") if (dev.data_dir / name).exists()]
        return made


async def the_next_start(tmp_path: Path, receiver: Receiver, made: set[str]) -> None:
    async with running(Dev(tmp_path)) as dev:
        await dev.prints(r"order\.paid +demo: fails at first +✓ delivered +200 .* attempt 2")
        async with dev.client() as client:  # the key is the one of the first start
            assert {endpoint["endpointGid"] for endpoint in await endpoints_of(client)} == made
        first, second = await receiver.wait_for(2)
        assert first.id == second.id
        assert (second.at - first.at).total_seconds() >= 5
        await dev.prints(r"order\.created +waits.*✓ delivered +200 .* attempt 2")


async def test_temporal_killed_while_publishing_comes_back_and_everything_is_delivered(tmp_path: Path) -> None:
    ledger = tmp_path / "arrivals.jsonl"
    async with running(Dev(tmp_path, "--no-demo")) as dev, Receiver(ledger=ledger) as receiver, dev.client() as client:
        publisher = Publisher(client)
        await publisher.create_channel("orders")
        await publisher.create_endpoint(receiver.url_for("/hook"), "orders")
        publishing = asyncio.create_task(publisher.publish_many("orders", 60, rate=30))
        await receiver.wait_for(20)
        dev.temporal().kill()
        await dev.prints(r"Temporal exited \(SIGKILL\); restarting it")
        await dev.prints("Temporal is back")
        assert len(await publishing) == 60
        await receiver.wait_for(60)
        await dev.interrupt()

    engine = create_async_engine(f"sqlite+aiosqlite:///{dev.data_dir / 'everhook.db'}")
    report = await compare(publisher.ledger, ledger, engine)
    await engine.dispose()
    report.assert_nothing_lost()
    assert report.promised == 60


async def test_a_data_directory_in_use_is_refused_and_free_again_after_a_kill(tmp_path: Path) -> None:
    async with running(Dev(tmp_path, "--no-demo")) as dev:
        line = await refusal(Dev(tmp_path / "other", "--data-dir", str(dev.data_dir)).process)
        assert f"another `everhook dev` (process {dev.process.pid}) uses --data-dir {dev.data_dir}" in line

        temporal = dev.temporal()
        os.kill(dev.process.pid, signal.SIGKILL)
        await dev.process.wait()
        if sys.platform == "linux":  # elsewhere the kernel does not end children with their parent
            await assert_eventually(lambda: assert_no_listener(dev.temporal_port))
            assert not temporal.is_running() or temporal.status() == psutil.STATUS_ZOMBIE
            await dev.start()


async def refusal(process: Process) -> str:
    """The one line that a start ends with."""
    process.start()
    assert await process.wait(timeout=20) == 2, process.tail()
    (line,) = process.output().splitlines()
    assert line.startswith("everhook: ")
    return line


@pytest.mark.parametrize("option", ["--port", "--temporal-port", "--temporal-ui-port"])
async def test_a_taken_port_is_named(tmp_path: Path, option: str) -> None:
    dev = Dev(tmp_path)
    with socket.create_server(("127.0.0.1", dev.ports[option])):
        line = await refusal(dev.process)
    assert f"{option} {dev.ports[option]}: cannot listen on 127.0.0.1:{dev.ports[option]}" in line


async def test_a_data_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    dev.data_dir.write_text("a file")
    assert f"--data-dir {dev.data_dir} cannot be used" in await refusal(dev.process)


@pytest.mark.parametrize("name", ["everhook.db", "temporal.db"])
async def test_a_file_that_is_not_a_database_is_named(tmp_path: Path, name: str) -> None:
    dev = Dev(tmp_path)
    dev.data_dir.mkdir()
    (dev.data_dir / name).write_bytes(b"not a database, though long enough to be taken for one" * 100)
    line = await refusal(dev.process)
    assert f"{dev.data_dir / name} cannot be used: file is not a database" in line


async def test_a_database_without_the_key_of_its_secrets_is_refused(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    dev.data_dir.mkdir()
    with contextlib.closing(sqlite3.connect(dev.data_dir / "everhook.db")) as connection, connection:
        connection.execute("CREATE TABLE endpoint_secret (gid TEXT)")
    line = await refusal(dev.process)
    assert f"{dev.data_dir / 'master-key'} is missing" in line and "EVERHOOK_MASTER_KEYS" in line


async def test_an_invalid_master_key_is_named_and_not_shown(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    dev.data_dir.mkdir()
    (dev.data_dir / "master-key").write_text("hunter2")
    line = await refusal(dev.process)
    assert f"{dev.data_dir / 'master-key'} cannot be used: a master key is 32 bytes in base64" in line
    assert "hunter2" not in line


async def test_a_database_of_another_version_is_named(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    dev.data_dir.mkdir()
    (dev.data_dir / "master-key").write_text(new_master_key())
    with contextlib.closing(sqlite3.connect(dev.data_dir / "everhook.db")) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    assert "everhook.db cannot be used: Can't locate revision" in await refusal(dev.process)


async def test_a_missing_temporal_is_reported_with_the_fix(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    python = tmp_path / "bin" / "python"  # a directory without a `temporal`
    python.parent.mkdir()
    python.symlink_to(REAL_PYTHON)
    process = Process(
        [python, "-m", "cli", "dev", *dev.options],
        log=tmp_path / "dev.log",
        env={
            "PATH": str(python.parent),
            "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/sdk/python:{sysconfig.get_path('purelib')}",
        },
    )
    assert "pip install 'everhook[embedded]'" in await refusal(process)
