"""JSON Schemas of payloads: what is accepted, what is refused because it may take long, and where a payload fails."""

import time
from typing import Any

import pytest

from everhook.errors import InvalidField
from everhook.event_types import schemas
from everhook.event_types.modes import FaultKind
from everhook.event_types.schemas import MAX_PATTERNS, PROBE_BYTES, PayloadSchema, check_schema

ORDER: dict[str, Any] = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "integer", "maximum": 10},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "first and second": {"prefixItems": [{"type": "string"}, {"type": "integer"}]},
        "kind": {"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"type": "null"}},
        "free": {"allOf": [{"type": "object"}, {"$ref": "#/$defs/named"}]},
        "one": {"oneOf": [{"type": "integer"}, {"minimum": 5}]},
        "tagged": {"patternProperties": {"^x-": {"type": "string"}}},
    },
    "additionalProperties": False,
    "$defs": {
        "line": {
            "properties": {"price": {"type": "number"}},
            "anyOf": [{"required": ["price"]}, {"required": ["gift"]}],
        },
        "named": {"$anchor": "named", "required": ["name"]},
    },
}


@pytest.mark.parametrize(
    ("payload", "field", "message"),
    [
        ([], "payload", 'is not of type "object"'),
        ({}, "payload", '"id" is a required property'),
        ({"id": "a secret"}, "payload.id", 'is not of type "integer"'),
        ({"id": 11}, "payload.id", "is greater than the maximum of 10"),
        ({"id": 1, "other": 1}, "payload.other", "is not allowed"),
        ({"id": 1, "lines": [{"price": 1}, {"price": "a secret"}]}, "payload.lines[1].price", "is not of type"),
        ({"id": 1, "lines": [{}]}, "payload.lines[0]", "fits none of the schemas in `anyOf`"),
        ({"id": 1, "first and second": ["a", "b"]}, 'payload["first and second"][1]', "is not of type"),
        ({"id": 1, "kind": "x"}, "payload.kind", "is shorter than 2 characters"),
        ({"id": 1, "kind": 1}, "payload.kind", 'is not of type "null"'),
        ({"id": 1, "free": {}}, "payload.free", '"name" is a required property'),
        ({"id": 1, "one": 7}, "payload.one", "does not fit exactly one of the schemas in `oneOf`"),
        ({"id": 1, "tagged": {"x-a": 1}}, "payload.tagged", "has a member that does not fit `patternProperties`"),
        ({"id": "\ud800"}, "payload", "has a text that UTF-8 cannot hold"),
    ],
)
def test_an_error_names_the_place_that_does_not_fit_without_its_value(payload: Any, field: str, message: str) -> None:
    fault = check_schema(ORDER, "schema").fault(payload)

    assert fault is not None
    assert (fault.kind, fault.field) == (FaultKind.PAYLOAD, field)
    assert message in fault.message
    assert "secret" not in str(fault)


def test_a_valid_payload_has_no_error() -> None:
    schema = check_schema(ORDER, "schema")

    assert schema.fault({"id": 1, "lines": [{"price": 1.5}], "kind": "xx", "one": 5.5}) is None
    assert check_schema(True, "schema").fault({"any": "thing"}) is None


def test_an_error_is_short_for_any_payload() -> None:
    fault = check_schema({"additionalProperties": {"additionalProperties": False}}, "schema").fault(
        {"n" * 5_000: {"m" * 5_000: 1}}
    )

    assert fault is not None and len(str(fault)) < 600


LAUGHS = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {}}
"""Each refers to the next one twice: 2 to the power of 40 checks."""
INTO_ITEMS = {f"a{n}": {"allOf": [{"items": {"$ref": f"#/$defs/a{n + 1}"}}] * 2} for n in range(40)} | {"a40": {}}
"""The same, one level deeper in the payload each time."""
DEEP: Any = {}
for _ in range(100):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"$ref": "https://example.com/schema.json"}, "remote_reference"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, "remote_reference"),
        ({"$dynamicRef": "http://169.254.169.254/"}, "remote_reference"),
        ({"$ref": "#/$defs/none"}, "schema"),
        ({"$ref": "#"}, "invalid"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "invalid"),
        ({"$defs": {"a": {"$anchor": "x"}, "b": {"const": {"$anchor": "x"}}}, "$ref": "#x"}, "invalid"),
        ({"pattern": "(?=a)b"}, "schema"),
        ({"pattern": r"(a)\1"}, "schema"),
        ({"pattern": "(a{1000}){1000}"}, "schema"),
        ({"type": "thing"}, "schema"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "invalid"),
        ({"properties": {"a": {"$id": "https://example.com/a"}}}, "invalid"),
        ({"$defs": LAUGHS, "$ref": "#/$defs/a0"}, "too_slow"),
        ({"$defs": LAUGHS, "items": {"not": {"$ref": "#/$defs/a0"}}}, "too_slow"),
        ({"$defs": INTO_ITEMS, "$ref": "#/$defs/a0"}, "too_slow"),
        ({"items": {"enum": [{"n": n} for n in range(3_000)]}}, "too_slow"),
        ({"properties": {f"p{n}": {"pattern": "a"} for n in range(MAX_PATTERNS + 1)}}, "invalid"),
        ({"description": "x" * 70_000}, "too_large"),
        (DEEP, "too_deep"),
        ({"const": float("nan")}, "invalid"),
        ([], "invalid"),
        ("true", "invalid"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: Any, code: str) -> None:
    with pytest.raises(InvalidField) as refused:
        check_schema(schema, "schema")

    assert refused.value.code == code, refused.value
    assert refused.value.field.startswith("schema")


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"pattern": "(?=a)b"}, "schema.pattern"),
        ({"properties": {"a": {"items": {"pattern": "("}}}}, "schema.properties.a.items.pattern"),
        ({"patternProperties": {"(?<a": {}}}, 'schema.patternProperties["(?<a"]'),
    ],
)
def test_a_pattern_that_cannot_be_used_is_explained(schema: Any, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        check_schema(schema, "schema")

    assert refused.value.field == field
    assert refused.value.message.startswith("is no pattern that can be used: look-around")


def test_a_schema_is_not_slow_because_a_measurement_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = schemas._seconds
    calls = 0

    def interrupted(schema: PayloadSchema, content: Any) -> float:
        nonlocal calls
        calls += 1
        return measured(schema, content) + (0.01 if calls % 3 else 0.0)

    monkeypatch.setattr(schemas, "_seconds", interrupted)
    check_schema({"items": {"type": "integer"}}, "schema")
    assert calls > 3


def test_a_schema_that_is_slow_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everhook.event_types.schemas.MAX_PROBE_S", 0.0)

    with pytest.raises(InvalidField, match=r"takes .* ms for a payload of 256 KiB") as refused:
        check_schema({"items": {"type": "integer"}}, "schema")
    assert refused.value.code == "too_slow"


def test_recursive_schemas_are_accepted_and_take_no_longer_for_each_level() -> None:
    """Both branches go into `child`; the library reports the errors of all of them in 2 ** 60 steps."""
    branches = [
        {"required": ["kind"], "properties": {"kind": {"const": kind}, "child": {"$ref": "#"}}} for kind in "ab"
    ]
    schema = check_schema({"type": "object", "oneOf": branches}, "schema")
    payload: dict[str, Any] = {"kind": "neither"}
    for _ in range(60):
        payload = {"kind": "a", "child": payload}

    fault = schema.fault(payload)

    assert fault is not None and "oneOf" in fault.message


def test_a_payload_of_256_kib_against_a_large_schema(capsys: pytest.CaptureFixture[str]) -> None:
    schema, payload = large_schema(), large_payload()
    compiled = check_schema(schema, "schema", payload["lines"][0])
    began = time.perf_counter()
    assert compiled.fault(payload) is None
    valid = time.perf_counter() - began
    payload["lines"][-1]["f0"] = 1
    began = time.perf_counter()
    fault = compiled.fault(payload)
    invalid = time.perf_counter() - began
    with capsys.disabled():
        print(f"\nschema of {compiled.size // 1024} KiB, payload of {PROBE_BYTES // 1024} KiB: "
              f"fits in {valid * 1000:.1f} ms, does not fit in {invalid * 1000:.1f} ms")  # fmt: skip
    assert fault is not None and fault.field.endswith(".f0")


def large_schema() -> dict[str, Any]:
    field = {"type": "string", "minLength": 1, "maxLength": 100, "description": "x" * 100}
    line = {"type": "object", "required": ["f0"], "properties": {f"f{n}": field for n in range(300)}}
    return {"properties": {"lines": {"type": "array", "items": line}}, "additionalProperties": False}


def large_payload() -> dict[str, Any]:
    line = {f"f{n}": "value" for n in range(20)}
    return {"lines": [dict(line) for _ in range(PROBE_BYTES // 300)]}


def test_a_compiled_schema_knows_the_size_of_its_text() -> None:
    assert PayloadSchema({"type": "object"}).size == len('{"type": "object"}')


def test_a_deep_place_with_much_below_it_is_not_searched_for_long() -> None:
    """Each level is checked once more with all that is below it."""
    patterns = {f"^{letter}+[0-9]+x?$": {"minLength": 0} for letter in "abcdefghijklmnopqrst"}
    node = {
        "type": "object",
        "properties": {
            "bulk": {"items": {"type": "object", "patternProperties": patterns}},
            "child": {"$ref": "#/$defs/node"},
            "leaf": {"type": "integer"},
        },
    }
    schema = check_schema({"$ref": "#/$defs/node", "$defs": {"node": node}}, "schema")
    payload: dict[str, Any] = {"bulk": [{"a1": "", "b2": ""}] * 10_000, "leaf": "x"}
    for _ in range(190):
        payload = {"child": payload}

    fault = schema.fault(payload)

    assert fault is not None and fault.field.startswith("payload.child")
    assert (fault.message, fault.field.endswith("…")) == ("does not fit the schema", False)  # it ends early
