"""Dead letters, decisions on them, and bulk operations."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import InitErrorDetails

from api.deliveries.schemas import DETAIL_EXAMPLE, ENDPOINT_GID, DeliveryDetail
from api.schemas import ApiModel, EndpointRef, EventType, Flag, Integer, Item, Moment, Name, Text
from everhook.contracts import DeadLetterReason
from everhook.dead_letters.service import DeadLetterQuery


def _listed(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """A single value as a list of one. Errors name the field, not an element of the list."""
    if value is None or isinstance(value, list):
        return validate(value)
    try:
        return validate([value])
    except ValidationError as error:
        of_field = [
            InitErrorDetails(type=each["type"], loc=each["loc"][1:], input=each["input"], ctx=each.get("ctx", {}))
            for each in error.errors()
        ]
        raise ValidationError.from_exception_data(error.title, of_field) from error


def _allow_single(schema: dict[str, Any]) -> None:
    lists = [each for each in schema["anyOf"] if each.get("type") == "array"]
    schema["anyOf"] = [*(each["items"] for each in lists), *schema["anyOf"]]


MAX_VALUES = 20
"""Of one filter."""


OneOrMore = Annotated[
    list[Item] | None,
    Field(max_length=MAX_VALUES, description="A list means any of its values.", json_schema_extra=_allow_single),
    WrapValidator(_listed),
]


BATCH_GID = "bat_01m83prhbfe23sdyzab24cmhc2"


class DeadLetterDetail(DeliveryDetail):
    """A dead letter with its payload and its attempts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **DETAIL_EXAMPLE,
                    "payload": {"orderId": 1042, "amount": 99.5},
                    "payloadErasedAt": None,
                }
            ]
        }
    )

    payload: Any = Field(description="Null once it was erased; then the dead letter cannot be replayed.")
    payload_erased_at: datetime | None


class Decision(ApiModel):
    """The reason for a replay or a discard."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "they fixed their parser"}]})

    reason: Text = Field("", description="Recorded with the delivery and in the audit trail.")


class DeadLetterSelection(ApiModel):
    """Which dead letters: every part given must hold, by any of its values. `since` and `until` bound the time of
    dead-lettering."""

    tenant: OneOrMore[Name] = None
    channel: OneOrMore[Name] = None
    endpoint_gid: OneOrMore[EndpointRef] = None
    type: OneOrMore[EventType] = None
    dead_letter_reason: OneOrMore[DeadLetterReason] = None
    last_status_code: OneOrMore[Annotated[int, Field(ge=100, le=599)]] = None
    since: Moment | None = None
    until: Moment | None = Field(None, description="Now by default: what is dead-lettered later is left alone.")

    def query(self) -> DeadLetterQuery:
        return DeadLetterQuery(
            tenants=self.tenant,
            channels=self.channel,
            endpoints=self.endpoint_gid,
            types=self.type,
            reasons=self.dead_letter_reason,
            status_codes=self.last_status_code,
            since=self.since,
            until=self.until,
        )


class BulkRequest(DeadLetterSelection):
    """Which dead letters, and the reason for the decision."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "endpointGid": ENDPOINT_GID,
                    "deadLetterReason": ["rejected", "exhausted"],
                    "reason": "they fixed their parser",
                }
            ]
        }
    )

    last_status_code: OneOrMore[Annotated[Integer, Field(ge=100, le=599)]] = None
    reason: Text = Field("", description="The reason for the decision; recorded with the deliveries.")
    dry_run: Flag = Field(False, description="Only count.")


class BulkOperation(ApiModel):
    """A replay or a purge of all dead letters that match."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"matched": 120, "skipped": 3, "batchGid": BATCH_GID}]})

    matched: int
    skipped: int = Field(
        description="Further dead letters that match, and that a replay leaves alone: their endpoint was deleted."
    )
    batch_gid: str | None = Field(description="Null for a dry run, and where nothing matched.")
