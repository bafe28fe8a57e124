"""Event types in OpenAPI 3.1, under `webhooks`: read from a document, and written as one. Pure.

OpenAPI 3.1 takes its schemas from JSON Schema 2020-12. A schema of the catalogue stands alone, so components that it
refers to are copied into its `$defs`.
"""

import json
import math
import re
import time
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from everhook.errors import InvalidField
from everhook.event_types.keywords import nested_values
from everhook.event_types.schemas import MAX_SCHEMA_BYTES
from everhook.storage.tables import EventType

FILE = "openapi.json"
JSON_TYPE = "application/json"
MAX_DEPTH = 150
MAX_WEBHOOKS = 500
MAX_HOPS = 20
"""References in a row, such as that of a webhook to a path item."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")
_TEXT = re.compile(r"[^\x00\ud800-\udfff]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def read(document: Any, field: str, until: float = math.inf) -> list[dict[str, Any]]:
    """The event types that a document describes: of each name, description, schema, example, and whether it is
    deprecated. Takes seconds for a large document; `until` is when to give up, by the monotonic clock. Raises
    InvalidField."""
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith(("3.1", "3.2")):
        raise InvalidField(f"{field}.openapi", "is not 3.1 or 3.2: earlier versions have no webhooks")
    if any(depth > MAX_DEPTH for _, depth in nested_values(document, MAX_DEPTH)):
        raise InvalidField(field, f"is nested deeper than {MAX_DEPTH} levels", "too_deep")
    webhooks = document.get("webhooks")
    if not isinstance(webhooks, dict) or not webhooks:
        raise InvalidField(f"{field}.webhooks", "is missing or empty, so no event type is described")
    if len(webhooks) > MAX_WEBHOOKS:
        raise InvalidField(
            f"{field}.webhooks", f"has {len(webhooks)} webhooks; import at most {MAX_WEBHOOKS} at a time"
        )
    sizes: dict[int, int] = {}
    found = []
    for name in webhooks:
        require_time(field, until)
        found.append(_Reader(document, f"{field}.webhooks.{name}", sizes).event_type(name))
    return found


def require_time(field: str, until: float) -> None:
    """Raise InvalidField for a document that has taken too long."""
    if time.monotonic() >= until:
        raise InvalidField(field, "takes too long to check; import fewer webhooks at a time", "too_slow")


class _Reader:
    """Reads one webhook. `field` names it in errors. `sizes` are those of parts of the document, by their ids, for the
    readers of all webhooks."""

    def __init__(self, document: Mapping[str, Any], field: str, sizes: dict[int, int]) -> None:
        self._document, self._field, self._sizes = document, field, sizes

    def event_type(self, name: str) -> dict[str, Any]:
        if not _NAME.fullmatch(name):
            raise InvalidField(self._field, "has a name that is no event type: letters, digits and . _ / : - (128)")
        item = self._object(self._document["webhooks"][name], "")
        operation = self._object(item.get("post"), ".post")
        body = self._object(operation.get("requestBody", {}), ".post.requestBody")
        media = body.get("content", {}).get(JSON_TYPE, {}) if isinstance(body.get("content", {}), dict) else {}
        media = self._object(media, f".post.requestBody.content.{JSON_TYPE}")
        description = operation.get("description", operation.get("summary", item.get("description", "")))
        if not isinstance(description, str) or not _TEXT.fullmatch(description):
            raise InvalidField(
                f"{self._field}.post.description", "is a text without NUL (U+0000) and halves of surrogate pairs"
            )
        return {
            "name": name,
            "description": description[:1000],
            "schema": self._schema(name, media.get("schema")),
            "example": self._example(media),
            "deprecated": operation.get("deprecated") is True,
        }

    def _object(self, value: Any, at: str) -> dict[str, Any]:
        """An object, or the one that it refers to."""
        for _ in range(MAX_HOPS):
            if not isinstance(value, dict):
                raise InvalidField(f"{self._field}{at}", "is an object")
            if not isinstance(value.get("$ref"), str):
                return value
            value = self._referred(value["$ref"], at)
        raise InvalidField(f"{self._field}{at}", "is a reference that leads back to itself")

    def _referred(self, reference: str, at: str) -> Any:
        found: Any = self._document
        if not reference.startswith("#/"):
            raise InvalidField(f"{self._field}{at}", f"refers to {reference[:100]!r}, which is not in this document")
        for part in reference[2:].split("/"):
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        if found is None:
            raise InvalidField(f"{self._field}{at}", f"refers to {reference[:100]!r}, which does not exist")
        return found

    def _size(self, part: Any) -> int:
        """About as many bytes as a part takes as JSON."""
        if id(part) not in self._sizes:
            self._sizes[id(part)] = len(json.dumps(part, ensure_ascii=False))
        return self._sizes[id(part)]

    def _example(self, media: Mapping[str, Any]) -> Any:
        if "example" in media:
            return media["example"]
        examples = media.get("examples")
        if isinstance(examples, dict) and examples:
            return self._object(next(iter(examples.values())), ".post.requestBody.examples").get("value")
        schema = media.get("schema")
        listed = schema.get("examples") if isinstance(schema, dict) else None
        return listed[0] if isinstance(listed, list) and listed else None

    def _schema(self, name: str, schema: Any) -> Any:
        """The schema with everything in it that it refers to."""
        if not isinstance(schema, dict):
            return schema
        own, taken = _pointer(name), schema.get("$defs", {})
        if not isinstance(taken, dict):
            raise InvalidField(f"{self._field}.post.requestBody", "has a schema whose `$defs` is no object")
        copied: dict[str, str] = {}
        definitions: dict[str, Any] = {}
        size = 0
        waiting = [schema]
        while waiting:
            for reference in _references(waiting.pop()):
                if reference == own or reference.startswith(f"{own}/") or reference in copied:
                    continue
                if not reference.startswith("#/"):
                    continue  # an anchor, or one that the check of the schema refuses
                target = self._referred(reference, ".post.requestBody")
                size += self._size(target)
                if size > MAX_SCHEMA_BYTES:  # many webhooks may refer to nearly all of a large document
                    raise InvalidField(
                        f"{self._field}.post.requestBody",
                        f"has a schema that refers to more than {MAX_SCHEMA_BYTES} bytes of other schemas",
                        "too_large",
                    )
                label = _unique(_UNSAFE.sub("_", reference.rpartition("/")[2]), ChainMap(definitions, taken))
                copied[reference], definitions[label] = label, target
                waiting.append(target)
        root = _rewritten(schema, own, copied)
        moved = {label: _rewritten(target, own, copied) for label, target in definitions.items()}
        return {**root, "$defs": {**root.get("$defs", {}), **moved}} if moved else root


def write(types: Sequence[EventType]) -> dict[str, Any]:
    """A document with these event types."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Event types",
            "version": "1",
            "description": "The payloads of messages by type. Endpoints with the body format `raw` receive them as "
            "they are; other formats wrap them.",
        },
        "webhooks": {row.name: {"post": _operation(row)} for row in types},
    }


def _operation(row: EventType) -> dict[str, Any]:
    media: dict[str, Any] = {}
    if row.payload_schema is not None:
        media["schema"] = _relocated(row.payload_schema, _pointer(row.name))
    if row.example is not None:
        media["example"] = row.example
    operation: dict[str, Any] = {"summary": row.name, "description": row.description}
    if row.deprecated:
        operation["deprecated"] = True
    operation["requestBody"] = {"required": True, "content": {JSON_TYPE: media}}
    operation["responses"] = {"2XX": {"description": "Received."}}
    return operation


def _pointer(name: str) -> str:
    """Where the schema of a webhook is in its document."""
    escaped = name.replace("~", "~0").replace("/", "~1")
    return f"#/webhooks/{escaped}/post/requestBody/content/application~1json/schema"


def _relocated(schema: Any, pointer: str) -> Any:
    """A schema whose references lead to itself, as part of a document."""
    if isinstance(schema, list):
        return [_relocated(part, pointer) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: pointer + part[1:]
        if key == "$ref" and isinstance(part, str) and (part == "#" or part.startswith("#/"))
        else _relocated(part, pointer)
        for key, part in schema.items()
    }


def _rewritten(schema: Any, own: str, copied: Mapping[str, str]) -> Any:
    """A schema whose references lead to itself, where they led to parts of a document."""
    if isinstance(schema, list):
        return [_rewritten(part, own, copied) for part in schema]
    if not isinstance(schema, dict):
        return schema
    rewritten = {}
    for key, part in schema.items():
        if key == "$ref" and isinstance(part, str):
            if part in copied:
                part = f"#/$defs/{copied[part]}"
            elif part == own or part.startswith(f"{own}/"):
                part = "#" + part.removeprefix(own)
            rewritten[key] = part
        else:
            rewritten[key] = _rewritten(part, own, copied)
    return rewritten


def _references(schema: Any) -> Iterator[str]:
    """All references in a schema, in their order."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)


def _unique(label: str, taken: Mapping[str, Any]) -> str:
    name, number = label, 2
    while name in taken:
        name, number = f"{label}_{number}", number + 1
    return name
