"""Logging: structlog, JSON in production and coloured lines in dev; the loggers of libraries use the same format."""

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
    # httpx and httpcore log full URLs, including queries.
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "aiosqlite": logging.WARNING,
    "alembic": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.WARNING,
    # The SDK logs each failed try of an activity with its traceback; Everhook logs the relevant ones itself.
    "temporalio.activity": logging.ERROR,
}


SDK_CORE = "temporalio.core"
SAME_LINE_S = 60.0

_WITH_DIGITS = re.compile(r"[\w-]*\d[\w-]*")
"""A number, an id such as `dlv_01m8…`, or a run id."""


def configure_logging(log_format: str, level: str, *, handler: logging.Handler | None = None) -> None:
    """Send all log lines of this process to one handler in one format: to `handler`, or to standard error."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _make_readable,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    json = log_format == "json"
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(
            exception_formatter=structlog.dev.plain_traceback  # the other one shows locals
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
    _limit_repetition(logging.getLogger(SDK_CORE))
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


def _make_readable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the Rust values of the SDK's core in messages and errors."""
    for name in ("event", "error"):
        if isinstance(value := event.get(name), str):
            event[name] = in_words(value)
    return event


class OnceAMinute(logging.Filter):
    """Lets one line of a kind through each minute; the next one says how many were suppressed.

    While Temporal is unavailable each poller and each call reports it. Two lines are of one kind if the SDK's core has
    the same message, apart from numbers, ids and fields (which hold the error).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seldom = Seldom(SAME_LINE_S, clock)

    def filter(self, record: logging.LogRecord) -> bool:
        left_out = self._seldom.due(_kind_of(record))
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} similar lines suppressed)", ()
        return left_out is not None


def _kind_of(record: logging.LogRecord) -> str:
    forwarded = getattr(record, "temporal_log", None)
    text = f"{forwarded.target} {forwarded.message}" if forwarded is not None else record.getMessage()
    return _WITH_DIGITS.sub("0", text)


def _limit_repetition(logger: logging.Logger) -> None:
    logger.filters = [OnceAMinute()]
