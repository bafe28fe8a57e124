"""Event types in OpenAPI documents: read from `webhooks`, and written so that they can be read again."""

from typing import Any

import pytest

from everhook.errors import InvalidField
from everhook.event_types.openapi import read, write
from everhook.event_types.schemas import PayloadSchema
from everhook.storage.tables import EventType


def document(webhook: Any, **more: Any) -> dict[str, Any]:
    return {"openapi": "3.1.0", "webhooks": {"order.created": webhook}, **more}


def body(schema: Any, **media: Any) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"schema": schema, **media}}}}


LINE = {"$ref": "#/components/schemas/Line"}
BODY = "document.webhooks.order.created.post.requestBody"


def only(found: dict[str, Any]) -> dict[str, Any]:
    (described,) = read(found, "document")
    return described


def test_a_webhook_is_an_event_type() -> None:
    values = only(
        document({"post": {"summary": "short", "description": "long", "deprecated": True, **body(True, example=1)}})
    )

    assert values == {
        "name": "order.created", "description": "long", "schema": True, "example": 1, "deprecated": True,
    }  # fmt: skip
    assert only(document({"post": {}})) == {
        "name": "order.created", "description": "", "schema": None, "example": None, "deprecated": False,
    }  # fmt: skip


def test_components_are_copied_into_the_schema_recursive_ones_too() -> None:
    components = {
        "schemas": {
            "Order": {"properties": {"lines": {"items": LINE}}},
            "Line": {"properties": {"price": {"type": "number"}, "parts": {"items": LINE}}},
        },
        "pathItems": {"Created": {"post": {"requestBody": {"$ref": "#/components/requestBodies/Order"}}}},
        "requestBodies": {"Order": body({"$ref": "#/components/schemas/Order"})["requestBody"]},
    }

    schema = only(document({"$ref": "#/components/pathItems/Created"}, components=components))["schema"]

    assert schema["$ref"] == "#/$defs/Order" and set(schema["$defs"]) == {"Order", "Line"}
    compiled = PayloadSchema(schema)
    assert compiled.fault({"lines": [{"price": 1, "parts": [{"price": 2}]}]}) is None
    fault = compiled.fault({"lines": [{"price": 1, "parts": [{"price": "x"}]}]})
    assert fault is not None and fault.field == "payload.lines[0].parts[0].price"


def test_components_of_one_name_do_not_replace_each_other() -> None:
    schema = {
        "$defs": {"A": {"type": "string"}},
        "prefixItems": [{"$ref": "#/components/schemas/A"}, {"$ref": "#/other/A"}],
    }
    found = document({"post": body(schema)}, components={"schemas": {"A": {"type": "null"}}}, other={"A": False})

    assert only(found)["schema"]["$defs"] == {"A": {"type": "string"}, "A_2": {"type": "null"}, "A_3": False}


def test_the_first_of_several_examples_counts() -> None:
    named = {"examples": {"one": {"$ref": "#/components/examples/One"}, "two": {"value": 2}}}
    components = {"examples": {"One": {"value": 1}}}

    assert only(document({"post": body(True, **named)}, components=components))["example"] == 1
    assert only(document({"post": body({"examples": [3, 4]})}))["example"] == 3


def test_an_exported_event_type_is_imported_unchanged() -> None:
    schema = {
        "properties": {"next": {"$ref": "#"}, "line": {"$ref": "#/$defs/line~1item"}},
        "$defs": {"line/item": {"type": "integer"}},
    }
    row = EventType(name="a/b.c", description="d", payload_schema=schema, example={"line": 1}, deprecated=True)

    (described,) = read(write([row]), "document")

    assert described == {
        "name": "a/b.c", "description": "d", "schema": schema, "example": {"line": 1}, "deprecated": True,
    }  # fmt: skip


NESTED: Any = {}
for _ in range(400):
    NESTED = {"items": NESTED}


@pytest.mark.parametrize(
    ("found", "field"),
    [
        ([], "document.openapi"),
        ({"openapi": "3.0.3", "webhooks": {}}, "document.openapi"),
        ({"openapi": "3.1.0"}, "document.webhooks"),
        ({"openapi": "3.1.0", "webhooks": []}, "document.webhooks"),
        (document([]), "document.webhooks.order.created"),
        (document({"get": {}}), "document.webhooks.order.created.post"),
        (document({"$ref": "https://example.com/hooks.json"}), "document.webhooks.order.created"),
        (document({"$ref": "#/webhooks/order.created"}), "document.webhooks.order.created"),
        (document({"post": body({"$ref": "#/components/schemas/None"})}), BODY),
        (document({"post": {"requestBody": {"content": {"application/json": 1}}}}), "document.webhooks.order.created"),
        (document({"post": body({"$defs": []})}), BODY),
        (document({"post": body(NESTED)}), "document"),
        ({"openapi": "3.1.0", "webhooks": {"not a type": {"post": {}}}}, "document.webhooks.not a type"),
    ],
)
def test_a_document_that_describes_no_event_types_is_refused_where_it_is_wrong(found: Any, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        read(found, "document")

    assert refused.value.field.startswith(field)


def test_a_webhook_that_refers_to_nearly_all_of_a_large_document_is_refused_at_once() -> None:
    schemas = {
        f"S{n}": {"description": "x" * 1_000, "items": {"$ref": f"#/components/schemas/S{n + 1}"}} for n in range(999)
    }
    components = {"schemas": {**schemas, "S999": {}}}

    with pytest.raises(InvalidField, match="refers to more than 65536 bytes") as refused:
        only(document({"post": body({"$ref": "#/components/schemas/S0"})}, components=components))

    assert refused.value.field == BODY


def test_a_document_that_takes_too_long_is_refused() -> None:
    with pytest.raises(InvalidField, match="takes too long"):
        read(document({"post": {}}), "document", until=0.0)
