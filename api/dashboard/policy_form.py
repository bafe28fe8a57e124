"""A delivery policy as fields of a form, and back."""

import re
from collections.abc import Mapping
from typing import Any

from api.dashboard import text
from api.dashboard.forms import Form
from api.dashboard.numbers import number, whole
from api.problems import invalid
from everhook.delivery.policy import STATUS_CLASSES, readable

SCHEDULES = (
    ("", "Default"),
    ("documented", "Documented: 6 attempts within 3 hours"),
    ("patient", "Patient: 10 attempts within 3 days"),
    ("brisk", "Brisk: 6 attempts within 2 minutes"),
    ("delays", "Custom delays"),
    ("exponential", "Exponential"),
)
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)


def fields(policy: Mapping[str, Any] | None) -> dict[str, str]:
    """What the form is filled with: nothing of a policy that is not in force, for it cannot be read."""
    policy = readable(policy)
    exponential = policy.get("exponential", {})
    schedule = policy.get("preset", "")
    if "delaysSeconds" in policy:
        schedule = "delays"
    elif exponential:
        schedule = "exponential"
    return {
        "schedule": schedule,
        "delays": ", ".join(text.exact_duration(seconds) for seconds in policy.get("delaysSeconds", [])),
        "initial": text.exact_duration(exponential["initialSeconds"]) if exponential else "",
        "factor": f"{exponential.get('factor', 2):g}" if exponential else "",
        "cap": text.exact_duration(exponential["capSeconds"]) if exponential else "",
        "attempts": str(exponential.get("attempts", "")),
        "jitter": f"{policy['jitter']:g}" if "jitter" in policy else "",
        "timeout": text.exact_duration(policy["timeoutSeconds"]) if "timeoutSeconds" in policy else "",
        "window": text.exact_duration(policy["maxWindowSeconds"]) if "maxWindowSeconds" in policy else "",
        "statuses": ", ".join(str(status) for status in policy.get("retryStatuses", [])),
    }


def policy(form: Form) -> dict[str, Any] | None:
    """As the API takes it; None where nothing was said. Raises a Problem that names the field."""
    spec: dict[str, Any] = {}
    match form.get("schedule"):
        case "delays":
            spec["delaysSeconds"] = [seconds(part, "delays") for part in _list(form.get("delays"))]
        case "exponential":
            spec["exponential"] = {
                "initialSeconds": seconds(form.get("initial"), "initial"),
                "factor": number(form.get("factor", "2"), "factor"),
                "capSeconds": seconds(form.get("cap"), "cap"),
                "attempts": whole(form.get("attempts"), "attempts"),
            }
        case "documented" | "patient" | "brisk" as preset:
            spec["preset"] = preset
        case "":
            pass
        case _:
            raise invalid("schedule", "is none of those")
    if "jitter" in form:
        spec["jitter"] = number(form.get("jitter"), "jitter")
    if "timeout" in form:
        spec["timeoutSeconds"] = seconds(form.get("timeout"), "timeout")
    if "window" in form:
        spec["maxWindowSeconds"] = seconds(form.get("window"), "window")
    if "statuses" in form:
        spec["retryStatuses"] = [_status(part) for part in _list(form.get("statuses"))]
    return spec or None


def _status(written: str) -> int | str:
    return written.lower() if written.lower() in STATUS_CLASSES else whole(written, "statuses")


def _list(written: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,;\n]", written) if part.strip()]


def seconds(written: str, field: str) -> float:
    """A duration, written as `30`, `30 s`, `5 min`, `1 h 30 min`."""
    parts = _SPAN.findall(written.lower())
    units = [unit for _, unit in parts]
    are_units = all(unit in _UNITS for unit in units) and (len(units) == 1 or "" not in units)
    if not parts or _SPAN.sub("", written.lower()).strip() or not are_units:
        raise invalid(field, "write it as `30 s`, `5 min`, `2 h` or `3 d`")
    return sum(number(count, field) * _UNITS[unit] for count, unit in parts)
