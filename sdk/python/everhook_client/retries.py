"""When a call that failed is repeated. Pure."""

import random
from dataclasses import dataclass

from everhook_client.errors import ApiError, ConnectionFailed, EverhookError

RUNNING = "idempotent-call-running"


@dataclass(frozen=True)
class Retries:
    """Repeat a call up to `limit` times, with pauses in seconds that double from `first` to `longest`, each with
    jitter. A longer `Retry-After` is honoured up to `longest_retry_after`; beyond that the call fails at once."""

    limit: int = 4
    first: float = 0.25
    longest: float = 8.0
    longest_retry_after: float = 60.0

    def pause(self, failures: int, error: EverhookError, *, is_repeatable: bool) -> float | None:
        """The seconds to wait after so many failures in a row; None to give up. `is_repeatable`: to repeat the call
        changes nothing more."""
        if failures > self.limit or not _may_pass(error, is_repeatable):
            return None
        backoff = min(self.first * 2.0 ** (failures - 1), self.longest)
        retry_after = error.retry_after if isinstance(error, ApiError) else None
        if retry_after is None:
            return backoff * random.uniform(0.5, 1)  # noqa: S311 - spreads load
        if retry_after > self.longest_retry_after:
            return None
        return retry_after + backoff * random.random()  # noqa: S311 - spreads load


NEVER = Retries(limit=0)


def _may_pass(error: EverhookError, is_repeatable: bool) -> bool:
    """Whether the same call may succeed later, and cannot have an effect twice."""
    if isinstance(error, ConnectionFailed):
        return is_repeatable or not error.was_sent
    if not isinstance(error, ApiError):
        return False
    if error.status == 429 or error.slug == RUNNING:
        return True
    return error.status >= 500 and is_repeatable
