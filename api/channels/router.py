"""Channels: named streams that services publish to, each with a default delivery policy."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from api import problem_types, render
from api.channels.schemas import ChannelIn, ChannelOut, ChannelPatch
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.idempotency import OnceDep
from api.problems import documents, invalid, refuse_nulls
from api.schemas import ListOf, Name

router = APIRouter(prefix="/channels", tags=["channels"])


@router.post("", status_code=HTTPStatus.CREATED, responses=documents(problem_types.CHANNEL_EXISTS))
async def create_channel(
    body: ChannelIn, services: ServicesDep, store: Store, caller: Principal, once: OnceDep
) -> ChannelOut:
    """Create a channel to publish to. Its policy is the default of all deliveries from it."""
    async with once.writing(store) as session:
        channel = await services.channels.create(session, caller.actor, body.new())
        return await once.keep(session, render.channel(channel), HTTPStatus.CREATED)


@router.get("")
async def list_channels(paging: Paging, services: ServicesDep, store: Store) -> ListOf[ChannelOut]:
    """List channels by name."""
    async with store.reading() as session:
        page = await services.channels.page(session, after=paging.after, limit=paging.limit)
    return ListOf(
        data=[render.channel(row, store.tenant_gid) for row in page.rows], next_cursor=paging.next_cursor(page.next_key)
    )


@router.get("/{name}")
async def get_channel(name: Name, services: ServicesDep, store: Store) -> ChannelOut:
    """Get a channel with its policy."""
    async with store.reading() as session:
        return render.channel(await services.channels.get(session, name), store.tenant_gid)


@router.patch("/{name}")
async def update_channel(
    name: Name, body: ChannelPatch, services: ServicesDep, store: Store, caller: Principal
) -> ChannelOut:
    """Set the policy, the circuit settings, the gates, the validation, the retention, or several of them. A round of
    attempts that has begun keeps its policy; the next round takes the new one. Circuits take new settings at once.
    Messages that were accepted keep their gates."""
    if not body.model_fields_set:
        raise invalid("policy", "is required, unless `circuit`, `gates`, `validation` or `retentionDays` are given")
    refuse_nulls(body, ("policy", "circuit", "gates", "retention_days"))
    return render.channel(await services.channels.change(store, caller.actor, name, body.changes()))


@router.delete(
    "/{name}",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses=documents(problem_types.CHANNEL_IN_USE),
)
async def delete_channel(name: Name, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Delete a channel that has no subscriptions. Deliveries that were accepted before go on."""
    async with store.writing() as session:
        await services.channels.delete(session, caller.actor, name)
