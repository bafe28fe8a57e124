"""What goes in and out, in camelCase JSON. Unknown fields are refused: a misspelt option must not be lost."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    Strict,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails

from api import patterns
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeadLetterReason, DeliveryStatus, Verdict
from everhook.delivery import policy as rules
from everhook.delivery.body_formats import BodyFormat
from everhook.egress import TlsExtras
from everhook.publishing.matching import check_filter
from everhook.signing.schemes import SignatureScheme, secret_key

Item = TypeVar("Item")

MAX_EVENTS = 100
MAX_METADATA_KEYS = 50
MAX_FREE_JSON_BYTES = 16 * 1024
MAX_FREE_JSON_DEPTH = 32
MAX_PEM = 32 * 1024
MAX_GRACE = timedelta(days=7)
DEFAULT_GRACE = timedelta(days=1)


class ApiModel(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", allow_inf_nan=False, from_attributes=True
    )


class ListOf(ApiModel, Generic[Item]):
    """One page. `nextCursor` is null on the last."""

    data: list[Item]
    next_cursor: str | None


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


def _free_json(content: dict[str, Any]) -> dict[str, Any]:
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


def _checked_filter(conditions: dict[str, Any]) -> dict[str, Any]:
    check_filter(_free_json(conditions))
    return conditions


def _checked_secret(secret: SecretStr) -> SecretStr:
    secret_key(secret.get_secret_value())
    return secret


def _checked_pem(pem: str) -> str:
    if not pem.isascii() or "\0" in pem or not 0 < len(pem) <= MAX_PEM:
        raise ValueError(f"is PEM: ASCII, {MAX_PEM} characters at most")
    return pem


def _checked_certificates(pem: str) -> str:
    """Certificates are shown, and kept as they are: a key must not come along."""
    if "PRIVATE KEY" in _checked_pem(pem):
        raise ValueError("holds a private key; that belongs in clientKey")
    return pem


def _checked_key(pem: SecretStr) -> SecretStr:
    _checked_pem(pem.get_secret_value())
    return pem


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

Moment = Annotated[datetime, BeforeValidator(_written_as_time), AfterValidator(_aware)]
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
"""JSON's own types: `true` is not 1, and `"5"` is not 5."""

Name = Annotated[str, StringConstraints(pattern=patterns.NAME)]
EventType = Annotated[str, StringConstraints(pattern=patterns.EVENT_TYPE)]
EventPattern = Annotated[str, StringConstraints(pattern=patterns.EVENT_PATTERN)]
Events = Annotated[list[EventPattern], Field(max_length=MAX_EVENTS)]
PayloadFilter = Annotated[dict[str, Any], AfterValidator(_checked_filter)]
Metadata = Annotated[dict[str, Any], Field(max_length=MAX_METADATA_KEYS), AfterValidator(_free_json)]
Gid = Annotated[str, StringConstraints(pattern=patterns.GID)]
"""Any text that may be looked up: one that is no gid is simply not found. PostgreSQL cannot take a NUL."""
EndpointRef = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2_000, pattern=patterns.NO_CONTROL),
    Field(description="A gid, or what one endpoint alone has in its URL or description."),
]
Text = Annotated[str, StringConstraints(max_length=1_000, pattern=patterns.NO_NUL)]
Pem = Annotated[str, AfterValidator(_checked_certificates)]
PemKey = Annotated[SecretStr, AfterValidator(_checked_key)]
Secret = Annotated[SecretStr, AfterValidator(_checked_secret)]
Delay = Annotated[Number, Field(ge=0, le=rules.MAX_DELAY.total_seconds())]


class Exponential(ApiModel):
    initial_seconds: Delay
    factor: Number = Field(2, ge=1, le=100)
    cap_seconds: Delay
    attempts: Integer = Field(ge=1, le=rules.MAX_ATTEMPTS)


class Policy(ApiModel):
    """When a failed attempt is followed by another. At most one of `preset`, `delaysSeconds` and `exponential`."""

    preset: Literal["documented", "patient", "brisk"] | None = None
    delays_seconds: list[Delay] | None = Field(
        None, max_length=rules.MAX_ATTEMPTS - 1, description="Waits behind the first, second, … attempt."
    )
    exponential: Exponential | None = None
    jitter: Number | None = Field(None, ge=0, le=1, description="Fraction added at random to delays of 30 s and more.")
    timeout_seconds: Number | None = Field(None, gt=0, le=rules.MAX_TIMEOUT.total_seconds())
    max_window_seconds: Number | None = Field(None, gt=0, le=rules.MAX_WINDOW.total_seconds())
    retry_statuses: list[Annotated[Integer, Field(ge=400, le=499)]] | None = Field(
        None, max_length=20, description="Further statuses to retry, such as 408 and 425; 429 always is."
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
        return self.model_dump(by_alias=True, exclude_none=True)


class ChannelIn(ApiModel):
    name: Name = Field(examples=["orders"])
    policy: Policy | None = Field(None, examples=[{"preset": "patient"}])


class ChannelPatch(ApiModel):
    policy: Policy | None


class ChannelOut(ApiModel):
    name: str
    policy: dict[str, Any] | None
    created_at: datetime


class Tls(ApiModel):
    """What an endpoint's TLS needs beyond the usual, in PEM. Given anew it replaces all that was there."""

    ca: Pem | None = Field(None, description="Authorities that are trusted beside the system's.")
    client_certificate: Pem | None = Field(None, description="Shown to the endpoint; the leaf first.")
    client_key: PemKey | None = Field(None, description="Its key, not encrypted. Never shown.")

    def extras(self) -> TlsExtras:
        key = self.client_key.get_secret_value() if self.client_key is not None else None
        return TlsExtras(self.ca, self.client_certificate, key)


class TlsOut(ApiModel):
    ca: str | None
    client_certificate: str | None


class PublicKeyOut(ApiModel):
    public_key: str
    expires_at: datetime | None = Field(description="Null for the current one.")


class EndpointSettings(ApiModel):
    """What can be changed later, too."""

    url: str = Field(examples=["https://hooks.example.com/orders"])
    description: Text = ""
    policy: Policy | None = None
    rate_limit: Number | None = Field(None, gt=0, le=1_000, description="Sends a second at most.")
    signatures: list[SignatureScheme] = Field(default_factory=lambda: list(SignatureScheme), min_length=1)
    format: BodyFormat = BodyFormat.ENVELOPE
    headers: dict[str, str] = Field(default_factory=dict, max_length=20)
    metadata: Metadata = Field(default_factory=dict)
    ed25519: Flag = Field(False, description="Sign with Ed25519 too (`v1a`); needs the scheme `standard`.")
    tls: Tls | None = None


class EndpointIn(EndpointSettings):
    """`channel` and `events` make the first subscription; `events` alone subscribe to the channel `default`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"url": "https://hooks.example.com/", "events": ["invoice.created", "invoice.paid"]}]
        }
    )

    channel: Name | None = None
    events: Events | None = None
    tenant: Name | None = None
    secret: Secret | None = Field(
        None, description="Your own: `whsec_` and 24 to 64 bytes in base64; without it one is made."
    )


class EndpointPatch(ApiModel):
    """Fields that are absent stay as they are."""

    url: str | None = None
    description: Text | None = None
    policy: Policy | None = None
    rate_limit: Number | None = Field(None, gt=0, le=1_000)
    signatures: list[SignatureScheme] | None = Field(None, min_length=1)
    format: BodyFormat | None = None
    headers: dict[str, str] | None = Field(None, max_length=20)
    metadata: Metadata | None = None
    ed25519: Flag | None = None
    tls: Tls | None = None


class CircuitOut(ApiModel):
    state: CircuitState
    failures: int = Field(description="Failures in a row.")
    failing_since: datetime | None
    until: datetime | None = Field(description="When the cooldown, or the wait for a probe, ends.")


class EndpointOut(ApiModel):
    endpoint_gid: str
    tenant: str
    url: str
    description: str
    status: Literal["enabled", "paused", "disabled"]
    status_reason: str
    circuit: CircuitOut
    policy: dict[str, Any] | None
    rate_limit: float | None
    signatures: list[SignatureScheme]
    format: BodyFormat
    headers: dict[str, str]
    metadata: dict[str, Any]
    ed25519: bool
    public_keys: list[PublicKeyOut] = Field(description="For `v1a` signatures, newest first.")
    tls: TlsOut | None
    created_at: datetime
    updated_at: datetime


class TestSent(ApiModel):
    """A message that went to one endpoint alone."""

    message_gid: str
    delivery_gid: str


class EndpointCreated(EndpointOut):
    subscription_gid: str | None
    secret: str = Field(description="Shown this once.")


class SecretRotation(ApiModel):
    secret: Secret | None = Field(
        None, description="Your own: `whsec_` and 24 to 64 bytes in base64; without it one is made."
    )
    grace_period_seconds: Integer = Field(
        int(DEFAULT_GRACE.total_seconds()),
        ge=0,
        le=int(MAX_GRACE.total_seconds()),
        description="How long those before it go on signing.",
    )


class SecretRotated(ApiModel):
    endpoint_gid: str
    secret: str = Field(description="Shown this once.")
    previous_until: datetime | None = Field(description="When the last one before it ends; null where all have.")
    public_keys: list[PublicKeyOut]


def status_of(hold: Hold | None) -> Literal["enabled", "paused", "disabled"]:
    if hold is Hold.PAUSED:
        return "paused"
    return "disabled" if hold is Hold.DISABLED else "enabled"


class SubscriptionIn(ApiModel):
    endpoint_gid: Gid
    channel: Name
    events: Events = Field(default_factory=list, description="None at all means every type.", examples=[["order.*"]])
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


class DeliverySummary(ApiModel):
    delivery_gid: str
    endpoint_gid: str
    status: DeliveryStatus


class MessageOut(ApiModel):
    message_gid: str
    channel_name: str
    type: str
    tenant: str | None
    idempotency_key: str | None
    published_at: datetime
    accepted_at: datetime
    payload_erased_at: datetime | None


class MessageDetail(MessageOut):
    payload: Any = Field(description="Null once it was erased.")
    delivery_counts: dict[DeliveryStatus, int] = Field(
        description="How many of all its deliveries are in which status.", examples=[{"delivered": 120, "retrying": 2}]
    )
    deliveries: list[DeliverySummary] = Field(description="Newest first; of more than 100, the newest 100.")
    more_deliveries: bool = Field(
        description="Whether there are others: `GET /v1/deliveries?message={gid}` lists all of them."
    )


class DeliveryOut(ApiModel):
    delivery_gid: str
    message_gid: str
    endpoint_gid: str
    channel_name: str
    type: str
    status: DeliveryStatus
    round: int
    attempts_made: int = Field(description="In the current round.")
    accepted_at: datetime
    next_attempt_at: datetime | None
    completed_at: datetime | None
    dead_lettered_at: datetime | None
    dead_letter_reason: DeadLetterReason | None
    last_status_code: int | None
    last_error: str | None
    decided_by: str | None
    decided_why: str | None


class AttemptOut(ApiModel):
    attempt_gid: str
    receipt_gid: str | None = Field(description="Its receipt, to be had at `/v1/receipts/{gid}`.")
    round: int
    number: int
    verdict: Verdict
    started_at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    error_detail: str | None
    url: str = Field(description="Where it was sent.")
    request_headers: list[list[str]] | None = Field(description="Of the endpoint's own headers the names alone.")
    request_sha256: str
    response_headers: list[list[str]] | None
    response_body: str | None = Field(description="Up to 16 KiB, as text; bytes that are none are replaced.")
    response_sha256: str | None
    peer_address: str | None
    next_attempt_at: datetime | None


class RoundPolicy(ApiModel):
    """A policy with its schedule as delays. An attempt that fails is followed by the next after its delay."""

    delays_seconds: list[float] = Field(description="Waits after the first, second, … attempt.")
    jitter: float
    timeout_seconds: float
    max_window_seconds: float
    retry_statuses: list[int]


class RoundOut(ApiModel):
    round: int
    began_at: datetime
    policy: RoundPolicy = Field(description="As it was when the round began; the round keeps it.")


class DeliveryDetail(DeliveryOut):
    rounds: list[RoundOut] = Field(description="The current round, and those of `attempts`; oldest first.")
    attempts: list[AttemptOut] = Field(description="Oldest first; of more than 100, the newest 100.")
    earlier_attempts: bool = Field(
        description="Whether there are older ones: `GET /v1/deliveries/{gid}/attempts` lists all of them."
    )


_ORIGIN = "hooks.example.com/receipts/ten_01kgk27ygprz3snww46e1zg0hx"
_ROOT = "Dngj9yoV/EwcJ01EH1acdO+wE1dXDhjTrT87oZ1M2aI="
_NOTE = f"{_ORIGIN}\n11\n{_ROOT}\ntime 2026-02-01T12:30:00.000000Z\n\n\N{EM DASH} {_ORIGIN} Mgxrrq48…\n"
_JWS = "eyJhbGciOiJFZERTQSIs….eyJyZWNlaXB0R2lkIjoicmNw….W_DmlQfmnZv-…"
_HASHES = ["lhm4n1xQGultSjQ/uAS7lYH3Gg2uHyg/0wRN/lXtcRU=", "/IGpMw4lvllay5JoXk44Snp92hvbL4Ict32XUOsTp1g="]
_KEYS = {
    "keys": [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            "use": "sig",
            "nbf": 1767225600,
        }
    ]
}

Proof = Annotated[list[str], Field(description="Hashes in base64.", examples=[_HASHES])]
Note = Annotated[str, Field(description="A signed note (c2sp.org/tlog-checkpoint): keep it.", examples=[_NOTE])]


class JsonWebKeySet(ApiModel):
    keys: list[dict[str, Any]] = Field(examples=[_KEYS["keys"]])


class ReceiptOut(ApiModel):
    """What we state of an attempt."""

    receipt_gid: str
    delivery_gid: str
    attempt_gid: str
    round: int
    number: int
    seq: int | None = Field(description="Its place in the tenant's log, once it is under a checkpoint.", examples=[7])
    receipt: str = Field(description="As it was signed: a compact JWS.", examples=[_JWS])
    statement: dict[str, Any] | None = Field(
        description="Its claims, to be read. Null where the row was damaged.",
        examples=[{"outcome": "delivered", "statusCode": 200, "endedAt": "2026-02-01T12:07:00.070417Z"}],
    )
    created_at: datetime


class CheckpointOut(ApiModel):
    """How long a log was, and its root, signed."""

    size: int = Field(description="How many receipts are under it.", examples=[11])
    root: str = Field(examples=[_ROOT])
    checkpoint: Note
    created_at: datetime


class Growth(ApiModel):
    old_size: int
    new_size: int
    proof: Proof


class ReceiptBundle(ApiModel):
    """A receipt with the proof of its place in the log of a checkpoint. Save it as it is."""

    type: Literal["everhook.receipt-bundle"]
    version: Literal[1]
    receipt: str = Field(examples=[_JWS])
    seq: int = Field(examples=[7])
    inclusion_proof: Proof
    checkpoint: Note
    consistency: Growth | None = Field(None, description="With `since`.")
    jwks: dict[str, Any] = Field(examples=[_KEYS])


class ConsistencyBundle(ApiModel):
    """Two checkpoints with the proof that the log was only added to between them. Save it as it is."""

    type: Literal["everhook.consistency-bundle"]
    version: Literal[1]
    old_checkpoint: Note
    new_checkpoint: Note
    consistency_proof: Proof
    jwks: dict[str, Any] = Field(examples=[_KEYS])


class DeadLetterDetail(DeliveryDetail):
    payload: Any = Field(description="Null once it was erased; then the dead letter cannot be replayed.")
    payload_erased_at: datetime | None


class LiveDelivery(ApiModel):
    """What the delivery's workflow itself says."""

    status: DeliveryStatus
    round: int
    attempt: int
    waiting_for: str = Field(description="`nothing` once it was delivered or discarded.")
    next_attempt_at: datetime | None
    dead_letter_reason: DeadLetterReason | None


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
