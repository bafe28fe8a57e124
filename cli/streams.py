"""Standard streams and arguments as a shell may pass them: closed, full, in another encoding."""

import errno
import io
import os
import sys
from collections.abc import Sequence

from cli.errors import CommandError, UsageError

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
BROKEN_PIPE_STATUS = 141
"""The status that a shell reports for a program that SIGPIPE ended."""


class CannotWrite(CommandError):
    """The output is full or closed."""


def open_streams() -> None:
    """Open missing standard streams. Raises UsageError if standard output is closed: what a command prints, such as a
    new key, may be shown only once.

    A closed descriptor is replaced; otherwise the next file or socket would get its number, and the printed output.
    """
    is_closed = sys.stdout is None
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - open for as long as the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding without these characters gets question marks
    if is_closed:
        raise UsageError("standard output is closed; redirect it to /dev/null if it is not needed")


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UsageError for an argument that is not UTF-8, which cannot be sent, stored or printed."""
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"argument {number} is not UTF-8, at its character {error.start + 1}") from error


def flush() -> None:
    """Write buffered output. Raises the errors of writing."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def explained(error: OSError) -> CannotWrite | None:
    """The error for people if writing the output failed; None for other errors."""
    if error.errno in UNWRITABLE:
        return CannotWrite(f"the output cannot be written: {error.strerror}")
    return None
