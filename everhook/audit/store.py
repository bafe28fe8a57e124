"""The audit trail: who changed what, when and from where; written in the transaction of the change."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.storage.paging import Page, one_of, page_of
from everhook.storage.tables import AuditEntry


@dataclass(frozen=True)
class Actor:
    """The actor: the name of a key, and the address that it was presented from. `tenant_rate` is how much may be
    published for the tenant of the key."""

    name: str
    address: str | None = None
    key_gid: str | None = None
    tenant_rate: str | None = None


class Writer(Protocol):
    def writing(self) -> AbstractAsyncContextManager[AsyncSession]: ...


def record_audit(
    session: AsyncSession,
    actor: Actor,
    action: str,
    subject: str,
    *,
    tenant_gid: str | None = None,
    detail: dict[str, Any] | None = None,
) -> AuditEntry:
    """Add an entry to the transaction of the change. `detail` names what changed; never a secret, URL or payload."""
    entry = audit_entry(actor, action, subject, tenant_gid=tenant_gid, detail=detail)
    session.add(entry)
    return entry


def audit_entry(
    actor: Actor, action: str, subject: str, *, tenant_gid: str | None = None, detail: dict[str, Any] | None = None
) -> AuditEntry:
    return AuditEntry(
        actor=actor.name,
        key_gid=actor.key_gid,
        action=action,
        subject=subject,
        tenant_gid=tenant_gid,
        address=actor.address,
        detail=detail or {},
    )


async def record_once(
    store: Writer, gid: str, actor: Actor, action: str, subject: str, *, tenant_gid: str | None = None
) -> bool:
    """Record an action that can happen only once, at whichever process: the gid of its entry is chosen beforehand.
    False if it happened before."""
    try:
        async with store.writing() as session:
            record_audit(session, actor, action, subject, tenant_gid=tenant_gid).gid = gid
    except IntegrityError:
        return False
    return True


async def is_entry(session: AsyncSession, gid: str) -> bool:
    """Whether there is an entry with this gid."""
    found = await session.execute(select(col(AuditEntry.gid)).where(col(AuditEntry.gid) == gid))
    return found.scalar_one_or_none() is not None


@asynccontextmanager
async def on_record(
    store: Writer,
    actor: Actor,
    action: str,
    subject: str,
    *,
    tenant_gid: str | None = None,
    detail: dict[str, Any] | None = None,
) -> AsyncIterator[None]:
    """For actions that Temporal executes: the entry is committed before the block, so that no action is unrecorded.
    If the block fails, the entry is marked as `failed`, unless the database is unavailable as well."""
    async with store.writing() as session:
        entry = record_audit(session, actor, action, subject, tenant_gid=tenant_gid, detail=detail)
    try:
        yield
    except Exception:
        with suppress(Exception):
            async with store.writing() as session:
                failed = update(AuditEntry).where(col(AuditEntry.gid) == entry.gid)
                await session.execute(failed.values(detail=entry.detail | {"failed": True}))
        raise


@dataclass(frozen=True)
class AuditFilter:
    """Several values of a field mean any of them. `since` (inclusive) and `until` (exclusive) bound the time of the
    entry."""

    actor: str | tuple[str, ...] | None = None
    action: str | tuple[str, ...] | None = None
    subject: str | tuple[str, ...] | None = None
    tenant_gid: str | tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None


async def page(session: AsyncSession, chosen: AuditFilter, *, after: str | None, limit: int) -> Page[AuditEntry]:
    statement = select(AuditEntry)
    for column, value in (
        (AuditEntry.actor, chosen.actor),
        (AuditEntry.action, chosen.action),
        (AuditEntry.subject, chosen.subject),
        (AuditEntry.tenant_gid, chosen.tenant_gid),
    ):
        statement = statement.where(*one_of(col(column), value))
    if chosen.since is not None:
        statement = statement.where(col(AuditEntry.created_at) >= chosen.since)
    if chosen.until is not None:
        statement = statement.where(col(AuditEntry.created_at) < chosen.until)
    return await page_of(session, statement, col(AuditEntry.gid), after=after, limit=limit)
