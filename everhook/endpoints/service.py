"""Use cases of endpoints: create, change, delete, rotate the secret, try out, and command the circuit.

Methods that take a session need the database alone, so that the caller's transaction can hold more. Methods that take a
TenantScope run transactions of their own, because they also resolve names or call Temporal.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypedDict

import structlog
from pydantic.alias_generators import to_camel
from temporalio.client import Client
from temporalio.service import RPCError

from everhook.audit.store import Actor, on_record, record_audit
from everhook.channels import store as channels
from everhook.circuit.announcer import CircuitAnnouncer
from everhook.circuit.client import CircuitClient
from everhook.circuit.machine import CircuitPolicy, Hold
from everhook.circuit.spec import resolve
from everhook.circuit.store import circuit_specs
from everhook.contracts import DeadLetterReason, DeliveryMode
from everhook.credentials.auth import AuthType, EndpointAuth, check_one_each, parse_auth
from everhook.credentials.headers import check_custom_headers
from everhook.delivery.body_formats import BodyFormat
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.weights import apply_limit
from everhook.egress import EgressClient, LocalError, TlsExtras, TlsRefused, UrlRefused
from everhook.endpoints import list_store as endpoint_list
from everhook.endpoints import store as endpoints
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.endpoints.list_store import AttemptRow, EndpointFilter, EndpointRow, EndpointTraffic, Sort
from everhook.endpoints.quotas_store import Quotas
from everhook.endpoints.sample import sample_message
from everhook.endpoints.store import EndpointView, route_to
from everhook.errors import InvalidField, NotFound, NotPulled, Unavailable
from everhook.event_types import store as event_types
from everhook.inbox.store import open_deliveries
from everhook.inbox.tasks import check_inbox
from everhook.internal.options import HandlerKind, check_domains, masked_url, parse_handler
from everhook.notifications.events import EventKind
from everhook.ordering.store import recheck_groups
from everhook.publishing.gate_progress_store import Ending, decline_dead_steps
from everhook.publishing.publication import Accepted
from everhook.publishing.routing import Route
from everhook.publishing.store import Acceptor
from everhook.pulling.leases import PulledEndpoint
from everhook.pulling.queue_store import expect_signal
from everhook.pulling.service import pull_options
from everhook.signing import secrets_store as secrets
from everhook.signing.schemes import DEFAULT_SCHEMES, SignatureScheme, new_secret
from everhook.storage.engine import Session
from everhook.storage.event_outbox import record_event
from everhook.storage.header_encryption import header_columns, header_values
from everhook.storage.keyring import DecryptionError, KeyRing
from everhook.storage.tables import (
    DEFAULT_TENANT_GID,
    Channel,
    Endpoint,
    OnGroupFailure,
    OperationalEvent,
    Subscription,
    now,
)
from everhook.storage.tenant_scope import TenantScope, tenant_bound
from everhook.tenants import store as tenants

DEFAULT_CHANNEL = "default"
TEMPORAL_TIMEOUT_S = 2.0
"""For what Temporal is asked after a change was committed: the caller does not wait for longer."""

log = structlog.get_logger()


class EndpointCommand(StrEnum):
    """What an operator has the circuit do. The values are the names of the entity workflow's updates."""

    PAUSE = "pause"
    RESUME = "resume"
    ENABLE = "enable"
    DISABLE = "disable"
    TRIP = "trip"
    RESET = "reset"


_ACTIONS: Mapping[EndpointCommand, str] = {
    EndpointCommand.PAUSE: "endpoint.paused",
    EndpointCommand.RESUME: "endpoint.resumed",
    EndpointCommand.ENABLE: "endpoint.enabled",
    EndpointCommand.DISABLE: "endpoint.disabled",
    EndpointCommand.TRIP: "circuit.tripped",
    EndpointCommand.RESET: "circuit.reset",
}
"""What the audit log calls them."""


class EndpointChanges(TypedDict, total=False):
    """New values of settings; settings that are absent stay as they are. `policy`, `circuit` and `alerts` are as a
    request spells them. A header whose value is None keeps the value that it has."""

    url: str
    description: str
    policy: dict[str, Any] | None
    circuit: dict[str, Any] | None
    alerts: dict[str, Any] | None
    rate_limit: float | None
    max_in_flight: int | None
    signatures: Sequence[SignatureScheme]
    format: BodyFormat
    headers: Mapping[str, str | None]
    metadata: Mapping[str, Any]
    ed25519: bool
    tls: TlsExtras | None
    auth: Mapping[str, str] | None
    options: Mapping[str, Any] | None
    on_group_failure: OnGroupFailure


@dataclass(frozen=True)
class EndpointSettings:
    """All settings of an endpoint that can be changed later. `rate_limit` is in requests a second, `max_in_flight` the
    number of requests at a time. `auth` and `options` (those of the mode) are as the API spells them."""

    url: str | None = None
    description: str = ""
    policy: dict[str, Any] | None = None
    circuit: dict[str, Any] | None = None
    alerts: dict[str, Any] | None = None
    rate_limit: float | None = None
    max_in_flight: int | None = None
    signatures: Sequence[SignatureScheme] = DEFAULT_SCHEMES
    format: BodyFormat = BodyFormat.ENVELOPE
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    ed25519: bool = False
    tls: TlsExtras | None = None
    auth: Mapping[str, str] | None = field(default=None, repr=False)
    options: Mapping[str, Any] | None = None
    on_group_failure: OnGroupFailure = OnGroupFailure.CONTINUE


@dataclass(frozen=True)
class NewEndpoint(EndpointSettings):
    """`mode` cannot be changed later.

    `channel` or `events` add a first subscription. `tenant` is a name or a gid; `secret` None: generate one. `paused`:
    nothing is sent to it until it is resumed."""

    mode: DeliveryMode = DeliveryMode.HTTP
    channel: str | None = None
    events: Sequence[str] | None = None
    tenant: str | None = None
    secret: str | None = field(default=None, repr=False)
    paused: bool = False


@dataclass(frozen=True)
class CheckedEndpoint:
    """A new endpoint whose settings were found to be usable. `columns` are those of its row."""

    new: NewEndpoint
    columns: Mapping[str, Any] = field(repr=False)
    handler_url: str | None = field(default=None, repr=False)
    auth: EndpointAuth | None = None


@dataclass(frozen=True)
class CreatedEndpoint:
    """`secret` is not shown again. None in modes in which nothing is signed."""

    view: EndpointView
    subscription_gid: str | None
    secret: str | None = field(repr=False)


@dataclass(frozen=True)
class RotatedSecret:
    """`previous_until`: when the last of the earlier secrets stops signing; None if none signs any more."""

    view: EndpointView
    previous_until: datetime | None
    secret: str = field(repr=False)


@dataclass(frozen=True)
class SentTest:
    """A message to one endpoint only, regardless of its subscriptions."""

    message_gid: str
    delivery_gid: str
    tenant_gid: str


@dataclass(frozen=True)
class EndpointList:
    """One page of endpoints. `traffic` and the number of dead letters are by gid; endpoints without any are left
    out."""

    rows: Sequence[EndpointRow]
    has_more: bool
    traffic: Mapping[str, Sequence[EndpointTraffic]]
    dead_letters: Mapping[str, int]


@dataclass(frozen=True)
class EndpointActivity:
    """`circuit_events` are the oldest first: the last one before a moment, and those since. `attempts` are the newest
    first."""

    circuit_events: Sequence[OperationalEvent]
    attempts: Sequence[AttemptRow]
    subscriptions: Sequence[Subscription]
    dead_letters: int


class EndpointService:
    """One for each process."""

    def __init__(
        self,
        *,
        egress: EgressClient,
        keyring: KeyRing,
        quotas: Quotas,
        acceptor: Acceptor,
        dispatcher: Dispatcher,
        circuits: CircuitClient,
        announcer: CircuitAnnouncer,
        temporal: Client,
        mail_domains: Sequence[str] | None = None,
    ) -> None:
        """`mail_domains` are those that mail may be sent to, any if it is empty. None: no mail can be sent."""
        self._mail_domains = mail_domains
        self._egress = egress
        self._keyring = keyring
        self._quotas = quotas
        self._acceptor = acceptor
        self._dispatcher = dispatcher
        self._circuits = circuits
        self._announcer = announcer
        self._temporal = temporal

    async def check(self, new: NewEndpoint, tenant_gid: str | None = None) -> CheckedEndpoint:
        """Check all that needs no transaction: the URL (which may take a DNS lookup), TLS settings, headers, schemes.

        `tenant_gid` is the caller's tenant. Raises InvalidField and Unavailable.
        """
        check_mode(new.mode, new)
        settings: EndpointChanges = {
            "description": new.description,
            "policy": new.policy,
            "circuit": new.circuit,
            "alerts": new.alerts,
            "rate_limit": new.rate_limit,
            "max_in_flight": new.max_in_flight,
            "signatures": new.signatures,
            "format": new.format,
            "headers": new.headers,
            "metadata": new.metadata,
            "options": new.options or {},
            "on_group_failure": new.on_group_failure,
        }
        if new.url is not None:
            settings["url"] = new.url
        owner = tenant_gid or new.tenant or ""
        columns = await checked_settings(self._egress, settings, owner)
        handler_url = None
        if new.mode is DeliveryMode.INTERNAL:
            columns["options"], handler_url = await self._checked_handler(new.options or {}, owner)
        await check_tls(self._egress, new.tls)
        auth = await self._checked_auth(new.auth, owner)
        check_one_each(auth.shown() if auth is not None else None, new.headers, changed="auth")
        _check_ed25519(new.signatures, on=new.ed25519, name="ed25519")
        return CheckedEndpoint(new, {"url": "", **columns, "mode": new.mode}, handler_url, auth)

    async def _checked_auth(self, given: Mapping[str, str] | None, owner: str) -> EndpointAuth | None:
        """`auth` whose token URL, if it has one, may be called. Raises InvalidField and Unavailable."""
        auth = parse_auth(given) if given is not None else None
        if auth is None or auth.type is not AuthType.OAUTH2:
            return auth
        url = await _checked_url(self._egress, auth.parts["tokenUrl"], owner, "auth.tokenUrl")
        return replace(auth, parts={**auth.parts, "tokenUrl": url})

    async def _checked_handler(
        self, options: Mapping[str, Any], owner: str, before: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], str | None]:
        """Options of the mode `internal` as they are stored and shown, and the secret URL among them; None: it stays.
        `before` are those that an existing endpoint has."""
        document = dict(options["handler"])
        handler = parse_handler(document)
        if before is not None and before["handler"]["kind"] != handler.kind:
            raise InvalidField("options.handler.kind", "cannot be changed: open deliveries depend on it")
        if handler.kind is HandlerKind.EMAIL:
            if self._mail_domains is None:
                raise InvalidField("options.handler.kind", "email needs the setting EVERHOOK_SMTP_URL")
            check_domains(handler, self._mail_domains)
        if handler.kind is not HandlerKind.CHAT or (before is not None and before["handler"]["url"] == handler.url):
            return {"handler": document}, None
        url = await _checked_url(self._egress, handler.url, owner, "options.handler.url")
        return {"handler": document | {"url": masked_url(url)}}, url

    async def create(self, session: Session, actor: Actor, checked: CheckedEndpoint) -> CreatedEndpoint:
        """Create an endpoint and its first subscription. Raises InvalidField for an unknown tenant or channel, and
        QuotaExceeded."""
        new = checked.new
        channel = await _first_channel(session, new)
        tenant_gid = await _owner(session, new.tenant)
        endpoint = Endpoint(tenant_gid=tenant_gid, **checked.columns)
        secret = await endpoints.create(
            session,
            self._keyring,
            endpoint,
            tls=new.tls,
            auth=checked.auth,
            ed25519=new.ed25519,
            secret=new.secret,
            hold=Hold.PAUSED if new.paused else None,
        )
        if checked.handler_url is not None:
            await secrets.set_handler_url(session, self._keyring, endpoint.gid, checked.handler_url)
        subscription_gid = None
        if channel is not None:
            subscription = Subscription(
                tenant_gid=tenant_gid, endpoint_gid=endpoint.gid, channel=channel.name, events=list(new.events or ())
            )
            await subscriptions.create(session, subscription, self._quotas)
            subscription_gid = subscription.gid
        detail: dict[str, Any] = {
            "subscriptionGid": subscription_gid,
            "channel": channel.name if channel is not None else None,
        }
        if new.paused:
            detail["paused"] = True
            record_event(
                session,
                EventKind.ENDPOINT_PAUSED,
                tenant_gid=tenant_gid,
                endpoint_gid=endpoint.gid,
                data={"failures": 0, "openings": 0, "reason": ""},
            )
        _record(session, actor, "endpoint.created", endpoint, detail)
        return CreatedEndpoint(await self.get(session, endpoint.gid), subscription_gid, secret)

    async def get(self, session: Session, gid: str, *, for_change: bool = False) -> EndpointView:
        """Raises NotFound. With `for_change` the row is locked until the transaction ends."""
        view = await endpoints.view(session, gid, for_change=for_change)
        if view is None:
            raise NotFound("endpoint", gid)
        return view

    async def page(
        self, session: Session, *, tenants_named: Sequence[str] | None, after: str | None, limit: int
    ) -> tuple[list[EndpointView], str | None]:
        """One page, newest first, and the key of the next. `tenants_named`: names or gids, of which any matches."""
        chosen = await tenants.chosen_gids(session, tenants_named)
        return await endpoints.page(session, tenant_gid=chosen, after=after, limit=limit)

    async def by_gid(self, session: Session, gids: Collection[str]) -> Mapping[str, Endpoint]:
        """The rows of endpoints, also of deleted ones, to which deliveries refer."""
        return await endpoints.by_gid(session, gids)

    async def listed(
        self, session: Session, chosen: EndpointFilter, sort: Sort, *, since: datetime, skip: int, limit: int
    ) -> EndpointList:
        """One page of a list that is filtered and sorted, with the traffic since `since`."""
        rows, has_more = await endpoint_list.page(session, chosen, sort, since=since, skip=skip, limit=limit)
        gids = [row.endpoint.gid for row in rows]
        traffic = await endpoint_list.traffic(session, gids, since)
        return EndpointList(rows, has_more, traffic, await endpoint_list.dead_letters(session, gids))

    async def activity(
        self, session: Session, gid: str, since: datetime, *, events: int, deliveries: int, attempts: int
    ) -> EndpointActivity:
        """At most `events` circuit events since a moment, and `attempts` attempts of the newest `deliveries`."""
        dead_letters = await endpoint_list.dead_letters(session, [gid])
        return EndpointActivity(
            circuit_events=await endpoint_list.circuit_events(session, gid, since, limit=events),
            attempts=await endpoint_list.recent_attempts(session, gid, deliveries=deliveries, limit=attempts),
            subscriptions=await endpoint_list.subscriptions_of(session, gid),
            dead_letters=dead_letters.get(gid, 0),
        )

    async def change(self, scope: TenantScope, actor: Actor, gid: str, changes: EndpointChanges) -> EndpointView:
        """Change settings. Attempts that begin after the commit use the new ones. Raises NotFound, InvalidField and
        Unavailable."""
        async with scope.reading() as session:
            endpoint = (await self.get(session, gid)).endpoint
            owner = endpoint.tenant_gid
        _check_mode_of_change(endpoint.mode, changes)
        columns = await checked_settings(self._egress, changes, owner)
        handler_url = None
        if endpoint.mode is DeliveryMode.INTERNAL and "options" in changes:
            options = changes["options"] or {}
            columns["options"], handler_url = await self._checked_handler(options, owner, endpoint.options)
        if "tls" in changes:
            await check_tls(self._egress, changes["tls"])
            columns |= endpoints.tls_columns(self._keyring, gid, changes["tls"])
        auth = await self._checked_auth(changes.get("auth"), owner)
        async with scope.writing() as session:
            view = await self.get(session, gid, for_change=True)
            columns |= self._credential_columns(view.endpoint, changes, auth)
            _check_ed25519_change(view, changes)
            if "ed25519" in changes:
                await secrets.set_ed25519(session, self._keyring, gid, on=changes["ed25519"])
            if handler_url is not None:
                await secrets.set_handler_url(session, self._keyring, gid, handler_url)
            old_limit, old_circuit = view.endpoint.rate_limit, view.endpoint.circuit
            await endpoints.change(session, view.endpoint, columns)
            if changes.get("on_group_failure") is OnGroupFailure.CONTINUE:
                await recheck_groups(await session.connection(), gid)
            changed = sorted(to_camel(name) for name in changes)
            _record(session, actor, "endpoint.changed", view.endpoint, {"changed": changed})
            view = await self.get(session, gid)
        if view.endpoint.rate_limit != old_limit:
            await self._apply_limit(gid, view.endpoint.rate_limit)
        if view.endpoint.circuit != old_circuit:
            await self._announcer.endpoint_changed(gid)
        return view

    def _credential_columns(
        self, endpoint: Endpoint, changes: EndpointChanges, auth: EndpointAuth | None
    ) -> dict[str, Any]:
        """New headers and a new `auth` as the row holds them. Raises InvalidField."""
        columns: dict[str, Any] = {}
        if "headers" in changes:
            columns |= self._header_columns(endpoint, changes["headers"])
        if "auth" in changes:
            columns |= endpoints.auth_columns(self._keyring, endpoint.gid, auth)
        if columns:
            shown, headers = columns.get("auth", endpoint.auth), columns.get("headers", endpoint.headers)
            check_one_each(shown, headers, changed="auth" if "auth" in changes else "headers")
        return columns

    def _header_columns(self, endpoint: Endpoint, given: Mapping[str, str | None]) -> dict[str, Any]:
        """New headers as the row holds them. Raises InvalidField where there is no value to keep."""
        headers = {name: value for name, value in given.items() if value is not None}
        kept = [name for name in given if name not in headers]
        if kept:
            headers |= self._kept_values(endpoint, kept)
        check_custom_headers(headers, kept)
        return header_columns(self._keyring, endpoint.gid, {name: headers[name] for name in given})

    def _kept_values(self, endpoint: Endpoint, names: Collection[str]) -> dict[str, str]:
        try:
            stored = header_values(self._keyring, endpoint.gid, endpoint.headers, endpoint.header_values)
        except DecryptionError as error:
            raise InvalidField("headers", "a value cannot be decrypted; give new ones") from error
        values = {name.lower(): value for name, value in stored.items()}
        for name in names:
            if name.lower() not in values:
                raise InvalidField(f"headers.{name[:100]}", "has no value that could be kept: the endpoint lacks it")
        return {name: values[name.lower()] for name in names}

    async def delete(self, scope: TenantScope, actor: Actor, gid: str) -> None:
        """Delete an endpoint with its subscriptions and secrets. Its open deliveries are dead-lettered when they take
        their next step; the entity workflow is notified, so that parked ones take it now, and the reconciler signals
        the workflows of open tasks. The dead letters among the steps of gates take no further step, so their gates end
        here. Raises NotFound."""
        async with scope.writing() as session:
            view = await self.get(session, gid, for_change=True)
            await endpoints.remove(session, view.endpoint)
            if view.endpoint.mode is DeliveryMode.INBOX:
                await expect_signal(await session.connection(), await open_deliveries(session, gid), now())
                ending = Ending(DeadLetterReason.ENDPOINT_DELETED, actor, f"the inbox {gid} was deleted")
                await decline_dead_steps(session, gid, ending)
            _record(session, actor, "endpoint.deleted", view.endpoint)
        try:
            async with asyncio.timeout(TEMPORAL_TIMEOUT_S):
                await self._circuits.command(gid, view.tenant, "delete")
        except Exception as error:
            # The endpoint is deleted all the same: its deliveries notice it at their next step.
            log.warning("an endpoint's workflow was not notified of its deletion", endpoint_gid=gid, error=str(error))

    async def rotate_secret(
        self, session: Session, actor: Actor, gid: str, *, secret: str | None, grace: timedelta
    ) -> RotatedSecret:
        """Sign with `secret`, or with a new one. Earlier secrets sign for `grace` longer. Raises NotFound,
        TooManySecrets, and InvalidField in modes in which nothing is signed."""
        secret = secret or new_secret()
        view = await self.get(session, gid, for_change=True)
        if not view.endpoint.mode.is_signed:
            _refuse_of_http(view.endpoint.mode, ["secret"])
        until = await secrets.rotate(session, self._keyring, gid, secret, grace)
        await endpoints.change(session, view.endpoint, {})
        detail = {"gracePeriodSeconds": int(grace.total_seconds())}
        _record(session, actor, "endpoint.secret_rotated", view.endpoint, detail)
        return RotatedSecret(await self.get(session, gid), until, secret)

    async def send_test(self, scope: TenantScope, actor: Actor, gid: str, event_type: str | None = None) -> SentTest:
        """Send a test message to one endpoint: the example of an event type, or one of type `everhook.test`. Raises
        NotFound, and InvalidField for an event type without an example."""
        async with scope.reading() as session:
            view = await self.get(session, gid)
            example = await _example(session, event_type) if event_type is not None else None
        owner = view.endpoint.tenant_gid
        async with on_record(scope, actor, "endpoint.tested", gid, tenant_gid=owner):
            accepted = await self._acceptor.accept_for(sample_message(event_type, example), route_to(view))
            assert isinstance(accepted, Accepted)  # it has no idempotency key
        self._dispatcher.dispatch(accepted.new)
        (delivery,) = accepted.deliveries
        return SentTest(accepted.message_gid, delivery.delivery_gid, owner)

    async def route_to(self, session: Session, gid: str) -> Route:
        """The route of messages for this endpoint alone. Raises NotFound."""
        return route_to(await self.get(session, gid))

    async def pulled(self, session: Session, gid: str) -> PulledEndpoint:
        """An endpoint whose deliveries are pulled. Raises NotFound, and NotPulled for one that receives otherwise."""
        row = await endpoints.receiving(session, gid)
        if row is None:
            raise NotFound("endpoint", gid)
        if not row.mode.is_pulled:
            raise NotPulled(f"{gid} receives in the mode {row.mode}: its deliveries cannot be pulled.")
        return PulledEndpoint(gid, row.tenant_gid, row.tenant, **pull_options(row.options))

    async def circuit_policy(self, session: Session, gid: str) -> CircuitPolicy:
        """The circuit settings that apply to an endpoint: those of the environment, of its channels and its own."""
        return resolve(self._circuits.defaults, *await circuit_specs(session, gid))

    async def can_be_pulled(self, session: Session, gid: str) -> bool:
        """Whether an endpoint and its tenant still exist; those of a tenant that is being erased do not."""
        view = await endpoints.view(session, gid)
        return view is not None and await tenants.find_tenant(session, view.endpoint.tenant_gid) is not None

    async def command(self, scope: TenantScope, actor: Actor, gid: str, command: EndpointCommand) -> EndpointView:
        """Have the entity workflow carry out a command; returns the endpoint with its new state. Raises NotFound, and
        what Temporal's client raises when it or the workers are not reachable."""
        async with scope.reading() as session:
            view = await self.get(session, gid)
        async with on_record(scope, actor, _ACTIONS[command], gid, tenant_gid=view.endpoint.tenant_gid):
            await self._circuits.command(gid, view.tenant, command.value)
        async with scope.reading() as session:
            return await self.get(session, gid)

    async def _apply_limit(self, gid: str, limit: float | None) -> None:
        try:
            async with asyncio.timeout(TEMPORAL_TIMEOUT_S):
                await apply_limit(self._temporal, gid, limit)
        except (RPCError, RuntimeError, TimeoutError) as error:
            # Senders keep to the new limit all the same. Only attempts that wait already keep the old pace.
            log.warning("an endpoint's new rate limit was not applied in Temporal", endpoint_gid=gid, error=str(error))


_OF_HTTP = (
    "url", "rate_limit", "max_in_flight", "signatures", "format", "headers", "ed25519", "tls", "auth", "secret",
)  # fmt: skip
"""Settings that have a meaning for webhooks only."""

_OF_ATTEMPTS = ("rate_limit", "max_in_flight")
"""Those of them that have a meaning for internal handlers, too."""


def check_mode(mode: DeliveryMode, new: NewEndpoint) -> None:
    """Raise InvalidField for a setting that the mode does not have, and for one that it needs."""
    if mode is DeliveryMode.HTTP:
        if new.url is None:
            raise InvalidField("url", "is required for the mode http", "missing")
        _check_options(mode, new.options or {})
        return
    plain, new = NewEndpoint(), replace(new, signatures=tuple(new.signatures))
    if mode is DeliveryMode.INTERNAL:
        plain = replace(plain, **{name: getattr(new, name) for name in _OF_ATTEMPTS})
    _refuse_of_http(mode, [name for name in _OF_HTTP if getattr(new, name) != getattr(plain, name)])
    _check_circuit(mode, new.circuit)
    _check_options(mode, new.options or {})


def _check_mode_of_change(mode: DeliveryMode, changes: EndpointChanges) -> None:
    if mode is DeliveryMode.HTTP:
        _check_options(mode, changes.get("options") or {})
        return
    allowed = _OF_ATTEMPTS if mode is DeliveryMode.INTERNAL else ()
    _refuse_of_http(mode, [name for name in _OF_HTTP if name in changes and name not in allowed])
    _check_circuit(mode, changes.get("circuit"))
    if "options" in changes:
        _check_options(mode, changes["options"] or {})


_OPTIONS: Mapping[DeliveryMode, Collection[str]] = {
    DeliveryMode.HTTP: ("metadataHeaders",),
    DeliveryMode.POLL: ("leaseSeconds", "maxInFlight"),
    DeliveryMode.STREAM: ("leaseSeconds", "maxInFlight"),
    DeliveryMode.INBOX: ("name", "task", "groups"),
    DeliveryMode.INTERNAL: ("handler",),
}


def _check_options(mode: DeliveryMode, options: Mapping[str, Any]) -> None:
    """Raise InvalidField for an option that the mode does not have, and for one that it needs."""
    for name in options:
        if name not in _OPTIONS[mode]:
            raise InvalidField(f"options.{name}", f"has no meaning for an endpoint of the mode {mode}")
    if mode is DeliveryMode.INTERNAL:
        parse_handler(options.get("handler"))
    if mode is DeliveryMode.INBOX:
        if not options.get("name"):
            raise InvalidField("options.name", "is required for the mode inbox", "missing")
        check_inbox(options)


def _check_circuit(mode: DeliveryMode, circuit: Mapping[str, Any] | None) -> None:
    """Nothing is sent to an inbox, so its circuit counts no failures."""
    if circuit is not None and mode is DeliveryMode.INBOX:
        raise InvalidField("circuit", f"has no meaning for an endpoint of the mode {mode}")


def _refuse_of_http(mode: DeliveryMode, given: Sequence[str]) -> None:
    if given:
        raise InvalidField(to_camel(given[0]), f"has no meaning for an endpoint of the mode {mode}")


async def checked_settings(egress: EgressClient, changes: EndpointChanges, tenant: str) -> dict[str, Any]:
    """Settings as columns of the endpoint's row, without `tls`, `auth` and `ed25519`. What passes can be sent.

    Raises InvalidField, and Unavailable where the URL's host could not be looked up.
    """
    columns: dict[str, Any] = {name: value for name, value in changes.items() if name not in ("tls", "auth", "ed25519")}
    if "options" in changes:
        columns["options"] = changes["options"] or {}
    if "url" in changes:
        columns["url"] = await _checked_url(egress, changes["url"], tenant)
    if "signatures" in changes:
        columns["signatures"] = list(changes["signatures"])
    if "headers" in changes:
        check_custom_headers({name: value for name, value in changes["headers"].items() if value is not None})
    if "metadata" in changes:
        columns["details"] = columns.pop("metadata")
    return columns


async def _checked_url(egress: EgressClient, url: str, tenant: str, field: str = "url") -> str:
    try:
        return await egress.check_url(url, tenant)
    except UrlRefused as error:
        egress.hints.note(url, tenant, error)
        raise InvalidField(field, error.rule) from error
    except LocalError as error:
        raise Unavailable(f"The URL could not be checked ({error}); nothing was changed. Try again.") from error


async def check_tls(egress: EgressClient, tls: TlsExtras | None) -> None:
    """Raise InvalidField for TLS settings that the sender cannot use."""
    if tls is None:
        return
    for name, part in (("ca", TlsExtras(ca=tls.ca)), ("clientCertificate", replace(tls, ca=None))):
        try:
            await egress.check_tls(part)
        except TlsRefused as error:
            raise InvalidField(f"tls.{name}", error.rule) from error


def _check_ed25519_change(view: EndpointView, changes: EndpointChanges) -> None:
    on = changes.get("ed25519", bool(view.public_keys))
    name = "ed25519" if "ed25519" in changes else "signatures"
    _check_ed25519(changes.get("signatures") or view.endpoint.signatures, on=on, name=name)


def _check_ed25519(signatures: Collection[str], *, on: bool, name: str) -> None:
    if on and not any(SignatureScheme(scheme).prefix for scheme in signatures):
        raise InvalidField(name, "Ed25519 signs in the schemes `standard` and `svix`, which this endpoint does not use")


async def _owner(session: Session, named: str | None) -> str:
    """The tenant that a new endpoint belongs to."""
    if named is None:
        return tenant_bound(session) or DEFAULT_TENANT_GID
    tenant = await tenants.ensure_tenant(session, named)
    if tenant is None:
        raise tenants.unknown_tenant(named)
    return tenant.gid


async def _example(session: Session, event_type: str) -> Any:
    """The example of an event type."""
    row = await event_types.get(session, event_type)
    if row is None:
        raise InvalidField("type", f"there is no event type {event_type}")
    if row.example is None:
        raise InvalidField("type", f"{event_type} has no example in the catalogue")
    return row.example


async def _first_channel(session: Session, new: NewEndpoint) -> Channel | None:
    """The channel of the first subscription. The default channel is created when it is first needed."""
    if new.channel is None and new.events is None:
        return None
    name = new.channel or DEFAULT_CHANNEL
    channel = await channels.get(session, name)
    if channel is None and new.channel is None:
        channel = await channels.create(session, name, None) or await channels.get(session, name)
    if channel is None:
        raise InvalidField("channel", f"there is no channel {name}")
    return channel


def _record(
    session: Session, actor: Actor, action: str, endpoint: Endpoint, detail: dict[str, Any] | None = None
) -> None:
    record_audit(session, actor, action, endpoint.gid, tenant_gid=endpoint.tenant_gid, detail=detail)
