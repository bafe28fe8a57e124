"""Processes of the product, forked from one that has imported it.

Importing the product takes more than a second of CPU, and the tests start it hundreds of times. Here one process
imports it once and forks a child for each start: an API then uses 0.1 s of CPU until it is ready, a worker 0.3 s, and
not 3 s. The child is as real as any: it has a session, a log, an environment and a pid of its own, runs the same entry
point, and is stopped and killed like others. Tests of the commands themselves start these without a fork.

For each process of the tests a server forks a parent, which reads requests as lines of JSON and writes a line for each.
Its children end with it, and it ends with the process of the tests.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from testing.fork_server import end_with_parent, fork_server, forks

PRELOADED = (
    "aiosqlite",
    "api.main",
    "asyncpg",
    "cli.api_keys",
    "cli.commands.status",
    "cli.dev.stack",
    "cli.main",
    "cli.supervisor",
    "everhook.event_loop",
    "everhook.serving.server",
    "everhook.storage.migrate",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "testing.receiver",
    "typer._adapters",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "worker",
)

_SERVER = "EVERHOOK_TEST_FORKS"
"""The environment variable with the socket of the server. Processes of the product do not inherit it
(`clean_environment`): those in another network namespace need a server, and forks, in that namespace."""


class Forked:
    """A child, with what `testing.processes` needs of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        if self._status is None:
            self._status = _ask({"poll": self.pid}).get("status")
        return self._status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


@contextlib.contextmanager
def one_server_for_all() -> Iterator[None]:
    """Start the server that this process and the test processes that it starts share."""
    with fork_server(__name__) as path:
        os.environ[_SERVER] = str(path)
        try:
            yield
        finally:
            del os.environ[_SERVER]


def prepare() -> None:
    """Start to import the product, so that the first fork, which waits for that, takes less time."""
    _parent()


def fork(command: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path) -> Forked:
    """Start a command of Python. Its output is appended to `log`."""
    arguments = [str(part) for part in command[1:]]
    return Forked(_ask({"start": arguments, "log": str(log), "env": dict(env), "cwd": str(cwd)})["pid"])


def _ask(request: Mapping[str, Any]) -> dict[str, Any]:
    requests, responses = _parent()
    try:
        requests.write(json.dumps(request).encode() + b"\n")
        requests.flush()
        response: dict[str, Any] = json.loads(responses.readline() or b"{}")
    except (OSError, ValueError):
        response = {}
    return response or {"status": -signal.SIGKILL}  # it is gone, and its children with it


@functools.cache
def _parent() -> tuple[BinaryIO, BinaryIO]:
    """Requests to and responses of the process that forks for this one."""
    if _SERVER not in os.environ:
        until_the_end = contextlib.ExitStack()
        atexit.register(until_the_end.close)
        until_the_end.enter_context(one_server_for_all())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(os.environ[_SERVER])
        return connection.makefile("wb"), connection.makefile("rb")


def _preload() -> None:
    gc.disable()
    for module in PRELOADED:
        importlib.import_module(module)
    sys.modules["api.dashboard"].warm_up()
    sys.modules["cli.main"].command()
    gc.freeze()


def _serve(connection: socket.socket) -> None:
    """Fork for the requests of a connection until it ends, which ends these forks too."""
    end_with_parent()
    ended: dict[int, int] = {}
    requests, responses = connection.makefile("rb"), connection.makefile("wb")
    for line in requests:
        request = json.loads(line)
        if "poll" in request:
            response = {"status": _status_of(request["poll"], ended)}
        else:
            pid = os.fork()
            if pid == 0:
                _run(request)
            response = {"pid": pid}
        responses.write(json.dumps(response).encode() + b"\n")
        responses.flush()


def _status_of(pid: int, ended: dict[int, int]) -> int | None:
    if pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == 0:
            return None
        ended[pid] = os.waitstatus_to_exitcode(status)
    return ended[pid]


def _run(request: dict[str, Any]) -> None:
    """Become the process that was asked for, and never return."""
    status = 1
    try:
        os.setsid()
        end_with_parent()
        output = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.closerange(3, max(output, nothing) + 1)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        gc.enable()
        status = _run_python(request["start"])
    except BaseException:  # as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_python(arguments: list[str]) -> int:
    """Run `-m module …` or `script.py …`, as the interpreter would. Returns the exit status."""
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        sys.stderr.write(f"{error.code}\n")
        return 1
    return 0


if __name__ == "__main__":
    _preload()
    for connection in forks(int(sys.argv[1])):
        _serve(connection)
