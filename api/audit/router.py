"""The audit trail: every change of configuration, and every replay, discard and command, with who asked for it."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from api.dependencies import Paging, Store
from api.query import Several, several
from api.schemas import ApiModel, Gid, ListOf, Moment
from everhook.storage.tables import AuditEntry
from everhook.storage.tenant_scope import tenant_bound
from everhook.tenants import api_keys_store as api_keys
from everhook.tenants import audit_store as audit
from everhook.tenants import store as tenants
from everhook.tenants.audit_store import AuditFilter

router = APIRouter(prefix="/audit", tags=["audit"])

_EXAMPLE: dict[str, Any] = {
    "auditGid": "aud_01m83prhbfe23sdyzab24cmhby",
    "actor": "alice",
    "keyGid": "ek_01m83prhbfe23sdyzab24cmhbx",
    "action": "dead_letter.replayed",
    "subject": "dlv_01m83prhbfe23sdyzab24cmhbz",
    "tenant": "acme",
    "address": "203.0.113.7",
    "detail": {"why": "their database is back"},
    "createdAt": "2026-01-31T12:00:00Z",
}


class AuditOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    audit_gid: str
    actor: str = Field(description="The name of the key.")
    key_gid: str | None = Field(description="The key of that name; null for the environment's key and for commands.")
    action: str
    subject: str = Field(description="The gid or name of what was acted on.")
    tenant: str | None
    address: str | None = Field(description="Where the call came from.")
    detail: dict[str, Any]
    created_at: datetime


@router.get("")
async def list_audit(
    paging: Paging,
    store: Store,
    actor: Several[Gid] = None,
    action: Several[Gid] = None,
    subject: Several[Gid] = None,
    tenant: Several[Gid] = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> ListOf[AuditOut]:
    """Who did what, when, to what and from where; newest first. A tenant's key is shown no addresses but of its own."""
    async with store.reading() as session:
        tenant_gids = await tenants.chosen_gids(session, tenant)
        chosen = AuditFilter(several(actor), several(action), several(subject), tenant_gids, since, until)
        page = await audit.page(session, chosen, after=paging.after, limit=paging.limit)
        names = await tenants.names(session, {row.tenant_gid for row in page.rows if row.tenant_gid})
        own = await api_keys.in_tenant_scope(session, {row.key_gid for row in page.rows if row.key_gid})
        everywhere = tenant_bound(session) is None
    data = [
        _shown(row, names.get(row.tenant_gid or ""), with_address=everywhere or row.key_gid in own) for row in page.rows
    ]
    return ListOf(data=data, next_cursor=paging.next_cursor(page.next_key))


def _shown(row: AuditEntry, tenant: str | None, *, with_address: bool) -> AuditOut:
    return AuditOut(
        audit_gid=row.gid,
        actor=row.actor,
        key_gid=row.key_gid,
        action=row.action,
        subject=row.subject,
        tenant=tenant,
        address=row.address if with_address else None,
        detail=row.detail,
        created_at=row.created_at,
    )
