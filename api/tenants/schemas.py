"""Tenants as requests and responses show them."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict

from api.schemas import ApiModel, Name

TENANT: dict[str, Any] = {
    "tenantGid": "ten_01m83prhbfe23sdyzab24cmhby",
    "name": "acme",
    "createdAt": "2026-01-31T12:00:00Z",
}


class TenantIn(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "acme"}]})

    name: Name


class TenantOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [TENANT]})

    tenant_gid: str
    name: str
    created_at: datetime
