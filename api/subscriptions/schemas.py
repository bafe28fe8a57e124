"""Subscriptions as requests and responses show them."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
)

from api.schemas import ApiModel, Events, Flag, Gid, Name, check_free_json
from everhook.publishing.matching import check_filter


def _checked_filter(conditions: dict[str, Any]) -> dict[str, Any]:
    check_filter(check_free_json(conditions))
    return conditions


PayloadFilter = Annotated[dict[str, Any], AfterValidator(_checked_filter)]


class SubscriptionIn(ApiModel):
    endpoint_gid: Gid
    channel: Name
    events: Events = Field(
        default_factory=list, description="Patterns of types; none: every type.", examples=[["order.*"]]
    )
    filter: PayloadFilter | None = Field(None, examples=[{"data.amount": {"$gt": 1000}}])


class SubscriptionPatch(ApiModel):
    events: Events | None = None
    filter: PayloadFilter | None = None
    enabled: Flag | None = None


class SubscriptionOut(ApiModel):
    subscription_gid: str
    endpoint_gid: str
    channel: str
    events: list[str]
    filter: dict[str, Any] | None
    enabled: bool
    created_at: datetime
