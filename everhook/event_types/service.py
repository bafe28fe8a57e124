"""Use cases of the catalogue of event types.

Event types belong to the installation, like channels: its services publish to all tenants, and every tenant reads the
same descriptions. A tenant sees those that are not archived.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from everhook.audit.store import Actor, record_audit
from everhook.errors import EventTypeExists, InvalidField, NotFound, QuotaExceeded
from everhook.event_types import openapi, store
from everhook.event_types.schemas import MAX_SCHEMA_BYTES, PayloadSchema, check_schema, written
from everhook.storage.engine import Session
from everhook.storage.paging import Page
from everhook.storage.tables import EventType
from everhook.storage.tenant_scope import TenantScope

MAX_EVENT_TYPES = 2_000
MAX_EXAMPLE_BYTES = 32 * 1024
MAX_IMPORT_S = 20.0
"""How long the check of an imported document may take. It shares the processor with all that the process publishes."""

RESERVED_NAMES = frozenset({openapi.FILE})
"""Paths of the API that are no event type."""


@dataclass(frozen=True)
class NewEventType:
    """`schema` is a JSON Schema; `example` a payload. None: there is none."""

    name: str
    description: str = ""
    schema: Any = None
    example: Any = None
    deprecated: bool = False
    archived: bool = False


@dataclass(frozen=True)
class Imported:
    """The names of the event types that an import created and changed, and of those that were the same before."""

    created: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)


class EventTypeService:
    """Schemas are checked before a transaction begins, for that takes up to a few 100 ms."""

    async def check(self, new: NewEventType) -> None:
        """Raises InvalidField. To be called before `create`, outside of its transaction."""
        await _check(new)

    async def create(self, session: Session, actor: Actor, new: NewEventType) -> EventType:
        """Create an event type that was checked. Raises EventTypeExists and QuotaExceeded."""
        await _require_room(session, 1)
        row = await store.create(session, _row(new))
        if row is None:
            raise EventTypeExists(f"There is an event type {new.name} already.")
        record_audit(session, actor, "event_type.created", new.name, detail=_detail(row))
        return row

    async def get(self, session: Session, name: str, *, for_change: bool = False) -> EventType:
        """Raises NotFound. With `for_change` it is locked until the transaction ends."""
        row = await store.get(session, name, for_change=for_change)
        if row is None:
            raise NotFound("event type", name)
        return row

    async def page(
        self, session: Session, *, archived: bool | None = None, after: str | None, limit: int
    ) -> Page[EventType]:
        """One page by name, without schemas and examples."""
        return await store.page(session, archived=archived, after=after, limit=limit)

    async def update(self, scope: TenantScope, actor: Actor, name: str, changes: Mapping[str, Any]) -> EventType:
        """`changes` are fields of NewEventType, without the name. Raises NotFound and InvalidField."""
        compiled: PayloadSchema | None = None
        if changes.get("schema") is not None:
            compiled = await asyncio.to_thread(check_schema, changes["schema"], "schema", changes.get("example"))
        if changes.get("example") is not None:
            written(changes["example"], "example", MAX_EXAMPLE_BYTES)
        async with scope.writing() as session:
            row = await self.get(session, name, for_change=True)
            schema, example = (
                changes.get("schema", row.payload_schema),
                changes.get("example", row.example),
            )
            if changes.keys() & {"schema", "example"} and schema is not None and example is not None:
                _require_fit(compiled or PayloadSchema(schema), example)
            values = {key: value for key, value in changes.items() if key != "schema"}
            if "schema" in changes:
                values |= {"payload_schema": schema, "schema_sha256": _sha256(schema)}
            await store.change(session, row, values)
            record_audit(session, actor, "event_type.changed", name, detail={"fields": sorted(changes)})
            return row

    async def delete(self, session: Session, actor: Actor, name: str) -> None:
        """Messages that were published keep their type. Raises NotFound."""
        if not await store.remove(session, name):
            raise NotFound("event type", name)
        record_audit(session, actor, "event_type.deleted", name)

    async def import_document(
        self, scope: TenantScope, actor: Actor, document: Any, *, dry_run: bool = False
    ) -> Imported:
        """Create and change the event types that an OpenAPI document describes under `webhooks`: all, or none. Those
        that it does not describe stay. Raises InvalidField and QuotaExceeded."""
        until = time.monotonic() + MAX_IMPORT_S
        found = await asyncio.to_thread(openapi.read, document, "document", until)
        described = [NewEventType(**values) for values in found]
        for new in described:
            openapi.require_time("document", until)
            await _check(new, f"document.webhooks.{new.name}.")
        async with scope.writing() as session:
            known = await store.existing(session, [new.name for new in described])
            await _require_room(session, len(described) - len(known))
            imported = Imported()
            for new in sorted(described, key=lambda one: one.name):  # so that two imports cannot deadlock
                await self._import_one(session, actor, new, known, imported)
            if dry_run:
                await session.rollback()
        return imported

    async def _import_one(
        self, session: Session, actor: Actor, new: NewEventType, known: Mapping[str, EventType], imported: Imported
    ) -> None:
        row = known.get(new.name)
        if row is None and await store.create(session, _row(new)) is not None:
            imported.created.append(new.name)
            record_audit(session, actor, "event_type.created", new.name, detail={"imported": True})
            return
        row = row or await self.get(session, new.name, for_change=True)  # another caller has created it meanwhile
        wanted = {
            "description": new.description,
            "payload_schema": new.schema,
            "example": new.example,
            "deprecated": new.deprecated,
        }
        changes = {name: value for name, value in wanted.items() if getattr(row, name) != value}
        if not changes:
            imported.unchanged.append(new.name)
            return
        if "payload_schema" in changes:
            changes["schema_sha256"] = _sha256(new.schema)
        await store.change(session, row, changes)
        imported.changed.append(new.name)
        record_audit(session, actor, "event_type.changed", new.name, detail={"imported": True})

    async def with_examples(self, session: Session, limit: int) -> Sequence[str]:
        """The names of event types that test messages can have, in order."""
        return await store.with_examples(session, limit)

    async def document(self, session: Session) -> dict[str, Any]:
        """An OpenAPI document with the event types that are not archived under `webhooks`."""
        return openapi.write(await store.all_types(session))


async def _check(new: NewEventType, at: str = "") -> None:
    if new.name in RESERVED_NAMES:
        raise InvalidField(f"{at}name", f"may not be {new.name}: the API has another use for that path")
    if new.example is not None:
        written(new.example, f"{at}example", MAX_EXAMPLE_BYTES)
    if new.schema is None:
        return
    schema = await asyncio.to_thread(check_schema, new.schema, f"{at}schema", new.example)
    if new.example is not None:
        _require_fit(schema, new.example, at)


def _require_fit(schema: PayloadSchema, example: Any, at: str = "") -> None:
    if (fault := schema.fault(example, f"{at}example")) is not None:
        raise InvalidField(fault.field, f"{fault.message}: the example does not fit the schema", "schema")


async def _require_room(session: Session, more: int) -> None:
    if more > 0 and await store.count(session) + more > MAX_EVENT_TYPES:
        raise QuotaExceeded(f"The catalogue may have {MAX_EVENT_TYPES} event types.")


def _row(new: NewEventType) -> EventType:
    return EventType(
        name=new.name,
        description=new.description,
        payload_schema=new.schema,
        schema_sha256=_sha256(new.schema),
        example=new.example,
        deprecated=new.deprecated,
        archived=new.archived,
    )


def _sha256(schema: Any) -> str | None:
    return hashlib.sha256(written(schema, "schema", MAX_SCHEMA_BYTES)).hexdigest() if schema is not None else None


def _detail(row: EventType) -> dict[str, Any]:
    return {"schema": row.schema_sha256 is not None, "deprecated": row.deprecated, "archived": row.archived}
