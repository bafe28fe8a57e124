"""Limits for alerts as fields of a form, and back; and as pages show those that apply."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from api.dashboard import text
from api.dashboard.forms import Form
from api.dashboard.numbers import number
from api.dashboard.policy_form import seconds
from api.problems import invalid
from everhook.health.endpoint_alerts import AlertLimits, AppliedLimits, LimitSource

NEVER = "never"
"""What is written for a limit that raises no alert, in place of a value."""

SOURCES = {LimitSource.DEFAULT: "default", LimitSource.TENANT: "from the tenant", LimitSource.ENDPOINT: "own"}


@dataclass(frozen=True)
class LimitLine:
    """A limit that applies. `field` is that of the form, `source` where the value comes from, in words."""

    field: str
    label: str
    value: str
    source: str


def lines(applied: AppliedLimits, owner: LimitSource = LimitSource.ENDPOINT) -> tuple[LimitLine, ...]:
    """What applies, in the order of the form. `owner` is what the page is about."""
    words = SOURCES | {owner: SOURCES[LimitSource.ENDPOINT]}
    return tuple(
        LimitLine(field, label, value, words[applied.sources.get(key, LimitSource.DEFAULT)])
        for (field, key, label), value in zip(_FIELDS, _values(applied.limits), strict=True)
    )


def hints(inherited: AppliedLimits | None) -> dict[str, str]:
    """The hint below each field, by the field: an example, and the value that applies if the field is empty.
    `inherited` None: that value is not known yet."""
    applied = {line.field: f". Empty: {line.value}, {line.source}" for line in lines(inherited)} if inherited else {}
    said = {field: example + applied.get(field, "") for field, example in _EXAMPLES.items()}
    return {field: hint.replace(" %", "\N{NO-BREAK SPACE}%") for field, hint in said.items()}


def fields(alerts: Mapping[str, Any] | None) -> dict[str, str]:
    """The values of the form's fields."""
    given = alerts or {}
    return {field: _written(key, given[key]) if key in given else "" for field, key, _ in _FIELDS}


def alerts(form: Form) -> dict[str, float | None] | None:
    """The limits as a request has them, for `AlertSettings`; None if no field has a value. Raises a Problem that names
    the field."""
    return {key: _read(key, form.get(field), field) for field, key, _ in _FIELDS if field in form} or None


_FIELDS = (
    ("alertSuccessRate", "successRateBelow", "Success rate below"),
    ("alertLatency", "latencyAboveMs", "Response time above"),
    ("alertOver", "overMinutes", "Time range"),
    ("alertAttempts", "minAttempts", "Minimum attempts"),
    ("alertDeadLetters", "deadLettersAbove", "Dead letters above"),
)
"""For each limit: its field, its name in the API, and its label on pages."""

_EXAMPLES = {
    "alertSuccessRate": "Such as 95 %, or never",
    "alertLatency": "On average; such as 800 ms, or never",
    "alertOver": "Of both; such as 10 min, an hour at most",
    "alertAttempts": "In that time; with fewer both are not judged",
    "alertDeadLetters": "Such as 100, or never",
}


def _values(limits: AlertLimits) -> tuple[str, ...]:
    return (
        _percent(limits.success_rate_below) if limits.success_rate_below is not None else NEVER,
        _milliseconds(limits.latency_above_ms) if limits.latency_above_ms is not None else NEVER,
        text.exact_duration(limits.over.total_seconds()),
        text.count(limits.min_attempts),
        text.count(limits.dead_letters_above) if limits.dead_letters_above is not None else NEVER,
    )


def _written(key: str, value: float | None) -> str:
    match key, value:
        case _, None:
            return NEVER
        case "successRateBelow", rate:
            return _percent(rate)
        case "overMinutes", minutes:
            return text.exact_duration(minutes * 60)
        case "latencyAboveMs", ms:
            return _milliseconds(ms)
        case _:
            return f"{value}"


def _read(key: str, written: str, field: str) -> float | int | None:
    if written.lower() == NEVER:
        if key in ("overMinutes", "minAttempts"):
            raise invalid(field, "cannot be never")
        return None
    match key:
        case "successRateBelow":
            return _share(written, field)
        case "overMinutes":
            return seconds(written, field) / 60
        case "latencyAboveMs":
            return number(written.lower().removesuffix("ms").strip(), field)
        case _:
            value = number(written, field)
            return int(value) if value.is_integer() else value


def _percent(share: float) -> str:
    """`99.95 %`: exactly, in contrast to `text.percent`."""
    return f"{(Decimal(repr(share)) * 100).normalize():f} %"


def _share(written: str, field: str) -> float:
    try:
        return float(Decimal(written.removesuffix("%").strip()) / 100)
    except (InvalidOperation, OverflowError) as error:
        raise invalid(field, "write it as a percentage, such as `95 %`") from error


def _milliseconds(ms: float) -> str:
    return f"{ms:.15g} ms"
