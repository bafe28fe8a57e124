"""The tables. Payloads, secrets and response bodies are stored here and nowhere else.

The hot tables (`message`, `delivery`, `attempt`) have no foreign keys: their rows are inserted in one transaction by
one piece of code each, and the checks would cost a look-up per row for every message. On PostgreSQL they and `receipt`
are partitioned by month (`partitions.py`); there the primary keys of `attempt` and `receipt` end with `delivery_gid`.

Stores write `col(Model.field)` where they build expressions: for mypy, SQLModel's class attributes have the types of
their values, and `col` gives them that of a column. Core columns (`table_of(Model).c.field`) would need no `col`, but
their names and types are not checked, and statements on Core tables are outside of the tenant scope, which applies to
mapped classes only (`tenant_scope`). They are used only where no session is involved.
"""

from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, DateTime, Index, Integer, LargeBinary, String, UniqueConstraint, text
from sqlalchemy import Enum as SqlEnum
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus, Verdict
from everhook.delivery.body_formats import BodyFormat
from everhook.event_types.modes import ValidationMode
from everhook.health.score import Level
from everhook.ids import Kind, new_gid
from everhook.signing.schemes import SecretKind

DEFAULT_TENANT_GID = "ten_00000000000000000000000000"
"""The owner of endpoints without a tenant; created by the first migration."""


def now() -> datetime:
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on both databases. SQLite has no time zones and stores plain UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime; Everhook uses UTC only")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def enum_text(enum: type[Enum]) -> SqlEnum:
    """An enumeration stored as text, so that a new value needs no migration."""
    return SqlEnum(
        enum, native_enum=False, create_constraint=False, length=32, values_callable=lambda e: [m.value for m in e]
    )


class ShownEnum(TypeDecorator[StrEnum]):
    """An enumeration that is only displayed, stored as text. A value from a newer version, unknown to this one, is
    read as it is. If code depends on the value, use `enum_text`, for which an unknown value is an error."""

    impl = String(32)
    cache_ok = True

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        return value.value if value is not None else None

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        if value is None:
            return None
        try:
            return self.enum(value)
        except ValueError:
            unknown = str.__new__(self.enum, value)
            unknown._name_ = unknown._value_ = value
            return unknown


_WIDE = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits, for numbers that grow with traffic. SQLite's integers have 64 bits already, under another name."""


def _count(**options: Any) -> Any:
    return Field(sa_type=_WIDE, **options)


def _when(**options: Any) -> Any:
    return Field(sa_type=UtcDateTime, **options)


class Tenant(SQLModel, table=True):
    """`erasing_since` is set when the erasure of a tenant starts: from then on the tenant does not exist for any
    caller. `alerts` are limits for the alerts of its endpoints: see `health/endpoint_alerts.py`. `publish_rate` is how
    many messages may be published for it, such as `100/minute`; None: no limit."""

    gid: str = Field(default_factory=lambda: new_gid(Kind.TENANT), primary_key=True)
    name: str = Field(unique=True)
    alerts: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    created_at: datetime = _when(default_factory=now)
    erasing_since: datetime | None = _when(default=None)
    publish_rate: str | None = None


class ApiKey(SQLModel, table=True):
    """An API key, `<gid>_<random>`: only the SHA-256 of the whole key is stored."""

    __tablename__ = "api_key"

    gid: str = Field(default_factory=lambda: new_gid(Kind.API_KEY), primary_key=True)
    name: str
    sha256: str
    scopes: list[str] = Field(sa_column=Column(JSON, nullable=False))
    tenant_gid: str | None = Field(default=None, foreign_key="tenant.gid")
    created_by: str
    created_at: datetime = _when(default_factory=now)
    expires_at: datetime | None = _when(default=None)
    revoked_at: datetime | None = _when(default=None)


class AuditEntry(SQLModel, table=True):
    """Who changed what, when and from where; written in the transaction of the change. `detail` holds no secret.

    `actor` is the name of a key, and `key_gid` identifies the key among those with that name.
    """

    __tablename__ = "audit_entry"
    __table_args__ = (
        Index("ix_audit_entry_tenant", "tenant_gid", "gid"),
        Index("ix_audit_entry_subject", "subject", "gid"),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.AUDIT), primary_key=True)
    actor: str
    key_gid: str | None = None
    action: str
    subject: str
    tenant_gid: str | None = None
    address: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created_at: datetime = _when(default_factory=now)


class Channel(SQLModel, table=True):
    """`routes_version` increases with every change that affects publishing: see `publishing/routes_store.py`.

    `gates` are the steps that its messages have to pass before they are sent: see `publishing/gates.py`. `circuit`
    holds circuit settings of the endpoints that subscribe to it: see `circuit/spec.py`. `validation` is what happens to
    messages that do not fit the catalogue of event types. `retention_days` is how long payloads are kept; None: as long
    as the settings say.
    """

    name: str = Field(primary_key=True)
    policy: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    gates: list[dict[str, Any]] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    circuit: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    validation: ValidationMode = Field(
        default=ValidationMode.OFF, sa_type=enum_text(ValidationMode), sa_column_kwargs={"server_default": "off"}
    )
    retention_days: float | None = None
    routes_version: int = _count(default=0)
    created_at: datetime = _when(default_factory=now)


class EventType(SQLModel, table=True):
    """A type of messages in the catalogue. It belongs to the installation, like channels.

    `payload_schema` is the JSON Schema that payloads fit, and `schema_sha256` the hash of its text: processes keep
    compiled schemas by it. `example` is a payload.
    """

    __tablename__ = "event_type"

    name: str = Field(primary_key=True)
    description: str = ""
    payload_schema: Any = Field(default=None, sa_column=Column("schema", JSON(none_as_null=True)))
    schema_sha256: str | None = None
    example: Any = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    deprecated: bool = False
    archived: bool = False
    created_at: datetime = _when(default_factory=now)
    updated_at: datetime = _when(default_factory=now)


class PastPolicy(SQLModel, table=True):
    """The policy that a channel or an endpoint had until a moment. One of `endpoint_gid` and `channel` is empty."""

    __tablename__ = "past_policy"
    __table_args__ = (Index("ix_past_policy_until", "until"),)

    endpoint_gid: str = Field(default="", primary_key=True)
    channel: str = Field(default="", primary_key=True)
    until: datetime = _when(primary_key=True)
    policy: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))


class OnGroupFailure(StrEnum):
    """What a dead letter means for the group of its delivery. `BLOCK`: the next ones wait until it is delivered by a
    replay, or discarded."""

    CONTINUE = "continue"
    BLOCK = "block"


_HAS_ALERTS = text("alerts IS NOT NULL")


class Endpoint(SQLModel, table=True):
    """`version` increases with every change, so that senders notice when their cached endpoint is old. `tls_key`,
    `header_values` and `auth_secret` are encrypted; `headers` holds names only, see `storage/header_encryption.py`.
    `auth` is what may be shown of the authentication: its type and the parts that are not secret.

    `mode` never changes. Only endpoints of mode `http` have a `url`; of others it is empty. `options` are those of the
    mode, in the spelling of the API.
    """

    __table_args__ = (
        Index("ix_endpoint_tenant", "tenant_gid", "gid"),
        Index("ix_endpoint_alerts", "gid", postgresql_where=_HAS_ALERTS, sqlite_where=_HAS_ALERTS),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.ENDPOINT), primary_key=True)
    tenant_gid: str = Field(foreign_key="tenant.gid")
    mode: DeliveryMode = Field(default=DeliveryMode.HTTP, sa_type=enum_text(DeliveryMode))
    options: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    on_group_failure: OnGroupFailure = Field(default=OnGroupFailure.CONTINUE, sa_type=enum_text(OnGroupFailure))
    url: str
    description: str = ""
    policy: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    circuit: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    alerts: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    rate_limit: float | None = None
    max_in_flight: int | None = None
    signatures: list[str] = Field(sa_column=Column(JSON, nullable=False))
    format: BodyFormat = Field(default=BodyFormat.ENVELOPE, sa_type=enum_text(BodyFormat))
    headers: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    header_values: str | None = None
    auth: dict[str, str] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    auth_secret: str | None = None
    details: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    tls_ca: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    version: int = _count(default=1)
    created_at: datetime = _when(default_factory=now)
    updated_at: datetime = _when(default_factory=now)
    deleted_at: datetime | None = _when(default=None)


class EndpointRate(SQLModel, table=True):
    """The last reserved send time of an endpoint with a rate limit, in seconds of the database's clock: see
    `delivery/send_times_store.py`."""

    __tablename__ = "endpoint_rate"

    endpoint_gid: str = Field(foreign_key="endpoint.gid", primary_key=True)
    last_at: float


class EndpointTurn(SQLModel, table=True):
    """A request in flight to an endpoint with `max_in_flight`: it holds one of that many slots until it ends, at the
    latest until `until`. See `delivery/turns_store.py`."""

    __tablename__ = "endpoint_turn"

    endpoint_gid: str = Field(foreign_key="endpoint.gid", primary_key=True)
    slot: int = Field(primary_key=True)
    holder: str
    until: datetime = _when()


class EndpointSecret(SQLModel, table=True):
    """A signing secret, encrypted. Every row that has not expired signs, newest first.

    `public_key` (`whpk_…`) is set for Ed25519 keys only.
    """

    __tablename__ = "endpoint_secret"
    __table_args__ = (
        Index(
            "ix_endpoint_secret_expiry",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL"),
            sqlite_where=text("expires_at IS NOT NULL"),
        ),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.SECRET), primary_key=True)
    endpoint_gid: str = Field(foreign_key="endpoint.gid", index=True)
    kind: SecretKind = Field(default=SecretKind.HMAC, sa_type=enum_text(SecretKind))
    secret: str
    public_key: str | None = None
    created_at: datetime = _when(default_factory=now)
    expires_at: datetime | None = _when(default=None)


class Subscription(SQLModel, table=True):
    """`cost` is the maximum number of steps to match a message against it. With `include_payload` events about dead
    letters carry the payload of the message: see `everhook/delivery/dead_payloads_store.py`."""

    __table_args__ = (Index("ix_subscription_tenant", "tenant_gid"),)

    gid: str = Field(default_factory=lambda: new_gid(Kind.SUBSCRIPTION), primary_key=True)
    tenant_gid: str = Field(foreign_key="tenant.gid")
    endpoint_gid: str = Field(foreign_key="endpoint.gid", index=True)
    channel: str = Field(foreign_key="channel.name", index=True)
    events: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    filter: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    cost: int = 1
    enabled: bool = True
    include_payload: bool = False
    created_at: datetime = _when(default_factory=now)


_NOT_CLOSED = text("state <> 'closed'")
_HELD = text("hold IS NOT NULL")
"""Few circuits at a time: those of healthy endpoints are closed and not held."""


class CircuitRow(SQLModel, table=True):
    """The circuit as `EndpointWorkflow` last wrote it, and the claim on the one probe of a half-open circuit."""

    __tablename__ = "circuit"
    __table_args__ = (
        Index("ix_circuit_until", "until", postgresql_where=_NOT_CLOSED, sqlite_where=_NOT_CLOSED),
        Index("ix_circuit_hold", "hold", postgresql_where=_HELD, sqlite_where=_HELD),
    )

    endpoint_gid: str = Field(primary_key=True, foreign_key="endpoint.gid")
    state: CircuitState = Field(default=CircuitState.CLOSED, sa_type=enum_text(CircuitState))
    hold: Hold | None = Field(default=None, sa_type=enum_text(Hold))
    hold_reason: str = ""
    failures: int = _count(default=0)
    failing_since: datetime | None = _when(default=None)
    openings: int = _count(default=0)
    until: datetime | None = _when(default=None)
    version: int = _count(default=0)
    probe_delivery_gid: str | None = None
    probe_until: datetime | None = _when(default=None)
    updated_at: datetime = _when(default_factory=now)


class Message(SQLModel, table=True):
    """`payload` holds the bytes as they were published; None after it was erased.

    `idempotency_scope` is the tenant, or empty for the publisher; `MessageKey` makes the key unique. `traceparent` is
    the trace of the publishing request. `published_by` is the gid of the publisher's key; None for the key of the
    environment, and for Everhook itself. `attributes` are erased with the payload. `endpoint_gid`: it goes to this
    endpoint alone, regardless of subscriptions. `single_attempt`: as of a delivery. `is_unrouted`: no endpoint took it.
    `deliver_at`: its deliveries are created at this time. `validation_error` says where it does not fit the catalogue
    of event types, on a channel that accepts such messages; it is erased with the payload.
    """

    __table_args__ = (
        Index("ix_message_channel", "channel", "gid"),
        Index("ix_message_type", "event_type", "gid"),
        Index(
            "ix_message_tenant",
            "tenant_gid",
            "gid",
            postgresql_where=text("tenant_gid IS NOT NULL"),
            sqlite_where=text("tenant_gid IS NOT NULL"),
        ),
        Index(
            "ix_message_payload",
            "channel",
            "gid",
            postgresql_where=text("payload IS NOT NULL"),
            sqlite_where=text("payload IS NOT NULL"),
        ),
        Index("ix_message_unrouted", "gid", postgresql_where=text("is_unrouted"), sqlite_where=text("is_unrouted")),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.MESSAGE), primary_key=True)
    tenant_gid: str | None = None
    channel: str
    event_type: str
    payload: bytes | None = Field(sa_type=LargeBinary)
    body_sha256: str
    idempotency_scope: str = ""
    idempotency_key: str | None = None
    published_at: datetime = _when()
    accepted_at: datetime = _when(default_factory=now)
    traceparent: str | None = None
    published_by: str | None = None
    payload_erased_at: datetime | None = _when(default=None)
    attributes: dict[str, str] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    endpoint_gid: str | None = None
    single_attempt: bool | None = None
    group_key: str | None = None
    is_unrouted: bool | None = None
    deliver_at: datetime | None = _when(default=None)
    cancelled_at: datetime | None = _when(default=None)
    validation_error: str | None = None


class ScheduledMessage(SQLModel, table=True):
    """A message that waits for the time of its delivery, and has no deliveries yet. `document` holds what a publish
    says that no other table keeps: `task`, `gates`, and the name of the publisher."""

    __tablename__ = "scheduled_message"
    __table_args__ = (Index("ix_scheduled_message_due", "deliver_at"),)

    message_gid: str = Field(primary_key=True)
    deliver_at: datetime = _when()
    document: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class MessageKey(SQLModel, table=True):
    """An idempotency key and the message that was published with it.

    It has a table of its own because a unique key of a partitioned table must contain the column that the table is
    partitioned by. A row is inserted before its message, in the same transaction.
    """

    __tablename__ = "message_key"
    __table_args__ = (Index("ix_message_key_message", "message_gid"),)

    idempotency_scope: str = Field(primary_key=True)
    channel: str = Field(primary_key=True)
    idempotency_key: str = Field(primary_key=True)
    message_gid: str


class PayloadErasure(SQLModel, table=True):
    """A payload that was erased on request, until the responses to attempts then in flight are erased too."""

    __tablename__ = "payload_erasure"

    message_gid: str = Field(primary_key=True)
    requested_at: datetime = _when(default_factory=now)


_NOT_HEALTHY = text("status = 'retrying' OR status = 'parked' OR status = 'dead_lettered' OR status = 'discarded'")
"""Statuses that a delivery without problems never has, so the index on them costs it nothing."""


_UNDISPATCHED = text("dispatched_at IS NULL AND status <> 'parked'")
"""In progress in the process that accepted it, or waiting for its workflow to start."""


class Delivery(SQLModel, table=True):
    """One message to one endpoint.

    `due_at` is when its next step is due: the end of the first attempt, the next attempt, the next check of a parked
    delivery or the end of its window, the end of the window of an available one, the next timer of the task of one that
    awaits a decision, the end of a dead letter's retention. The reconciler looks for rows whose step is overdue.
    `dispatched_at` is null until a workflow is known to guard the delivery, or until it was delivered without one.
    `attempts` counts those of the current round. `single_attempt`: a round is one attempt. `group_key`: it was accepted
    in this group, and waits for those before it. `subscription_gid` is the oldest subscription that matched; None if
    the message was published to the endpoint itself, or before subscriptions were recorded.
    """

    __table_args__ = (
        Index("ix_delivery_message", "message_gid", "gid"),
        Index("ix_delivery_endpoint", "endpoint_gid", "gid"),
        Index("ix_delivery_tenant", "tenant_gid", "gid"),
        Index("ix_delivery_channel", "channel", "gid"),
        Index("ix_delivery_type", "event_type", "gid"),
        Index("ix_delivery_undispatched", "gid", postgresql_where=_UNDISPATCHED, sqlite_where=_UNDISPATCHED),
        Index(
            "ix_delivery_due",
            "due_at",
            postgresql_where=text("due_at IS NOT NULL"),
            sqlite_where=text("due_at IS NOT NULL"),
        ),
        Index(
            "ix_delivery_parked",
            "endpoint_gid",
            "gid",
            postgresql_where=text("status = 'parked'"),
            sqlite_where=text("status = 'parked'"),
        ),
        Index("ix_delivery_astray", "status", "gid", postgresql_where=_NOT_HEALTHY, sqlite_where=_NOT_HEALTHY),
        Index(
            "ix_delivery_dead",
            "endpoint_gid",
            "reason",
            "tenant_gid",
            postgresql_where=text("status = 'dead_lettered'"),
            sqlite_where=text("status = 'dead_lettered'"),
        ),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.DELIVERY), primary_key=True)
    tenant_gid: str
    message_gid: str
    endpoint_gid: str
    channel: str
    event_type: str
    subscription_gid: str | None = None
    status: DeliveryStatus = Field(default=DeliveryStatus.ACCEPTED, sa_type=enum_text(DeliveryStatus))
    round: int = 1
    attempts: int = 0
    accepted_at: datetime = _when(default_factory=now)
    dispatched_at: datetime | None = _when(default=None)
    due_at: datetime | None = _when(default=None)
    parked_at: datetime | None = _when(default=None)
    dead_lettered_at: datetime | None = _when(default=None)
    completed_at: datetime | None = _when(default=None)
    reason: DeadLetterReason | None = Field(default=None, sa_type=ShownEnum(DeadLetterReason))
    last_status_code: int | None = None
    last_error: str | None = None
    decided_by: str | None = None
    decided_why: str | None = None
    single_attempt: bool | None = None
    group_key: str | None = None


class DeliveryRound(SQLModel, table=True):
    """When a replay opened a round of a delivery. The first round started with the acceptance, and has no row, unless
    it waited for a gate, or for its group while a policy changed."""

    __tablename__ = "delivery_round"

    delivery_gid: str = Field(primary_key=True)
    round: int = Field(primary_key=True)
    began_at: datetime = _when()


class BatchKind(StrEnum):
    """`CHANNEL_REPLAY`: a workflow of Everhook opens rounds. The others are bulk operations on dead letters, which
    Temporal runs as batch operations."""

    CHANNEL_REPLAY = "channel_replay"
    DEAD_LETTER_REPLAY = "dead_letter_replay"
    DEAD_LETTER_PURGE = "dead_letter_purge"


class BatchState(StrEnum):
    """`FAILED`: only of bulk operations on dead letters."""

    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class ReplayMode(StrEnum):
    """What of a channel is replayed. `FAILED`: dead letters, and what was discarded. `ALL`: also what was delivered.
    `MISSING`: messages that an endpoint subscribes to and never had a delivery of."""

    FAILED = "failed"
    MISSING = "missing"
    ALL = "all"


_RUNNING = text("state = 'running'")


class Batch(SQLModel, table=True):
    """A replay of the messages of a channel, or a bulk operation on dead letters: which of them, and how far it is.

    `tenant_gid` is the tenant whose deliveries it is limited to; with `tenant_bound` a key of that tenant started it.
    `actor` and `key_gid` are those of that key, and `published_by` is set if it may send only what was published with
    it. `event_types` is empty for all types.

    Everything up to `position`, a gid, is done and counted: both change in the transaction that opens the rounds, so a
    page is never done twice. `matched` was counted at the start, perhaps not to the end (`matched_at_least`); once the
    replay has completed, it is the sum of `started`, `skipped` and `erased`.

    A bulk operation has no `mode` and no position: `gid` is the id of Temporal's job, which knows how far it is. The
    row has its end, with the counts of that time; `started` are the workflows that were signalled. `selection` says
    which dead letters, in the names of the API, and the columns say it where they can. `error` is why it failed.
    A cancellation is recorded first (`cancel_requested_at`), and then Temporal is asked to stop.
    """

    __table_args__ = (
        Index("ix_batch_tenant", "tenant_gid", "gid"),
        Index("ix_batch_running", "updated_at", postgresql_where=_RUNNING, sqlite_where=_RUNNING),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.BATCH), primary_key=True)
    kind: BatchKind = Field(default=BatchKind.CHANNEL_REPLAY, sa_type=enum_text(BatchKind))
    tenant_gid: str | None = None
    tenant_bound: bool = False
    actor: str
    key_gid: str | None = None
    published_by: str | None = None
    reason: str = ""
    channel: str | None = None
    mode: ReplayMode | None = Field(default=None, sa_type=enum_text(ReplayMode))
    endpoint_gid: str | None = None
    event_types: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    since: datetime | None = _when(default=None)
    until: datetime | None = _when(default=None)
    selection: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    state: BatchState = Field(default=BatchState.RUNNING, sa_type=enum_text(BatchState))
    position: str = ""
    matched: int = _count(default=0)
    matched_at_least: bool = False
    started: int = _count(default=0)
    skipped: int = _count(default=0)
    erased: int = _count(default=0)
    failed: int = _count(default=0)
    error: str | None = None
    cancel_requested_at: datetime | None = _when(default=None)
    created_at: datetime = _when(default_factory=now)
    updated_at: datetime = _when(default_factory=now)
    ended_at: datetime | None = _when(default=None)


class DeliveryGroup(SQLModel, table=True):
    """A group with open deliveries: see `everhook/ordering/store.py`. `last` is the last position that was taken,
    `open` how many deliveries are open, `touched_at` when one was settled, or the reconciler checked it."""

    __tablename__ = "delivery_group"
    __table_args__ = (Index("ix_delivery_group_touched", "touched_at"),)

    endpoint_gid: str = Field(primary_key=True)
    group_key: str = Field(primary_key=True)
    last: int = Field(sa_type=_WIDE)
    open: int = Field(sa_type=_WIDE)
    touched_at: datetime = _when()


class GroupedDelivery(SQLModel, table=True):
    """An open delivery of a group, with its position in it."""

    __tablename__ = "grouped_delivery"
    __table_args__ = (Index("uq_grouped_delivery_position", "endpoint_gid", "group_key", "position", unique=True),)

    delivery_gid: str = Field(primary_key=True)
    endpoint_gid: str
    group_key: str
    position: int = Field(sa_type=_WIDE)


class PullItem(SQLModel, table=True):
    """An open pulled delivery, from its acceptance until it is acknowledged, dead-lettered or discarded.

    `available_at` in the future is lease and back-off in one: the end of the lease and the delay after it. `number`
    counts the leases of this round. `consumer` is set from the hand-out until the end of the lease is recorded;
    `leased_at`, `lease_until`, `position` (in the consumer's stream), `consumer_address` and `item_sha256` are those
    of the newest lease. `is_last`: no other lease follows in this round, because its attempts are used up or it is
    over; none follows after `window_until` either. `guarded_at`: a workflow guards the delivery.
    """

    __tablename__ = "pull_queue"
    __table_args__ = (
        Index("ix_pull_queue_available", "endpoint_gid", "available_at"),
        Index(
            "ix_pull_queue_leased",
            "endpoint_gid",
            "lease_until",
            postgresql_where=text("consumer IS NOT NULL"),
            sqlite_where=text("consumer IS NOT NULL"),
        ),
        Index(
            "ix_pull_queue_unguarded",
            "queued_at",
            postgresql_where=text("guarded_at IS NULL"),
            sqlite_where=text("guarded_at IS NULL"),
        ),
    )

    delivery_gid: str = Field(primary_key=True)
    endpoint_gid: str
    round: int = 1
    number: int = 0
    queued_at: datetime = _when()
    available_at: datetime = _when()
    window_until: datetime = _when()
    guarded_at: datetime | None = _when(default=None)
    leased_at: datetime | None = _when(default=None)
    lease_until: datetime | None = _when(default=None)
    consumer: str | None = None
    consumer_address: str | None = None
    position: int | None = _count(default=None)
    item_sha256: str | None = None
    is_last: bool = False


class PendingHistory(SQLModel, table=True):
    """A delivery whose workflow has to be started, or signalled, because of what the database holds.

    Without `signal` it was delivered before it had a workflow, and its history workflow only shows that. With `signal`
    it is a pulled delivery whose workflow has to look at it again.
    """

    __tablename__ = "pending_history"

    delivery_gid: str = Field(primary_key=True)
    settled_at: datetime = _when()
    signal: bool = False


_OPEN_TASK = text("state = 'open'")


class TaskState(StrEnum):
    OPEN = "open"
    DECIDED = "decided"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Task(SQLModel, table=True):
    """What an inbox asks people about one delivery. `document` is the whole task, as it was when the message was
    accepted; `assignees` are those who are asked now.

    `version` increases when what is asked, or who is asked, changes. `notes` are comments and delegations, oldest
    first. `requested_by` and `requester_key_gid` are the name and the gid of the publisher's key. `outcome` to
    `decided_at` are those of the decision.

    `remind_at` is when the next reminder is due, or the escalation if no reminder is left before it. `escalated_to` is
    the other inbox that the task was opened in as well.
    """

    __table_args__ = (
        Index("uq_task_delivery", "delivery_gid", unique=True),
        Index("ix_task_message", "message_gid"),
        Index("ix_task_tenant", "tenant_gid", "gid"),
        Index("ix_task_endpoint", "endpoint_gid", "gid"),
        Index("ix_task_open", "due_at", postgresql_where=_OPEN_TASK, sqlite_where=_OPEN_TASK),
        Index(
            "ix_task_escalated",
            "escalated_to",
            postgresql_where=text("escalated_to IS NOT NULL"),
            sqlite_where=text("escalated_to IS NOT NULL"),
        ),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.TASK), primary_key=True)
    tenant_gid: str
    delivery_gid: str
    message_gid: str
    endpoint_gid: str
    document: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    assignees: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    requested_by: str | None = None
    requester_key_gid: str | None = None
    state: TaskState = Field(default=TaskState.OPEN, sa_type=enum_text(TaskState))
    version: int = _count(default=1)
    created_at: datetime = _when(default_factory=now)
    due_at: datetime = _when()
    reminders_sent: int = 0
    remind_at: datetime | None = _when(default=None)
    escalated_at: datetime | None = _when(default=None)
    escalated_to: str | None = None
    notes: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    outcome: str | None = None
    comment: str | None = None
    data: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    decided_by: str | None = None
    decided_at: datetime | None = _when(default=None)


class TaskDecision(SQLModel, table=True):
    """One person's decision on a task; a quorum needs several."""

    __tablename__ = "task_decision"

    task_gid: str = Field(primary_key=True)
    actor: str = Field(primary_key=True)
    outcome: str
    comment: str | None = None
    data: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    decided_at: datetime = _when(default_factory=now)


class GateState(StrEnum):
    OPEN = "open"
    PASSED = "passed"
    DECLINED = "declined"


class Gate(SQLModel, table=True):
    """The decisions that the deliveries of a message wait for. `step` is the index of the current one of `steps`, and
    `delivery_gid` the delivery that asks for it.

    `steps` are those of the publish or of the channel. A step that is not asked, because its filter does not match, is
    `skipped`; one that is asked has its `deliveryGid`. `task` is the publisher's, for inboxes among the deliveries
    that wait. `reason` says why they were discarded.
    """

    __table_args__ = (
        Index("uq_gate_message", "message_gid", unique=True),
        Index("uq_gate_delivery", "delivery_gid", unique=True),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.GATE), primary_key=True)
    message_gid: str
    steps: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    step: int = 0
    delivery_gid: str
    task: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    state: GateState = Field(default=GateState.OPEN, sa_type=enum_text(GateState))
    created_at: datetime = _when(default_factory=now)
    ended_at: datetime | None = _when(default=None)
    reason: DeadLetterReason | None = Field(default=None, sa_type=ShownEnum(DeadLetterReason))


class Attempt(SQLModel, table=True):
    """One attempt. `url` and `request_headers` are as sent, but the values of the endpoint's own headers are hidden."""

    __table_args__ = (UniqueConstraint("delivery_gid", "round", "number", name="uq_attempt_natural"),)

    gid: str = Field(default_factory=lambda: new_gid(Kind.ATTEMPT), primary_key=True)
    delivery_gid: str
    endpoint_gid: str
    round: int
    number: int
    verdict: Verdict = Field(sa_type=enum_text(Verdict))
    started_at: datetime = _when()
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    error_detail: str | None = None
    url: str = ""
    request_headers: list[list[str]] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    request_sha256: str = ""
    response_sha256: str | None = None
    response_size: int | None = None
    response_headers: list[list[str]] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    response_body: bytes | None = Field(default=None, sa_type=LargeBinary)
    peer_address: str | None = None
    connection_reused: bool = False
    redialed: bool = False
    next_attempt_at: datetime | None = _when(default=None)


class Receipt(SQLModel, table=True):
    """The signed statement of an attempt, inserted with it. `seq` is its index in the tenant's log, once it is
    sealed. The primary key of `ReceiptHash` makes it unique: both are written in one transaction."""

    __table_args__ = (
        UniqueConstraint("delivery_gid", "round", "number", name="uq_receipt_natural"),
        Index("ix_receipt_seq", "tenant_gid", "seq", postgresql_where=text("seq IS NOT NULL")),
        Index(
            "ix_receipt_unsealed",
            "tenant_gid",
            "gid",
            postgresql_where=text("seq IS NULL"),
            sqlite_where=text("seq IS NULL"),
        ),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.RECEIPT), primary_key=True)
    tenant_gid: str
    delivery_gid: str
    attempt_gid: str
    round: int
    number: int
    jws: str
    seq: int | None = _count(default=None)
    created_at: datetime = _when(default_factory=now)


class ReceiptHash(SQLModel, table=True):
    """A hash of a tenant's log: leaves at level 0, roots of complete blocks above. See `receipts/log/merkle.py`."""

    __tablename__ = "receipt_hash"

    tenant_gid: str = Field(primary_key=True)
    level: int = Field(primary_key=True)
    index: int = _count(primary_key=True)
    hash: bytes = Field(sa_type=LargeBinary)


class ReceiptSeal(SQLModel, table=True):
    """A checkpoint: the signed note over the first `size` receipts of a tenant."""

    __tablename__ = "receipt_seal"

    tenant_gid: str = Field(primary_key=True)
    size: int = _count(primary_key=True)
    root: bytes = Field(sa_type=LargeBinary)
    note: str
    created_at: datetime = _when(default_factory=now)


class ReceiptArchive(SQLModel, table=True):
    """A range of a tenant's log, from `start` to before `end`, whose receipts were moved to a file. Their hashes and
    checkpoints stay.

    `file` is the name of the file without its directory, `sha256` its hash. `newest_at` is when the checkpoint at the
    end was signed: no receipt in the file is newer.
    """

    __tablename__ = "receipt_archive"

    tenant_gid: str = Field(primary_key=True)
    start: int = _count(primary_key=True)
    end: int = _count()
    file: str
    sha256: str
    newest_at: datetime = _when()
    archived_at: datetime = _when(default_factory=now)


class ReceiptKeyRow(SQLModel, table=True):
    """A key that signs receipts and checkpoints. `seed` is encrypted.

    `issuer` is the name that it signs for. It is the same in all rows, because the logs are named after it.
    """

    __tablename__ = "receipt_key"

    kid: str = Field(primary_key=True)
    seed: str
    issuer: str
    created_at: datetime = _when()
    retired_at: datetime | None = _when(default=None)


class EndpointMinute(SQLModel, table=True):
    """What an endpoint did in one minute; written by the recorder in the transaction of the attempts.

    `retried` counts failures that can be retried, `rejected` those that cannot. `duration_ms` is the sum of the
    response times, regardless of the status; `under_…` counts responses that took less than that many milliseconds and
    more than the band below. An attempt without a response is in no band.
    """

    __tablename__ = "endpoint_minute"
    __table_args__ = (Index("ix_endpoint_minute_minute", "minute"),)

    endpoint_gid: str = Field(primary_key=True)
    minute: datetime = _when(primary_key=True)
    tenant_gid: str
    delivered: int = _count(default=0)
    retried: int = _count(default=0)
    rejected: int = _count(default=0)
    duration_ms: int = _count(default=0)
    under_100: int = _count(default=0)
    under_500: int = _count(default=0)
    under_2000: int = _count(default=0)
    slower: int = _count(default=0)


class EndpointMinuteError(SQLModel, table=True):
    """How often an error occurred in one minute: `timeout_total`, `http_503`."""

    __tablename__ = "endpoint_minute_error"
    __table_args__ = (Index("ix_endpoint_minute_error_minute", "minute"),)

    endpoint_gid: str = Field(primary_key=True)
    minute: datetime = _when(primary_key=True)
    error: str = Field(primary_key=True)
    count: int = _count(default=0)


class EndpointAlerts(SQLModel, table=True):
    """The last reported health of an endpoint, and the alerts that are raised: see `health/endpoint_alerts.py`. A
    healthy endpoint without alerts has no row. `version` increases with each change (compare-and-set)."""

    __tablename__ = "endpoint_alerts"

    endpoint_gid: str = Field(primary_key=True, foreign_key="endpoint.gid")
    tenant_gid: str
    level: Level = Field(sa_type=enum_text(Level))
    better_since: datetime | None = _when(default=None)
    raised: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    version: int = _count(default=1)
    updated_at: datetime = _when(default_factory=now)


class OperationalEvent(SQLModel, table=True):
    """An event for operators, written in the transaction of the change that it reports (transactional outbox).

    `message_gid` is the message on the system channel that notifies subscribers.
    """

    __tablename__ = "operational_event"
    __table_args__ = (
        Index("ix_operational_event_endpoint", "endpoint_gid", "gid"),
        Index("ix_operational_event_kind", "kind", "gid"),
        Index("ix_operational_event_tenant", "tenant_gid", "gid"),
        Index(
            "ix_operational_event_unpublished",
            "gid",
            postgresql_where=text("published_at IS NULL"),
            sqlite_where=text("published_at IS NULL"),
        ),
    )

    gid: str = Field(default_factory=lambda: new_gid(Kind.EVENT), primary_key=True)
    kind: str
    tenant_gid: str | None = None
    endpoint_gid: str | None = None
    delivery_gid: str | None = None
    data: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created_at: datetime = _when(default_factory=now)
    published_at: datetime | None = _when(default=None)
    message_gid: str | None = None


class IdempotentResponse(SQLModel, table=True):
    """The response to a call with an `Idempotency-Key`, for repeated calls.

    `key_sha256` is the hash of the caller's scope and the key, `request_sha256` that of the call. `response` is
    encrypted, because it may hold a secret; None while the call is in progress. `tenant_gid` is the tenant whose data
    it shows.
    """

    __tablename__ = "idempotent_response"
    __table_args__ = (
        Index("ix_idempotent_response_created", "created_at"),
        Index("ix_idempotent_response_tenant", "tenant_gid"),
    )

    key_sha256: str = Field(primary_key=True)
    request_sha256: str
    tenant_gid: str | None = None
    status_code: int | None = None
    response: str | None = None
    created_at: datetime = _when(default_factory=now)
