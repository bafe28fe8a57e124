"""Subscriptions as requests and responses show them."""

import json
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from api.schemas import ApiModel, Events, EventType, Flag, Gid, Name, check_free_json
from everhook.publishing.matching import check_filter
from everhook.publishing.options import MAX_ATTRIBUTES


def _checked_filter(conditions: dict[str, Any]) -> dict[str, Any]:
    check_filter(check_free_json(conditions))
    return conditions


PayloadFilter = Annotated[dict[str, Any], AfterValidator(_checked_filter)]


_EXAMPLE: dict[str, Any] = {
    "endpointGid": "ep_01m83prhbfe23sdyzab24cmhby",
    "channel": "orders",
    "events": ["order.*"],
    "filter": {"data.amount": {"$gt": 1000}},
}


INCLUDE_PAYLOAD = (
    "Only on `everhook.events`: the event `delivery.dead_lettered` carries the payload of the dead letter, as "
    "`data.payload`."
)


class SubscriptionIn(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    endpoint_gid: Gid
    channel: Name
    events: Events = Field(
        default_factory=list, description="Patterns of types; none: every type.", examples=[["order.*"]]
    )
    filter: PayloadFilter | None = Field(None, examples=[{"data.amount": {"$gt": 1000}}])
    include_payload: Flag = Field(False, description=INCLUDE_PAYLOAD)


class SubscriptionPatch(ApiModel):
    """Fields that are absent stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": ["order.created", "order.paid"]}]})

    events: Events | None = None
    filter: PayloadFilter | None = None
    enabled: Flag | None = None
    include_payload: Flag | None = Field(None, description=INCLUDE_PAYLOAD)


def _in_utf8(payload: Any) -> Any:
    try:
        json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError("has a number or a text that JSON in UTF-8 cannot hold, or is nested too deeply") from error
    return payload


class TriedMessage(ApiModel):
    """A message to match."""

    type: EventType
    payload: Annotated[Any, AfterValidator(_in_utf8)] = None
    metadata: dict[str, str] = Field(default_factory=dict, max_length=MAX_ATTRIBUTES)


class SubscriptionTrial(ApiModel):
    """A subscription that need not exist, and a message."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": ["order.*"],
                    "filter": {"data.amount": {"$gt": 1000}},
                    "message": {"type": "order.created", "payload": {"data": {"amount": 99.5}}},
                }
            ]
        }
    )

    events: Events = Field(default_factory=list)
    filter: PayloadFilter | None = None
    message: TriedMessage


class FailedConditionOut(ApiModel):
    """The first condition of a filter that does not hold."""

    path: str = Field(description="Where it stands in the filter.")
    expected: dict[str, Any] = Field(description="The operator with its operand.")
    found: Any = Field(description="The value of the message there; null also if there is none.")


class SubscriptionTrialResult(ApiModel):
    """Whether the message matches, and what does not."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "matches": False,
                    "typeMatches": True,
                    "failed": {"path": "data.amount", "expected": {"$gt": 1000}, "found": 99.5},
                }
            ]
        }
    )

    matches: bool
    type_matches: bool
    failed: FailedConditionOut | None


class SubscriptionOut(ApiModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "subscriptionGid": "sub_01m83prhbfe23sdyzab24cmhby",
                    **_EXAMPLE,
                    "enabled": True,
                    "includePayload": False,
                    "createdAt": "2026-01-31T12:00:00Z",
                }
            ]
        }
    )

    subscription_gid: str
    endpoint_gid: str
    channel: str
    events: list[str]
    filter: dict[str, Any] | None
    enabled: bool
    include_payload: bool
    created_at: datetime
