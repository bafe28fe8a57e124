"""How figures, durations and moments read. Pure; every moment is in UTC and says so."""

from collections.abc import Mapping
from datetime import datetime

from everhook.circuit.machine import CircuitPolicy
from everhook.durations import age as age
from everhook.durations import duration as duration
from everhook.durations import exact_duration as exact_duration


def count(number: int, at_most: int | None = None) -> str:
    """`12,345`; `10,000+` where counting stopped there."""
    return f"{number:,}+" if at_most is not None and number >= at_most else f"{number:,}"


def percent(share: float | None) -> str:
    """`99.5 %`. Nothing that failed rounds up to a hundred."""
    if share is None:
        return "—"
    shown = 100 * share
    if share < 1 and shown > 99.9:
        return "99.9 %"
    return f"{shown:.0f} %" if shown in (0, 100) else f"{shown:.1f} %"


def milliseconds(ms: float | None) -> str:
    """`84 ms`, `1.3 s`."""
    if ms is None:
        return "—"
    return f"{ms:.0f} ms" if ms < 1_000 else f"{ms / 1_000:.1f} s"


def clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def circuit_policy(policy: CircuitPolicy) -> str:
    """`opens after 5 failures in a row, for 30 s to 10 min; …`."""
    return (
        f"opens after {policy.failure_threshold} failures in a row, for {duration(policy.cooldown)} to "
        f"{duration(policy.cooldown_max)}; when it closes, {policy.release_rate:g} to {policy.release_rate_max:g} "
        f"parked deliveries a second are released; {duration(policy.disable_after)} of failures disable the endpoint"
    )


def figure(value: object) -> str:
    """`0.5`. What is no number is shown as it is stored."""
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def given_settings(given: Mapping[str, object]) -> str:
    """`failureThreshold 10, cooldownSeconds 60`: as they were given."""
    return ", ".join(f"{name} {figure(value)}" for name, value in given.items())
