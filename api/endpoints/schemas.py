"""Endpoints as requests and responses show them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, cast

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
)
from pydantic.alias_generators import to_camel

from api import patterns
from api.schemas import (
    AlertSettings,
    ApiModel,
    CircuitSettings,
    Events,
    EventType,
    Flag,
    GivenOnly,
    Integer,
    Metadata,
    Name,
    Number,
    Policy,
    Stored,
    Text,
    alerts_of,
    circuit_of,
    spec_of,
)
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeliveryMode
from everhook.credentials.auth import AuthType
from everhook.delivery.body_formats import BodyFormat
from everhook.egress import TlsExtras
from everhook.endpoints.service import EndpointChanges, NewEndpoint
from everhook.internal.options import HandlerKind
from everhook.signing.schemes import DEFAULT_SCHEMES, SignatureScheme, secret_key
from everhook.storage.tables import OnGroupFailure

MAX_PEM = 32 * 1024
MAX_GRACE = timedelta(days=7)
DEFAULT_GRACE = timedelta(days=1)
MAX_REQUESTS_IN_FLIGHT = 1_000

CIRCUIT: dict[str, Any] = {"state": "closed", "failures": 0}
ENDPOINT: dict[str, Any] = {
    "endpointGid": "ep_01m83prhbfe23sdyzab24cmhby",
    "tenant": "acme",
    "mode": "http",
    "url": "https://hooks.example.com/orders",
    "description": "Order sync",
    "status": "enabled",
    "statusReason": "",
    "circuit": {**CIRCUIT, "settings": {"failureThreshold": 10}},
    "policy": {"preset": "patient"},
    "alerts": {"successRateBelow": 0.95},
    "rateLimit": 50,
    "maxInFlight": 4,
    "signatures": ["standard"],
    "format": "envelope",
    "headers": {"x-team": None},
    "metadata": {"plan": "gold"},
    "ed25519": False,
    "onGroupFailure": "continue",
    "publicKeys": [],
    "auth": {"type": "basic", "username": "everhook"},
    "createdAt": "2026-01-31T12:00:00Z",
    "updatedAt": "2026-01-31T12:00:00Z",
}
"""Examples for OpenAPI. Fields that are absent are null."""

_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - an example


def _checked_secret(secret: SecretStr) -> SecretStr:
    secret_key(secret.get_secret_value())
    return secret


def _checked_pem(pem: str) -> str:
    if not pem.isascii() or "\0" in pem or not 0 < len(pem) <= MAX_PEM:
        raise ValueError(f"is PEM: ASCII, {MAX_PEM} characters at most")
    return pem


def _checked_certificates(pem: str) -> str:
    """Certificates are shown, and stored unencrypted: they must not contain a key."""
    if "PRIVATE KEY" in _checked_pem(pem):
        raise ValueError("holds a private key; that belongs in clientKey")
    return pem


def _checked_key(pem: SecretStr) -> SecretStr:
    _checked_pem(pem.get_secret_value())
    return pem


Pem = Annotated[str, AfterValidator(_checked_certificates)]


PemKey = Annotated[SecretStr, AfterValidator(_checked_key)]


Secret = Annotated[SecretStr, AfterValidator(_checked_secret)]


class Tls(ApiModel):
    """TLS settings of an endpoint, in PEM. What is given replaces all of them."""

    ca: Pem | None = Field(None, description="Authorities that are trusted in addition to the system's.")
    client_certificate: Pem | None = Field(None, description="Shown to the endpoint; the leaf first.")
    client_key: PemKey | None = Field(None, description="Its key, not encrypted. Never shown.")

    def extras(self) -> TlsExtras:
        key = self.client_key.get_secret_value() if self.client_key is not None else None
        return TlsExtras(self.ca, self.client_certificate, key)


class TlsOut(ApiModel):
    ca: str | None
    client_certificate: str | None


class EndpointAuthIn(GivenOnly):
    """How requests authenticate. `bearer` takes `token`; `basic` takes `username` and `password`; `header` takes `name`
    and `value`; `oauth2` (client credentials) takes `tokenUrl`, `clientId`, `clientSecret`, and optionally `scope` and
    `audience`. Secrets are encrypted, and not shown again."""

    type: AuthType
    token: SecretStr | None = Field(None, description="A secret.")
    username: str | None = None
    password: SecretStr | None = Field(None, description="A secret.")
    name: str | None = Field(None, description="Of the header.")
    value: SecretStr | None = Field(None, description="Of the header. A secret.")
    token_url: str | None = Field(
        None, description="Where access tokens are requested; the rules of `url` hold for it."
    )
    client_id: str | None = None
    client_secret: SecretStr | None = Field(None, description="A secret.")
    scope: str | None = None
    audience: str | None = None

    def document(self) -> dict[str, str]:
        """What was given, with its secrets."""
        given = {to_camel(name): getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in given.items()
            if value is not None
        }


class EndpointAuthOut(GivenOnly):
    """How requests authenticate, without the secret."""

    type: AuthType
    username: str | None = None
    name: str | None = None
    token_url: str | None = None
    client_id: str | None = None
    scope: str | None = None
    audience: str | None = None


class PublicKeyOut(ApiModel):
    public_key: str
    expires_at: datetime | None = Field(description="Null for the current one.")


class EndpointMode(StrEnum):
    """How an endpoint receives: Everhook sends webhooks (`http`), or consumers take deliveries out of a queue. `stream`
    and `poll` are one queue; they differ in what the dashboard expects to see. Of `inbox` people decide; `internal`
    deliveries are handled by Everhook itself."""

    HTTP = "http"
    STREAM = "stream"
    POLL = "poll"
    INBOX = "inbox"
    INTERNAL = "internal"


class HandlerOptions(GivenOnly):
    """What Everhook does with deliveries itself. The kind `email` has `to`, `subject` and `body`; `chat` has `url` and
    `text`; `reminder` and `escalation` take all from the payload."""

    kind: HandlerKind
    to: list[str] | None = Field(None, description="Mail addresses; `assignees` stands for those of the event.")
    subject: str | None = Field(None, description="A template: `{path}` is replaced by a value of the payload.")
    body: str | None = Field(None, description="A template, as `subject`.")
    url: str | None = Field(
        None, description="An incoming webhook of Slack, Mattermost or Teams. It is a secret: only its origin is shown."
    )
    text: str | None = Field(None, description="A template, as `subject`.")


def _given(task: dict[str, Any]) -> dict[str, Any]:
    """As in all options, null is like absent."""
    return {name: value for name, value in task.items() if value is not None}


class EndpointOptions(GivenOnly):
    """Options of the mode: the first two of `poll` and `stream`, `handler` of `internal`, `metadataHeaders` of `http`,
    the others of `inbox`."""

    lease_seconds: Integer | None = Field(
        None, ge=5, le=43_200, description="How long a consumer has for a delivery; 60 by default."
    )
    max_in_flight: Integer | None = Field(
        None, ge=1, le=100_000, description="Open leases at most, of all consumers; 1,000 by default."
    )
    name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=patterns.NO_CONTROL)] | None = Field(
        None, description="What people see. Required for an inbox."
    )
    task: Annotated[dict[str, Any], AfterValidator(_given)] | None = Field(
        None, description="Defaults of the inbox for the fields of its tasks."
    )
    groups: dict[str, list[str]] | None = Field(
        None, max_length=50, description="Who belongs to `group:<name>`, by the names of their keys."
    )
    handler: HandlerOptions | None = Field(None, description="Required in the mode `internal`.")
    metadata_headers: Flag | None = Field(
        None, description="Mode `http`: send the metadata of messages as headers `x-webhook-meta-<key>`, too."
    )


class EndpointSettings(ApiModel):
    """All settings. They can be changed later."""

    url: str | None = Field(
        None, examples=["https://hooks.example.com/orders"], description="Required in the mode `http`, and only there."
    )
    description: Text = ""
    policy: Policy | None = None
    circuit: CircuitSettings | None = None
    alerts: AlertSettings | None = None
    rate_limit: Number | None = Field(None, gt=0, le=1_000, description="Requests a second at most.")
    max_in_flight: Integer | None = Field(
        None, ge=1, le=MAX_REQUESTS_IN_FLIGHT, description="Requests at a time at most, over all processes."
    )
    signatures: list[SignatureScheme] = Field(default_factory=lambda: list(DEFAULT_SCHEMES), min_length=1)
    format: BodyFormat = BodyFormat.ENVELOPE
    headers: dict[str, str] = Field(
        default_factory=dict, max_length=20, description="Added to each request. Their values are encrypted."
    )
    metadata: Metadata = Field(default_factory=dict)
    ed25519: Flag = Field(False, description="Sign with Ed25519 too (`v1a`); needs the scheme `standard`.")
    tls: Tls | None = None
    auth: EndpointAuthIn | None = Field(None, description="How requests authenticate.")
    options: EndpointOptions | None = Field(None, description="Those of the mode.")
    on_group_failure: OnGroupFailure = Field(
        OnGroupFailure.CONTINUE,
        description="What a dead letter means for messages with the same `groupKey`: `continue` with the next one, or "
        "`block` until it is delivered by a replay, or discarded.",
    )


class EndpointIn(EndpointSettings):
    """`channel` and `events` create the first subscription; `events` alone subscribe to the channel `default`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"url": "https://hooks.example.com/", "events": ["invoice.created", "invoice.paid"]}]
        }
    )

    mode: EndpointMode = Field(EndpointMode.HTTP, description="How the endpoint receives. It cannot be changed later.")
    channel: Name | None = None
    events: Events | None = None
    tenant: Name | None = None
    secret: Secret | None = Field(
        None, description="Your own: `whsec_` and 24 to 64 bytes in base64; without it one is generated."
    )

    paused: Flag = Field(False, description="Send nothing to it until it is resumed; its messages are parked.")

    def new(self) -> NewEndpoint:
        """As the use case takes it."""
        return NewEndpoint(
            **_plain(self, self.model_dump(exclude={"secret"})),
            secret=self.secret.get_secret_value() if self.secret is not None else None,
        )


class EndpointPatch(ApiModel):
    """Fields that are absent stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"description": "Order sync", "rateLimit": 50}]})

    elsewhere: ClassVar[Mapping[str, str]] = {
        "mode": "cannot be changed; create another endpoint",
        "paused": "cannot be changed by this call; use POST /v1/endpoints/{gid}/pause and …/resume",
        "status": "cannot be changed by this call; use POST /v1/endpoints/{gid}/pause, …/resume, …/enable, …/disable",
        "secret": "cannot be changed by this call; use POST /v1/endpoints/{gid}/secret/rotate",
        "channel": "cannot be changed by this call; see /v1/subscriptions",
        "events": "cannot be changed by this call; see /v1/subscriptions",
    }

    url: str | None = None
    description: Text | None = None
    policy: Policy | None = None
    circuit: CircuitSettings | None = None
    alerts: AlertSettings | None = None
    rate_limit: Number | None = Field(None, gt=0, le=1_000)
    max_in_flight: Integer | None = Field(None, ge=1, le=MAX_REQUESTS_IN_FLIGHT)
    signatures: list[SignatureScheme] | None = Field(None, min_length=1)
    format: BodyFormat | None = None
    headers: dict[str, str | None] | None = Field(
        None, max_length=20, description="They replace all; one whose value is null keeps the value that it has."
    )
    metadata: Metadata | None = None
    ed25519: Flag | None = None
    tls: Tls | None = None
    auth: EndpointAuthIn | None = Field(None, description="It replaces what there was; null removes it.")
    options: EndpointOptions | None = None
    on_group_failure: OnGroupFailure | None = None

    def changes(self) -> EndpointChanges:
        """As the use case takes them: what was given, and nothing else."""
        return cast(EndpointChanges, _plain(self, self.model_dump(exclude_unset=True)))


def _plain(model: EndpointSettings | EndpointPatch, values: dict[str, Any]) -> dict[str, Any]:
    """Values of settings without API models among them."""
    if "policy" in values:
        values["policy"] = spec_of(model.policy)
    if "circuit" in values:
        values["circuit"] = circuit_of(model.circuit)
    if "alerts" in values:
        values["alerts"] = alerts_of(model.alerts)
    if "options" in values:
        values["options"] = options_of(model.options)
    if "mode" in values:
        values["mode"] = DeliveryMode(values["mode"])
    if "auth" in values:
        values["auth"] = model.auth.document() if model.auth is not None else None
    if "tls" in values:
        values["tls"] = model.tls.extras() if model.tls is not None else None
    return values


def options_of(options: EndpointOptions | None) -> dict[str, Any] | None:
    """Options as they are stored: those that were given."""
    return options.model_dump(by_alias=True) if options is not None else None


class CircuitOut(ApiModel):
    state: CircuitState
    failures: int = Field(description="Failures in a row.")
    failing_since: datetime | None
    until: datetime | None = Field(description="When the cooldown, or the wait for a probe, ends.")


class EndpointCircuitOut(CircuitOut):
    """The circuit of an endpoint, with its own settings."""

    settings: Stored[CircuitSettings | None] = Field(description="Those that the endpoint sets itself; null: none.")


class EndpointStatus(StrEnum):
    """Whether an operator, or Everhook after days of failures, holds back what is sent to an endpoint."""

    ENABLED = "enabled"
    PAUSED = "paused"
    DISABLED = "disabled"


class EndpointOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [ENDPOINT]})

    endpoint_gid: str
    tenant: str
    mode: EndpointMode
    url: str | None = Field(description="Null in modes other than `http`.")
    options: Stored[EndpointOptions | None] = Field(description="Null in the mode `http` without any.")
    description: str
    status: EndpointStatus
    status_reason: str
    circuit: EndpointCircuitOut
    policy: dict[str, Any] | None
    alerts: dict[str, Any] | None = Field(description="Those that the endpoint sets itself; null: none.")
    rate_limit: float | None
    max_in_flight: int | None
    on_group_failure: OnGroupFailure
    signatures: list[SignatureScheme] | None = Field(
        description="Null in modes other than `http`, in which nothing is signed."
    )
    format: BodyFormat
    headers: dict[str, str | None] = Field(
        description="Values are null, except where a key with the scope `admin` has just created the endpoint."
    )
    metadata: dict[str, Any]
    ed25519: bool
    public_keys: list[PublicKeyOut] = Field(description="For `v1a` signatures, newest first.")
    tls: TlsOut | None
    auth: Stored[EndpointAuthOut | None] = Field(description="How requests authenticate; its secret is not shown.")
    created_at: datetime
    updated_at: datetime


class TestRequest(ApiModel):
    """What to send."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    type: EventType | None = Field(
        None, description="An event type of the catalogue, whose example is sent. Without it: `everhook.test`."
    )


class TestSent(ApiModel):
    """A message that went to one endpoint alone."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messageGid": "msg_01m83prhbfe23sdyzab24cmhby",
                    "deliveryGid": "dlv_01m83prhbfe23sdyzab24cmhbz",
                }
            ]
        }
    )

    message_gid: str
    delivery_gid: str


class EndpointCreated(EndpointOut):
    """A new endpoint, with its secret."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{**ENDPOINT, "subscriptionGid": "sub_01m83prhbfe23sdyzab24cmhby", "secret": _SECRET}]
        }
    )

    subscription_gid: str | None
    secret: str | None = Field(
        description="Shown this once. Null in modes other than `http`, in which nothing is signed."
    )


class SecretRotation(ApiModel):
    """How to rotate the secret of an endpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"gracePeriodSeconds": 3600}]})

    secret: Secret | None = Field(
        None, description="Your own: `whsec_` and 24 to 64 bytes in base64; without it one is generated."
    )
    grace_period_seconds: Integer = Field(
        int(DEFAULT_GRACE.total_seconds()),
        ge=0,
        le=int(MAX_GRACE.total_seconds()),
        description="How long earlier secrets go on signing.",
    )


class SecretRotated(ApiModel):
    """The new secret of an endpoint."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "endpointGid": ENDPOINT["endpointGid"],
                    "secret": _SECRET,
                    "previousUntil": "2026-02-01T12:00:00Z",
                    "publicKeys": [],
                }
            ]
        }
    )

    endpoint_gid: str
    secret: str = Field(description="Shown this once.")
    previous_until: datetime | None = Field(description="When the last earlier secret ends; null if all have ended.")
    public_keys: list[PublicKeyOut]


def status_of(hold: Hold | None) -> EndpointStatus:
    return EndpointStatus(hold.value) if hold is not None else EndpointStatus.ENABLED
