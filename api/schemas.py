"""Models that all resources share, in camelCase JSON. Unknown fields are refused: a misspelt option is not lost."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    Strict,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from api import patterns
from everhook.circuit import spec as circuits
from everhook.delivery import policy as rules
from everhook.health import endpoint_alerts as alerts

Item = TypeVar("Item")

MAX_EVENTS = 100
MAX_METADATA_KEYS = 50
MAX_FREE_JSON_BYTES = 16 * 1024
MAX_FREE_JSON_DEPTH = 32


class ApiModel(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        allow_inf_nan=False,
        from_attributes=True,
        # Any constraint has texts checked for being UTF-8: Python reads half of a surrogate pair from JSON.
        str_min_length=0,
    )

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Fields that only other calls take, each with what its refusal says."""


class GivenOnly(ApiModel):
    """A model whose fields are absent, and never null, if they are not set. All of them are optional."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, serialize: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        # No annotation of what it returns: OpenAPI keeps the fields.
        return {name: value for name, value in serialize(self).items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        for field in handler.resolve_ref_schema(schema)["properties"].values():
            if "anyOf" in field:
                [option] = [option for option in field.pop("anyOf") if option != {"type": "null"}]
                field |= option
                field.pop("default", None)
        return schema


def _as_stored(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError:
        return value


Stored = Annotated[Item, WrapValidator(_as_stored), SerializeAsAny()]
"""In a response: a value that a request once set, as it is stored. The rules for requests may have changed since, and
one that they refuse today must not make a list fail."""


class ListOf(ApiModel, Generic[Item]):
    """One page of a list. `nextCursor` is null on the last page."""

    data: list[Item]
    next_cursor: str | None

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """The model's title: `EndpointList` for a list of `EndpointOut`. The component has pydantic's name, which
        api/openapi.py replaces by the same."""
        return "".join(param.__name__.removesuffix("Out") for param in params) + "List"


_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d.*", re.DOTALL)
_OFFSET_WITHOUT_PLUS = re.compile(r".*[Tt][\d:.]+ \d\d:\d\d", re.DOTALL)


def _written_as_time(value: object) -> object:
    """Only what is written as a time is one; pydantic would take Unix seconds and dates as well."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _OFFSET_WITHOUT_PLUS.fullmatch(value):
        raise ValueError("has a space before its offset: in a URL a `+` is written %2B")
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("is not a time such as 2026-01-31T12:00:00Z")
    return value


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("must name its offset from UTC, such as `Z`")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from error


def check_free_json(content: dict[str, Any]) -> dict[str, Any]:
    """Python reads more as JSON than databases keep and other parsers read: NaN, lone surrogates, endless nesting."""
    try:
        size = len(json.dumps(content, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, RecursionError) as error:
        raise ValueError("has a number or a text that JSON in UTF-8 cannot hold") from error
    if size > MAX_FREE_JSON_BYTES or _is_deeper_than(content, MAX_FREE_JSON_DEPTH):
        raise ValueError(f"takes at most {MAX_FREE_JSON_BYTES} bytes, nested {MAX_FREE_JSON_DEPTH} deep")
    return content


def _is_deeper_than(content: Any, depth: int) -> bool:
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return depth < 0 or any(_is_deeper_than(part, depth - 1) for part in parts)


Moment = Annotated[datetime, BeforeValidator(_written_as_time), AfterValidator(_aware)]
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
"""JSON's own types: `true` is not 1, and `"5"` is not 5."""

Name = Annotated[str, StringConstraints(pattern=patterns.NAME)]
EventType = Annotated[str, StringConstraints(pattern=patterns.EVENT_TYPE)]
EventPattern = Annotated[str, StringConstraints(pattern=patterns.EVENT_PATTERN, max_length=130)]
Events = Annotated[list[EventPattern], Field(max_length=MAX_EVENTS)]
Metadata = Annotated[dict[str, Any], Field(max_length=MAX_METADATA_KEYS), AfterValidator(check_free_json)]
Gid = Annotated[str, StringConstraints(pattern=patterns.GID)]
"""Any text that may be looked up: one that is no gid is simply not found. PostgreSQL cannot take a NUL."""
EndpointRef = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2_000, pattern=patterns.NO_CONTROL),
    Field(description="A gid, or a part of a URL or description that matches exactly one endpoint."),
]
Text = Annotated[str, StringConstraints(max_length=1_000, pattern=patterns.NO_NUL)]
Delay = Annotated[Number, Field(ge=0, le=rules.MAX_DELAY.total_seconds())]


class Exponential(ApiModel):
    """Waits that grow by a factor, up to a cap."""

    initial_seconds: Delay
    factor: Number = Field(2, ge=1, le=100)
    cap_seconds: Delay
    attempts: Integer = Field(ge=1, le=rules.MAX_ATTEMPTS)


class PolicyPreset(StrEnum):
    """A schedule by name."""

    DOCUMENTED = "documented"
    PATIENT = "patient"
    BRISK = "brisk"


class StatusClass(StrEnum):
    """All statuses of a class."""

    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"


def _retry_status(value: object) -> object:
    is_class = isinstance(value, str) and value in rules.STATUS_CLASSES
    if is_class or (type(value) is int and 400 <= value <= 499):
        return value
    raise ValueError(f"is a status from 400 to 499, or one of {', '.join(rules.STATUS_CLASSES)}")


RetryStatus = Annotated[
    Annotated[int, Field(ge=400, le=499)] | StatusClass,
    BeforeValidator(_retry_status),
]


class Policy(ApiModel):
    """When a failed attempt is followed by another. At most one of `preset`, `delaysSeconds` and `exponential`."""

    preset: PolicyPreset | None = None
    delays_seconds: list[Delay] | None = Field(
        None, max_length=rules.MAX_ATTEMPTS - 1, description="Waits after the first, second, … attempt."
    )
    exponential: Exponential | None = None
    jitter: Number | None = Field(None, ge=0, le=1, description="Fraction added at random to delays of 30 s and more.")
    timeout_seconds: Number | None = Field(None, gt=0, le=rules.MAX_TIMEOUT.total_seconds())
    max_window_seconds: Number | None = Field(None, gt=0, le=rules.MAX_WINDOW.total_seconds())
    retry_statuses: list[RetryStatus] | None = Field(
        None,
        max_length=20,
        description='Further statuses to retry, such as 408 and "4xx"; 429 and "5xx" always are, 410 never is.',
    )

    @model_validator(mode="after")
    def _one_schedule_within_the_window(self) -> Self:
        named = [to_camel(n) for n in ("preset", "delays_seconds", "exponential") if getattr(self, n) is not None]
        if len(named) > 1:
            raise ValueError(f"give one schedule, not {' and '.join(named)}")
        policy = rules.resolve(self.spec())
        if named and sum(policy.delays, start=timedelta()) > policy.max_window:
            raise ValueError(f"{named[0]}: the schedule is longer than maxWindowSeconds")
        return self

    def spec(self) -> dict[str, Any]:
        """As it is stored."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class CircuitSettings(GivenOnly):
    """When the circuit of an endpoint opens and how it closes again. What is absent comes from the channels that the
    endpoint subscribes to, the oldest subscription first, and then from the environment."""

    failure_threshold: Integer | None = Field(
        None, ge=1, le=circuits.MAX_FAILURES, description="Failures in a row that open the circuit."
    )
    cooldown_seconds: Number | None = Field(
        None,
        ge=1,
        le=circuits.MAX_COOLDOWN.total_seconds(),
        description="How long it stays open at first; doubles with each relapse.",
    )
    cooldown_max_seconds: Number | None = Field(
        None, ge=1, le=circuits.MAX_COOLDOWN.total_seconds(), description="How long it stays open at most."
    )
    disable_after_hours: Number | None = Field(
        None,
        ge=1,
        le=circuits.MAX_DISABLE_AFTER.total_seconds() / 3_600,
        description="An endpoint that fails for this long without a success is disabled.",
    )
    release_per_second: Number | None = Field(
        None,
        ge=1,
        le=circuits.MAX_RELEASE_RATE,
        description="Parked deliveries released in the first second after it closes; doubles each second.",
    )
    release_per_second_max: Number | None = Field(
        None, ge=1, le=circuits.MAX_RELEASE_RATE, description="Parked deliveries released per second at most."
    )

    @model_validator(mode="after")
    def _begin_below_the_maximum(self) -> Self:
        for first, most in (
            ("cooldown_seconds", "cooldown_max_seconds"),
            ("release_per_second", "release_per_second_max"),
        ):
            begin, maximum = getattr(self, first), getattr(self, most)
            if begin is not None and maximum is not None and begin > maximum:
                raise ValueError(f"{to_camel(first)}: is above {to_camel(most)}")
        return self


class AlertSettings(ApiModel):
    """When an endpoint raises an alert. What is absent comes from its tenant, and then from the environment; null:
    never. An alert is cleared after a quiet period of `overMinutes`."""

    success_rate_below: Number | None = Field(
        None, gt=0, le=1, description="Fraction of successful attempts within `overMinutes`."
    )
    over_minutes: Number | None = Field(
        None, ge=1, le=alerts.MAX_OVER.total_seconds() / 60, description="The time range of rate and response time."
    )
    min_attempts: Integer | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="With fewer attempts (or responses) within `overMinutes`, success rate and latency raise no alert.",
    )
    dead_letters_above: Integer | None = Field(
        None, ge=0, le=alerts.MAX_DEAD_LETTERS, description="Dead letters of the endpoint that wait."
    )
    latency_above_ms: Number | None = Field(
        None, gt=0, le=60_000, description="Mean response time within `overMinutes`."
    )

    @model_validator(mode="after")
    def _refuse_null_ranges(self) -> Self:
        for name in ("over_minutes", "min_attempts"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{to_camel(name)}: cannot be null")
        return self


def alerts_of(settings: AlertSettings | None) -> dict[str, Any] | None:
    """Alert settings as they are stored: those that were given, also null. None: none are given."""
    return (settings.model_dump(by_alias=True, exclude_unset=True) or None) if settings is not None else None


def circuit_of(settings: CircuitSettings | None) -> dict[str, Any] | None:
    """Circuit settings as they are stored. None: none are given."""
    return (settings.model_dump(mode="json", by_alias=True) or None) if settings is not None else None


def spec_of(policy: Policy | None) -> dict[str, Any] | None:
    """A policy as it is stored. None: that of the channel, or the default."""
    return policy.spec() if policy is not None else None
