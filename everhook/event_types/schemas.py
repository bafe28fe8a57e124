"""JSON Schemas of payloads: which ones are accepted, and where a payload does not fit.

Schemas run on the path of every publish, so one that could take long is refused when it is registered:

- Patterns are compiled by an engine that takes linear time, without look-around and back-references (ReDoS).
- References lead within the schema. Nothing is ever fetched.
- `complexity.py` counts how often one value of a payload may be checked. That can be exponential in the size of a
  schema.
- What is left is measured, with the example and with large payloads that repeat the most expensive parts.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema_rs import Draft202012Validator, RegexOptions, Registry, ValidationError, ValidationErrorKind

from everhook.errors import InvalidField, PayloadDoesNotFit, UnknownEventType
from everhook.event_types.complexity import ITEMS, MEMBERS, TOO_COMPLEX, Explorer
from everhook.event_types.keywords import MAX_DEPTH, REFERENCES, each, mapping, nested_values, target_of
from everhook.event_types.modes import FaultKind

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMA_BYTES = 64 * 1024
MAX_PATTERNS = 100
PATTERN_MEMORY = 2 * 1024 * 1024
"""Bytes that one compiled pattern may take."""

PROBE_BYTES = 256 * 1024
MAX_PROBE_S = 0.1
"""How much processor time a payload of that size may take."""

REPEATS, MAX_NOISE = 4, 5
"""How often a measurement is repeated, unless it took more than so many times `MAX_PROBE_S`."""

MAX_PATH, MAX_MESSAGE = 200, 300
MAX_LOCATED = 200
MAX_LOCATED_S = 0.05
"""Steps to the place that does not fit, and their processor time: each of them checks what is below it again. Then the
path ends early."""

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
        until = time.thread_time() + MAX_LOCATED_S
        for _ in range(MAX_LOCATED):
            if not isinstance(schema, dict):
                return path, "is not allowed"
            inner = None
            for part in self._applied(schema, content):
                if time.thread_time() >= until:
                    return path, "does not fit the schema"
                if not self._fits(part[0], part[1]):
                    inner = part
                    break
            if inner is None:
                return path, self._reason(schema, content)
            schema, content, step = inner
            path += step
        return path, "does not fit the schema"

    def _applied(self, schema: Mapping[str, Any], content: Any) -> Iterator[tuple[Any, Any, tuple[str | int, ...]]]:
        """The subschemas that a value must fit, each with the part of the value and the way to it."""
        if isinstance(reference := schema.get("$ref"), str):
            yield target_of(self._document, reference.removeprefix(_BASE)), content, ()
        for inner in each(schema.get("allOf")):
            yield inner, content, ()
        if "if" in schema:
            branch = "then" if self._fits(schema["if"], content) else "else"
            yield schema.get(branch, True), content, ()
        if isinstance(content, dict):
            named = mapping(schema.get("properties"))
            others = True if "patternProperties" in schema else schema.get("additionalProperties", True)
            for name, value in content.items():
                yield named.get(name, others), value, (name,)
        if isinstance(content, list):
            first, others = each(schema.get("prefixItems")), schema.get("items", True)
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
        name: f"{_BASE}{part}" if name in REFERENCES and isinstance(part, str) else _absolute(part)
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
        explorer = Explorer(document, field)
        explorer.run()
    except RecursionError as error:
        raise InvalidField(field, TOO_COMPLEX, "too_slow") from error
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
    kind = error.kind
    if isinstance(kind, ValidationErrorKind.Format) and kind.format == "regex":
        return (
            "is no pattern that can be used: look-around and back-references are not supported, nor patterns that take "
            f"more than {PATTERN_MEMORY // 2**20} MiB of memory"
        )
    if kind.name in ("anyOf", "oneOf"):
        return "is no value that this keyword takes"
    return _shortened(error.message.removeprefix(f"{_MASK} "))


# The form: what can be said without understanding the schema.


def _check_form(document: Any, field: str) -> None:
    written(document, field, MAX_SCHEMA_BYTES)
    patterns, anchors = 0, Counter[str]()
    for value, depth in nested_values(document):
        if isinstance(value, dict):
            listed = value.get("patternProperties")
            patterns += isinstance(value.get("pattern"), str) + (len(listed) if isinstance(listed, dict) else 0)
            for keyword in REFERENCES:
                _check_reference(value.get(keyword), f"{field}.{keyword}")
            anchors.update(value[name] for name in ("$anchor", "$dynamicAnchor") if isinstance(value.get(name), str))
            if depth and isinstance(value.get("$id"), str):
                raise InvalidField(field, "has an `$id` in a subschema; only the schema as a whole may have one")
    if twice := [name[:100] for name, count in anchors.items() if count > 1]:
        raise InvalidField(field, f"has the anchor {twice[0]!r} more than once")
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


# The measurement


def _measure(schema: PayloadSchema, field: str, examples: Sequence[Any], places: Sequence[Sequence[str]]) -> None:
    """Raise InvalidField if a payload takes too long. Small payloads come first, so that large ones are not tried with
    a schema that is too slow for them."""
    values: tuple[Any, ...] = (0, "", {}, [])
    probes = [_filled(place, value) for place in places for value in values]
    for share in (32, 1):
        for probe in probes:
            _refuse_slow(field, schema, probe(PROBE_BYTES // share), share)
    for example in examples:
        _refuse_slow(field, schema, example, 1)


def _refuse_slow(field: str, schema: PayloadSchema, content: Any, factor: int) -> None:
    """`factor`: how many times as long a payload of `PROBE_BYTES` would take. What seems slow is measured again: a
    collection of garbage, or another process, may have been in between."""
    seconds = _seconds(schema, content)
    for _ in range(REPEATS):
        if not seconds * factor > MAX_PROBE_S > seconds / MAX_NOISE:
            break
        seconds = min(seconds, _seconds(schema, content))
    seconds *= factor
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
        if last == ITEMS:
            content: Any = [self._value] * (size // (len(json.dumps(self._value)) + 1))
        else:
            content = {f"k{number}": self._value for number in range(size // 12)}
        for step in reversed(way):
            content = [content] if step == ITEMS else {"k" if step == MEMBERS else step: content}
        return content
