"""Tenants as requests and responses show them."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from api.schemas import AlertSettings, ApiModel, Name
from everhook.settings import checked_rate

TENANT: dict[str, Any] = {
    "tenantGid": "ten_01m83prhbfe23sdyzab24cmhby",
    "name": "acme",
    "publishRate": "100/minute",
    "alerts": {"successRateBelow": 0.95},
    "createdAt": "2026-01-31T12:00:00Z",
}


PUBLISH_RATE = (
    "How many messages may be published for it at each API process, such as `100/minute`, whichever key publishes "
    "them. Null: no limit."
)


def _checked(rate: str) -> str:
    try:
        return checked_rate(rate)
    except ValueError:
        raise ValueError("is no rate such as 100/minute (second, minute, hour or day)") from None


Rate = Annotated[str, StringConstraints(min_length=1, max_length=50), AfterValidator(_checked)]


class TenantIn(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "acme"}]})

    name: Name
    publish_rate: Rate | None = Field(None, description=PUBLISH_RATE)


class TenantPatch(ApiModel):
    """Fields that are absent stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"alerts": {"successRateBelow": 0.95}}]})

    name: Name | None = Field(None, description="Not null.")
    publish_rate: Rate | None = Field(None, description=PUBLISH_RATE)
    alerts: AlertSettings | None = Field(None, description="Of its endpoints. Their own override them key by key.")


class TenantOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [TENANT]})

    tenant_gid: str
    name: str
    publish_rate: str | None = Field(description=PUBLISH_RATE)
    alerts: dict[str, Any] | None = Field(description="Alert settings of its endpoints; null: none.")
    created_at: datetime
