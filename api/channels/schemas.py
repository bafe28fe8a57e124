"""Channels as requests and responses show them."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from api.schemas import ApiModel, Name, Policy

_EXAMPLE: dict[str, Any] = {"name": "orders", "policy": {"preset": "patient"}}


class ChannelIn(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name = Field(examples=["orders"])
    policy: Policy | None = Field(None, examples=[{"preset": "patient"}])


class ChannelPatch(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"policy": {"preset": "patient"}}]})

    policy: Policy | None


class ChannelOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{**_EXAMPLE, "createdAt": "2026-01-31T12:00:00Z"}]})

    name: str
    policy: dict[str, Any] | None
    created_at: datetime
