"""The keywords of JSON Schema that hold subschemas, and where references lead. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

REFERENCES = ("$ref", "$dynamicRef")
MAX_DEPTH = 64
"""Levels of a schema, and of an example."""
_IN_PLACE_ONE = ("not", "if", "then", "else")
_IN_PLACE_LIST = ("allOf", "anyOf", "oneOf")
_IN_PLACE_MAP = ("dependentSchemas", "dependencies")
_PARTS_ONE = (
    "additionalProperties", "propertyNames", "items", "contains", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_PARTS_MAP = ("properties", "patternProperties")


def nested_values(document: Any, deepest: int = MAX_DEPTH) -> Iterator[tuple[Any, int]]:
    """All values in a document with their depths, down to one level below `deepest`."""
    waiting = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value, depth
        if depth <= deepest and isinstance(value, dict | list):
            waiting += [(part, depth + 1) for part in (value.values() if isinstance(value, dict) else value)]


def target_of(document: Any, reference: str) -> Any:
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


def of_same_value(schema: Mapping[str, Any]) -> list[Any]:
    """The subschemas that apply to the same value, without references."""
    found = [schema[keyword] for keyword in _IN_PLACE_ONE if keyword in schema]
    found += [inner for keyword in _IN_PLACE_LIST for inner in each(schema.get(keyword))]
    found += [inner for keyword in _IN_PLACE_MAP for inner in mapping(schema.get(keyword)).values()]
    return [inner for inner in found if isinstance(inner, dict | bool)]


def of_parts(schema: Mapping[str, Any]) -> list[Any]:
    """The subschemas that apply to parts of a value."""
    found = [inner for keyword in _PARTS_ONE for inner in one(schema, keyword)]
    found += each(schema.get("prefixItems"))
    return found + [inner for keyword in _PARTS_MAP for inner in mapping(schema.get(keyword)).values()]


def of_member(schema: Mapping[str, Any], name: str | None) -> list[Any]:
    """What applies to a member of an object: one of this name, or (None) of another."""
    named = mapping(schema.get("properties"))
    found = [named[name]] if name is not None and name in named else one(schema, "additionalProperties")
    return [*found, *mapping(schema.get("patternProperties")).values(), *one(schema, "unevaluatedProperties")]


def of_item(schema: Mapping[str, Any], index: int | None) -> list[Any]:
    """What applies to the item of an array at an index, or (None) to one after all that have a schema of their own."""
    first = each(schema.get("prefixItems"))
    found = [first[index]] if index is not None and index < len(first) else one(schema, "items")
    return [*found, *one(schema, "contains"), *one(schema, "unevaluatedItems")]


def each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def one(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    return [schema[keyword]] if keyword in schema else []


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
