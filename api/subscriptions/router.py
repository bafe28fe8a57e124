"""Subscriptions: which messages of a channel go to an endpoint."""

import asyncio
from http import HTTPStatus
from typing import cast

from fastapi import APIRouter, Response

from api import problem_types, render
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.idempotency import OnceDep
from api.problems import documents, refuse_nulls
from api.query import EndpointGids, Several
from api.schemas import Gid, ListOf, Name
from api.subscriptions.schemas import (
    SubscriptionIn,
    SubscriptionOut,
    SubscriptionPatch,
    SubscriptionTrial,
    SubscriptionTrialResult,
)
from everhook.endpoints.subscriptions import NewSubscription, SubscriptionChanges, try_subscription

router = APIRouter(prefix="/subscriptions", tags=["subscriptions"])


@router.post("", status_code=HTTPStatus.CREATED, responses=documents(problem_types.QUOTA_EXCEEDED))
async def create_subscription(
    body: SubscriptionIn, services: ServicesDep, store: Store, caller: Principal, once: OnceDep
) -> SubscriptionOut:
    """Subscribe an endpoint to a channel. Every matching message that is accepted afterwards goes to the endpoint."""
    async with once.writing(store) as session:
        new = NewSubscription(**body.model_dump())
        subscription = await services.subscriptions.create(session, caller.actor, new)
        response = render.subscription(subscription)
        return await once.keep(session, response, HTTPStatus.CREATED, subscription.tenant_gid)


@router.post("/test")
async def test_subscription(body: SubscriptionTrial) -> SubscriptionTrialResult:
    """Match a message against event types and a filter, without a subscription: nothing is sent."""
    message = body.message
    result = await asyncio.to_thread(
        try_subscription, body.events, body.filter, message.type, message.payload, message.metadata
    )
    return SubscriptionTrialResult.model_validate(result)


@router.get("")
async def list_subscriptions(
    paging: Paging,
    services: ServicesDep,
    store: Store,
    endpoint_gid: EndpointGids = None,
    channel: Several[Name] = None,
) -> ListOf[SubscriptionOut]:
    """List subscriptions, newest first."""
    async with store.reading() as session:
        page = await services.subscriptions.page(
            session,
            endpoints=endpoint_gid,
            channels=channel,
            after=paging.after,
            limit=paging.limit,
        )
    return ListOf(data=[render.subscription(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/{gid}")
async def get_subscription(gid: Gid, services: ServicesDep, store: Store) -> SubscriptionOut:
    """Get a subscription."""
    async with store.reading() as session:
        return render.subscription(await services.subscriptions.get(session, gid))


@router.patch("/{gid}", responses=documents(problem_types.QUOTA_EXCEEDED))
async def update_subscription(
    gid: Gid, body: SubscriptionPatch, services: ServicesDep, store: Store, caller: Principal
) -> SubscriptionOut:
    """Change `events`, `filter` (null: no filter), `enabled` or `includePayload`. What is absent stays as it is."""
    refuse_nulls(body, but={"filter"})
    changes = cast(SubscriptionChanges, body.model_dump(exclude_unset=True))
    async with store.writing() as session:
        return render.subscription(await services.subscriptions.change(session, caller.actor, gid, changes))


@router.delete("/{gid}", status_code=HTTPStatus.NO_CONTENT, response_class=Response)
async def delete_subscription(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Delete a subscription. Deliveries that were accepted before go on."""
    async with store.writing() as session:
        await services.subscriptions.delete(session, caller.actor, gid)
