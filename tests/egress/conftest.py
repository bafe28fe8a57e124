"""One run of the whole corpus, which many tests check."""

import json
import subprocess
import sys
from typing import Any

import pytest

from testing.processes import REPOSITORY, clean_environment
from tests.egress import room
from tests.egress.inside import REPORT

Report = dict[str, Any]


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What happened to Everhook in the room (`inside.py`)."""
    if reason := room.why_not():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("room")
    command = room.inside([sys.executable, "-m", "tests.egress.inside", str(directory)], directory)
    done = subprocess.run(
        command, cwd=REPOSITORY, env=clean_environment(), capture_output=True, text=True, timeout=290, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"the exercise failed:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    happened: Report = json.loads((directory / REPORT).read_text())
    return happened
