"""Standard streams and arguments as a shell may hand them over: closed, full, of another encoding."""

import errno
import io
import os
import sys
from collections.abc import Sequence

from cli.errors import CommandError, UsageError

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
BROKEN_PIPE_STATUS = 141
"""What a shell reports of a program that SIGPIPE ended."""


class CannotWrite(CommandError):
    """The output has no room, or nowhere to go."""


def open_streams() -> None:
    """Have three standard streams. Raises UsageError if standard output is closed: what a command prints, such as a new
    key, may be had once only.

    A closed descriptor is occupied, else the next file or socket would get its number, and what is printed with it.
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
            stream.reconfigure(errors="replace")  # an encoding without our marks gets question marks
    if is_closed:
        raise UsageError("standard output is closed; send it to /dev/null if nobody is to read it")


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UsageError for an argument that is not UTF-8: it could not be sent, stored or printed."""
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"argument {number} is not UTF-8, at its character {error.start + 1}") from error


def flush() -> None:
    """Write what is still buffered. Raises as writing does."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def explained(error: OSError) -> CannotWrite | None:
    """What an error of writing means for the person at the terminal; None for other errors."""
    if error.errno in UNWRITABLE:
        return CannotWrite(f"the output cannot be written: {error.strerror}")
    return None
