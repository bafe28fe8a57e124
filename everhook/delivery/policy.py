"""Delivery policies: when a failed attempt is followed by another. Pure.

A policy as people write it (`PolicySpec`, stored on channels and endpoints) names a schedule in one of three ways: a
preset, a list of delays, or an exponential. `resolve` merges the channel's and the endpoint's into one
`DeliveryPolicy`, which knows only delays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypedDict

JITTER_FROM = timedelta(seconds=30)
"""Shorter delays have no jitter: they are meant to be quick, and spreading them gains nothing."""

MAX_ATTEMPTS = 50
MAX_DELAY = timedelta(days=7)
MAX_WINDOW = timedelta(days=30)
MAX_TIMEOUT = timedelta(seconds=30)

DOCUMENTED = tuple(timedelta(seconds=s) for s in (1, 30, 5 * 60, 30 * 60, 2 * 60 * 60))
"""The documented schedule: six attempts, the first at once and each later one this long after the one before."""

PATIENT = tuple(
    timedelta(seconds=s) for s in (5, 60, 10 * 60, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 18 * 3600, 24 * 3600)
)
"""Ten attempts over about three days: 64 hours, and with all jitter still within the default window of 72."""

BRISK = tuple(timedelta(seconds=s) for s in (1, 5, 15, 30, 60))
"""Six attempts within two minutes."""

STATUS_CLASSES = {"4xx": 4, "5xx": 5}
"""Classes of statuses, and the numbers that stand for them in a resolved policy."""

PRESETS = {"documented": DOCUMENTED, "patient": PATIENT, "brisk": BRISK}


@dataclass(frozen=True)
class RetryPlan:
    """What follows a failed attempt: the wait, and what is left of the round's window."""

    delay: timedelta
    window_left: timedelta

    def wait(self, retry_after: timedelta | None) -> timedelta:
        """The delay, or longer if the endpoint sent `Retry-After`; never longer than the window."""
        if retry_after is None:
            return self.delay
        return max(self.delay, min(retry_after, self.window_left))


@dataclass(frozen=True)
class DeliveryPolicy:
    """A resolved policy. `len(delays) + 1` attempts make a round. `retry_statuses` below 10 are classes: 4 is `4xx`."""

    delays: tuple[timedelta, ...] = DOCUMENTED
    jitter: float = 0.1
    timeout: timedelta = timedelta(seconds=15)
    max_window: timedelta = timedelta(hours=72)
    retry_statuses: tuple[int, ...] = ()

    @property
    def attempts(self) -> int:
        return len(self.delays) + 1

    def next_delay(self, number: int, draw: float) -> timedelta | None:
        """The wait after attempt `number` (from 1); None after the last.

        `draw` in [0, 1) is the random part. Jitter is only added, so an endpoint always gets at least the documented
        wait.
        """
        if number > len(self.delays):
            return None
        delay = self.delays[number - 1]
        return delay * (1 + self.jitter * draw) if delay >= JITTER_FROM else delay

    def plan(self, number: int, elapsed: timedelta, draw: float) -> RetryPlan | None:
        """What follows if attempt `number` fails, in a round that started `elapsed` ago; None: no other attempt."""
        delay = self.next_delay(number, draw)
        window_left = self.max_window - elapsed
        if delay is None or delay > window_left:
            return None
        return RetryPlan(delay, window_left)


class ExponentialSpec(TypedDict):
    initialSeconds: float
    factor: float
    capSeconds: float
    attempts: int


class PolicySpec(TypedDict, total=False):
    """A policy as it is written in JSON. At most one of `preset`, `delaysSeconds` and `exponential`."""

    preset: str
    delaysSeconds: list[float]
    exponential: ExponentialSpec
    jitter: float
    timeoutSeconds: float
    maxWindowSeconds: float
    retryStatuses: list[int | str]


UNREADABLE = (AttributeError, KeyError, OverflowError, TypeError, ValueError)

SCHEDULE_KEYS = ("preset", "delaysSeconds", "exponential")


def resolve(*specs: Mapping[str, Any] | None, on_unreadable: Callable[[], None] = lambda: None) -> DeliveryPolicy:
    """Merge policies into one: later ones override earlier ones key by key; a schedule replaces a whole schedule.

    A policy that cannot be read, such as one of a newer version or with a negative duration, is left out, and
    `on_unreadable` is called.
    """
    try:
        return _resolved(specs)
    except UNREADABLE:
        on_unreadable()
        return _resolved([readable(spec) for spec in specs])


def readable(spec: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A stored policy as it is written; empty if there is none, or it cannot be read."""
    try:
        _resolved([spec])
    except UNREADABLE:
        return {}
    return spec or {}


def _resolved(specs: Sequence[Mapping[str, Any] | None]) -> DeliveryPolicy:
    merged: dict[str, Any] = {}
    for spec in specs:
        if not spec:
            continue
        if any(key in spec for key in SCHEDULE_KEYS):
            merged = {key: value for key, value in merged.items() if key not in SCHEDULE_KEYS}
        merged.update(spec)
    default = DeliveryPolicy()
    policy = DeliveryPolicy(
        delays=_delays(merged),
        jitter=float(merged.get("jitter", default.jitter)),
        timeout=timedelta(seconds=merged.get("timeoutSeconds", default.timeout.total_seconds())),
        max_window=timedelta(seconds=merged.get("maxWindowSeconds", default.max_window.total_seconds())),
        retry_statuses=tuple(STATUS_CLASSES.get(each, each) for each in merged.get("retryStatuses", ())),
    )
    if min(policy.timeout, policy.max_window, *policy.delays) < timedelta():
        raise ValueError("a duration is negative")
    return policy


def one_attempt(policy: DeliveryPolicy) -> DeliveryPolicy:
    """The same policy without retries."""
    return replace(policy, delays=())


def _delays(spec: Mapping[str, Any]) -> tuple[timedelta, ...]:
    if "delaysSeconds" in spec:
        return tuple(timedelta(seconds=seconds) for seconds in spec["delaysSeconds"])
    if "exponential" in spec:
        return exponential(**spec["exponential"])
    return PRESETS[spec.get("preset", "documented")]


def exponential(*, initialSeconds: float, factor: float, capSeconds: float, attempts: int) -> tuple[timedelta, ...]:
    """`attempts - 1` delays: the initial one, each next one `factor` times as long, up to the cap."""
    delays: list[timedelta] = []
    seconds = initialSeconds
    for _ in range(attempts - 1):
        seconds = min(seconds, capSeconds)
        delays.append(timedelta(seconds=seconds))
        seconds *= factor
    return tuple(delays)
