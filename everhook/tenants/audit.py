"""The audit trail as it is shown: every change of configuration, and every replay, discard and command."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from everhook.audit import store as audit_store
from everhook.audit.store import AuditFilter
from everhook.storage.engine import Session
from everhook.storage.paging import Page, any_of
from everhook.storage.tables import AuditEntry
from everhook.storage.tenant_scope import tenant_bound
from everhook.tenants import api_keys_store
from everhook.tenants import store as tenants


@dataclass(frozen=True)
class AuditQuery:
    """Which entries: every part given must hold, by any of its values. `tenants` are names. `since` and `until` bound
    the time of the entry: from, and before."""

    actors: Sequence[str] | None = None
    actions: Sequence[str] | None = None
    subjects: Sequence[str] | None = None
    tenants: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class AuditView:
    """An entry with the name of its tenant, and the address that it came from, if the reader may see it."""

    entry: AuditEntry
    tenant: str | None
    address: str | None


class AuditService:
    async def page(self, session: Session, query: AuditQuery, *, after: str | None, limit: int) -> Page[AuditView]:
        """Newest first. A tenant sees the addresses of its own keys alone."""
        chosen = AuditFilter(
            actor=any_of(query.actors),
            action=any_of(query.actions),
            subject=any_of(query.subjects),
            tenant_gid=await tenants.chosen_gids(session, query.tenants),
            since=query.since,
            until=query.until,
        )
        page = await audit_store.page(session, chosen, after=after, limit=limit)
        names = await tenants.names(session, {row.tenant_gid for row in page.rows if row.tenant_gid})
        own = await api_keys_store.in_tenant_scope(session, {row.key_gid for row in page.rows if row.key_gid})
        sees_all = tenant_bound(session) is None
        views = [
            AuditView(row, names.get(row.tenant_gid or ""), row.address if sees_all or row.key_gid in own else None)
            for row in page.rows
        ]
        return Page(views, page.next_key)
