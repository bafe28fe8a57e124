"""Subscriptions: which messages of a channel go to an endpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncSession

from api import render
from api.callers import Caller
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.endpoints.choice import chosen_endpoints
from api.idempotency import NOT_KEYED, OnceDep
from api.problems import conflict, invalid, not_found, refuse_nulls
from api.query import Several, several
from api.schemas import EndpointRef, Gid, ListOf, Name
from api.subscriptions.schemas import SubscriptionIn, SubscriptionOut, SubscriptionPatch
from everhook.endpoints import store as endpoints
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.endpoints.quotas_store import QuotaExceeded, TooCostly
from everhook.publishing import channels_store as channels
from everhook.storage.tables import Subscription
from everhook.tenants.audit_store import record_audit

router = APIRouter(prefix="/subscriptions", tags=["subscriptions"])


@router.post("", status_code=HTTPStatus.CREATED)
async def create_subscription(
    body: SubscriptionIn,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    once: OnceDep = NOT_KEYED,
) -> SubscriptionOut:
    """From then on every matching message goes to the endpoint."""
    async with once.writing(store) as session:
        view = await endpoints.view(session, body.endpoint_gid)
        if view is None:
            raise invalid("endpointGid", "there is no such endpoint")
        if await channels.get(session, body.channel) is None:
            raise invalid("channel", f"there is no channel {body.channel}")
        subscription = Subscription(tenant_gid=view.endpoint.tenant_gid, **body.model_dump())
        with quota_problems():
            await subscriptions.create(session, subscription, services.quotas)
        about = {"endpointGid": subscription.endpoint_gid, "channel": subscription.channel}
        _record(session, caller, "subscription.created", subscription, about)
        response = render.subscription(subscription)
        return await once.keep(session, response, HTTPStatus.CREATED, subscription.tenant_gid)


@router.get("")
async def list_subscriptions(
    paging: Paging, store: Store, endpoint: Several[EndpointRef] = None, channel: Several[Name] = None
) -> ListOf[SubscriptionOut]:
    """Newest first."""
    async with store.reading() as session:
        page = await subscriptions.page(
            session,
            endpoint_gid=await chosen_endpoints(session, endpoint),
            channel=several(channel),
            after=paging.after,
            limit=paging.limit,
        )
    return ListOf(data=[render.subscription(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/{gid}")
async def get_subscription(gid: Gid, store: Store) -> SubscriptionOut:
    """One subscription."""
    async with store.reading() as session:
        return render.subscription(await _subscription(session, gid))


@router.patch("/{gid}")
async def change_subscription(
    gid: Gid, body: SubscriptionPatch, services: ServicesDep, store: Store, caller: Principal
) -> SubscriptionOut:
    """Change `events`, `filter` (null: no filter) or `enabled`; what is absent stays."""
    refuse_nulls(body, but={"filter"})
    changes = body.model_dump(exclude_unset=True)
    async with store.writing() as session:
        subscription = await _subscription(session, gid)
        with quota_problems():
            await subscriptions.change(session, subscription, changes, services.quotas)
        _record(session, caller, "subscription.changed", subscription, {"changed": sorted(changes)})
        return render.subscription(subscription)


@router.delete("/{gid}", status_code=HTTPStatus.NO_CONTENT)
async def delete_subscription(gid: Gid, store: Store, caller: Principal) -> None:
    """Deliveries that were accepted before go on."""
    async with store.writing() as session:
        subscription = await _subscription(session, gid)
        await subscriptions.remove(session, subscription)
        _record(session, caller, "subscription.deleted", subscription, {"endpointGid": subscription.endpoint_gid})


async def _subscription(session: AsyncSession, gid: str) -> Subscription:
    subscription = await subscriptions.get(session, gid)
    if subscription is None:
        raise not_found("subscription", gid)
    return subscription


@contextmanager
def quota_problems() -> Iterator[None]:
    """422 for a subscription that costs too much by itself, 409 for one too many."""
    try:
        yield
    except TooCostly as error:
        raise invalid("filter", str(error)) from error
    except QuotaExceeded as error:
        raise conflict(str(error)) from error


def _record(
    session: AsyncSession, caller: Caller, action: str, subscription: Subscription, detail: dict[str, Any]
) -> None:
    tenant_gid = subscription.tenant_gid
    record_audit(session, caller.actor, action, subscription.gid, tenant_gid=tenant_gid, detail=detail)
