"""Logs: structlog, JSON in production and coloured lines in dev; libraries' own loggers come out the same way."""

import logging
import re
import sys
import time
from collections.abc import Callable

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from everhook.observability.seldom import Seldom
from everhook.temporal.sdk_errors import in_words

_QUIET = {
    # httpx and httpcore log full URLs, queries and all.
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "aiosqlite": logging.WARNING,
    "alembic": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.WARNING,
    # The SDK logs each failed try of an activity with its traceback; what matters of it we log ourselves.
    "temporalio.activity": logging.ERROR,
}


SDK_CORE = "temporalio.core"
SAME_LINE_S = 60.0

_WITH_DIGITS = re.compile(r"[\w-]*\d[\w-]*")
"""A number, an id such as `dlv_01m8…`, a run id."""


def configure_logging(log_format: str, level: str, *, handler: logging.Handler | None = None) -> None:
    """Send every log line of this process to one place in one form: to `handler`, else to standard error."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _say_in_words,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    json = log_format == "json"
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(
            exception_formatter=structlog.dev.plain_traceback  # the other one shows locals, secrets among them
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    handler = handler or logging.StreamHandler(sys.stderr)
    errors: list[Processor] = [structlog.processors.format_exc_info] if json else []
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *errors, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)
    _thin_out(logging.getLogger(SDK_CORE))
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


def _say_in_words(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What the SDK's core says comes as values of Rust, in our own lines and in those that it writes."""
    for name in ("event", "error"):
        if isinstance(value := event.get(name), str):
            event[name] = in_words(value)
    return event


class OnceAMinute(logging.Filter):
    """Lets one line of a kind through a minute; the next one says how many were left out.

    Each poller, and each call for a delivery, reports for itself that Temporal is away. Two lines are of one kind when
    the SDK's core has the same message, whatever its numbers, ids and fields (which hold the error) are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seldom = Seldom(SAME_LINE_S, clock)

    def filter(self, record: logging.LogRecord) -> bool:
        left_out = self._seldom.due(_kind_of(record))
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like it were left out)", ()
        return left_out is not None


def _kind_of(record: logging.LogRecord) -> str:
    forwarded = getattr(record, "temporal_log", None)
    text = f"{forwarded.target} {forwarded.message}" if forwarded is not None else record.getMessage()
    return _WITH_DIGITS.sub("0", text)


def _thin_out(logger: logging.Logger) -> None:
    logger.filters = [OnceAMinute()]
