"""Every command has valid examples and `--json`, and is listed without importing its implementation."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import typer.main

from cli.main import app, run

RUNS = {"migrate", "setup", "serve", "worker", "dev"}
PRINTS_JSON = {("receipts", "extract")}
"""They run Everhook and print no result."""
HEAVY = ("httpx", "pydantic", "temporalio", "sqlalchemy", "cryptography", "fastapi", "uvicorn", "structlog")


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands, with their paths."""
    children: Mapping[str, Any] = getattr(group or typer.main.get_command(app), "commands")  # noqa: B009 - of a Group
    for name, command in children.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands())


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_json_output_help_and_examples(path: tuple[str, ...]) -> None:
    command = ALL[path]
    has_json = "--json" in {option for parameter in command.params for option in parameter.opts}
    assert has_json or path[0] in RUNS or path in PRINTS_JSON
    assert command.help
    examples = _examples(command)
    assert examples
    for example in examples:
        words = shlex.split(example.partition(" < ")[0])
        assert words[: len(path) + 1] == ["everhook", *path]
        command.make_context(path[-1], words[len(path) + 1 :], resilient_parsing=False).close()


def _examples(command: Any) -> list[str]:
    return [line.strip().replace("\\[", "[") for line in command.epilog.splitlines() if "everhook" in line]


def test_help_does_not_import_the_implementation() -> None:
    code = f"import sys, cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_help_fits_80_columns() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "cli", "--help"],
        env={"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert max(map(len, shown.splitlines())) <= 80
    for path in ALL:
        assert re.search(rf"^│ {path[0]} ", shown, re.MULTILINE), path


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_the_program_is_called_everhook_however_it_is_started(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/everhook/cli/__main__.py", *path, "--help"])
    assert run() == 0
    shown = capsys.readouterr().out
    assert f"Usage: {' '.join(('everhook', *path))} " in " ".join(shown.split())
    assert "python -m" not in shown and "cli.py" not in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("deliveries list --status done", "Invalid value for '--status': 'done' is not one of 'accepted', "),
        ("channels create a --preset x", "Invalid value for '--preset': 'x' is not one of 'documented', "),
        ("--api-url X status", "--api-url; options follow the command: everhook COMMAND --api-url …\n"),
        ("keys --json list", "--json; options follow the command: everhook keys COMMAND --json …\n"),
        ("keys list --jso", "Error: No such option: --jso (Possible options: --json)\n"),
        ("keys list --tenant x", "Error: No such option: --tenant\n"),
    ],
)
def test_a_wrong_option_is_explained(capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    assert run(line.split()) == 2
    assert message in capsys.readouterr().err
