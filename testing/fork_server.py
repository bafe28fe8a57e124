"""Servers that fork: processes that import much once, and then become a new process for each connection.

A server has one thread, no event loop and no connection, so that its forks share nothing that must not be shared.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of prctl(2): the kernel ends a child whose parent was killed."""


@contextlib.contextmanager
def fork_server(module: str, *arguments: str) -> Iterator[Path]:
    """The Unix socket of a server: a module that is run with the descriptor of the socket, and then these arguments."""
    with tempfile.TemporaryDirectory(prefix="everhook-forks-") as directory:
        path = Path(directory) / "socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen()
            server = subprocess.Popen(
                [sys.executable, "-u", "-m", module, str(listener.fileno()), *arguments],
                stdin=subprocess.PIPE,  # it ends when this is closed, be it by the death of this process
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                cwd=Path(__file__).resolve().parents[1],
            )
        try:
            yield path
        finally:
            server.communicate()


def forks(descriptor: int) -> Iterator[socket.socket]:
    """Fork this process for each connection to the socket with this descriptor, until the standard input ends.

    Yields the connection in the fork, and nothing in this process.
    """
    listener = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that end leave no zombie
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        with connection:
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                yield connection
                return
    listener.close()


def end_with_parent() -> None:
    """Be killed when the process that forked this one ends, where the kernel can do that."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
