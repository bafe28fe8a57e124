"""Tenants: created by a call, or when an endpoint first names them.

Calls refer to a tenant by its name, which may change, or its gid. A tenant that is being erased is not found any more.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.errors import InvalidField
from everhook.ids import Kind, is_gid
from everhook.publishing.routes_store import bump
from everhook.storage.paging import Page, page_of
from everhook.storage.statements import insert_ignoring
from everhook.storage.tables import Endpoint, Subscription, Tenant
from everhook.storage.tenant_scope import tenant_bound

_EXISTS = col(Tenant.erasing_since).is_(None)

NO_TENANT = "nobody"


async def find_tenant(session: AsyncSession, named: str) -> Tenant | None:
    """A tenant by name or gid. A session that is scoped to a tenant finds no other."""
    if "\0" in named:  # PostgreSQL takes no text with it
        return None
    result = await session.execute(select(Tenant).where(_is_named(named), _EXISTS))
    return result.scalar_one_or_none()


async def named_tenant(session: AsyncSession, named: str, field: str = "tenant") -> Tenant:
    """A tenant by name or gid that must exist. Raises InvalidField, for the field of the request that names it."""
    tenant = await find_tenant(session, named)
    if tenant is None:
        raise unknown_tenant(named, field)
    return tenant


def unknown_tenant(named: str, field: str = "tenant") -> InvalidField:
    """The error for a tenant that does not exist, or that the caller cannot see."""
    return InvalidField(field, f"there is no tenant {named[:100]}")


async def chosen_gid(session: AsyncSession, named: str | None) -> str | None:
    """For filters: None means all tenants; a tenant that does not exist becomes a gid that matches nothing."""
    if named is None:
        return None
    tenant = await find_tenant(session, named)
    return tenant.gid if tenant is not None else NO_TENANT


async def chosen_gids(session: AsyncSession, named: Sequence[str] | None) -> tuple[str, ...] | None:
    """The tenants of a filter, any of which matches."""
    if not named:
        return None
    return tuple(dict.fromkeys([await chosen_gid(session, name) or NO_TENANT for name in named]))


async def ensure_tenant(session: AsyncSession, named: str) -> Tenant | None:
    """The tenant of this name, created if there is none; two callers at once get the same one. None if it cannot be
    created: for an unknown gid, a tenant being erased, or another tenant's name in a session that is bound to one."""
    if tenant_bound(session) is None:
        await create(session, named)
    return await find_tenant(session, named)


async def create(session: AsyncSession, name: str, rate: str | None = None) -> Tenant | None:
    """None if the name is taken, or looks like a gid. `rate`: of publishing for it."""
    if is_gid(name, Kind.TENANT):
        return None
    new = Tenant(name=name, publish_rate=rate)
    connection = await session.connection()
    statement = insert_ignoring(connection, Tenant, "name", returning="gid")
    created = (await session.execute(statement.values(new.model_dump()))).one_or_none()
    return new if created is not None else None


async def publish_rate(session: AsyncSession, gid: str) -> str | None:
    """How many messages may be published for a tenant, such as `100/minute`. None: no limit."""
    return (await session.execute(select(col(Tenant.publish_rate)).where(col(Tenant.gid) == gid))).scalar_one_or_none()


async def publish_rates(session: AsyncSession, endpoint_gids: Collection[str]) -> dict[str, tuple[str, str | None]]:
    """By endpoint: its tenant, and how many messages may be published for that tenant, where there is a limit."""
    rows = await session.execute(
        select(col(Endpoint.gid), col(Tenant.gid), col(Tenant.publish_rate))
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .where(col(Endpoint.gid).in_(endpoint_gids), col(Tenant.publish_rate).is_not(None))
    )
    return {endpoint_gid: (tenant_gid, rate) for endpoint_gid, tenant_gid, rate in rows}


async def set_publish_rate(session: AsyncSession, tenant: Tenant, rate: str | None) -> None:
    tenant.publish_rate = rate
    session.add(tenant)
    await session.flush()


async def page(session: AsyncSession, *, after: str | None, limit: int) -> Page[Tenant]:
    return await page_of(session, select(Tenant).where(_EXISTS), col(Tenant.gid), after=after, limit=limit)


async def rename(session: AsyncSession, tenant: Tenant, name: str) -> bool:
    """Rename a tenant. False, and nothing is changed, if the name is taken or looks like a gid.

    Workflows that were started before keep the old name. Senders and publishers see the new one as soon as it is
    committed.
    """
    if is_gid(name, Kind.TENANT):
        return False
    try:
        async with session.begin_nested():
            tenant.name = name
            session.add(tenant)
    except IntegrityError:
        return False
    await session.execute(
        update(Endpoint).where(col(Endpoint.tenant_gid) == tenant.gid).values(version=Endpoint.version + 1)
    )
    channels = select(col(Subscription.channel)).where(col(Subscription.tenant_gid) == tenant.gid).distinct()
    await bump(session, *(await session.execute(channels)).scalars())
    return True


async def names(session: AsyncSession, gids: set[str]) -> dict[str, str]:
    """Names by gid."""
    if not gids:
        return {}
    result = await session.execute(select(Tenant).where(col(Tenant.gid).in_(gids)))
    return {tenant.gid: tenant.name for tenant in result.scalars()}


def _is_named(named: str) -> ColumnElement[bool]:
    return or_(col(Tenant.name) == named, col(Tenant.gid) == named)
