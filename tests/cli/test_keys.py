"""`everhook keys`, and the processes that do not start without master keys, from the command line."""

import asyncio
import shutil
import socket
import sys
from pathlib import Path

import pytest

from everhook.delivery.snapshot_store import DestinationCache
from everhook.storage.engine import Database
from everhook.storage.header_encryption import count_plain_headers
from everhook.storage.keyring import KeyRing, new_master_key
from everhook.storage.migrate import migrate
from everhook.storage.tables import Endpoint, now
from testing.processes import Process
from tests.cli.conftest import Everhook, Result
from tests.stores.factories import KEYRING, Store

API_KEY = "k" * 24


class Here:
    """`everhook …` in this process, in an empty directory."""

    def __init__(self, command: Everhook, monkeypatch: pytest.MonkeyPatch) -> None:
        self._command = command
        self._monkeypatch = monkeypatch

    async def __call__(self, *arguments: str, **env: str) -> Result:
        for name, value in {"EVERHOOK_MASTER_KEYS": "", "EVERHOOK_API_KEY": API_KEY, "COLUMNS": "200", **env}.items():
            self._monkeypatch.setenv(name, value)
        return await self._command(*arguments)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    monkeypatch.chdir(tmp_path)
    return Here(Everhook(capsys), monkeypatch)


def everhook(directory: Path, *arguments: str, **env: str) -> Process:
    clean = {"EVERHOOK_MASTER_KEYS": "", "EVERHOOK_API_KEY": API_KEY, "COLUMNS": "200", **env}
    return Process([sys.executable, "-m", "cli", *arguments], log=directory / "everhook.log", env=clean, forked=True)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "everhook.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def database_url(migrated: Path, tmp_path: Path) -> str:
    shutil.copy(migrated, tmp_path / "everhook.db")
    return f"sqlite+aiosqlite:///{tmp_path / 'everhook.db'}"


@pytest.mark.parametrize("command", [["serve"], ["worker"], ["keys", "rotate-master"]], ids=lambda command: command[-1])
@pytest.mark.parametrize("keys", ["", "hunter2"], ids=["missing", "malformed"])
async def test_without_master_keys_serve_prints_one_line_and_does_not_start(
    tmp_path: Path, command: list[str], keys: str
) -> None:
    process = everhook(tmp_path, *command, EVERHOOK_MASTER_KEYS=keys)
    process.start()
    assert await process.wait(timeout=20) == 2, process.tail()
    (line,) = process.output().splitlines()
    assert line.startswith("everhook: ") and "EVERHOOK_MASTER_KEYS" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("command", "setting"),
    [("serve", "EVERHOOK_PORT"), ("serve", "EVERHOOK_METRICS_PORT"), ("worker", "EVERHOOK_METRICS_PORT")],
)
async def test_with_its_port_taken_serve_prints_one_line_and_does_not_start(
    tmp_path: Path, command: str, setting: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"EVERHOOK_MASTER_KEYS": new_master_key(), "EVERHOOK_ISSUER": "hooks.example.com", setting: str(port)}
        process = everhook(tmp_path, command, **({"EVERHOOK_PORT": "0"} | env))
        process.start()
        assert await process.wait(timeout=20) == 2, process.tail()
    (line,) = process.output().splitlines()
    assert line.startswith("everhook: ") and f"127.0.0.1:{port}" in line and setting in line


async def test_a_new_master_key_is_one_that_encrypts(here: Here) -> None:
    printed = (await here("keys", "new-master")).out.strip()
    assert KeyRing([printed]).encrypt("x", "place")
    assert printed != (await here("keys", "new-master")).out.strip()


async def test_a_rotation_of_the_master_key_reports_counts_and_when_old_keys_are_not_needed(
    here: Here, database_url: str
) -> None:
    old, new = new_master_key(), new_master_key()
    database = Database(database_url)
    ends = [await Store(database, KeyRing([old])).endpoint() for _ in range(3)]

    keys = {"EVERHOOK_DATABASE_URL": database_url, "EVERHOOK_MASTER_KEYS": f"{new},{old}"}
    first = await here("keys", "rotate-master", **keys)
    again = await here("keys", "rotate-master", **keys)

    assert (first.status, again.status) == (0, 0)
    assert "encrypted with the first key: 3" in first.out and "the other keys are no longer needed" in first.out
    assert "encrypted with the first key: 0" in again.out
    for end in ends:
        assert (await DestinationCache(database, KeyRing([new])).get(end.gid, 1)).live_keys(now())
    await database.close()


async def test_headers_of_an_earlier_release_are_encrypted_as_well(here: Here, database_url: str) -> None:
    database, key = Database(database_url), new_master_key()
    endpoint = await Store(database, KeyRing([key])).endpoint()
    async with database.writing() as session:
        (await session.get_one(Endpoint, endpoint.gid)).headers = {"x-key": "value"}

    result = await here("keys", "rotate-master", EVERHOOK_DATABASE_URL=database_url, EVERHOOK_MASTER_KEYS=key)

    assert (result.status, "encrypted with the first key: 1" in result.out) == (0, True)
    assert await count_plain_headers(database) == 0
    await database.close()


async def test_rows_that_cannot_be_rotated_are_reported_with_the_missing_key(here: Here, database_url: str) -> None:
    database = Database(database_url)
    await Store(database).endpoint()
    await database.close()

    keys = {"EVERHOOK_DATABASE_URL": database_url, "EVERHOOK_MASTER_KEYS": new_master_key()}
    result = await here("keys", "rotate-master", **keys)

    assert result.status == 1
    missing = KEYRING.current.split(".")[1]
    assert f"not changed: 1 (no master key {missing} in the ring)" in result.out + result.err
    assert "keep the other keys: 1 " in result.out + result.err


async def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    keys = {"EVERHOOK_DATABASE_URL": f"sqlite:///{tmp_path}", "EVERHOOK_MASTER_KEYS": new_master_key()}
    process = everhook(tmp_path, "keys", "rotate-master", **keys)
    process.start()
    assert await process.wait(timeout=20) == 2, process.tail()
    assert "(EVERHOOK_DATABASE_URL) cannot be used" in process.output() and "Traceback" not in process.output()
