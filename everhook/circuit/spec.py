"""The circuit settings of channels and endpoints, as people write them. Pure.

`resolve` merges the settings of the environment, of channels and of the endpoint into one `CircuitPolicy`.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypedDict, TypeVar

from everhook.circuit.machine import CircuitPolicy

Size = TypeVar("Size", float, timedelta)

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

    A cooldown that is longer than the inherited maximum raises this maximum, and a maximum that is shorter than the
    inherited cooldown shortens it. The same holds for release rates. Settings that cannot be read, such as those of a
    newer version, are left out.
    """
    policy = defaults
    for spec in specs:
        if spec and _is_readable(spec):
            with suppress(OverflowError):
                policy = _with(policy, spec)
    return policy


def _is_readable(spec: object) -> bool:
    """Whether the settings that this version knows are numbers."""
    return isinstance(spec, Mapping) and all(
        isinstance(value := spec.get(name, 0), (int, float)) and 0 <= value < math.inf
        for name in CircuitSpec.__annotations__
    )


def _with(policy: CircuitPolicy, spec: Mapping[str, Any]) -> CircuitPolicy:
    cooldown, cooldown_max = _range(
        _duration(spec, "cooldownSeconds", timedelta(seconds=1)),
        _duration(spec, "cooldownMaxSeconds", timedelta(seconds=1)),
        (policy.cooldown, policy.cooldown_max),
    )
    release_rate, release_rate_max = _range(
        spec.get("releasePerSecond"),
        spec.get("releasePerSecondMax"),
        (policy.release_rate, policy.release_rate_max),
    )
    return replace(
        policy,
        failure_threshold=spec.get("failureThreshold", policy.failure_threshold),
        cooldown=cooldown,
        cooldown_max=cooldown_max,
        disable_after=_duration(spec, "disableAfterHours", timedelta(hours=1)) or policy.disable_after,
        release_rate=release_rate,
        release_rate_max=release_rate_max,
    )


def _range(first: Size | None, most: Size | None, inherited: tuple[Size, Size]) -> tuple[Size, Size]:
    """A beginning and a maximum, of which the ones that are given count."""
    if first is None and most is None:
        return inherited
    if most is None:
        assert first is not None
        return first, max(first, inherited[1])
    return (min(inherited[0], most) if first is None else first), most


def _duration(spec: Mapping[str, Any], key: str, unit: timedelta) -> timedelta | None:
    return spec[key] * unit if key in spec else None
