"""The parent of several processes, with child processes that misbehave."""

import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from testing.processes import Process
from testing.waiting import assert_eventually

PARENT = """
import sys
from cli import supervisor
from everhook import event_loop
from everhook.serving.server import Address
from everhook.settings import Settings

address, command = Address("127.0.0.1", 0, "--port"), [sys.executable, "-c", sys.argv[1]]
sys.exit(event_loop.run(supervisor.Supervisor(address, command, Settings(dev=True)).run(2)))
"""
READY = "import os, signal, socket, sys, time; channel = socket.socket(fileno=os.dup(0)); channel.send(b'r'); "
STARTED = "print('I am up', flush=True); "
SERVING = """
import sys
from cli.supervisor import end_with_parent, inherited_sockets
from everhook.serving import limits, server

async def app(scope, receive, send): ...

ready, sockets = end_with_parent(), inherited_sockets(sys.argv[1])
server.run(app, sockets, limits.DEFAULT_LIMITS, lambda: None, ready)
"""
"""As `everhook serve` in a process, with an application that does nothing."""


def parent_of(child: str, directory: Path) -> Process:
    process = Process([sys.executable, "-c", PARENT, child], log=directory / "parent.log")
    process.start()
    return process


async def test_processes_that_do_not_come_up_end_the_parent_with_their_status(tmp_path: Path) -> None:
    parent = parent_of("import sys; sys.exit(3)", tmp_path)

    assert await parent.wait() == 3


async def test_a_process_that_ends_again_and_again_is_started_later_and_later(tmp_path: Path) -> None:
    parent = parent_of(READY + STARTED + "sys.exit(1)", tmp_path)

    await assert_eventually(lambda: _assert_output(parent, "I am up", 4))
    await assert_eventually(lambda: _assert_output(parent, "starting another", 4))
    parent.send_signal(signal.SIGTERM)

    assert await parent.wait() == 0


async def test_a_second_signal_kills_processes_that_do_not_drain(tmp_path: Path) -> None:
    stubborn = "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True)); "
    parent = parent_of(READY + stubborn + STARTED + "\nwhile True: time.sleep(1)", tmp_path)
    await assert_eventually(lambda: _assert_output(parent, "I am up", 2))

    parent.send_signal(signal.SIGTERM)
    await assert_eventually(lambda: _assert_output(parent, "asked", 2))
    assert parent.running
    parent.send_signal(signal.SIGTERM)

    assert await parent.wait() == 1


async def test_processes_whose_parent_is_killed_end_too(tmp_path: Path) -> None:
    parent = parent_of(SERVING, tmp_path)
    await assert_eventually(lambda: _assert_output(parent, "serving the API", 2))
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    try:
        parent.send_signal(signal.SIGKILL)

        await assert_eventually(lambda: _assert_ended(children), 30)
    finally:
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _assert_ended(children: Sequence[psutil.Process]) -> None:
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def _assert_output(process: Process, line: str, times: int) -> None:
    process.check_alive()
    assert process.output().count(line) >= times
