"""The routes of channels, cached.

They are read for every message and changed by hand, so each process caches the routes of a channel until the channel's
`routes_version` changes. A change of a subscription, an endpoint's policy, or a channel's policy or gates bumps the
version in the same transaction, and a publish compares it in its own transaction: a subscription that was created with
`201` gets every message published later.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from sqlalchemy import ColumnElement, bindparam, select, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.contracts import DeliveryMode
from everhook.delivery.limits import queue_limit
from everhook.delivery.policy import resolve
from everhook.event_types.modes import ValidationMode
from everhook.publishing.gates import compiled
from everhook.publishing.matching import stored_filter
from everhook.publishing.routing import Route, Routes
from everhook.storage.statements import table_of
from everhook.storage.tables import Channel, Endpoint, Subscription, Tenant

log = structlog.get_logger()


class RouteCache:
    """Routes by channel, as of the transaction of the given connection."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Routes]] = {}

    async def routes(self, connection: AsyncConnection, channels: Sequence[str]) -> dict[str, Routes]:
        """The routes of those channels that exist."""
        versions = await connection.execute(_VERSIONS, {"channels": channels})
        found: dict[str, Routes] = {}
        for name, version in versions.all():
            known = self._known.get(name)
            if known is None or known[0] != version:
                known = (version, await _load(connection, name))
                self._known[name] = known
            found[name] = known[1]
        return found


_VERSIONS = select(col(Channel.name), col(Channel.routes_version)).where(
    col(Channel.name).in_(bindparam("channels", expanding=True))
)


async def endpoint_routes(
    connection: AsyncConnection, pairs: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Route]:
    """The routes of messages on a channel to an endpoint, regardless of its subscriptions, by channel and endpoint.
    Those of endpoints that were deleted are left out; the others cannot be deleted before the transaction ends."""
    rows = await connection.execute(
        select(
            col(Channel.name).label("channel"),
            *_OF_ENDPOINT,
        )
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .join(Channel, true())
        .where(
            tuple_(col(Channel.name), col(Endpoint.gid)).in_(sorted(pairs)),
            col(Endpoint.deleted_at).is_(None),
            col(Tenant.erasing_since).is_(None),
        )
        .order_by(col(Endpoint.gid))
        .with_for_update(read=True, of=table_of(Endpoint))
    )
    return {(row.channel, row.endpoint_gid): _route(row) for row in rows}


_OF_ENDPOINT: tuple[Any, ...] = (
    col(Endpoint.gid).label("endpoint_gid"),
    col(Endpoint.tenant_gid),
    col(Tenant.name).label("tenant"),
    col(Channel.policy).label("channel_policy"),
    col(Endpoint.policy).label("endpoint_policy"),
    col(Endpoint.rate_limit),
    col(Endpoint.max_in_flight),
    col(Endpoint.mode),
    col(Endpoint.options),
)


def _route(row: Any, on_unreadable: Callable[[], None] = lambda: None) -> Route:
    """The route to the endpoint of a row with the columns `_OF_ENDPOINT`, regardless of subscriptions."""
    return Route(
        endpoint_gid=row.endpoint_gid,
        tenant_gid=row.tenant_gid,
        tenant=row.tenant,
        events=(),
        filter=None,
        policy=resolve(row.channel_policy, row.endpoint_policy, on_unreadable=on_unreadable),
        rate_limit=queue_limit(row.rate_limit, row.max_in_flight),
        mode=row.mode,
        # Handlers are loaded by senders; their templates would only take memory here.
        options={} if row.mode is DeliveryMode.INTERNAL else row.options,
    )


async def bump(session: AsyncSession, *channels: str) -> bool:
    """Invalidate the cached routes of these channels in all processes. False if there are none of these names."""
    return await _bump(session, col(Channel.name).in_(channels), at_once=len(channels) > 1)


async def bump_endpoint(session: AsyncSession, endpoint_gid: str) -> None:
    """Invalidate the cached routes of all channels that the endpoint subscribes to."""
    channels = select(col(Subscription.channel)).where(col(Subscription.endpoint_gid) == endpoint_gid)
    await _bump(session, col(Channel.name).in_(channels), at_once=True)


async def _bump(session: AsyncSession, chosen: ColumnElement[bool], *, at_once: bool) -> bool:
    """`at_once`: they may be several, which are locked in the order of their names: two transactions that lock them in
    different orders would deadlock."""
    if at_once:
        names = select(col(Channel.name)).where(chosen).order_by(col(Channel.name))
        locked = (await session.execute(names.with_for_update(key_share=True))).scalars().all()
        chosen = col(Channel.name).in_(locked)
    changed = await session.execute(
        update(Channel).where(chosen).values(routes_version=Channel.routes_version + 1).returning(col(Channel.name)),
        execution_options={"synchronize_session": False},
    )
    return changed.first() is not None


def _log_unreadable(endpoint_gid: str) -> None:
    log.error("a stored policy cannot be read; deliveries do without it", endpoint_gid=endpoint_gid)


async def _load(connection: AsyncConnection, channel: str) -> Routes:
    rows = await connection.execute(
        select(
            col(Subscription.gid),
            col(Subscription.events),
            col(Subscription.filter),
            *_OF_ENDPOINT,
        )
        .select_from(Subscription)
        .join(Endpoint, col(Endpoint.gid) == col(Subscription.endpoint_gid))
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .join(Channel, col(Channel.name) == col(Subscription.channel))
        .where(
            col(Subscription.channel) == channel,
            col(Subscription.enabled).is_(True),
            col(Endpoint.deleted_at).is_(None),
        )
        .order_by(col(Subscription.gid))
    )
    settings = await connection.execute(
        select(col(Channel.gates), col(Channel.validation)).where(col(Channel.name) == channel)
    )
    gates, validation = settings.one_or_none() or ((), ValidationMode.OFF)
    routes = (
        replace(
            _route(row, partial(_log_unreadable, row.endpoint_gid)),
            subscription_gid=row.gid,
            events=tuple(row.events),
            filter=stored_filter(row.filter),
        )
        for row in rows
    )
    return Routes.of(routes, compiled(gates or ()), validation)
