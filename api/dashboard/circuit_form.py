"""Circuit settings as fields of a form, and back."""

from collections.abc import Mapping
from typing import Any

from api.dashboard import text
from api.dashboard.forms import Form
from api.dashboard.numbers import number
from api.dashboard.policy_form import seconds
from api.schemas import CircuitSettings

HOUR_S = 3_600


def fields(circuit: Mapping[str, Any] | None) -> dict[str, str]:
    """The values of the form's fields."""
    given = circuit or {}
    filled = {
        "failureThreshold": str(given.get("failureThreshold", "")),
        "releasePerSecond": text.figure(given.get("releasePerSecond", "")),
        "releasePerSecondMax": text.figure(given.get("releasePerSecondMax", "")),
    }
    for field, key, unit_s in _DURATIONS:
        value = given.get(key, "")
        filled[field] = text.exact_duration(value * unit_s) if isinstance(value, (int, float)) else str(value)
    return filled


def circuit(form: Form) -> CircuitSettings | None:
    """The settings as the API takes them; None if no field has a value. Raises a Problem or a ValidationError that
    names the field."""
    spec: dict[str, Any] = {}
    if "failureThreshold" in form:
        written = number(form.get("failureThreshold"), "failureThreshold")
        spec["failureThreshold"] = int(written) if written.is_integer() else written
    for name in ("releasePerSecond", "releasePerSecondMax"):
        if name in form:
            spec[name] = number(form.get(name), name)
    for field, key, unit_s in _DURATIONS:
        if field in form:
            spec[key] = seconds(form.get(field), field) / unit_s
    return CircuitSettings(**spec) if spec else None


_DURATIONS = (
    ("cooldown", "cooldownSeconds", 1),
    ("cooldownMax", "cooldownMaxSeconds", 1),
    ("disableAfter", "disableAfterHours", HOUR_S),
)
"""Fields with a duration: the field, the setting, and how many seconds its unit has."""
