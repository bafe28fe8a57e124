"""JSON Schemas of payloads: which ones are accepted, and where a payload does not fit.

Schemas run on the path of every publish, so one that could take long is refused when it is registered:

- Patterns are compiled by an engine that takes linear time, without look-around and back-references (ReDoS).
- References lead within the schema. Nothing is ever fetched.
- `_Explorer` counts how often one value of a payload may be checked. That can be exponential in the size of a schema,
  when its subschemas refer to each other in several ways.
- What is left is measured, with the example and with large payloads that repeat the most expensive parts.
"""

import json
import re
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import unquote

from jsonschema_rs import Draft202012Validator, RegexOptions, Registry, ValidationError

from everhook.errors import InvalidField, PayloadDoesNotFit, UnknownEventType
from everhook.event_types.modes import FaultKind

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 64
MAX_PATTERNS = 100
PATTERN_MEMORY = 2 * 1024 * 1024
"""Bytes that one compiled pattern may take."""

MAX_CHECKS = 1_000
"""How many checks of a schema may apply to one value of a payload."""
MAX_PLACES = 5_000
MAX_STEPS = 500_000
"""Bounds of the analysis itself: places in payloads that differ in what applies there, and steps of counting."""

PROBE_BYTES = 256 * 1024
MAX_PROBE_S = 0.1
"""How much processor time a payload of that size may take."""

MAX_PATH, MAX_MESSAGE = 200, 300
MAX_LOCATED = 200
"""Steps to the place that does not fit. Each of them checks what is below it again."""
_REFERENCES = ("$ref", "$dynamicRef")
_MASK = "the value"
"""What messages say instead of the value, which is payload."""
_PATTERN_OPTIONS = RegexOptions(size_limit=PATTERN_MEMORY, dfa_size_limit=PATTERN_MEMORY)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class Fault:
    """Where a message does not fit the catalogue. `field` is `type`, or a path: `payload.items[2].price`."""

    kind: FaultKind
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"

    def error(self, at: str = "") -> InvalidField:
        """The error for its publisher, if the channel rejects it. `at`: where the message is in the request."""
        if self.kind is FaultKind.PAYLOAD:
            return PayloadDoesNotFit(f"{at}{self.field}", self.message, "schema")
        return UnknownEventType(f"{at}{self.field}", self.message, self.kind.value)


class PayloadSchema:
    """A compiled schema. `size`: the bytes of its text."""

    def __init__(self, document: Mapping[str, Any] | bool) -> None:
        self.size = len(json.dumps(document))
        self._document = _absolute(document)
        self._fragments: dict[int, Draft202012Validator] = {}
        self._registry: Registry | None = None
        self._validator = _compiled(document)

    def fault(self, content: Any, root: str = "payload") -> Fault | None:
        """The first place where a value does not fit."""
        try:
            if self._validator.is_valid(content):
                return None
            path, message = self._located(content)
        except (ValueError, RecursionError):  # also from half a surrogate pair
            return Fault(FaultKind.PAYLOAD, root, "is nested too deeply, or has a text that UTF-8 cannot hold")
        return Fault(FaultKind.PAYLOAD, _path(root, path), _shortened(message))

    def _located(self, content: Any) -> tuple[list[str | int], str]:
        """Follow the schema to what does not fit, and say why.

        The library could say it, too. But it collects the errors of all branches of `anyOf` and `oneOf`, at all levels:
        with a recursive schema that took 52 s for a payload of 18 levels, where `is_valid` takes 0.03 ms.
        """
        path: list[str | int] = []
        schema: Any = self._document
        for _ in range(MAX_LOCATED):
            if not isinstance(schema, dict):
                return path, "is not allowed"
            inner = next((one for one in self._applied(schema, content) if not self._fits(one[0], one[1])), None)
            if inner is None:
                return path, self._reason(schema, content)
            schema, content, step = inner
            path += step
        return path, "does not fit the schema"

    def _applied(self, schema: Mapping[str, Any], content: Any) -> Iterator[tuple[Any, Any, tuple[str | int, ...]]]:
        """The subschemas that a value must fit, each with the part of the value and the way to it."""
        if isinstance(reference := schema.get("$ref"), str):
            yield _target(self._document, reference.removeprefix(_BASE)), content, ()
        for inner in _each(schema.get("allOf")):
            yield inner, content, ()
        if "if" in schema:
            branch = "then" if self._fits(schema["if"], content) else "else"
            yield schema.get(branch, True), content, ()
        if isinstance(content, dict):
            named = _map(schema.get("properties"))
            others = True if "patternProperties" in schema else schema.get("additionalProperties", True)
            for name, value in content.items():
                yield named.get(name, others), value, (name,)
        if isinstance(content, list):
            first, others = _each(schema.get("prefixItems")), schema.get("items", True)
            for index, value in enumerate(content):
                yield first[index] if index < len(first) else others, value, (index,)

    def _reason(self, schema: Mapping[str, Any], content: Any) -> str:
        """Why a value itself does not fit."""
        try:
            self._fragment({name: schema[name] for name in _ASSERTIONS if name in schema}).validate(content)
        except ValidationError as error:
            return error.message.removeprefix(f"{_MASK} ")
        for keyword, reason in _REASONS.items():
            if keyword in schema and not self._fragment({keyword: schema[keyword]}).is_valid(content):
                return reason
        return "does not fit the schema"

    def _fits(self, schema: Any, content: Any) -> bool:
        if not isinstance(schema, dict):
            return schema is not False
        if id(schema) not in self._fragments:  # a part of `_document`, which stays
            self._fragments[id(schema)] = self._fragment(schema)
        return self._fragments[id(schema)].is_valid(content)

    def _fragment(self, schema: dict[str, Any]) -> Draft202012Validator:
        if self._registry is None:
            self._registry = Registry([(_BASE, self._document)])
        return _compiled(schema, self._registry)


_BASE = "everhook:schema"
_ASSERTIONS = (
    "type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength",
    "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxProperties", "minProperties", "required",
    "dependentRequired",
)  # fmt: skip
_REASONS: Mapping[str, str] = {
    "anyOf": "fits none of the schemas in `anyOf`",
    "oneOf": "does not fit exactly one of the schemas in `oneOf`",
    "not": "fits the schema in `not`",
    "contains": "has no item that fits `contains`",
    "propertyNames": "has a name that does not fit `propertyNames`",
    "patternProperties": "has a member that does not fit `patternProperties`",
    "dependentSchemas": "does not fit `dependentSchemas`",
}


def _compiled(document: Any, registry: Registry | None = None) -> Draft202012Validator:
    return Draft202012Validator(document, pattern_options=_PATTERN_OPTIONS, mask=_MASK, offline=True, registry=registry)


def _absolute(document: Any) -> Any:
    """A copy whose references name the schema, so that a part of it can be compiled alone."""
    if isinstance(document, list):
        return [_absolute(part) for part in document]
    if not isinstance(document, dict):
        return document
    return {
        name: f"{_BASE}{part}" if name in _REFERENCES and isinstance(part, str) else _absolute(part)
        for name, part in document.items()
        if name != "$id"
    }


def check_schema(document: Any, field: str, example: Any = None) -> PayloadSchema:
    """Compile a schema that is to be registered. Takes up to a few 100 ms. Raises InvalidField."""
    if not isinstance(document, dict | bool):
        raise InvalidField(field, "is a JSON object, or true or false")
    _check_form(document, field)
    try:
        schema = PayloadSchema(document)
    except ValidationError as error:
        raise InvalidField(_path(field, error.instance_path), _why_no_schema(error), "schema") from error
    except (ValueError, RecursionError) as error:
        raise InvalidField(field, f"is no JSON Schema: {error}"[:MAX_MESSAGE], "schema") from error
    try:
        explorer = _Explorer(document, field)
        explorer.run()
    except RecursionError as error:
        raise InvalidField(field, _TOO_COMPLEX, "too_slow") from error
    _measure(schema, field, [example] if example is not None else [], explorer.costly_places())
    return schema


def _path(root: str, parts: Sequence[str | int]) -> str:
    """`payload.items[2].price`, as other fields of requests are named."""
    path = root
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if _NAME.fullmatch(part) else f"[{json.dumps(part[:100], ensure_ascii=False)}]"
    return path if len(path) <= MAX_PATH else path[: MAX_PATH - 1] + "…"


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


def _why_no_schema(error: ValidationError) -> str:
    if error.message.endswith('is not a "regex"'):
        return (
            "is no pattern that can be used: look-around and back-references are not supported, nor patterns that take "
            f"more than {PATTERN_MEMORY // 2**20} MiB of memory"
        )
    if error.kind.name in ("anyOf", "oneOf"):
        return "is no value that this keyword takes"
    return _shortened(error.message.removeprefix(f"{_MASK} "))


# The form: what can be said without understanding the schema.


def _check_form(document: Any, field: str) -> None:
    written(document, field, MAX_SCHEMA_BYTES)
    patterns = 0
    for value, depth in nested_values(document):
        if isinstance(value, dict):
            listed = value.get("patternProperties")
            patterns += isinstance(value.get("pattern"), str) + (len(listed) if isinstance(listed, dict) else 0)
            for keyword in _REFERENCES:
                _check_reference(value.get(keyword), f"{field}.{keyword}")
            if depth and isinstance(value.get("$id"), str):
                raise InvalidField(field, "has an `$id` in a subschema; only the schema as a whole may have one")
    if patterns > MAX_PATTERNS:
        raise InvalidField(field, f"has {patterns} patterns; at most {MAX_PATTERNS} are accepted")
    if isinstance(document, dict) and document.get("$schema", DIALECT) not in (DIALECT, f"{DIALECT}#"):
        raise InvalidField(f"{field}.$schema", f"is not {DIALECT}, the only version that is supported")


def written(document: Any, field: str, limit: int) -> bytes:
    """A document as JSON. Raises InvalidField for one that is too large or too deep, or that JSON in UTF-8 cannot
    hold."""
    if any(depth > MAX_DEPTH for _, depth in nested_values(document)):
        raise InvalidField(field, f"is nested deeper than {MAX_DEPTH} levels", "too_deep")
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidField(field, "has a number or a text that JSON in UTF-8 cannot hold") from error
    if len(text) > limit:
        raise InvalidField(field, f"has {len(text)} bytes; at most {limit} are accepted", "too_large")
    return text


def _check_reference(reference: Any, field: str) -> None:
    if isinstance(reference, str) and not reference.startswith("#"):
        message = f"leads to {reference[:100]!r}; only references within the schema (`#/$defs/…`) are followed"
        raise InvalidField(field, message, "remote_reference")


def nested_values(document: Any, deepest: int = MAX_DEPTH) -> Iterator[tuple[Any, int]]:
    """All values in a document with their depths, down to one level below `deepest`."""
    waiting = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value, depth
        if depth <= deepest and isinstance(value, dict | list):
            waiting += [(part, depth + 1) for part in (value.values() if isinstance(value, dict) else value)]


# The analysis: what applies to each place of a payload, and how often.

_IN_PLACE_ONE = ("not", "if", "then", "else")
_IN_PLACE_LIST = ("allOf", "anyOf", "oneOf")
_IN_PLACE_MAP = ("dependentSchemas", "dependencies")
_PARTS_ONE = (
    "additionalProperties", "propertyNames", "items", "contains", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_PARTS_MAP = ("properties", "patternProperties")
_TOO_COMPLEX = "is too complex: its subschemas combine in too many ways"
_COSTLY_MEMBER = 20
"""To compare with a container in an `enum` takes as long as so many checks."""

_Applied = Counter[int]
"""Subschemas, by their ids, and how often each applies to a value."""


@dataclass(frozen=True)
class _Place:
    """A kind of place in payloads. `path`: how it is reached; a name, or a container whose members are alike."""

    path: tuple[str, ...]
    cost: int


_ITEMS, _MEMBERS = "[]", "{}"


class _Explorer:
    """Visits each kind of place in payloads, with all subschemas that apply there at once.

    A recursive subschema counts once for each value, because the library remembers what it found for the value. So
    recursive schemas have finitely many kinds of places.
    """

    def __init__(self, document: Mapping[str, Any] | bool, field: str) -> None:
        self._document, self._field = document, field
        self._nodes: dict[int, Any] = {}
        self._known: dict[int, _Applied] = {}
        self._places: list[_Place] = []
        self._steps = 0
        self._recursive = self._recursive_targets()

    def run(self) -> None:
        """Raises InvalidField."""
        waiting: deque[tuple[_Applied, tuple[str, ...]]] = deque([(Counter([self._id(self._document)]), ())])
        seen: set[frozenset[tuple[int, int]]] = set()
        while waiting:
            applied, path = waiting.popleft()
            key = frozenset(applied.items())
            if not applied or key in seen:
                continue
            seen.add(key)
            if len(seen) > MAX_PLACES:
                raise self._too_complex()
            every = self._expanded(applied)
            cost = sum(count * self._cost(self._nodes[node]) for node, count in every.items())
            if cost > MAX_CHECKS:
                raise self._too_costly(path, cost)
            self._places.append(_Place(path, cost))
            waiting += [(members, (*path, step)) for step, members in self._members(every)]

    def costly_places(self) -> list[tuple[str, ...]]:
        """Where many values can be alike and each takes many checks: the three most expensive ones."""
        repeated = [place for place in self._places if place.path and place.path[-1] in (_ITEMS, _MEMBERS)]
        return [place.path for place in sorted(repeated, key=lambda place: -place.cost)[:3]]

    def _id(self, node: Any) -> int:
        self._nodes[id(node)] = node
        return id(node)

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise self._too_complex()

    def _recursive_targets(self) -> frozenset[int]:
        """The targets of references that lead back to themselves. Raises InvalidField for one that does so without
        going into a value: it would never end."""
        same: dict[int, list[int]] = {}
        inner: dict[int, list[int]] = {}
        targets: set[int] = set()
        waiting = [self._id(self._document)]
        while waiting:
            node = waiting.pop()
            if node in same or not isinstance(self._nodes[node], dict):
                continue
            schema = self._nodes[node]
            targets |= (found := {self._id(target) for target in self._targets(schema)})
            same[node] = [self._id(each) for each in _of_same_value(schema)] + list(found)
            inner[node] = [self._id(each) for each in _of_parts(schema)]
            self._count(1 + len(same[node]) + len(inner[node]))
            waiting += same[node] + inner[node]
        try:
            TopologicalSorter(same).prepare()
        except CycleError as error:
            raise InvalidField(
                self._field, "has a reference that leads back to itself without going into a value"
            ) from error
        every = {node: same[node] + inner[node] for node in same}
        return frozenset(target for target in targets if self._leads_back(target, every))

    def _leads_back(self, target: int, every: Mapping[int, Sequence[int]]) -> bool:
        seen: set[int] = set()
        waiting = list(every.get(target, ()))
        while waiting:
            node = waiting.pop()
            if node == target:
                return True
            if node not in seen:
                seen.add(node)
                waiting += every.get(node, ())
                self._count(1)
        return False

    def _targets(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        for keyword in _REFERENCES:
            if isinstance(schema.get(keyword), str):
                yield _target(self._document, schema[keyword])

    def _expanded(self, applied: _Applied) -> _Applied:
        """With the subschemas that apply to the same value."""
        every: _Applied = Counter()
        once: set[int] = set()
        waiting = [applied]
        while waiting:
            for node, count in waiting.pop().items():
                for inner, times in self._closure(node).items():
                    if inner not in self._recursive or inner == node:
                        every[inner] += count * times
                    elif inner not in once:
                        once.add(inner)
                        waiting.append(Counter([inner]))
        return every

    def _closure(self, node: int) -> _Applied:
        """A subschema, and those that it applies to the same value, up to recursive ones. One with `unevaluated…`
        applies them twice."""
        if node in self._known:
            return self._known[node]
        schema = self._nodes[node]
        every: _Applied = Counter()
        if isinstance(schema, dict):
            for inner in [*_of_same_value(schema), *self._targets(schema)]:
                every.update([id(inner)] if id(inner) in self._recursive else self._closure(id(inner)))
                self._count(len(every))
                if sum(every.values()) > MAX_CHECKS:
                    raise self._too_costly((), sum(every.values()))
            if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
                every = Counter({inner: 2 * count for inner, count in every.items()})
        every[node] += 1
        self._known[node] = every
        return every

    def _members(self, every: _Applied) -> Iterator[tuple[str, _Applied]]:
        """What applies to the members of a value that `every` applies to, by kind of member."""
        schemas = [(self._nodes[node], count) for node, count in every.items() if isinstance(self._nodes[node], dict)]
        names = sorted({name for schema, _ in schemas for name in _map(schema.get("properties"))})
        longest = max((len(_each(schema.get("prefixItems"))) for schema, _ in schemas), default=0)
        self._count(len(schemas) * (1 + len(names) + longest))
        for name in names:
            yield name, self._together((_of_member(schema, name), count) for schema, count in schemas)
        yield _MEMBERS, self._together((_of_member(schema, None), count) for schema, count in schemas)
        yield "(name)", self._together((_one(schema, "propertyNames"), count) for schema, count in schemas)
        for index in range(longest):
            yield _ITEMS, self._together((_of_item(schema, index), count) for schema, count in schemas)
        yield _ITEMS, self._together((_of_item(schema, None), count) for schema, count in schemas)

    def _together(self, found: Iterator[tuple[Sequence[Any], int]]) -> _Applied:
        applied: _Applied = Counter()
        for schemas, count in found:
            for schema in schemas:
                applied[self._id(schema)] += count
        return applied

    def _cost(self, schema: Any) -> int:
        if not isinstance(schema, dict):
            return 1
        containers = sum(isinstance(member, dict | list) for member in _each(schema.get("enum")))
        return 1 + containers * _COSTLY_MEMBER + len(_map(schema.get("patternProperties")))

    def _too_costly(self, path: Sequence[str], cost: int) -> InvalidField:
        where = "".join(step if step in (_ITEMS, _MEMBERS) else f".{step}" for step in path[:8])
        return InvalidField(
            self._field,
            f"may take too long: one value (payload{where}) is checked {cost} times or more, and at most {MAX_CHECKS} "
            "checks are accepted",
            "too_slow",
        )

    def _too_complex(self) -> InvalidField:
        return InvalidField(self._field, _TOO_COMPLEX, "too_slow")


def _target(document: Any, reference: str) -> Any:
    """What a reference leads to. The library has compiled the schema, so it leads somewhere."""
    name = unquote(reference[1:])
    if name and not name.startswith("/"):
        return next(
            value for value, _ in nested_values(document) if isinstance(value, dict) and name in _anchors_of(value)
        )
    found = document
    for part in name.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


def _anchors_of(schema: Mapping[str, Any]) -> tuple[Any, Any]:
    return schema.get("$anchor"), schema.get("$dynamicAnchor")


def _of_same_value(schema: Mapping[str, Any]) -> list[Any]:
    """The subschemas that apply to the same value, without references."""
    found = [schema[keyword] for keyword in _IN_PLACE_ONE if keyword in schema]
    found += [inner for keyword in _IN_PLACE_LIST for inner in _each(schema.get(keyword))]
    found += [inner for keyword in _IN_PLACE_MAP for inner in _map(schema.get(keyword)).values()]
    return [inner for inner in found if isinstance(inner, dict | bool)]


def _of_parts(schema: Mapping[str, Any]) -> list[Any]:
    """The subschemas that apply to parts of a value."""
    found = [inner for keyword in _PARTS_ONE for inner in _one(schema, keyword)]
    found += _each(schema.get("prefixItems"))
    return found + [inner for keyword in _PARTS_MAP for inner in _map(schema.get(keyword)).values()]


def _of_member(schema: Mapping[str, Any], name: str | None) -> list[Any]:
    """What applies to a member of an object: one of this name, or (None) of another."""
    named = _map(schema.get("properties"))
    found = [named[name]] if name is not None and name in named else _one(schema, "additionalProperties")
    return [*found, *_map(schema.get("patternProperties")).values(), *_one(schema, "unevaluatedProperties")]


def _of_item(schema: Mapping[str, Any], index: int | None) -> list[Any]:
    """What applies to the item of an array at an index, or (None) to one after all that have a schema of their own."""
    first = _each(schema.get("prefixItems"))
    found = [first[index]] if index is not None and index < len(first) else _one(schema, "items")
    return [*found, *_one(schema, "contains"), *_one(schema, "unevaluatedItems")]


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _one(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    return [schema[keyword]] if keyword in schema else []


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


# The measurement


def _measure(schema: PayloadSchema, field: str, examples: Sequence[Any], places: Sequence[Sequence[str]]) -> None:
    """Raise InvalidField if a payload takes too long. Small payloads come first, so that large ones are not tried with
    a schema that is too slow for them."""
    values: tuple[Any, ...] = (0, "", {}, [])
    probes = [_filled(place, value) for place in places for value in values]
    for share in (32, 1):
        for probe in probes:
            _refuse_slow(field, _seconds(schema, probe(PROBE_BYTES // share)) * share)
    for example in examples:
        _refuse_slow(field, _seconds(schema, example))


def _refuse_slow(field: str, seconds: float) -> None:
    if seconds > MAX_PROBE_S:
        message = f"takes {seconds * 1000:.0f} ms for a payload of {PROBE_BYTES // 1024} KiB; at most "
        raise InvalidField(field, f"{message}{MAX_PROBE_S * 1000:.0f} ms are accepted", "too_slow")


def _seconds(schema: PayloadSchema, content: Any) -> float:
    began = time.thread_time()
    schema.fault(content)
    return time.thread_time() - began


class _filled:
    """A payload of some size: a container at a place, full of members that are alike."""

    def __init__(self, place: Sequence[str], value: Any) -> None:
        self._place, self._value = place, value

    def __call__(self, size: int) -> Any:
        *way, last = self._place
        if last == _ITEMS:
            content: Any = [self._value] * (size // (len(json.dumps(self._value)) + 1))
        else:
            content = {f"k{number}": self._value for number in range(size // 12)}
        for step in reversed(way):
            content = [content] if step == _ITEMS else {"k" if step == _MEMBERS else step: content}
        return content
