"""Event types, and the check of messages against them in the transaction that accepts them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from cachetools import LRUCache
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col

from everhook.event_types.modes import FaultKind
from everhook.event_types.schemas import Fault, PayloadSchema
from everhook.storage.paging import Page, page_of
from everhook.storage.statements import insert_ignoring
from everhook.storage.tables import EventType, now

CACHED_BYTES = 16 * 1024 * 1024
"""Bytes of schemas, as text, that a process keeps compiled."""

UNKNOWN = "is not in the catalogue of event types"
ARCHIVED = "is archived in the catalogue of event types"

log = structlog.get_logger()


@dataclass(frozen=True)
class Checked:
    """A message to check: its gid, its type, and its payload as it was parsed."""

    message_gid: str
    event_type: str
    content: Any


@dataclass(frozen=True)
class _Compiled:
    schema: PayloadSchema
    size: int


class Catalogue:
    """Checks messages against the catalogue as it is in the transaction of the given connection.

    Compiled schemas are kept by the hash of their text. So a schema that was changed, here or in another process, is
    compiled anew when the next message comes.
    """

    def __init__(self) -> None:
        self._compiled: LRUCache[str, _Compiled] = LRUCache(CACHED_BYTES, getsizeof=lambda compiled: compiled.size)

    async def faults(self, connection: AsyncConnection, messages: Sequence[Checked]) -> dict[str, Fault]:
        """Of those messages that do not fit, by their gids. Reads nothing if there are no messages."""
        if not messages:
            return {}
        names = {message.event_type for message in messages}
        rows = await connection.execute(
            select(col(EventType.name), col(EventType.archived), col(EventType.schema_sha256)).where(
                col(EventType.name).in_(names)
            )
        )
        known = {name: (archived, sha256) for name, archived, sha256 in rows.all()}
        schemas = await self._schemas(connection, {name: sha for name, (_, sha) in known.items() if sha is not None})
        faults: dict[str, Fault] = {}
        for message in messages:
            if message.event_type not in known:
                faults[message.message_gid] = Fault(FaultKind.UNKNOWN_TYPE, "type", UNKNOWN)
            elif known[message.event_type][0]:
                faults[message.message_gid] = Fault(FaultKind.ARCHIVED_TYPE, "type", ARCHIVED)
            elif (schema := schemas.get(message.event_type)) and (fault := schema.fault(message.content)):
                faults[message.message_gid] = fault
        return faults

    async def _schemas(self, connection: AsyncConnection, hashes: Mapping[str, str]) -> dict[str, PayloadSchema]:
        """The schemas of these types, by name; `hashes` are those of their texts."""
        found = {name: known.schema for name, sha256 in hashes.items() if (known := self._compiled.get(sha256))}
        if missing := hashes.keys() - found:
            rows = await connection.execute(
                select(col(EventType.name), col(EventType.schema_sha256), col(EventType.payload_schema)).where(
                    col(EventType.name).in_(missing), col(EventType.schema_sha256).is_not(None)
                )
            )
            for name, sha256, document in rows.all():
                found[name] = _compile(name, document)
                self._compiled[sha256] = _Compiled(found[name], found[name].size)
        return found


def _compile(name: str, document: Any) -> PayloadSchema:
    """One that cannot be compiled, as after an upgrade of the library, must not keep others from publishing."""
    try:
        return PayloadSchema(document)
    except ValueError as error:
        log.error("the schema of an event type cannot be used; payloads are not checked", type=name, error=str(error))
        return PayloadSchema(True)


async def create(session: AsyncSession, row: EventType) -> EventType | None:
    """The new event type; None if the name is taken."""
    statement = insert_ignoring(await session.connection(), EventType, "name", returning="name")
    created = await session.execute(statement.values(columns(row)))
    return await get(session, row.name) if created.one_or_none() is not None else None


def columns(row: EventType) -> dict[str, Any]:
    """A row, for an insert: its schema is in the column `schema`."""
    values = row.model_dump()
    return values | {"schema": values.pop("payload_schema")}


async def get(session: AsyncSession, name: str, *, for_change: bool = False) -> EventType | None:
    """`for_change` locks it until the transaction ends: it may be deleted meanwhile."""
    return await session.get(EventType, name, with_for_update=for_change)


async def change(session: AsyncSession, row: EventType, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(row, name, value)
    row.updated_at = now()
    session.add(row)
    await session.flush()


async def page(session: AsyncSession, *, archived: bool | None, after: str | None, limit: int) -> Page[EventType]:
    """One page by name, without schemas and examples."""
    without = (defer(EventType.payload_schema, raiseload=True), defer(EventType.example, raiseload=True))
    statement = select(EventType).options(*without)
    if archived is not None:
        statement = statement.where(col(EventType.archived).is_(archived))
    return await page_of(session, statement, col(EventType.name), after=after, limit=limit, newest_first=False)


async def all_types(session: AsyncSession) -> Sequence[EventType]:
    """All that are not archived, by name."""
    rows = await session.execute(
        select(EventType).where(col(EventType.archived).is_(False)).order_by(col(EventType.name))
    )
    return rows.scalars().all()


async def with_examples(session: AsyncSession, limit: int) -> Sequence[str]:
    """The names of types in use that have an example."""
    name = col(EventType.name)
    in_use = (col(EventType.archived).is_(False), col(EventType.example).is_not(None))
    return (await session.execute(select(name).where(*in_use).order_by(name).limit(limit))).scalars().all()


async def existing(session: AsyncSession, names: Sequence[str]) -> dict[str, EventType]:
    """Those of these event types that exist, locked until the transaction ends. In the order of their names, so that
    two callers cannot deadlock."""
    statement = select(EventType).where(col(EventType.name).in_(names)).order_by(col(EventType.name))
    rows = await session.execute(statement.with_for_update())
    return {row.name: row for row in rows.scalars()}


async def count(session: AsyncSession) -> int:
    return (await session.execute(select(func.count()).select_from(EventType))).scalar_one()


async def remove(session: AsyncSession, name: str) -> bool:
    removed = await session.execute(delete(EventType).where(col(EventType.name) == name).returning(col(EventType.name)))
    return removed.one_or_none() is not None
