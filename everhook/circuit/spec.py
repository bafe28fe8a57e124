"""The circuit settings of channels and endpoints, as people write them. Pure.

`resolve` merges the settings of the environment, of channels and of the endpoint into one `CircuitPolicy`.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypedDict

from everhook.circuit.machine import CircuitPolicy

MAX_FAILURES = 1_000
MAX_COOLDOWN = timedelta(days=1)
MAX_DISABLE_AFTER = timedelta(days=365)
MAX_RELEASE_RATE = 1_000


class CircuitSpec(TypedDict, total=False):
    """Circuit settings as they are written in JSON, and stored on channels and endpoints."""

    failureThreshold: int
    cooldownSeconds: float
    cooldownMaxSeconds: float
    disableAfterHours: float
    releasePerSecond: float
    releasePerSecondMax: float


def resolve(defaults: CircuitPolicy, *specs: Mapping[str, Any] | None) -> CircuitPolicy:
    """Merge settings into one policy: later ones override earlier ones key by key.

    A cooldown above the maximum that it is merged with raises this maximum, and so does a release rate.
    """
    merged: dict[str, Any] = {}
    for spec in specs:
        merged |= spec or {}
    if not merged:
        return defaults
    policy = replace(
        defaults,
        failure_threshold=merged.get("failureThreshold", defaults.failure_threshold),
        cooldown=_duration(merged, "cooldownSeconds", timedelta(seconds=1), defaults.cooldown),
        cooldown_max=_duration(merged, "cooldownMaxSeconds", timedelta(seconds=1), defaults.cooldown_max),
        disable_after=_duration(merged, "disableAfterHours", timedelta(hours=1), defaults.disable_after),
        release_rate=merged.get("releasePerSecond", defaults.release_rate),
        release_rate_max=merged.get("releasePerSecondMax", defaults.release_rate_max),
    )
    return replace(
        policy,
        cooldown_max=max(policy.cooldown, policy.cooldown_max),
        release_rate_max=max(policy.release_rate, policy.release_rate_max),
    )


def _duration(spec: Mapping[str, Any], key: str, unit: timedelta, default: timedelta) -> timedelta:
    return spec[key] * unit if key in spec else default
