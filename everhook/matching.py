"""Which messages a subscription wants: event-type patterns and an optional payload filter. Pure.

A filter is an object of paths and conditions, all of which must hold:

    {"data.amount": {"$gt": 1000}, "data.currency": "EUR", "$any": [{"vip": true}, {"data.tag": {"$exists": true}}]}

A plain value means equality. Operators: `$eq $ne $in $gt $gte $lt $lte $exists $prefix`, and `$any`, `$all`, `$not`
over filters. There are no loops and no expressions of the user's own, so the cost is bounded by the filter's size.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_FILTER_DEPTH = 8
MAX_FILTER_CONDITIONS = 100
MAX_PATH = 200
_MAX_INDEX_DIGITS = 6
_MISSING = object()


def matches_type(event_type: str, patterns: Sequence[str]) -> bool:
    """Whether a type fits one of the patterns; none at all means every type.

    `*` alone fits everything, `order.*` fits `order.created` and `order.item.added`, else the type itself.
    """
    return not patterns or any(
        pattern in ("*", event_type) or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in patterns
    )


def matches_filter(payload: Any, conditions: Mapping[str, Any] | None) -> bool:
    return not conditions or all(_holds(payload, key, wanted) for key, wanted in conditions.items())


def check_filter(conditions: Any, depth: int = 0) -> None:
    """Raise ValueError with the place and the reason where a filter is not one."""
    if not isinstance(conditions, Mapping):
        raise ValueError("a filter is an object of paths and conditions")
    if depth > MAX_FILTER_DEPTH or len(conditions) > MAX_FILTER_CONDITIONS:
        raise ValueError("the filter is nested too deeply or too long")
    for key, wanted in conditions.items():
        if len(key) > MAX_PATH:
            raise ValueError(f"a path has {MAX_PATH} characters at most")
        if key in ("$any", "$all"):
            if not isinstance(wanted, list) or not 0 < len(wanted) <= MAX_FILTER_CONDITIONS:
                raise ValueError(f"{key} takes a list of filters")
            for part in wanted:
                check_filter(part, depth + 1)
        elif key == "$not":
            check_filter(wanted, depth + 1)
        elif key.startswith("$"):
            raise ValueError(f"{key} is not an operator that stands here")
        elif isinstance(wanted, Mapping):
            _check_operators(key, wanted)


def _check_operators(path: str, conditions: Mapping[str, Any]) -> None:
    if not conditions:
        raise ValueError(f"{path}: an empty object says nothing")
    for name, operand in conditions.items():
        if name not in _OPERATORS:
            raise ValueError(f"{path}: {name} is not an operator; use {', '.join(sorted(_OPERATORS))}")
        if name == "$in" and not isinstance(operand, list):
            raise ValueError(f"{path}: $in takes a list")
        if name == "$exists" and not isinstance(operand, bool):
            raise ValueError(f"{path}: $exists takes true or false")
        if name == "$prefix" and not isinstance(operand, str):
            raise ValueError(f"{path}: $prefix takes a string")


def _holds(payload: Any, key: str, wanted: Any) -> bool:
    if key == "$any":
        return any(matches_filter(payload, part) for part in wanted)
    if key == "$all":
        return all(matches_filter(payload, part) for part in wanted)
    if key == "$not":
        return not matches_filter(payload, wanted)
    found = _at(payload, key)
    if isinstance(wanted, Mapping):
        return all(_OPERATORS[name](found, operand) for name, operand in wanted.items())
    return _equal(found, wanted)


def _at(payload: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(payload, Mapping) and part in payload:
            payload = payload[part]
        elif isinstance(payload, list) and _is_index(part) and int(part) < len(payload):
            payload = payload[int(part)]
        else:
            return _MISSING
    return payload


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) <= _MAX_INDEX_DIGITS


def _equal(found: Any, wanted: Any) -> bool:
    """JSON equality: `true` is not `1`, at any depth; `1` is `1.0`."""
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(_equal(found[key], wanted[key]) for key in found)
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(found: Any, wanted: Any) -> bool:
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (found, wanted))
        texts = isinstance(found, str) and isinstance(wanted, str)
        return (numbers or texts) and compare(found, wanted)

    return holds


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _equal,
    "$ne": lambda found, wanted: not _equal(found, wanted),
    "$in": lambda found, wanted: any(_equal(found, one) for one in wanted),
    "$gt": _ordered(operator.gt),
    "$gte": _ordered(operator.ge),
    "$lt": _ordered(operator.lt),
    "$lte": _ordered(operator.le),
    "$exists": lambda found, wanted: (found is not _MISSING) is wanted,
    "$prefix": lambda found, wanted: isinstance(found, str) and found.startswith(wanted),
}
