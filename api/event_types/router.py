"""The catalogue of event types: what messages of each type look like."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from api import problem_types
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.event_types.schemas import (
    EventTypeImportIn,
    EventTypeImportOut,
    EventTypeIn,
    EventTypeOut,
    EventTypePatch,
    EventTypeSummaryOut,
)
from api.idempotency import OnceDep
from api.problems import documents, invalid, refuse_nulls
from api.schemas import EventType, ListOf
from everhook.event_types import openapi
from everhook.event_types.service import NewEventType

router = APIRouter(prefix="/event-types", tags=["event types"])

Name = Annotated[EventType, Path()]
_DOCUMENT_EXAMPLE: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Event types", "version": "1"},
    "webhooks": {"order.created": {"post": {"requestBody": {"content": {"application/json": {}}}}}},
}


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    responses=documents(problem_types.EVENT_TYPE_EXISTS, problem_types.QUOTA_EXCEEDED),
)
async def create_event_type(
    body: EventTypeIn, services: ServicesDep, store: Store, caller: Principal, once: OnceDep
) -> EventTypeOut:
    """Add an event type to the catalogue. A schema that is refused names the reason: it refers to other documents, it
    has patterns that cannot be checked in linear time, or it takes long."""
    new = NewEventType(
        name=body.name,
        description=body.description,
        schema=body.payload_schema,
        example=body.example,
        deprecated=body.deprecated,
        archived=body.archived,
    )
    await services.event_types.check(new)
    async with once.writing(store) as session:
        row = await services.event_types.create(session, caller.actor, new)
        return await once.keep(session, EventTypeOut.of(row), HTTPStatus.CREATED)


@router.get("")
async def list_event_types(
    paging: Paging,
    services: ServicesDep,
    store: Store,
    archived: Annotated[bool | None, Query(description="Only those that are archived, or are not.")] = None,
) -> ListOf[EventTypeSummaryOut]:
    """List event types by name, without schemas and examples. The key of a tenant sees none that are archived."""
    async with store.reading() as session:
        page = await services.event_types.page(session, archived=archived, after=paging.after, limit=paging.limit)
    return ListOf(
        data=[EventTypeSummaryOut.of(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key)
    )


@router.post("/import", responses=documents(problem_types.QUOTA_EXCEEDED))
async def import_event_types(
    body: EventTypeImportIn, services: ServicesDep, store: Store, caller: Principal
) -> EventTypeImportOut:
    """Create and change the event types that an OpenAPI document describes under `webhooks`: all of them, or none. Each
    webhook is an event type; its `post` has the description, the schema and the example. Others stay as they are."""
    imported = await services.event_types.import_document(store, caller.actor, body.document, dry_run=body.dry_run)
    return EventTypeImportOut.model_validate(imported)


@router.get(f"/{openapi.FILE}", responses={200: {"content": {"application/json": {"example": _DOCUMENT_EXAMPLE}}}})
async def export_event_types(services: ServicesDep, store: Store) -> dict[str, Any]:
    """Get the event types that are not archived as an OpenAPI document, under `webhooks`."""
    async with store.reading() as session:
        return await services.event_types.document(session)


@router.get("/{name:path}")
async def get_event_type(name: Name, services: ServicesDep, store: Store) -> EventTypeOut:
    """Get an event type with its schema and example."""
    async with store.reading() as session:
        return EventTypeOut.of(await services.event_types.get(session, name))


@router.patch("/{name:path}")
async def update_event_type(
    name: Name, body: EventTypePatch, services: ServicesDep, store: Store, caller: Principal
) -> EventTypeOut:
    """Change an event type. Processes use a new schema from the next message on."""
    if not body.model_fields_set:
        raise invalid("body", "names nothing to change")
    refuse_nulls(body, ("payload_schema", "example"))
    changes = {{"payload_schema": "schema"}.get(field, field): getattr(body, field) for field in body.model_fields_set}
    return EventTypeOut.of(await services.event_types.update(store, caller.actor, name, changes))


@router.delete("/{name:path}", status_code=HTTPStatus.NO_CONTENT, response_class=Response)
async def delete_event_type(name: Name, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Delete an event type from the catalogue. Messages of the type stay; to keep its description, archive it."""
    async with store.writing() as session:
        await services.event_types.delete(session, caller.actor, name)
