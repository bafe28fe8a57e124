"""Tenants as requests and responses show them."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from api.schemas import AlertSettings, ApiModel, Name

TENANT: dict[str, Any] = {
    "tenantGid": "ten_01m83prhbfe23sdyzab24cmhby",
    "name": "acme",
    "alerts": {"successRateBelow": 0.95},
    "createdAt": "2026-01-31T12:00:00Z",
}


class TenantIn(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "acme"}]})

    name: Name


class TenantPatch(ApiModel):
    """Fields that are absent stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"alerts": {"successRateBelow": 0.95}}]})

    name: Name | None = None
    alerts: AlertSettings | None = Field(None, description="Of its endpoints. Their own override them key by key.")


class TenantOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [TENANT]})

    tenant_gid: str
    name: str
    alerts: dict[str, Any] | None = Field(description="Alert settings of its endpoints; null: none.")
    created_at: datetime
