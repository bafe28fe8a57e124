"""Endpoints: where tenants receive, and the commands to their circuits."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response

from api import problem_types, render
from api.callers import Caller
from api.dependencies import Paging, Principal, Services, ServicesDep, Store
from api.endpoints.schemas import (
    EndpointCreated,
    EndpointIn,
    EndpointOut,
    EndpointPatch,
    SecretRotated,
    SecretRotation,
    TestRequest,
    TestSent,
)
from api.idempotency import NOT_KEYED, OnceDep
from api.problems import documents, refuse_nulls
from api.query import Several
from api.schemas import Gid, ListOf, Name
from everhook.endpoints.service import EndpointCommand
from everhook.storage.tenant_scope import TenantScope
from everhook.tenants.api_keys_store import Scope

router = APIRouter(prefix="/endpoints", tags=["endpoints"])

COMMANDED: dict[str, Any] = {"responses": documents(problem_types.TEMPORAL_BUSY)}
"""Of routes that wait for a workflow."""


@router.post("", status_code=HTTPStatus.CREATED, responses=documents(problem_types.QUOTA_EXCEEDED))
async def create_endpoint(
    body: EndpointIn, services: ServicesDep, store: Store, caller: Principal, once: OnceDep
) -> EndpointCreated:
    """Create an endpoint and, with `channel` or `events`, its first subscription. The secret is shown this once."""
    checked = await services.endpoints.check(body.new(), caller.tenant_gid)
    async with once.writing(store) as session:
        created = await services.endpoints.create(session, caller.actor, checked)
        shown = render.endpoint(created.view).model_dump()
        if Scope.ADMIN in caller.scopes:
            shown["headers"] = body.headers
        response = EndpointCreated(**shown, subscription_gid=created.subscription_gid, secret=created.secret)
        return await once.keep(session, response, HTTPStatus.CREATED, created.view.endpoint.tenant_gid)


@router.get("")
async def list_endpoints(
    paging: Paging, services: ServicesDep, store: Store, tenant: Several[Name] = None
) -> ListOf[EndpointOut]:
    """List endpoints, newest first."""
    async with store.reading() as session:
        views, after = await services.endpoints.page(
            session, tenants_named=tenant, after=paging.after, limit=paging.limit
        )
    return ListOf(data=[render.endpoint(view) for view in views], next_cursor=paging.next_cursor(after))


@router.get("/{gid}")
async def get_endpoint(gid: Gid, services: ServicesDep, store: Store) -> EndpointOut:
    """Get an endpoint with the state of its circuit. Its secret is not shown again."""
    async with store.reading() as session:
        return render.endpoint(await services.endpoints.get(session, gid))


@router.patch("/{gid}")
async def update_endpoint(
    gid: Gid, body: EndpointPatch, services: ServicesDep, store: Store, caller: Principal
) -> EndpointOut:
    """Change the fields that are given. Attempts that begin after the response use the new settings."""
    refuse_nulls(body, but={"alerts", "auth", "circuit", "max_in_flight", "policy", "rate_limit", "tls"})
    return render.endpoint(await services.endpoints.change(store, caller.actor, gid, body.changes()))


@router.delete("/{gid}", status_code=HTTPStatus.NO_CONTENT, response_class=Response)
async def delete_endpoint(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Delete an endpoint and its subscriptions. Its open deliveries are dead-lettered as `endpoint_deleted`."""
    await services.endpoints.delete(store, caller.actor, gid)


@router.post("/{gid}/secret/rotate", responses=documents(problem_types.TOO_MANY_SECRETS))
async def rotate_secret(
    gid: Gid,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    once: OnceDep,
    body: Annotated[SecretRotation, Body()] = SecretRotation(),
) -> SecretRotated:
    """Give an endpoint a new secret, shown this once. Earlier secrets go on signing for the grace period."""
    secret = body.secret.get_secret_value() if body.secret is not None else None
    grace = timedelta(seconds=body.grace_period_seconds)
    async with once.writing(store) as session:
        rotated = await services.endpoints.rotate_secret(session, caller.actor, gid, secret=secret, grace=grace)
        response = SecretRotated(
            endpoint_gid=gid,
            secret=rotated.secret,
            previous_until=rotated.previous_until,
            public_keys=render.public_keys(rotated.view),
        )
        return await once.keep(session, response, HTTPStatus.OK, rotated.view.endpoint.tenant_gid)


@router.post("/{gid}/test", status_code=HTTPStatus.ACCEPTED)
async def test_endpoint(
    gid: Gid,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    body: Annotated[TestRequest | None, Body()] = None,
    once: OnceDep = NOT_KEYED,
) -> TestSent:
    """Send a test message to this endpoint only, regardless of its subscriptions: the example of an event type, or a
    message of type `everhook.test`. Its channel is `everhook.test`."""
    event_type = body.type if body is not None else None
    async with once.asking(store):
        sent = await services.endpoints.send_test(store, caller.actor, gid, event_type)
    response = TestSent(message_gid=sent.message_gid, delivery_gid=sent.delivery_gid)
    return await once.keep_asked(store, response, HTTPStatus.ACCEPTED, sent.tenant_gid)


@router.post("/{gid}/pause", **COMMANDED)
async def pause_endpoint(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> EndpointOut:
    """Send nothing to an endpoint until it is resumed. Its messages are parked, not dropped."""
    return await _command(services, store, caller, gid, EndpointCommand.PAUSE)


@router.post("/{gid}/resume", **COMMANDED)
async def resume_endpoint(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> EndpointOut:
    """End the pause of an endpoint. Parked deliveries are released gradually."""
    return await _command(services, store, caller, gid, EndpointCommand.RESUME)


@router.post("/{gid}/enable", **COMMANDED)
async def enable_endpoint(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> EndpointOut:
    """Enable an endpoint that was disabled, by an operator or after failing for days. Failures are counted from zero;
    parked deliveries are released gradually."""
    return await _command(services, store, caller, gid, EndpointCommand.ENABLE)


@router.post("/{gid}/disable", **COMMANDED)
async def disable_endpoint(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> EndpointOut:
    """Send nothing to an endpoint until it is enabled. Its messages are parked, not dropped."""
    return await _command(services, store, caller, gid, EndpointCommand.DISABLE)


@router.post("/{gid}/circuit/trip", **COMMANDED)
async def trip_circuit(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> EndpointOut:
    """Open the circuit of an endpoint by hand. After its cooldown it is probed as usual."""
    return await _command(services, store, caller, gid, EndpointCommand.TRIP)


@router.post("/{gid}/circuit/reset", **COMMANDED)
async def reset_circuit(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> EndpointOut:
    """Close the circuit of an endpoint by hand. Parked deliveries are released gradually."""
    return await _command(services, store, caller, gid, EndpointCommand.RESET)


async def _command(
    services: Services, store: TenantScope, caller: Caller, gid: str, command: EndpointCommand
) -> EndpointOut:
    return render.endpoint(await services.endpoints.command(store, caller.actor, gid, command))
