"""Tracebacks in the logs of tests are plain."""

from structlog.dev import ConsoleRenderer, plain_traceback


def log_plain_tracebacks() -> None:
    """Nothing configures the logs of most tests, and by default structlog draws each traceback with Rich, together with
    the source and the variables around each line: a second of CPU time for each exception that is logged."""
    ConsoleRenderer.get_active().exception_formatter = plain_traceback
