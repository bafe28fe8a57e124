"""Circuit settings of channels and endpoints, merged key by key."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from everhook.circuit.machine import CircuitPolicy
from everhook.circuit.spec import CircuitSpec, resolve

DEFAULTS = CircuitPolicy(failure_threshold=7, jitter=0.2)


def test_without_settings_those_of_the_environment_apply_unchanged() -> None:
    odd = replace(DEFAULTS, cooldown=timedelta(hours=2), cooldown_max=timedelta(hours=1))
    assert resolve(odd) == resolve(odd, None, {}) == odd


def test_later_settings_override_earlier_ones_key_by_key() -> None:
    channel: CircuitSpec = {"failureThreshold": 10, "cooldownSeconds": 60, "releasePerSecond": 2}
    endpoint: CircuitSpec = {"failureThreshold": 3, "cooldownMaxSeconds": 90.5, "disableAfterHours": 24}
    assert resolve(DEFAULTS, channel, None, endpoint) == replace(
        DEFAULTS,
        failure_threshold=3,
        cooldown=timedelta(seconds=60),
        cooldown_max=timedelta(seconds=90.5),
        disable_after=timedelta(days=1),
        release_rate=2,
    )


@pytest.mark.parametrize(
    "unreadable",
    [
        {"failureThreshold": "many"},
        {"cooldownSeconds": "long"},
        {"cooldownSeconds": -1},
        {"disableAfterHours": 1e300},
        {"releasePerSecond": float("nan")},
        {"releasePerSecond": {"of a newer": "version"}},
        ["failureThreshold"],
    ],
)
def test_settings_that_cannot_be_read_are_left_out(unreadable: Any) -> None:
    channel: CircuitSpec = {"failureThreshold": 10}
    assert resolve(DEFAULTS, channel, unreadable) == replace(DEFAULTS, failure_threshold=10)
    newer: Any = {"failureThreshold": 3, "of a newer": "version"}
    assert resolve(DEFAULTS, newer) == replace(DEFAULTS, failure_threshold=3)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"cooldownSeconds": 1_200}, {"cooldown": timedelta(minutes=20), "cooldown_max": timedelta(minutes=20)}),
        ({"releasePerSecond": 200}, {"release_rate": 200, "release_rate_max": 200}),
        ({"cooldownMaxSeconds": 5}, {"cooldown": timedelta(seconds=5), "cooldown_max": timedelta(seconds=5)}),
        ({"releasePerSecondMax": 2}, {"release_rate": 2, "release_rate_max": 2}),
    ],
)
def test_a_given_setting_applies_and_an_inherited_limit_is_adjusted_to_it(
    spec: CircuitSpec, expected: dict[str, object]
) -> None:
    assert resolve(CircuitPolicy(), spec) == replace(CircuitPolicy(), **expected)  # type: ignore[arg-type]
