"""Channels: named streams that services publish to, each with a default delivery policy."""

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncSession

from api import render
from api.channels.schemas import ChannelIn, ChannelOut, ChannelPatch
from api.dependencies import Paging, Principal, Store
from api.idempotency import NOT_KEYED, OnceDep
from api.problems import conflict, invalid, not_found
from api.schemas import ListOf, Name, Policy
from everhook.notifications.events import RESERVED, is_reserved
from everhook.publishing import channels_store as channels
from everhook.storage.tables import Channel
from everhook.tenants.audit_store import record_audit

router = APIRouter(prefix="/channels", tags=["channels"])


@router.post("", status_code=HTTPStatus.CREATED)
async def create_channel(body: ChannelIn, store: Store, caller: Principal, once: OnceDep = NOT_KEYED) -> ChannelOut:
    """From then on it can be published to. A policy given here holds for all deliveries from it by default."""
    if is_reserved(body.name):
        raise invalid("name", f"may not begin with {RESERVED}: such channels are Everhook's own")
    async with once.writing(store) as session:
        channel = await channels.create(session, body.name, _stored(body.policy))
        if channel is None:
            raise conflict(f"There is a channel {body.name} already.")
        record_audit(session, caller.actor, "channel.created", channel.name, detail={"policy": channel.policy})
        return await once.keep(session, render.channel(channel), HTTPStatus.CREATED)


@router.get("")
async def list_channels(paging: Paging, store: Store) -> ListOf[ChannelOut]:
    """By name."""
    async with store.reading() as session:
        page = await channels.page(session, after=paging.after, limit=paging.limit)
    return ListOf(data=[render.channel(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/{name}")
async def get_channel(name: Name, store: Store) -> ChannelOut:
    """One channel with its policy."""
    async with store.reading() as session:
        return render.channel(await _channel(session, name))


@router.patch("/{name}")
async def change_channel(name: Name, body: ChannelPatch, store: Store, caller: Principal) -> ChannelOut:
    """Set the policy. Rounds under way keep theirs; the next round of a delivery takes the new one."""
    async with store.writing() as session:
        channel = await _channel(session, name)
        await channels.set_policy(session, channel, _stored(body.policy))
        record_audit(session, caller.actor, "channel.changed", name, detail={"policy": channel.policy})
        return render.channel(channel)


@router.delete("/{name}", status_code=HTTPStatus.NO_CONTENT)
async def delete_channel(name: Name, store: Store, caller: Principal) -> None:
    """Only without subscriptions. Deliveries under way go on."""
    if is_reserved(name):
        raise conflict(f"{name} is Everhook's own; it stays.")
    async with store.writing() as session:
        await _channel(session, name)
        if not await channels.remove(session, name):
            raise conflict(f"Subscriptions lead from {name}; delete those first.")
        record_audit(session, caller.actor, "channel.deleted", name)


async def _channel(session: AsyncSession, name: str) -> Channel:
    channel = await channels.get(session, name)
    if channel is None:
        raise not_found("channel", name)
    return channel


def _stored(policy: Policy | None) -> dict[str, Any] | None:
    return policy.spec() if policy is not None else None
