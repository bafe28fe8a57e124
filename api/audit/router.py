"""The audit trail: every change of configuration, and every replay, discard and command, with its actor."""

from fastapi import APIRouter

from api.audit.schemas import AuditEntry
from api.dependencies import Paging, ServicesDep, Store
from api.query import Several
from api.schemas import Gid, ListOf, Moment, Name
from everhook.tenants.audit import AuditQuery

router = APIRouter(prefix="/audit", tags=["audit"])


@router.get("")
async def list_audit_entries(
    paging: Paging,
    services: ServicesDep,
    store: Store,
    actor: Several[Gid] = None,
    action: Several[Gid] = None,
    subject: Several[Gid] = None,
    tenant: Several[Name] = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> ListOf[AuditEntry]:
    """Who did what, when, to what and from where; newest first. A tenant's key sees the addresses of its own keys
    alone."""
    query = AuditQuery(actors=actor, actions=action, subjects=subject, tenants=tenant, since=since, until=until)
    async with store.reading() as session:
        page = await services.audit.page(session, query, after=paging.after, limit=paging.limit)
    return ListOf(data=[AuditEntry.of(view) for view in page.rows], next_cursor=paging.next_cursor(page.next_key))
