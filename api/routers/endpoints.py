"""Endpoints: where tenants receive, and the commands to their circuits."""

import asyncio
from http import HTTPStatus
from typing import Any, Literal

import structlog
from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncSession

from api import render
from api.dependencies import Paging, Services, ServicesDep, Store, encode_cursor
from api.headers import check_custom_headers
from api.problems import invalid, not_found, refuse_nulls, unavailable
from api.schemas import (
    EndpointCreated,
    EndpointIn,
    EndpointOut,
    EndpointPatch,
    EndpointSettings,
    Gid,
    ListOf,
    Name,
    Policy,
)
from everhook.egress import EgressClient, OurFault, UrlRefused
from everhook.storage import channels, endpoints, subscriptions, tenants
from everhook.storage.endpoints import EndpointView
from everhook.storage.tables import DEFAULT_TENANT_GID, Channel, Endpoint, Subscription

DEFAULT_CHANNEL = "default"

router = APIRouter(prefix="/endpoints", tags=["endpoints"])
log = structlog.get_logger()


@router.post("", status_code=HTTPStatus.CREATED)
async def create_endpoint(body: EndpointIn, services: ServicesDep) -> EndpointCreated:
    """Create an endpoint and, with `channel` or `events`, its first subscription. The secret is shown this once."""
    changes = await _checked(services.egress, body.model_dump(include=set(EndpointSettings.model_fields)), body.policy)
    async with services.database.writing() as session:
        channel = await _first_channel(session, body)
        tenant_gid = DEFAULT_TENANT_GID
        if body.tenant is not None:
            tenant_gid = (await tenants.ensure_tenant(session, body.tenant)).gid
        endpoint = Endpoint(tenant_gid=tenant_gid, **changes)
        secret = await endpoints.create(session, endpoint)
        subscription_gid = None
        if channel is not None:
            subscription = Subscription(
                tenant_gid=tenant_gid, endpoint_gid=endpoint.gid, channel=channel.name, events=body.events or []
            )
            await subscriptions.create(session, subscription)
            subscription_gid = subscription.gid
        shown = render.endpoint(await _view(session, endpoint.gid))
    return EndpointCreated(**shown.model_dump(), subscription_gid=subscription_gid, secret=secret)


@router.get("")
async def list_endpoints(paging: Paging, store: Store, tenant: Name | None = None) -> ListOf[EndpointOut]:
    """Newest first."""
    async with store.reading() as session:
        tenant_gid = None
        if tenant is not None:
            found = await tenants.find_tenant(session, tenant)
            if found is None:
                return ListOf(data=[], next_cursor=None)
            tenant_gid = found.gid
        views, after = await endpoints.page(session, tenant_gid=tenant_gid, after=paging.after, limit=paging.limit)
    return ListOf(data=[render.endpoint(view) for view in views], next_cursor=encode_cursor(after))


@router.get("/{gid}")
async def get_endpoint(gid: Gid, store: Store) -> EndpointOut:
    """One endpoint with the state of its circuit. Its secret is not shown again."""
    async with store.reading() as session:
        return render.endpoint(await _view(session, gid))


@router.patch("/{gid}")
async def change_endpoint(gid: Gid, body: EndpointPatch, services: ServicesDep) -> EndpointOut:
    """Change what is given. No request goes to the old URL once this is answered, but those then in flight."""
    refuse_nulls(body, but={"policy", "rate_limit"})
    changes = await _checked(services.egress, body.model_dump(exclude_unset=True), body.policy)
    async with services.database.writing() as session:
        view = await _view(session, gid)
        await endpoints.change(session, view.endpoint, changes)
        return render.endpoint(view)


@router.delete("/{gid}", status_code=HTTPStatus.NO_CONTENT)
async def delete_endpoint(gid: Gid, services: ServicesDep) -> None:
    """Delete it and its subscriptions. Deliveries still open are dead-lettered as `endpoint_deleted`."""
    async with services.database.writing() as session:
        view = await _view(session, gid)
        await endpoints.remove(session, view.endpoint)
    try:
        async with asyncio.timeout(2):
            await services.entities.command(gid, view.tenant, "delete")
    except Exception as error:
        # The deletion holds: deliveries find it out by themselves at their next step.
        log.warning("could not tell the endpoint's entity of its deletion", endpoint_gid=gid, error=str(error))


Command = Literal["pause", "resume", "enable", "disable"]


@router.post("/{gid}/{command}")
async def command_endpoint(gid: Gid, command: Command, services: ServicesDep) -> EndpointOut:
    """Pause, resume, enable or disable. Messages to a paused or disabled endpoint are parked, not dropped."""
    return await _command(services, gid, command)


@router.post("/{gid}/circuit/{command}")
async def command_circuit(gid: Gid, command: Literal["trip", "reset"], services: ServicesDep) -> EndpointOut:
    """Open or close the circuit by hand."""
    return await _command(services, gid, command)


async def _command(services: Services, gid: str, command: str) -> EndpointOut:
    async with services.database.reading() as session:
        view = await _view(session, gid)
    await services.entities.command(gid, view.tenant, command)
    async with services.database.reading() as session:
        return render.endpoint(await _view(session, gid))


async def _view(session: AsyncSession, gid: str) -> EndpointView:
    view = await endpoints.view(session, gid)
    if view is None:
        raise not_found("endpoint", gid)
    return view


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


async def _checked(egress: EgressClient, changes: dict[str, Any], policy: Policy | None) -> dict[str, Any]:
    """Request fields as columns, with everything checked that a schema cannot check."""
    if "url" in changes:
        try:
            changes["url"] = await egress.check_url(changes["url"])
        except UrlRefused as error:
            raise invalid("url", error.rule) from error
        except OurFault as error:
            raise unavailable(f"The URL could not be judged ({error}); nothing was changed. Try again.") from error
    if "policy" in changes:
        changes["policy"] = policy.spec() if policy is not None else None
    if "headers" in changes:
        check_custom_headers(changes["headers"])
    if "metadata" in changes:
        changes["details"] = changes.pop("metadata")
    return changes
