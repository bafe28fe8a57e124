"""Tenants: named by their publisher, made the first time an endpoint names them."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.storage.statements import insert_ignoring
from everhook.storage.tables import Tenant


async def find_tenant(session: AsyncSession, name: str) -> Tenant | None:
    result = await session.execute(select(Tenant).where(col(Tenant.name) == name))
    return result.scalar_one_or_none()


async def ensure_tenant(session: AsyncSession, name: str) -> Tenant:
    """The tenant of this name, made if need be; two callers at once get the same one."""
    new = Tenant(name=name)
    connection = await session.connection()
    await session.execute(insert_ignoring(connection, Tenant, "name"), [new.model_dump()])
    result = await session.execute(select(Tenant).where(col(Tenant.name) == name))
    tenant: Tenant = result.scalar_one()
    return tenant


async def names(session: AsyncSession, gids: set[str]) -> dict[str, str]:
    """Names by gid."""
    if not gids:
        return {}
    result = await session.execute(select(Tenant).where(col(Tenant.gid).in_(gids)))
    return {tenant.gid: tenant.name for tenant in result.scalars()}
