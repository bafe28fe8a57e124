"""Settings: environment variables `EVERHOOK_…`, each with a description. Built once in `main` and passed down.

Temporal's connection is configured by Temporal's own variables (`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`,
`TEMPORAL_API_KEY`, `TEMPORAL_TLS…`): see `everhook/temporal/options.py`.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from email.utils import formataddr, parseaddr
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from limits import parse_many as parse_rates
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from everhook.circuit.machine import CircuitPolicy
from everhook.errors import ConfigurationError
from everhook.internal.options import is_address, one_line
from everhook.receipts.log.checkpoint import origin_of
from everhook.storage.database_url import with_async_driver

MIN_API_KEY_LENGTH = 24
DEV_ISSUER = "localhost"
_LISTS = {"egress_allow", "egress_ports", "master_keys", "portal_frame_ancestors", "smtp_domains", "trusted_proxies"}
MAX_RETENTION_DAYS = 36_500
MAX_NUMBER = 2**31 - 1

_SECONDS = {"seconds": 1, "hours": 3_600, "days": 86_400}
"""The seconds of the units that names of settings end with."""

Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(ip_network)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _comma_separated(value: object) -> object:
    """Raises ValueError for a text without an entry: an empty list may mean that anything is allowed."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if value and not parts:
        raise ValueError("has no entry: leave it empty or unset for an empty list")
    return parts


MAX_RATE = 999_999_999_999
"""Messages, and seconds: RFC 9651 allows integers of 15 digits in headers."""


def checked_rate(text: str) -> str:
    """Raises ValueError for what is no rate, such as `1000/second`, or one that the header `RateLimit-Policy` cannot
    hold. Empty: none."""
    if text and [0 < rate.amount <= MAX_RATE and rate.get_expiry() <= MAX_RATE for rate in parse_rates(text)] != [True]:
        raise ValueError("not a rate such as 1000/second")
    return text.strip()


def _proxy_url(url: SecretStr) -> SecretStr:
    """Check a proxy's URL. The error does not contain the value, which may hold a password."""
    try:
        parts = urlsplit(url.get_secret_value())
        usable = parts.scheme == "http" and bool(parts.hostname and parts.port) and parts.path in ("", "/")
    except ValueError:  # an invalid port, or a bracket that is not closed
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ValueError("not http://host:port or http://user:password@host:port")
    return url


def _issuer(name: str) -> str:
    """Check that a log of receipts can have this name."""
    origin_of(name, "ten_0")
    return name


def _web_address(url: str) -> str:
    """Check a URL that becomes a link: only http and https are allowed."""
    if not re.fullmatch(r"https?://[^\s\"'<>]+", url):
        raise ValueError("not an http or https URL")
    return url.rstrip("/")


@dataclass(frozen=True)
class MailServer:
    """The SMTP server that mails are sent by. `tls`: from the first byte; `start_tls`: by STARTTLS, which is then
    required."""

    host: str
    port: int
    tls: bool = False
    start_tls: bool = False
    user: str | None = None
    password: SecretStr | None = None

    @classmethod
    def from_url(cls, url: str) -> "MailServer":
        """Raises ValueError, whose text holds no part of the URL: it may contain a password."""
        try:
            parts = urlsplit(url)
            tls, start_tls = parts.scheme == "smtps", parts.query == "starttls"
            usable = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.path in ("", "/")
            usable = usable and parts.query in ("", "starttls") and not (tls and start_tls) and not parts.fragment
            usable = usable and (parts.username is None) == (parts.password is None) and parts.port != 0
            port = parts.port or (465 if tls else 587 if start_tls else 25)
        except ValueError:  # an invalid port, or a bracket that is not closed
            usable = False
        if not usable or parts.hostname is None or not url.isascii() or re.search(r"[\s\x00-\x1f]", url):
            raise ValueError("not smtp://user:password@host:port, smtp://…?starttls or smtps://…")
        user = unquote(parts.username) if parts.username is not None else None
        password = SecretStr(unquote(parts.password)) if parts.password is not None else None
        return cls(parts.hostname, port, tls, start_tls, user, password)


def _smtp_url(url: SecretStr) -> SecretStr:
    MailServer.from_url(url.get_secret_value())
    return url


def _sender(text: str) -> str:
    """Check an address that becomes a header."""
    name, address = parseaddr(text)
    if not is_address(address) or one_line(text) != text or text not in (address, formataddr((name, address))):
        raise ValueError("not a mail address, such as hooks@acme.example or Acme <hooks@acme.example>")
    return text


def _mail_domain(text: str) -> str:
    if not is_address(f"a@{text}"):
        raise ValueError("not a domain such as acme.example")
    return text.lower()


def _origin(text: str) -> str:
    """Check an origin that becomes part of a header."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.*-]+(:\d+)?", text):
        raise ValueError("not an origin, such as https://app.example.com")
    return text


class Settings(BaseSettings):
    """Every setting of API and worker. A test checks that `docs/configuration.md` lists them all."""

    model_config = SettingsConfigDict(
        env_prefix="EVERHOOK_", extra="ignore", hide_input_in_errors=True, allow_inf_nan=False
    )

    dev: bool = Field(False, description="For development machines only: allows plain-HTTP endpoints, and short keys.")
    log_format: Literal["json", "console"] = Field("json", description="`console` is for people at a terminal.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level written.")

    database_url: Annotated[str, AfterValidator(with_async_driver)] = Field(
        "sqlite+aiosqlite:///everhook.db",
        repr=False,  # it may hold a password
        description="`postgresql://user:password@host/name`; SQLite only where one process does everything.",
    )
    database_pool_size: int = Field(10, ge=1, description="PostgreSQL connections a process; as many again overflow.")

    master_keys: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list,
        description="Keys that encrypt secrets at rest, comma-separated, newest first: 32 bytes in base64.",
    )
    api_key: SecretStr | None = Field(
        None, description="An admin key that is not in the database: for the first steps, and if one key is enough."
    )
    trusted_proxies: Annotated[list[Network], NoDecode] = Field(
        default_factory=list,
        description="Networks of proxies whose `X-Forwarded-For` says where a request comes from, comma-separated.",
    )
    issuer: Annotated[str, AfterValidator(_issuer)] | None = Field(
        None,
        description="The permanent name of the issuer of receipts: a URL without its scheme, `hooks.example.com`.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port the API listens on.")
    public_url: Annotated[str, AfterValidator(_web_address)] | None = Field(
        None,
        description="The URL of the API for browsers, `https://hooks.example.com`; used for links to the portal.",
    )
    keep_alive_seconds: float = Field(
        75, gt=0, description="How long idle connections to the API are kept: longer than the load balancer keeps them."
    )
    header_timeout_seconds: float = Field(10, gt=0, description="A request's headers must arrive within this time.")
    body_timeout_seconds: float = Field(60, gt=0, description="A request's body must arrive within this time.")
    max_connections: int = Field(4096, ge=1, description="Connections to the API at once a process; then 503.")
    max_connections_per_address: int = Field(
        512, ge=1, description="The same from one address (IPv6: from one /64), unless it is a trusted proxy."
    )
    metrics_host: str = Field("127.0.0.1", description="Address that `/metrics` is served on, without a key.")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of `/metrics` of this process, API or worker; unset: not served."
    )
    max_payload_bytes: int = Field(256 * 1024, ge=1, description="A larger payload is refused with 413.")

    publish_rate: Annotated[str, AfterValidator(checked_rate)] = Field(
        "",
        description="Messages that one key may publish, such as `1000/second`, at each API process; empty: no limit.",
    )

    subscriptions_per_endpoint: int = Field(100, ge=1, description="Subscriptions that one endpoint may have.")
    subscriptions_per_tenant: int = Field(
        1_000, ge=1, description="Subscriptions that one tenant may have; the tenant `default` has no limit."
    )
    subscription_cost: int = Field(
        1_000, ge=1, description="Steps of matching that one subscription may cost each message."
    )
    subscription_cost_per_tenant: int = Field(
        10_000, ge=1, description="The same for all subscriptions of a tenant together; `default` has no limit."
    )

    temporal_history: Literal["all", "exceptions"] = Field(
        "all",
        description="Which deliveries get a workflow in Temporal: `all`, or only those whose first attempt did not "
        "deliver (`exceptions`).",
    )
    history_rate: float = Field(
        200,
        gt=0,
        description="History workflows started per second at each process, for deliveries that are delivered.",
    )
    history_concurrency: int = Field(4, ge=1, description="Starts of history workflows in flight for each process.")

    express: bool = Field(
        True,
        description="The process that accepts a message makes the first attempt itself, if the endpoint is healthy.",
    )
    express_in_flight: int = Field(
        32, ge=1, description="Concurrent first attempts for each endpoint and process; others wait."
    )
    express_in_flight_in_all: int = Field(256, ge=1, description="Concurrent first attempts for each process.")
    express_waiting: int = Field(
        5_000, ge=0, description="First attempts that wait, for each endpoint and process; workflows make the others."
    )
    express_waiting_in_all: int = Field(20_000, ge=0, description="First attempts that wait, for each process.")
    express_wait_seconds: float = Field(
        10, gt=0, description="First attempts that would wait longer than this are made by workflows."
    )
    first_attempt_grace_seconds: float = Field(
        10,
        gt=0,
        description="How long after its deadline a first attempt is taken over by the reconciler.",
    )
    express_memory_mb: int = Field(
        64, ge=1, description="Megabytes of payloads held in memory for first attempts; workflows make the others."
    )
    express_slow_ms: int = Field(
        750, ge=1, description="The first attempts to an endpoint that is slower than this are made by workflows."
    )
    max_concurrent_sends: int = Field(
        200,
        ge=1,
        description="Concurrent attempts from each fair queue and process; an endpoint that hangs holds no more "
        "than it leaves free.",
    )

    workflow_tasks: int = Field(200, ge=2, description="Concurrent workflow tasks of a worker process.")
    cached_workflows: int = Field(
        400,
        ge=2,
        description="Workflows that a worker process caches; at least as many as `EVERHOOK_WORKFLOW_TASKS`.",
    )
    workflow_pollers: int = Field(5, ge=2, description="Concurrent polls for workflow tasks of a worker process.")
    activity_pollers: int = Field(5, ge=1, description="Concurrent polls for activities of a worker process and queue.")

    dispatch_concurrency: int = Field(64, ge=1, description="Workflow starts in flight for each process.")
    dispatch_queue: int = Field(
        10_000,
        ge=1,
        description="Starts that wait in memory, at most a fifth for one endpoint; the reconciler makes the others.",
    )
    undispatched_limit: int = Field(
        500_000, ge=1, description="Publishing returns 503 while more deliveries than this wait to be started."
    )
    reconcile_every_seconds: float = Field(
        15, gt=0, description="How often the reconciler looks for undispatched deliveries."
    )
    seal_receipts_every_seconds: float = Field(
        30, gt=0, le=60, description="How often receipts are sealed under a checkpoint."
    )
    overdue_grace_seconds: float = Field(
        180, gt=0, description="A delivery whose next step is this late may have lost its workflow."
    )

    park_check_seconds: float = Field(
        600,
        gt=0,
        description="When a parked delivery first checks whether it can be sent; the interval doubles each time.",
    )
    dead_letter_retention_days: float = Field(
        30, gt=0, le=MAX_RETENTION_DAYS, description="After this time an untouched dead letter is discarded."
    )

    retention_every_seconds: float = Field(3600, gt=0, description="How often expired data is deleted.")
    payload_retention_days: float = Field(
        30,
        ge=0,
        le=MAX_RETENTION_DAYS,
        description="After this time a message's payload and the responses to it are erased.",
    )
    delivery_retention_days: float = Field(
        90,
        ge=0,
        le=MAX_RETENTION_DAYS,
        description="Deliveries that ended this long ago are deleted, with message and attempts.",
    )
    idempotency_retention_days: float = Field(
        30, ge=0, le=MAX_RETENTION_DAYS, description="After this time an idempotency key can be used again."
    )
    event_retention_days: float = Field(
        90, ge=0, le=MAX_RETENTION_DAYS, description="Operational events are deleted after this time."
    )
    health_retention_days: float = Field(
        30, ge=0, le=MAX_RETENTION_DAYS, description="Health statistics are deleted after this time."
    )
    erasure_settle_seconds: float = Field(
        120, gt=0, description="How long after the start of an erasure attempts in flight are recorded, and erased too."
    )

    circuit_failure_threshold: int = Field(5, ge=1, description="Failures in a row that open a circuit.")
    circuit_cooldown_seconds: float = Field(
        30, gt=0, description="First cooldown of an open circuit; doubles with each relapse."
    )
    circuit_cooldown_max_seconds: float = Field(600, gt=0, description="Longest cooldown of an open circuit.")
    circuit_disable_after_hours: float = Field(
        120, gt=0, description="An endpoint that fails for this long without a success is disabled."
    )
    release_rate: float = Field(5, gt=0, description="Parked deliveries released in the first second after closing.")
    release_rate_max: float = Field(100, gt=0, description="The release rate doubles each second up to this.")
    replay_rate: float = Field(
        100, ge=1, description="Deliveries that replays of channels start per second, all replays together."
    )

    otel: bool = Field(
        False, description="Send traces by OTLP, as OpenTelemetry's own variables say; needs the extra `otel`."
    )
    events_every_seconds: float = Field(5, gt=0, description="How often operational events are published.")
    alert_dead_letters: int = Field(
        100, ge=0, le=100_000, description="Number of dead letters that raises `dead_letters.threshold`; 0: never."
    )
    alert_undispatched_seconds: float = Field(
        120, ge=0, description="Waiting time of a delivery that raises `dispatch.oldest_undispatched`; 0: never."
    )
    alert_success_rate: float = Field(
        0.9, ge=0, lt=1, description="Fraction of successful attempts that raises `health.success_rate_low`; 0: never."
    )
    alert_success_minutes: float = Field(
        10, ge=1, le=1440, description="The time range of `EVERHOOK_ALERT_SUCCESS_RATE`."
    )
    alert_success_attempts: int = Field(50, ge=1, description="With fewer attempts than this the alert is not raised.")

    endpoint_alert_success_rate: float = Field(
        0.9, ge=0, lt=1, description="Fraction of an endpoint's successful attempts that raises its alert; 0: never."
    )
    endpoint_alert_minutes: float = Field(
        10, ge=1, le=60, description="The time range of an endpoint's success rate and response time."
    )
    endpoint_alert_attempts: int = Field(
        20, ge=1, description="With fewer attempts than this those two alerts of an endpoint are not raised."
    )
    endpoint_alert_dead_letters: int = Field(
        100, ge=0, le=10_000, description="More dead letters of one endpoint than this raise its alert; 0: never."
    )
    endpoint_alert_latency_ms: float = Field(
        0, ge=0, description="A longer mean response time of an endpoint raises its alert; 0: never."
    )

    egress_allow: Annotated[list[Network], NoDecode] = Field(
        default_factory=list,
        description="Networks that are not public and may contain endpoints, comma-separated.",
    )
    egress_ports: Annotated[list[Port], NoDecode] = Field(
        default_factory=list,
        description="Ports endpoints may use, comma-separated; empty: 443, 8443 and all above 1023.",
    )
    egress_http: bool = Field(False, description="Allow plain HTTP to endpoints inside `EVERHOOK_EGRESS_ALLOW`.")

    egress_proxy: Annotated[SecretStr, AfterValidator(_proxy_url)] | None = Field(
        None,
        description="`http://user:password@host:port`: all requests to endpoints go through this proxy, by CONNECT.",
    )

    smtp_url: Annotated[SecretStr, AfterValidator(_smtp_url)] | None = Field(
        None,
        description="The SMTP server for mails: `smtp://user:password@host:port`, `smtp://…?starttls` or `smtps://…`.",
    )
    smtp_from: Annotated[str, AfterValidator(_sender)] | None = Field(
        None, description="The sender of mails, `Acme <hooks@acme.example>`; required with `EVERHOOK_SMTP_URL`."
    )
    smtp_domains: Annotated[list[Annotated[str, AfterValidator(_mail_domain)]], NoDecode] = Field(
        default_factory=list, description="Domains that mails may be sent to, comma-separated; empty: any."
    )

    temporal_ui_url: Annotated[str, AfterValidator(_web_address)] | None = Field(
        None, description="URL of the Temporal UI; the dashboard then links to each delivery's workflow."
    )
    portal_frame_ancestors: Annotated[list[Annotated[str, AfterValidator(_origin)]], NoDecode] = Field(
        default_factory=list,
        description="Origins that may show the portal in a frame, such as `https://app.example.com`, comma-separated.",
    )

    worker_deployment: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]{1,100}$",
        description="Name of the Temporal worker deployment; set it together with `EVERHOOK_BUILD_ID`.",
    )
    build_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="Version of this release within the worker deployment, such as the tag of its image.",
    )

    axme: bool = Field(False, description="Serve the AXME-compatible API under `/axme`: see [AXME](axme.md).")

    sandbox: bool = Field(
        False,
        description="Run workflows in the SDK's sandbox, for +5 ms of CPU per delivery. Only tests need it.",
    )

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return _comma_separated(value)

    @field_validator("*")
    @classmethod
    def _limit_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Times are at most as long as rows may be kept: dates and Temporal's timers end soon after. Other numbers fit
        into the database's integers."""
        unit = (info.field_name or "").rpartition("_")[2]
        is_time = unit in _SECONDS
        most = MAX_RETENTION_DAYS * _SECONDS["days"] // _SECONDS[unit] if is_time else MAX_NUMBER
        if isinstance(value, int | float) and value > most:
            raise ValueError(f"at most {most} {unit}" if is_time else f"at most {most}")
        return value

    @model_validator(mode="after")
    def _require_cache_for_tasks(self) -> Self:
        """A workflow that is evicted while its task runs would be rebuilt from its history for each task."""
        if self.cached_workflows < self.workflow_tasks:
            raise ValueError("EVERHOOK_CACHED_WORKFLOWS must be at least EVERHOOK_WORKFLOW_TASKS")
        return self

    @model_validator(mode="after")
    def _require_whole_version(self) -> Self:
        if (self.worker_deployment is None) != (self.build_id is None):
            raise ValueError("EVERHOOK_WORKER_DEPLOYMENT and EVERHOOK_BUILD_ID must be set together")
        return self

    @model_validator(mode="after")
    def _require_sender(self) -> Self:
        if (self.smtp_url is None) != (self.smtp_from is None):
            raise ValueError("EVERHOOK_SMTP_URL and EVERHOOK_SMTP_FROM must be set together")
        return self

    @model_validator(mode="after")
    def _refuse_insecure(self) -> Self:
        if self.api_key is not None and not self.api_key.get_secret_value():
            raise ValueError("EVERHOOK_API_KEY is empty")
        if self.dev:
            self.issuer = self.issuer or DEV_ISSUER
            return self
        if self.api_key is not None and len(self.api_key.get_secret_value()) < MIN_API_KEY_LENGTH:
            raise ValueError(f"EVERHOOK_API_KEY must have at least {MIN_API_KEY_LENGTH} characters")
        return self

    @property
    def smtp_server(self) -> MailServer | None:
        return MailServer.from_url(self.smtp_url.get_secret_value()) if self.smtp_url is not None else None

    @property
    def circuit_policy(self) -> CircuitPolicy:
        return CircuitPolicy(
            failure_threshold=self.circuit_failure_threshold,
            cooldown=timedelta(seconds=self.circuit_cooldown_seconds),
            cooldown_max=timedelta(seconds=self.circuit_cooldown_max_seconds),
            disable_after=timedelta(hours=self.circuit_disable_after_hours),
            release_rate=self.release_rate,
            release_rate_max=self.release_rate_max,
        )


def load_settings(**overrides: Any) -> Settings:
    """Load the settings from the environment. Raises ConfigurationError, which names each invalid variable."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(
            f"EVERHOOK_{str(e['loc'][0]).upper()}: {e['msg']}" if e["loc"] else e["msg"] for e in error.errors()
        )
        raise ConfigurationError(wrong.replace("Value error, ", "")) from error
