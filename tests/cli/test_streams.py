"""`everhook` with closed streams and unusual arguments from a shell: one line of error, and no traceback."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from everhook.storage.keyring import new_master_key
from testing.processes import clean_environment
from tests.cli.conftest import Everhook

DEAD_API = "http://127.0.0.1:1"


def everhook(directory: Path, line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell in which `everhook` is the command."""
    script = f'everhook() {{ "{sys.executable}" -m cli "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", script], cwd=directory, env=clean_environment({"EVERHOOK_URL": DEAD_API}), capture_output=True
    )


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("everhook --help > /dev/full", 1, b"the output cannot be written: No space left on device"),
        ("everhook keys new-master > /dev/full", 1, b"No space left on device"),
        ("everhook keys new-master >&-", 2, b"standard output is closed"),
        ("everhook channels list >&- 2>&-", 2, b""),
        ("everhook keys new-master 2>&-", 0, b""),
        ("everhook publish c --file - <&-", 2, b"the payload is not JSON"),
        ("everhook channels delete c <&-", 2, b"Confirm with --yes"),
        ('everhook publish c $\'{"s":"\\xff"}\'', 2, b"argument 3 is not UTF-8, at its character 7"),
        ("everhook keys create --name $'\\xff'", 2, b"argument 4 is not UTF-8"),
        ("PYTHONIOENCODING=ascii everhook profile list", 0, b""),
        ("everhook endpoints update ep_1 --rate-limit nan", 2, b"--rate-limit must be a number"),
    ],
)
def test_a_command_ends_with_a_line_that_says_what_is_wrong(
    tmp_path: Path, line: str, status: int, said: bytes
) -> None:
    result = everhook(tmp_path, line)
    assert said in result.stderr
    assert b"Traceback" not in result.stderr
    assert result.returncode == status


def test_a_pipe_that_is_closed_early_is_not_reported(tmp_path: Path) -> None:
    assert everhook(tmp_path, "everhook --help | true").stderr == b""


@pytest.mark.parametrize("command", ["keys list", "receipts audit"])
def test_a_command_without_a_database_creates_none(tmp_path: Path, command: str) -> None:
    settings = f"EVERHOOK_DATABASE_URL=sqlite:///new/here.db EVERHOOK_MASTER_KEYS={new_master_key()}"
    line = f"{settings} everhook {command}"
    result = everhook(tmp_path, line)
    assert result.returncode == 2
    assert b"there is no database new/here.db" in result.stderr and b"`everhook migrate` creates it" in result.stderr
    assert list(tmp_path.iterdir()) == []


async def test_a_line_of_a_migration_is_not_wrapped_in_a_pipe(plain: Everhook, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "0042: [b]" + " long" * 40

    async def migrate(_url: str, report: Callable[[str], None], *, partition: bool) -> None:
        report(line)

    monkeypatch.setattr("everhook.storage.migrate.migrate", migrate)
    assert line in (await plain.ok("migrate")).out.splitlines()
