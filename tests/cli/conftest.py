"""A real API on a real port with a real Temporal, workers and a receiver, which the package shares; and commands that
use it.

Commands run in this process, in a thread: as `everhook` runs them, without the start of an interpreter.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from temporalio.client import Client

from cli.main import run
from everhook.settings import Settings
from testing.api import API_KEY, Api, on_a_port
from testing.in_process import running_in_process
from testing.receiver import Receiver
from tests.api.conftest import copied, migrated_file

__all__ = ["migrated_file"]

ON_LIVE = pytest.mark.asyncio(loop_scope="package")
"""For tests that use `live`: they run in its event loop."""


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Everhook:
    """`everhook …` as a person in an empty directory runs it, who has set EVERHOOK_URL and EVERHOOK_API_KEY."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    async def __call__(self, *arguments: str) -> Result:
        self._capture.readouterr()
        status = await asyncio.to_thread(run, list(arguments))
        captured = self._capture.readouterr()
        return Result(status, captured.out, captured.err)

    async def ok(self, *arguments: str) -> Result:
        result = await self(*arguments)
        assert result.status == 0, f"status {result.status}\n{result.out}{result.err}"
        return result

    async def json(self, *arguments: str) -> Any:
        """The JSON that a successful command prints with `--json`; standard output has nothing else."""
        return (await self.ok(*arguments, "--json")).json


@dataclass(frozen=True)
class Live:
    api: Api
    url: str
    receiver: Receiver
    temporal: Client
    temporal_address: str
    settings: Settings


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def live(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    directory = tmp_path_factory.mktemp("client")
    settings = copied(migrated_file, directory)
    # The workers' log would stand among what commands print.
    with capture_logs():
        async with running_in_process(settings, directory) as running, on_a_port(running.api.app) as port:
            await running.api.channel()
            yield Live(
                running.api,
                f"http://127.0.0.1:{port}",
                running.receiver,
                running.temporal,
                running.temporal_address,
                settings,
            )


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """GNU readline, which pytest imports, sets `COLUMNS` in some processes of a run."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory and an environment without settings."""
    for name in ("EVERHOOK_URL", "EVERHOOK_API_KEY", "EVERHOOK_PROFILE", "WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture
def plain(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> Everhook:
    """Without any API."""
    return Everhook(capsys)


@pytest.fixture
def everhook(
    live: Live, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Everhook:
    monkeypatch.setenv("EVERHOOK_URL", live.url)
    monkeypatch.setenv("EVERHOOK_API_KEY", API_KEY)
    return Everhook(capsys)
