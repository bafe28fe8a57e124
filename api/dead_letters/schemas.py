"""Dead letters, decisions on them, and bulk operations."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import InitErrorDetails

from api.deliveries.schemas import DeliveryDetail
from api.schemas import ApiModel, EndpointRef, EventType, Flag, Integer, Item, Moment, Name, Text
from everhook.contracts import DeadLetterReason


def _listed(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """A single value as a list of one. What is wrong with it is said of the field, not of an element."""
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


class DeadLetterDetail(DeliveryDetail):
    payload: Any = Field(description="Null once it was erased; then the dead letter cannot be replayed.")
    payload_erased_at: datetime | None


class Decision(ApiModel):
    """Why; it goes on record."""

    why: Text = ""


class DeadLetterSelection(ApiModel):
    """Which dead letters: every part given must hold, by any of its values. `since` and `until` bound the time of
    dead-lettering."""

    tenant: OneOrMore[Name] = None
    channel: OneOrMore[Name] = None
    endpoint: OneOrMore[EndpointRef] = None
    type: OneOrMore[EventType] = None
    reason: OneOrMore[DeadLetterReason] = None
    status_code: OneOrMore[Annotated[int, Field(ge=100, le=599)]] = None
    since: Moment | None = None
    until: Moment | None = None


class BulkRequest(DeadLetterSelection):
    status_code: OneOrMore[Annotated[Integer, Field(ge=100, le=599)]] = None
    why: Text = ""
    dry_run: Flag = Field(False, description="Only count.")


class BulkAnswer(ApiModel):
    matched: int
    skipped: int = Field(
        description="Further dead letters that match, and that a replay leaves alone: their endpoint was deleted."
    )
    batch_gid: str | None = Field(description="Null for a dry run.")


class BatchOut(ApiModel):
    batch_gid: str
    state: Literal["running", "completed", "failed"]
    total: int
    completed: int
    failed: int
    started_at: datetime | None
    closed_at: datetime | None


class SignalAccepted(ApiModel):
    delivery_gid: str
    requested: Literal["replay", "discard", "attempt_now"]
