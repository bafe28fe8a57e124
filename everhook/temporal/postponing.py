"""Activities that are asked for again later: Temporal's own timer waits, and no slot of a worker is held."""

import random
from datetime import timedelta

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory


def postponed(why: str, kind: str, seconds: float) -> ApplicationError:
    """To be raised by an activity: Temporal runs it again after so many seconds. It adds nothing to the history."""
    return ApplicationError(
        why,
        type=kind,
        next_retry_delay=timedelta(seconds=seconds),
        category=ApplicationErrorCategory.BENIGN,  # neither a warning in the log nor a failure in the SDK's metrics
    )


def back_off(tries: int, *, first_s: float, longest_s: float) -> float:
    """Seconds to wait after so many tries: doubled each time, and spread, so that what waits does not come at once."""
    return min(longest_s, first_s * 2.0 ** min(tries - 1, 30)) * random.uniform(0.5, 1)  # noqa: S311 - jitter
