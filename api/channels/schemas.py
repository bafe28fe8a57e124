"""Channels as they are sent and shown."""

from datetime import datetime
from typing import Any

from pydantic import (
    Field,
)

from api.schemas import ApiModel, Name, Policy


class ChannelIn(ApiModel):
    name: Name = Field(examples=["orders"])
    policy: Policy | None = Field(None, examples=[{"preset": "patient"}])


class ChannelPatch(ApiModel):
    policy: Policy | None


class ChannelOut(ApiModel):
    name: str
    policy: dict[str, Any] | None
    created_at: datetime
