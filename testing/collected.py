"""The processes of a run in several, forked from one that has collected the tests.

xdist starts an interpreter for each of its processes, which imports the product and all tests: 8 s of CPU, and 18 s
in a fresh clone, where each compiles them too. Here a server does that once, and its forks take 3 s each.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from testing.fork_server import fork_server, forks

_CLIENT = Path(__file__).with_name("as_fork.py")
_STANDARD_STREAMS = (0, 1, 2)
_MAX_CODE_BYTES = 64 * 1024


@contextlib.contextmanager
def forks_of(tests: Sequence[str]) -> Iterator[str]:
    """The command that takes the place of `python`. `tests` as on the command line of pytest."""
    with fork_server(__name__, *tests) as path:
        yield f"{sys.executable} -SE {_CLIENT} {path}"


def _run(request: socket.socket) -> None:
    """Become the interpreter that was asked for."""
    code, streams, _, _ = socket.recv_fds(request, _MAX_CODE_BYTES, len(_STANDARD_STREAMS))
    for stream, target in zip(streams, _STANDARD_STREAMS, strict=True):
        os.dup2(stream, target)
        os.close(stream)
    request.close()
    sys.argv = ["-c"]
    exec(code, {"__name__": "__main__"})


def _tabulate_characters() -> int:
    """Have a child of this process compute the tables of all characters that Hypothesis keeps in a file: 3 s, for each
    process that needs them and does not find the file. Returns the child."""
    if child := os.fork():
        return child
    from hypothesis import strategies

    strategies.text().validate()
    os._exit(0)


if __name__ == "__main__":
    child = _tabulate_characters()
    # What cannot be imported fails again, and is reported, in each fork.
    pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "-n0", *sys.argv[2:]])
    from testing.api import openapi_document  # after tests/conftest.py, which prepares the environment

    openapi_document()  # 1 s, and some test needs it in every process
    os.waitpid(child, 0)
    for request in forks(int(sys.argv[1])):
        _run(request)
