"""Endpoints, with their circuit and secrets. A deleted endpoint stays as a row: its deliveries tell of it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.keyring import KeyRing
from everhook.signing import new_secret
from everhook.storage import secrets
from everhook.storage.paging import Page, page_of
from everhook.storage.routes import bump_endpoint
from everhook.storage.tables import Circuit, Endpoint, EndpointSecret, Subscription, Tenant, now


@dataclass(frozen=True)
class EndpointView:
    """An endpoint as it is shown."""

    endpoint: Endpoint
    circuit: Circuit
    tenant: str


async def create(session: AsyncSession, keyring: KeyRing, endpoint: Endpoint) -> str:
    """Store an endpoint with a closed circuit and a new secret; returns the secret."""
    secret = new_secret()
    session.add(endpoint)
    await session.flush()
    session.add_all([Circuit(endpoint_gid=endpoint.gid), secrets.sealed(keyring, endpoint.gid, secret)])
    await session.flush()
    return secret


async def view(session: AsyncSession, gid: str) -> EndpointView | None:
    """None where there is none, or no longer."""
    result = await session.execute(
        select(Endpoint, Circuit, col(Tenant.name))
        .join(Circuit, col(Circuit.endpoint_gid) == col(Endpoint.gid))
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .where(col(Endpoint.gid) == gid, col(Endpoint.deleted_at).is_(None))
    )
    row = result.one_or_none()
    return EndpointView(*row) if row is not None else None


async def page(
    session: AsyncSession, *, tenant_gid: str | None, after: str | None, limit: int
) -> tuple[list[EndpointView], str | None]:
    statement = select(Endpoint).where(col(Endpoint.deleted_at).is_(None))
    if tenant_gid is not None:
        statement = statement.where(col(Endpoint.tenant_gid) == tenant_gid)
    found: Page[Endpoint] = await page_of(session, statement, col(Endpoint.gid), after=after, limit=limit)
    views = await session.execute(
        select(Endpoint, Circuit, col(Tenant.name))
        .join(Circuit, col(Circuit.endpoint_gid) == col(Endpoint.gid))
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .where(col(Endpoint.gid).in_([endpoint.gid for endpoint in found.rows]))
        .order_by(col(Endpoint.gid).desc())
    )
    return [EndpointView(*row) for row in views], found.next_key


async def change(session: AsyncSession, endpoint: Endpoint, changes: dict[str, Any]) -> None:
    """Senders and publishers see the change as soon as it is committed."""
    for name, value in changes.items():
        setattr(endpoint, name, value)
    endpoint.version += 1
    endpoint.updated_at = now()
    session.add(endpoint)
    await session.flush()
    await bump_endpoint(session, endpoint.gid)


async def remove(session: AsyncSession, endpoint: Endpoint) -> None:
    await change(session, endpoint, {"deleted_at": now()})
    await session.execute(delete(Subscription).where(col(Subscription.endpoint_gid) == endpoint.gid))
    await session.execute(delete(EndpointSecret).where(col(EndpointSecret.endpoint_gid) == endpoint.gid))
