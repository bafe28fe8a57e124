"""The first hour of a new user: what the pages print for pasting succeeds, as it is printed, next to a `make dev`."""

import asyncio
import contextlib
import re
import shlex
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from testing.processes import REPOSITORY, clean_environment, free_port
from testing.waiting import assert_eventually
from tests.e2e.test_dev import Dev, running

README, CLI = REPOSITORY / "README.md", REPOSITORY / "docs/cli.md"
EVERHOOK = f"{shlex.quote(sys.executable)} -m cli"
SHORT = "--duration 1"
"""Shorter than the 20 seconds on the page; the rate and all other options are as printed."""

PATIENT = {"EVERHOOK_CIRCUIT_FAILURE_THRESHOLD": "50"}
"""Retries are late on a busy machine: five first attempts may fail before one of them succeeds."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    async with running(Dev(tmp_path_factory.mktemp("first"), env=PATIENT)) as running_dev:
        (running_dev.data_dir.parent / ".everhook").symlink_to(running_dev.data_dir)
        yield running_dev


def block(page: Path, heading: str, number: int = 0) -> list[str]:
    """The lines of a block of shell under a heading; those that a backslash continues are one."""
    section = page.read_text().split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]
    source = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[number]
    lines = source.replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@dataclass
class Shell:
    """Runs lines in the directory with the data directory of `dev`, where port 8080 is that of `dev`."""

    dev: Dev
    receiver_port: int

    def put(self, line: str) -> str:
        line = line.replace(".venv/bin/everhook", EVERHOOK)
        line = line.replace("127.0.0.1:8080", f"127.0.0.1:{self.dev.port}")
        return line.replace("9000", str(self.receiver_port))

    async def start(self, script: list[str], stdout: int = PIPE) -> asyncio.subprocess.Process:
        lines = ["shopt -s expand_aliases", f"alias everhook='{EVERHOOK}'", *map(self.put, script)]
        return await asyncio.create_subprocess_exec(
            "bash", "-ec", "\n".join(lines), cwd=self.dev.data_dir.parent, env=clean_environment({}),
            stdin=DEVNULL, stdout=stdout, stderr=PIPE,
        )  # fmt: skip

    async def run(self, *script: str) -> str:
        """Its output. It must succeed."""
        process = await self.start(list(script))
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode == 0, f"{script[-1]}\n{out.decode()}\n{err.decode()}"
        return out.decode()

    @contextlib.asynccontextmanager
    async def in_background(self, line: str) -> AsyncIterator[None]:
        """A command that runs until Ctrl-C, from when it says that it has started."""
        process = await self.start([f"exec {line.replace('everhook', EVERHOOK, 1)}"], stdout=DEVNULL)
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while not re.search(rb"receiving at|watching", said := await process.stderr.readline()):
                assert said, f"{line} ended"
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(30):
                await process.communicate()


@pytest.fixture
def shell(dev: Dev) -> Shell:
    return Shell(dev, free_port())


async def test_the_calls_in_the_readme_end_in_a_delivery_with_status_200(shell: Shell) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    (receive,) = block(README, "## Publish with curl", 0)
    *calls, look = block(README, "## Publish with curl", 1)
    async with shell.in_background(receive.replace(".venv/bin/", "")):
        output = await shell.run(*calls)
        (gid,) = re.findall(r"dlv_\w+", output)

        async def is_delivered() -> None:
            shown = await shell.run(*calls[:2], look.replace("dlv_…", gid))
            assert '"status":"delivered"' in shown and '"statusCode":200' in shown

        await assert_eventually(is_delivered)


PAGES = [(README, "## Or with the command line"), (CLI, "## Try it"), (CLI, "## Simulate")]


async def test_the_commands_of_each_page_succeed(dev: Dev) -> None:
    """The pages at the same time, for they mostly wait. What runs in the background runs until all have ended."""
    async with contextlib.AsyncExitStack() as background, asyncio.TaskGroup() as pages:
        for page, heading in PAGES:
            pages.create_task(succeed(Shell(dev, free_port()), block(page, heading), background))


async def succeed(shell: Shell, lines: list[str], background: contextlib.AsyncExitStack) -> None:
    for line in lines:
        words = line.partition(" #")[0].strip()
        if words.startswith("alias"):
            continue
        if re.match(r"everhook (receive|deliveries watch)", words):
            await background.enter_async_context(shell.in_background(words))
            continue
        if words.startswith("everhook simulate") and "--count" not in words:
            words = f"{re.sub('--duration [0-9]+', '', words)} {SHORT}"
        if words != "everhook channels create shop":
            await shell.run(words)
        else:  # each page begins with it, and they share what runs
            await shell.run(f"{words} 2> /dev/null || everhook channels show shop")
