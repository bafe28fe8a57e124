"""Event types as requests and responses show them."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from api.schemas import ApiModel, EventType, Flag, Text
from everhook.storage import tables

MAX_IMPORT_BYTES = 4 * 1024 * 1024
"""Bytes of a document to import, with what surrounds it."""

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["orderId", "amount"],
    "properties": {"orderId": {"type": "integer"}, "amount": {"type": "number", "minimum": 0}},
}
_PAYLOAD: dict[str, Any] = {"orderId": 1042, "amount": 99.5}
_SUMMARY: dict[str, Any] = {"name": "order.created", "description": "A customer has ordered.", "deprecated": False}
EVENT_TYPE: dict[str, Any] = {
    **_SUMMARY,
    "archived": False,
    "createdAt": "2026-01-31T12:00:00Z",
    "updatedAt": "2026-01-31T12:00:00Z",
}
_DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Shop", "version": "1"},
    "webhooks": {
        "order.created": {
            "post": {
                "description": "A customer has ordered.",
                "requestBody": {"content": {"application/json": {"schema": _SCHEMA, "example": _PAYLOAD}}},
            }
        }
    },
}

SCHEMA = "The JSON Schema (2020-12) that payloads fit: an object, `true` or `false`. `format` is not checked."


class EventTypeIn(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{**_SUMMARY, "schema": _SCHEMA, "example": _PAYLOAD}]})

    name: EventType = Field(examples=["order.created"])
    description: Text = ""
    payload_schema: dict[str, Any] | bool | None = Field(None, alias="schema", description=SCHEMA)
    example: Any = Field(None, description="A payload, which fits the schema. Test messages have it.")
    deprecated: Flag = False
    archived: Flag = False


class EventTypePatch(ApiModel):
    """What is absent stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"deprecated": True}]})

    description: Text | None = None
    payload_schema: dict[str, Any] | bool | None = Field(None, alias="schema", description=f"{SCHEMA} Null: none.")
    example: Any = Field(None, description="Null: none.")
    deprecated: Flag | None = None
    archived: Flag | None = Field(None, description="Whether channels with the validation `reject` refuse it.")


class EventTypeSummaryOut(ApiModel):
    """An event type without its schema and example."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EVENT_TYPE, "hasSchema": True}]})

    name: str
    description: str
    deprecated: bool
    archived: bool
    has_schema: bool
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: tables.EventType) -> "EventTypeSummaryOut":
        return cls(
            name=row.name,
            description=row.description,
            deprecated=row.deprecated,
            archived=row.archived,
            has_schema=row.schema_sha256 is not None,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class EventTypeOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{**EVENT_TYPE, "schema": _SCHEMA, "example": _PAYLOAD}]})

    name: str
    description: str
    payload_schema: dict[str, Any] | bool | None = Field(alias="schema", description=SCHEMA)
    example: Any
    deprecated: bool
    archived: bool
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: tables.EventType) -> "EventTypeOut":
        return cls(
            name=row.name,
            description=row.description,
            payload_schema=row.payload_schema,
            example=row.example,
            deprecated=row.deprecated,
            archived=row.archived,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class EventTypeImportIn(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"document": _DOCUMENT}]})

    document: dict[str, Any] = Field(description="An OpenAPI document (3.1) with `webhooks`.")
    dry_run: Flag = Field(False, description="Report what would change, and change nothing.")


class EventTypeImportOut(ApiModel):
    """The names of the event types of a document, by what the import did."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"created": ["order.created"], "changed": [], "unchanged": ["order.paid"]}]}
    )

    created: list[str]
    changed: list[str]
    unchanged: list[str]
