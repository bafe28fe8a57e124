"""Entries of the audit trail as they are shown."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from api.schemas import ApiModel
from everhook.tenants.audit import AuditView

AUDIT_EXAMPLE: dict[str, Any] = {
    "auditGid": "aud_01m83prhbfe23sdyzab24cmhby",
    "actor": "alice",
    "keyGid": "ek_01m83prhbfe23sdyzab24cmhbx",
    "action": "dead_letter.replayed",
    "subject": "dlv_01m83prhbfe23sdyzab24cmhbz",
    "tenant": "acme",
    "address": "203.0.113.7",
    "detail": {"reason": "their database is back"},
    "createdAt": "2026-01-31T12:00:00Z",
}


class AuditEntry(ApiModel):
    """One action of a key, a person or Everhook."""

    model_config = ConfigDict(json_schema_extra={"examples": [AUDIT_EXAMPLE]})

    audit_gid: str
    actor: str = Field(description="The name of the key.")
    key_gid: str | None = Field(description="The key of that name; null for the environment's key and for commands.")
    action: str
    subject: str = Field(description="The gid or name of what was acted on.")
    tenant: str | None
    address: str | None = Field(description="Where the call came from.")
    detail: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, view: AuditView) -> "AuditEntry":
        row = view.entry
        return cls(
            audit_gid=row.gid,
            actor=row.actor,
            key_gid=row.key_gid,
            action=row.action,
            subject=row.subject,
            tenant=view.tenant,
            address=view.address,
            detail=row.detail,
            created_at=row.created_at,
        )
