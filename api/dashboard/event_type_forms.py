"""Forms of the catalogue of event types, for operators: create, edit, import.

Their addresses begin with `/event-types/-/`: an event type may be called `new` or `orders/edit`, but its name begins
with a letter or a digit.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.dashboard.event_types import PATH
from api.dashboard.forms import Form, FormError, wrong_fields
from api.dashboard.pages import AdminDep, AdminFormDep, PageRoute, StoreDep, Viewer, render_form, see_other
from api.dependencies import ServicesDep
from api.event_types.schemas import MAX_IMPORT_BYTES, EventTypeIn, EventTypePatch
from api.problems import Problem, invalid
from everhook.errors import DomainError, EventTypeExists, InvalidField, NotFound
from everhook.event_types.service import Imported, NewEventType
from everhook.publishing.json_faults import why_not_json
from everhook.storage.tables import EventType

MAX_FORM = 1024 * 1024
"""Bytes of a form with a schema and an example, indented and URL-encoded."""

MAX_IMPORT_FORM = 3 * MAX_IMPORT_BYTES
"""Bytes: a browser sends up to three for one of the document."""

MAX_INDENTED = 256 * 1024
"""Bytes. A document that is longer when it is indented is shown in one line."""

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix=f"{PATH}/-")


@router.get("/new")
async def ask_new(request: Request, viewer: AdminDep) -> Response:
    return _form(request, viewer, {})


@router.post("/new")
async def create(
    request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    try:
        body = EventTypeIn(name=form.get("name"), **_settings(form))
        new = NewEventType(body.name, body.description, body.payload_schema, body.example, body.deprecated)
        await services.event_types.check(new)
        async with store.writing() as session:
            await services.event_types.create(session, viewer.caller.actor, new)
    except (ValidationError, Problem, DomainError) as error:
        return _form(request, viewer, form.values, error=error)
    return see_other(viewer, f"{PATH}/{new.name}", "created")


@router.get("/edit/{name:path}")
async def ask_edit(name: str, request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep) -> Response:
    async with store.reading() as session:
        row = await services.event_types.get(session, name)
    values = {
        "description": row.description,
        "schema": _written(row.payload_schema),
        "example": _written(row.example),
        "deprecated": "on" if row.deprecated else "",
    }
    return _form(request, viewer, values, row)


@router.post("/edit/{name:path}")
async def edit(
    name: str, request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    async with store.reading() as session:
        row = await services.event_types.get(session, name)
    try:
        body = EventTypePatch(**_settings(form))
        wanted = {
            "description": body.description,
            "schema": body.payload_schema,
            "example": body.example,
            "deprecated": body.deprecated,
        }
        before = {
            "description": row.description,
            "schema": row.payload_schema,
            "example": row.example,
            "deprecated": row.deprecated,
        }
        # As texts, for in Python 1 equals True.
        changes = {key: value for key, value in wanted.items() if json.dumps(value) != json.dumps(before[key])}
        if changes:
            await services.event_types.update(store, viewer.caller.actor, name, changes)
    except NotFound:
        raise
    except (ValidationError, Problem, DomainError) as error:
        return _form(request, viewer, form.values, row, error)
    return see_other(viewer, f"{PATH}/{name}", "saved")


@router.get("/import")
async def ask_import(request: Request, viewer: AdminDep) -> Response:
    return _import_form(request, viewer, {})


@router.post("/import")
async def import_document(
    request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    """Import an OpenAPI document, or show what the import would do."""
    dry_run = form.get("action") == "preview"
    try:
        document = await asyncio.to_thread(_document, form)
        imported = await services.event_types.import_document(store, viewer.caller.actor, document, dry_run=dry_run)
    except (ValidationError, Problem, DomainError) as error:
        return _import_form(request, viewer, form.values, error=error)
    if dry_run:
        return _import_form(request, viewer, form.values, imported)
    return see_other(viewer, PATH, "imported")


def _document(form: Form) -> Any:
    size = len(form.get("document").encode(errors="replace"))
    if size > MAX_IMPORT_BYTES:
        raise invalid("document", f"has {size} bytes; at most {MAX_IMPORT_BYTES} are accepted", "too_large")
    if not size:
        raise invalid("document", "is required", "missing")
    return _parsed(form, "document")


def _settings(form: Form) -> dict[str, Any]:
    """What can be changed later, too, as the API takes it."""
    schema = _parsed(form, "schema")
    if schema is not None and not isinstance(schema, dict | bool):
        raise invalid("schema", "is a JSON object, or true or false")
    return {
        "description": form.get("description"),
        "payload_schema": schema,
        "example": _parsed(form, "example"),
        "deprecated": form.get("deprecated") == "on",
    }


def _parsed(form: Form, field: str) -> Any:
    """The JSON in a field; None if it is empty."""
    if field not in form:
        return None
    try:
        return json.loads(form.get(field))
    except (ValueError, RecursionError) as error:
        raise invalid(field, why_not_json(form.get(field).encode(errors="surrogatepass"), error)) from error


def _written(document: Any) -> str:
    if document is None:
        return ""
    text = json.dumps(document, ensure_ascii=False, indent=2)
    return text if len(text) <= MAX_INDENTED else json.dumps(document, ensure_ascii=False)


def _form(
    request: Request,
    viewer: Viewer,
    values: Mapping[str, str],
    row: EventType | None = None,
    error: FormError | None = None,
) -> Response:
    return render_form(
        request,
        "event_type_form.html",
        viewer,
        error,
        title=f"Edit {row.name}" if row is not None else "New event type",
        nav="event-types",
        type=row,
        values=values,
        explain=_explain,
    )


def _import_form(
    request: Request,
    viewer: Viewer,
    values: Mapping[str, str],
    preview: Imported | None = None,
    error: FormError | None = None,
) -> Response:
    return render_form(
        request,
        "event_type_import.html",
        viewer,
        error,
        title="Import event types",
        nav="event-types",
        values=values,
        preview=preview,
        explain=_explain,
    )


def _explain(error: FormError) -> Mapping[str, str]:
    """What is wrong, by the field of the form. Which part of a document is wrong is in the message: `wrong_fields`
    would look for fields among its names."""
    if isinstance(error, EventTypeExists):
        return {"name": "is in the catalogue already"}
    if isinstance(error, InvalidField):
        field = re.split(r"[.\[]", error.field)[0]
        return {field: error.message if error.field == field else str(error)}
    return wrong_fields(error)
