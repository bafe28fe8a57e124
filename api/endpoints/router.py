"""Endpoints: where tenants receive, and the commands to their circuits."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Body
from pydantic.alias_generators import to_camel
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.service import RPCError

from api import render
from api.callers import Caller
from api.dependencies import Paging, Principal, Services, ServicesDep, Store
from api.endpoints.headers import check_custom_headers
from api.endpoints.schemas import (
    EndpointCreated,
    EndpointIn,
    EndpointOut,
    EndpointPatch,
    EndpointSettings,
    SecretRotated,
    SecretRotation,
    TestSent,
    Tls,
)
from api.idempotency import NOT_KEYED, OnceDep
from api.messages import publishing
from api.problems import conflict, invalid, not_found, refuse_nulls, unavailable
from api.query import Several
from api.schemas import Gid, ListOf, Name, Policy
from api.subscriptions.router import quota_problems
from everhook.delivery.policy import resolve
from everhook.delivery.weights import apply_limit
from everhook.egress import EgressClient, LocalError, TlsExtras, TlsRefused, UrlRefused
from everhook.endpoints import store as endpoints
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.endpoints.store import EndpointView
from everhook.publishing import channels_store as channels
from everhook.publishing.routing import Route
from everhook.signing import secrets_store as secrets
from everhook.signing.schemes import SignatureScheme, new_secret
from everhook.signing.secrets_store import MAX_LIVE, TooManySecrets
from everhook.storage.tables import DEFAULT_TENANT_GID, Channel, Endpoint, Subscription
from everhook.storage.tenant_scope import TenantScope, tenant_bound
from everhook.tenants import store as tenants
from everhook.tenants.audit_store import on_record, record_audit

DEFAULT_CHANNEL = "default"
NOT_COLUMNS = {"tls", "ed25519"}
"""Settings that are not kept as they are given."""

router = APIRouter(prefix="/endpoints", tags=["endpoints"])
log = structlog.get_logger()


@router.post("", status_code=HTTPStatus.CREATED)
async def create_endpoint(
    body: EndpointIn, services: ServicesDep, store: Store, caller: Principal, once: OnceDep = NOT_KEYED
) -> EndpointCreated:
    """Create an endpoint and, with `channel` or `events`, its first subscription. The secret is shown this once."""
    columns = body.model_dump(include=set(EndpointSettings.model_fields) - NOT_COLUMNS)
    changes = await checked_settings(services.egress, columns, body.policy, caller.tenant_gid or body.tenant or "")
    tls = await checked_tls(services.egress, body.tls)
    _check_ed25519(body.signatures, on=body.ed25519, field="ed25519")
    async with once.writing(store) as session:
        channel = await _first_channel(session, body)
        tenant_gid = await _owner(session, body.tenant)
        endpoint = Endpoint(tenant_gid=tenant_gid, **changes)
        given = body.secret.get_secret_value() if body.secret is not None else None
        secret = await endpoints.create(
            session, services.keyring, endpoint, tls=tls, ed25519=body.ed25519, secret=given
        )
        subscription_gid = None
        if channel is not None:
            subscription = Subscription(
                tenant_gid=tenant_gid, endpoint_gid=endpoint.gid, channel=channel.name, events=body.events or []
            )
            with quota_problems():
                await subscriptions.create(session, subscription, services.quotas)
            subscription_gid = subscription.gid
        detail = {"subscriptionGid": subscription_gid, "channel": channel.name if channel is not None else None}
        _record(session, caller, "endpoint.created", endpoint, detail)
        shown = render.endpoint(await _view(session, endpoint.gid))
        response = EndpointCreated(**shown.model_dump(), subscription_gid=subscription_gid, secret=secret)
        return await once.keep(session, response, HTTPStatus.CREATED, tenant_gid)


@router.get("")
async def list_endpoints(paging: Paging, store: Store, tenant: Several[Name] = None) -> ListOf[EndpointOut]:
    """Newest first."""
    async with store.reading() as session:
        chosen = await tenants.chosen_gids(session, tenant)
        views, after = await endpoints.page(session, tenant_gid=chosen, after=paging.after, limit=paging.limit)
    return ListOf(data=[render.endpoint(view) for view in views], next_cursor=paging.next_cursor(after))


@router.get("/{gid}")
async def get_endpoint(gid: Gid, store: Store) -> EndpointOut:
    """One endpoint with the state of its circuit. Its secret is not shown again."""
    async with store.reading() as session:
        return render.endpoint(await _view(session, gid))


@router.patch("/{gid}")
async def change_endpoint(
    gid: Gid, body: EndpointPatch, services: ServicesDep, store: Store, caller: Principal
) -> EndpointOut:
    """Change what is given. No request goes to the old URL once this is answered, but those then in flight."""
    refuse_nulls(body, but={"policy", "rate_limit", "tls"})
    columns = body.model_dump(exclude_unset=True, exclude=NOT_COLUMNS)
    async with store.reading() as session:
        owner = (await _view(session, gid)).endpoint.tenant_gid
    changes = await checked_settings(services.egress, columns, body.policy, owner)
    if "tls" in body.model_fields_set:
        tls = await checked_tls(services.egress, body.tls)
        changes |= endpoints.tls_columns(services.keyring, gid, tls)
    async with store.writing() as session:
        view = await _view(session, gid, for_change=True)
        _check_ed25519_change(view, body)
        if body.ed25519 is not None:
            await secrets.set_ed25519(session, services.keyring, gid, on=body.ed25519)
        old_limit = view.endpoint.rate_limit
        await endpoints.change(session, view.endpoint, changes)
        changed = sorted(to_camel(name) for name in body.model_fields_set)
        _record(session, caller, "endpoint.changed", view.endpoint, {"changed": changed})
        shown = render.endpoint(await _view(session, gid))
    if shown.rate_limit != old_limit:
        await _apply_limit(services, gid, shown.rate_limit)
    return shown


async def _apply_limit(services: Services, gid: str, limit: float | None) -> None:
    try:
        async with asyncio.timeout(2):
            await apply_limit(services.temporal, gid, limit)
    except (RPCError, RuntimeError, TimeoutError) as error:
        # The limit holds: senders keep to it. Only what waits already is handed out at the old pace.
        log.warning("temporal was not told of an endpoint's new rate limit", endpoint_gid=gid, error=str(error))


@router.delete("/{gid}", status_code=HTTPStatus.NO_CONTENT)
async def delete_endpoint(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Delete it and its subscriptions. Deliveries still open are dead-lettered as `endpoint_deleted`."""
    async with store.writing() as session:
        view = await _view(session, gid, for_change=True)
        await endpoints.remove(session, view.endpoint)
        _record(session, caller, "endpoint.deleted", view.endpoint)
    try:
        async with asyncio.timeout(2):
            await services.circuits.command(gid, view.tenant, "delete")
    except Exception as error:
        # The deletion holds: deliveries find it out by themselves at their next step.
        log.warning("could not tell the endpoint's entity of its deletion", endpoint_gid=gid, error=str(error))


@router.post("/{gid}/secret/rotate")
async def rotate_secret(
    gid: Gid,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    body: Annotated[SecretRotation, Body()] = SecretRotation(),
    once: OnceDep = NOT_KEYED,
) -> SecretRotated:
    """Give an endpoint a new secret, shown this once. Those before it go on signing for the grace period."""
    secret = body.secret.get_secret_value() if body.secret is not None else new_secret()
    grace = timedelta(seconds=body.grace_period_seconds)
    async with once.writing(store) as session:
        view = await _view(session, gid, for_change=True)
        try:
            until = await secrets.rotate(session, services.keyring, gid, secret, grace)
        except TooManySecrets:
            raise conflict(
                f"{MAX_LIVE} secrets of this endpoint sign already. Wait for one to end, or end all of them at once "
                "with gracePeriodSeconds 0."
            ) from None
        await endpoints.change(session, view.endpoint, {})
        _record(
            session, caller, "endpoint.secret_rotated", view.endpoint, {"gracePeriodSeconds": body.grace_period_seconds}
        )
        view = await _view(session, gid)
        keys = render.public_keys(view)
        response = SecretRotated(endpoint_gid=gid, secret=secret, previous_until=until, public_keys=keys)
        return await once.keep(session, response, HTTPStatus.OK, view.endpoint.tenant_gid)


@router.post("/{gid}/test", status_code=HTTPStatus.ACCEPTED)
async def send_test(
    gid: Gid, services: ServicesDep, store: Store, caller: Principal, once: OnceDep = NOT_KEYED
) -> TestSent:
    """Send a message of type `everhook.test` to this endpoint alone, whatever it subscribes to."""
    async with store.reading() as session:
        view = await _view(session, gid)
    owner = view.endpoint.tenant_gid
    async with once.asking(store), on_record(store, caller.actor, "endpoint.tested", gid, tenant_gid=owner):
        accepted = await services.acceptor.accept_for(publishing.test_message(), _route_to(view))
    services.dispatcher.dispatch(accepted.new)
    (delivery,) = accepted.deliveries
    response = TestSent(message_gid=accepted.message_gid, delivery_gid=delivery.delivery_gid)
    return await once.keep_asked(store, response, HTTPStatus.ACCEPTED, owner)


def _route_to(view: EndpointView) -> Route:
    endpoint = view.endpoint
    return Route(
        endpoint_gid=endpoint.gid,
        tenant_gid=endpoint.tenant_gid,
        tenant=view.tenant,
        events=(),
        filter=None,
        policy=resolve(endpoint.policy),
        rate_limit=endpoint.rate_limit,
    )


Command = Literal["pause", "resume", "enable", "disable"]

_ACTIONS = {
    "pause": "endpoint.paused",
    "resume": "endpoint.resumed",
    "enable": "endpoint.enabled",
    "disable": "endpoint.disabled",
    "trip": "circuit.tripped",
    "reset": "circuit.reset",
}


@router.post("/{gid}/{command}")
async def command_endpoint(
    gid: Gid, command: Command, services: ServicesDep, store: Store, caller: Principal
) -> EndpointOut:
    """Pause, resume, enable or disable. Messages to a paused or disabled endpoint are parked, not dropped."""
    return await _command(services, store, caller, gid, command)


@router.post("/{gid}/circuit/{command}")
async def command_circuit(
    gid: Gid, command: Literal["trip", "reset"], services: ServicesDep, store: Store, caller: Principal
) -> EndpointOut:
    """Open or close the circuit by hand."""
    return await _command(services, store, caller, gid, command)


async def _command(services: Services, store: TenantScope, caller: Caller, gid: str, command: str) -> EndpointOut:
    async with store.reading() as session:
        view = await _view(session, gid)
    async with on_record(store, caller.actor, _ACTIONS[command], gid, tenant_gid=view.endpoint.tenant_gid):
        await services.circuits.command(gid, view.tenant, command)
    async with store.reading() as session:
        return render.endpoint(await _view(session, gid))


async def _view(session: AsyncSession, gid: str, *, for_change: bool = False) -> EndpointView:
    view = await endpoints.view(session, gid, for_change=for_change)
    if view is None:
        raise not_found("endpoint", gid)
    return view


def _record(
    session: AsyncSession, caller: Caller, action: str, endpoint: Endpoint, detail: dict[str, Any] | None = None
) -> None:
    record_audit(session, caller.actor, action, endpoint.gid, tenant_gid=endpoint.tenant_gid, detail=detail)


async def _owner(session: AsyncSession, named: str | None) -> str:
    """The tenant that a new endpoint belongs to."""
    if named is None:
        return tenant_bound(session) or DEFAULT_TENANT_GID
    tenant = await tenants.ensure_tenant(session, named)
    if tenant is None:
        raise invalid("tenant", f"there is no tenant {named}")
    return tenant.gid


async def _first_channel(session: AsyncSession, body: EndpointIn) -> Channel | None:
    if body.channel is None and body.events is None:
        return None
    name = body.channel or DEFAULT_CHANNEL
    channel = await channels.get(session, name)
    if channel is None and body.channel is None:
        channel = await channels.create(session, name, None) or await channels.get(session, name)
    if channel is None:
        raise invalid("channel", f"there is no channel {name}")
    return channel


def _check_ed25519_change(view: EndpointView, body: EndpointPatch) -> None:
    on = bool(view.public_keys) if body.ed25519 is None else body.ed25519
    field = "signatures" if body.ed25519 is None else "ed25519"
    _check_ed25519(body.signatures or view.endpoint.signatures, on=on, field=field)


def _check_ed25519(signatures: Collection[str], *, on: bool, field: str) -> None:
    if on and SignatureScheme.STANDARD not in signatures:
        raise invalid(field, "Ed25519 signs in the scheme `standard`, which this endpoint does not use")


async def checked_tls(egress: EgressClient, tls: Tls | None) -> TlsExtras | None:
    """As the sender takes them, if it can use them."""
    if tls is None:
        return None
    extras = tls.extras()
    for field, part in (("ca", TlsExtras(ca=extras.ca)), ("clientCertificate", replace(extras, ca=None))):
        try:
            await egress.check_tls(part)
        except TlsRefused as error:
            raise invalid(f"tls.{field}", error.rule) from error
    return extras


async def checked_settings(
    egress: EgressClient, changes: dict[str, Any], policy: Policy | None, tenant: str
) -> dict[str, Any]:
    """Request fields as columns, with everything checked that a schema cannot check: what passes can be sent."""
    if "url" in changes:
        try:
            changes["url"] = await egress.check_url(changes["url"], tenant)
        except UrlRefused as error:
            egress.hints.note(changes["url"], tenant, error)
            raise invalid("url", error.rule) from error
        except LocalError as error:
            raise unavailable(f"The URL could not be judged ({error}); nothing was changed. Try again.") from error
    if "policy" in changes:
        changes["policy"] = policy.spec() if policy is not None else None
    if "headers" in changes:
        check_custom_headers(changes["headers"])
    if "metadata" in changes:
        changes["details"] = changes.pop("metadata")
    return changes
