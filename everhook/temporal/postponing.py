"""Postponed activities: Temporal's timer waits for the retry, and no worker slot is held."""

import random
from datetime import timedelta

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory


def postponed(why: str, kind: str, seconds: float) -> ApplicationError:
    """An error for an activity to raise: Temporal retries it after this many seconds. It adds nothing to the
    history."""
    return ApplicationError(
        why,
        type=kind,
        next_retry_delay=timedelta(seconds=seconds),
        category=ApplicationErrorCategory.BENIGN,  # no warning in the log, no failure in the SDK's metrics
    )


def back_off(tries: int, *, first_s: float, longest_s: float) -> float:
    """The back-off in seconds after this many tries: doubled each time, with jitter, so that retries are spread."""
    return min(longest_s, first_s * 2.0 ** min(tries - 1, 30)) * random.uniform(0.5, 1)  # noqa: S311 - jitter
