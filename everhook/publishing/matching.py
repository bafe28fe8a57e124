r"""Which messages a subscription takes: event-type patterns and an optional payload filter. Pure.

A filter is an object of paths and conditions, all of which must hold:

    {"data.amount": {"$gt": 1000}, "data.currency": "EUR", "$any": [{"vip": true}, {"data.tags": {"$contains": "new"}}]}

A plain value means equality. Operators: `$eq $ne $in $gt $gte $lt $lte $exists $prefix $contains`, and `$any`, `$all`,
`$not` over filters. In a path a backslash escapes the next `.`, `$` or `\`: `prices.v1\.2`, `\$ref`.

The path `$metadata.region` is the attribute `region` of the message's metadata.

Integers are compared exactly, however large. A number with a fraction or an exponent is a double, and so is the number
that it is compared with.

There are no loops and no user-defined expressions: a filter takes `cost` steps at most, and `$contains` reads each list
of a payload once, however many filters search it.
"""

import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_FILTER_DEPTH = 8
MAX_FILTER_CONDITIONS = 100
MAX_PATH = 200
_MAX_INDEX_DIGITS = 6
_EXACT_AS_DOUBLE = 2**53
_ESCAPE, _ESCAPABLE = "\\", frozenset(".$\\")
_MISSING = object()
_ATTRIBUTE = "$metadata."
_COMPOSITE = 10
"""A comparison with a list or an object counts as this many steps."""

_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_INTEGER = b"0" * 19
"""An integer of more than 64 bits has at least this many digits."""

_MAX_DIGITS = 4_300
"""Python refuses to parse longer integers: the time grows with the square of their length."""


def parse_exactly(payload: bytes) -> Any:
    """Parse JSON with exact integers, where faster parsers round those of more than 64 bits, and with infinity for
    numbers beyond doubles. Raises ValueError and RecursionError."""
    return json.loads(payload.decode(), parse_int=_integer, parse_constant=_refuse_constant)


def has_long_integer(payload: bytes) -> bool:
    """Whether a payload may contain an integer of more than 64 bits. Takes 0.7 ns per byte."""
    return _LONG_INTEGER in payload.translate(_DIGITS)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def matches_type(event_type: str, patterns: Sequence[str]) -> bool:
    """Whether an event type matches one of the patterns; no patterns match every type.

    `*` as a segment matches one segment, and as the last one after others all that follow: `order.*` matches
    `order.created` and `order.item.added`, and `*.created` matches `order.created`. `**` at the end matches all that
    follow. `*` and `**` alone match everything, and any other pattern only itself.
    """
    if not patterns:
        return True
    for pattern in patterns:
        if pattern in (event_type, "*", "**"):
            return True
        if "*" in pattern and _matches(pattern, event_type):
            return True
    return False


def _matches(pattern: str, event_type: str) -> bool:
    *segments, last = pattern.split(".")
    given = event_type.split(".", len(segments))
    if len(given) <= len(segments):
        return False
    *first, rest = given
    if any(wanted not in ("*", found) for wanted, found in zip(segments, first, strict=True)):
        return False
    return last in ("*", "**") or last == rest


class ListIndex:
    """The scalars of the lists of one payload, so that each list is read once. It lives while the payload is matched.

    `attributes` are those of the message, for conditions on `$metadata`."""

    def __init__(self, attributes: Mapping[str, str] | None = None) -> None:
        self.attributes: Mapping[str, str] = attributes or {}
        self._known: dict[int, _Scalars] = {}

    def scalars_of(self, members: list[Any]) -> "_Scalars":
        found = self._known.get(id(members))
        if found is None:
            found = self._known[id(members)] = _Scalars(members)
        return found


Test = Callable[[Any, ListIndex], bool]
"""A test of a payload, or of the value at a path."""


@dataclass(frozen=True)
class Filter:
    """A compiled filter. `cost` is the maximum number of steps of a match. `searches_lists`: it uses `$contains`."""

    holds: Test
    cost: int
    searches_lists: bool

    def matches(self, payload: Any, lists: ListIndex | None = None) -> bool:
        """Whether all conditions hold. Filters that are matched against the same payload share its `lists`."""
        return self.holds(payload, lists if lists is not None else ListIndex())


def compile_filter(conditions: Mapping[str, Any] | None) -> Filter | None:
    """Compile a filter that passed `check_filter`; None if there is nothing to match."""
    return _compiled(conditions) if conditions else None


UNREADABLE = (AttributeError, KeyError, RecursionError, TypeError, ValueError)
"""What compiling or matching raises for a filter that `check_filter` of this version did not pass."""


def stored_filter(conditions: Mapping[str, Any] | None) -> Filter | None:
    """Compile a filter that may have been checked by another version. One that cannot be compiled raises ValueError
    when it is matched, so that it affects only messages that depend on it."""
    try:
        return compile_filter(conditions)
    except UNREADABLE as error:
        reason = f"cannot be compiled ({type(error).__name__}: {error})"

    def fail(_payload: Any, _lists: ListIndex) -> bool:
        raise ValueError(reason)

    return Filter(fail, cost=1, searches_lists=False)


def matching_cost(events: Sequence[str], conditions: Filter | None) -> int:
    """The maximum number of steps to match a message against a subscription."""
    return 1 + len(events) + (conditions.cost if conditions is not None else 0)


def check_filter(conditions: Any, depth: int = 0) -> None:
    """Raise ValueError, with the path and the reason, if this is not a valid filter."""
    if not isinstance(conditions, Mapping):
        raise ValueError("a filter is an object of paths and conditions")
    if depth > MAX_FILTER_DEPTH or len(conditions) > MAX_FILTER_CONDITIONS:
        raise ValueError("the filter is nested too deeply or too long")
    for key, wanted in conditions.items():
        if key in ("$any", "$all"):
            if not isinstance(wanted, list) or not 0 < len(wanted) <= MAX_FILTER_CONDITIONS:
                raise ValueError(f"{key} takes a list of filters")
            for part in wanted:
                check_filter(part, depth + 1)
        elif key == "$not":
            check_filter(wanted, depth + 1)
        else:
            _check_path(key)
            if isinstance(wanted, Mapping):
                _check_operators(key, wanted)


@dataclass(frozen=True)
class FailedCondition:
    """The first condition that does not hold. `path` is where it stands in the filter; `found` is the value there, None
    also if there is none. `expected` is the operator with its operand."""

    path: str
    expected: Mapping[str, Any]
    found: Any = None


def first_failed(
    conditions: Mapping[str, Any], payload: Any, attributes: Mapping[str, str] | None = None
) -> FailedCondition | None:
    """Why a filter that passed `check_filter` does not match; None if it does."""
    lists = ListIndex(attributes)
    for key, wanted in conditions.items():
        if _condition(key, wanted).matches(payload, lists):
            continue
        if key == "$all":
            for index, part in enumerate(wanted):
                if (failed := first_failed(part, payload, attributes)) is not None:
                    return replace(failed, path=f"$all[{index}].{failed.path}")
        if key in ("$all", "$any", "$not"):
            return FailedCondition(key, {key: wanted})
        for name, operand in (wanted if isinstance(wanted, Mapping) else {"$eq": wanted}).items():
            if not _condition(key, {name: operand}).matches(payload, lists):
                found = _found(key, payload, lists)
                return FailedCondition(key, {name: operand}, None if found is _MISSING else found)
    return None


def _found(path: str, payload: Any, lists: ListIndex) -> Any:
    if path.startswith(_ATTRIBUTE):
        return lists.attributes.get(path.removeprefix(_ATTRIBUTE), _MISSING)
    for part in split_path(path):
        if isinstance(payload, dict) and part in payload:
            payload = payload[part]
        elif isinstance(payload, list) and _is_index(part) and int(part) < len(payload):
            payload = payload[int(part)]
        else:
            return _MISSING
    return payload


def _check_path(path: str) -> None:
    if len(path) > MAX_PATH:
        raise ValueError(f"a path has {MAX_PATH} characters at most")
    if path.startswith(_ATTRIBUTE) and path != _ATTRIBUTE:
        return
    if path.startswith("$"):
        raise ValueError(rf"{path} is not an operator here; a key that begins with $ is written \{path}")
    split_path(path, strict=True)


def _check_operators(path: str, conditions: Mapping[str, Any]) -> None:
    if not conditions:
        raise ValueError(f"{path}: an empty object has no meaning; equality with one is {{'$eq': {{}}}}")
    for name, operand in conditions.items():
        if name not in _OPERANDS:
            hint = "" if name.startswith("$") else f"; a member of an object is the path {path}.{name}"
            raise ValueError(f"{path}: {name} is not an operator; use {', '.join(_OPERANDS)}{hint}")
        is_operand, wanted = _OPERANDS[name]
        if not is_operand(operand):
            raise ValueError(f"{path}: {name} takes {wanted}")


def _compiled(conditions: Mapping[str, Any]) -> Filter:
    return _all([_condition(key, wanted) for key, wanted in conditions.items()])


def _condition(key: str, wanted: Any) -> Filter:
    if key == "$all":
        return _all([_compiled(part) for part in wanted])
    if key == "$any":
        return _any([_compiled(part) for part in wanted])
    if key == "$not":
        part = _compiled(wanted)
        holds = part.holds
        return Filter(lambda payload, lists: not holds(payload, lists), part.cost + 1, part.searches_lists)
    operations = wanted if isinstance(wanted, Mapping) else {"$eq": wanted}
    if key.startswith(_ATTRIBUTE):
        return _of_attribute(key.removeprefix(_ATTRIBUTE), operations)
    return _at_path(split_path(key), operations)


def _of_attribute(name: str, operations: Mapping[str, Any]) -> Filter:
    tests = tuple(_OPERATORS[operator](operand) for operator, operand in operations.items())

    def holds(_payload: Any, lists: ListIndex) -> bool:
        found = lists.attributes.get(name, _MISSING)
        return all(test(found, lists) for test in tests)

    cost = 1 + sum(2 + _steps(operator, operand) for operator, operand in operations.items())
    return Filter(holds, cost, searches_lists=False)


def _all(parts: Sequence[Filter]) -> Filter:
    tests = tuple(part.holds for part in parts)

    def hold(payload: Any, lists: ListIndex) -> bool:
        for test in tests:  # noqa: SIM110 - a generator takes 1.5 times as long
            if not test(payload, lists):
                return False
        return True

    return _joined(tests[0] if len(tests) == 1 else hold, parts)


def _any(parts: Sequence[Filter]) -> Filter:
    tests = tuple(part.holds for part in parts)

    def holds(payload: Any, lists: ListIndex) -> bool:
        for test in tests:  # noqa: SIM110 - see above
            if test(payload, lists):
                return True
        return False

    return _joined(tests[0] if len(tests) == 1 else holds, parts)


def _joined(holds: Test, parts: Sequence[Filter]) -> Filter:
    return Filter(holds, 1 + sum(part.cost for part in parts), any(part.searches_lists for part in parts))


def _at_path(path: Sequence[str], operations: Mapping[str, Any]) -> Filter:
    steps = tuple((part, int(part) if _is_index(part) else None) for part in path)
    tests = tuple(_OPERATORS[name](operand) for name, operand in operations.items())

    def holds(payload: Any, lists: ListIndex) -> bool:
        for part, index in steps:
            if isinstance(payload, dict) and part in payload:
                payload = payload[part]
            elif isinstance(payload, list) and index is not None and index < len(payload):
                payload = payload[index]
            else:
                payload = _MISSING
                break
        for test in tests:  # noqa: SIM110 - see above
            if not test(payload, lists):
                return False
        return True

    cost = len(steps) + sum(2 + _steps(name, operand) for name, operand in operations.items())
    return Filter(holds, cost, "$contains" in operations)


def split_path(path: str, *, strict: bool = False) -> list[str]:
    """The keys of a path. A backslash that escapes nothing stands for itself; with `strict` it is a ValueError."""
    keys, key, chars = list[str](), "", iter(path)
    for char in chars:
        if char == ".":
            keys.append(key)
            key = ""
        elif char == _ESCAPE:
            following = next(chars, "")
            escapes = following in _ESCAPABLE
            if strict and not escapes:
                raise ValueError(rf"{path}: a backslash can only stand before . $ or \ only")
            key += following if escapes else char + following
        else:
            key += char
    return [*keys, key]


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) <= _MAX_INDEX_DIGITS


def _steps(name: str, operand: Any) -> int:
    """The maximum number of steps of an operator. The scalars of `$in` are looked up in a set."""
    if name == "$in":
        return 1 + sum(_size(one) for one in operand if not _is_scalar(one))
    return _size(operand)


def _size(operand: Any) -> int:
    if isinstance(operand, list):
        return _COMPOSITE + sum(map(_size, operand))
    return _COMPOSITE + sum(map(_size, operand.values())) if isinstance(operand, dict) else 1


def _equal(found: Any, wanted: Any) -> bool:
    """JSON equality: `true` is not `1`, at any depth; `1` is `1.0`."""
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(_equal(found[key], wanted[key]) for key in found)
    if _is_number(found) and _is_number(wanted):
        return bool(operator.eq(*_comparable(found, wanted)))
    return type(found) is type(wanted) and bool(found == wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _comparable(one: Any, other: Any) -> tuple[Any, Any]:
    """Two numbers in the form in which they are compared: integers exactly, anything else as doubles."""
    if isinstance(one, int) and isinstance(other, float):
        return _double(one), other
    if isinstance(one, float) and isinstance(other, int):
        return one, _double(other)
    return one, other


def _double(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


class _Scalars:
    """A set of scalars with the equality of `_equal`."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._integers = {value for value in values if isinstance(value, int) and not isinstance(value, bool)}
        self._doubles = {value for value in values if isinstance(value, float)}
        self._others = {value for value in values if _is_scalar(value) and not _is_number(value)}
        self._rounded = {_double(value) for value in self._integers if abs(value) > _EXACT_AS_DOUBLE}

    def __contains__(self, value: Any) -> bool:
        if not _is_number(value):
            return _is_scalar(value) and value in self._others
        if isinstance(value, float):
            return value in self._doubles or value in self._integers or value in self._rounded
        return value in self._integers or _double(value) in self._doubles


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Test]:
    def operation(wanted: Any) -> Test:
        if isinstance(wanted, str):
            return lambda found, _: isinstance(found, str) and compare(found, wanted)
        if _is_number(wanted):
            return lambda found, _: _is_number(found) and compare(*_comparable(found, wanted))
        return lambda _found, _: False  # accepted by an earlier version; never matches

    return operation


def _is_one_of(wanted: Sequence[Any]) -> Test:
    scalars = _Scalars(wanted)
    others = [value for value in wanted if not _is_scalar(value)]
    return lambda found, _: found in scalars or any(_equal(found, one) for one in others)


def _contains(wanted: Any) -> Test:
    return lambda found, lists: isinstance(found, list) and wanted in lists.scalars_of(found)


_OPERATORS: dict[str, Callable[[Any], Test]] = {
    "$eq": lambda wanted: lambda found, _: _equal(found, wanted),
    "$ne": lambda wanted: lambda found, _: not _equal(found, wanted),
    "$in": _is_one_of,
    "$gt": _ordered(operator.gt),
    "$gte": _ordered(operator.ge),
    "$lt": _ordered(operator.lt),
    "$lte": _ordered(operator.le),
    "$exists": lambda wanted: lambda found, _: (found is not _MISSING) is wanted,
    "$prefix": lambda wanted: lambda found, _: isinstance(found, str) and found.startswith(wanted),
    "$contains": _contains,
}

Operand = tuple[Callable[[Any], bool], str]
_ANYTHING: Operand = (lambda operand: True, "any value")
_ORDERABLE: Operand = (lambda operand: isinstance(operand, str) or _is_number(operand), "a number or a string")
_OPERANDS: dict[str, Operand] = {
    "$eq": _ANYTHING,
    "$ne": _ANYTHING,
    "$in": (lambda operand: isinstance(operand, list), "a list"),
    "$gt": _ORDERABLE,
    "$gte": _ORDERABLE,
    "$lt": _ORDERABLE,
    "$lte": _ORDERABLE,
    "$exists": (lambda operand: isinstance(operand, bool), "true or false"),
    "$prefix": (lambda operand: isinstance(operand, str), "a string"),
    "$contains": (_is_scalar, "a string, a number, true, false or null"),
}
"""The operand of each operator: its check, and its description."""
