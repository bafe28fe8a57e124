"""Endpoints, with their circuit and secrets. A deleted endpoint stays as a row: its deliveries refer to it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.circuit.machine import Hold
from everhook.credentials.auth import EndpointAuth
from everhook.delivery import policy_history_store as policy_history
from everhook.delivery.limits import queue_limit
from everhook.delivery.policy import resolve
from everhook.egress import TlsExtras
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.publishing.routes_store import bump_endpoint
from everhook.publishing.routing import Route
from everhook.signing import secrets_store as secrets
from everhook.signing.schemes import new_secret
from everhook.signing.secrets_store import EndpointPublicKey
from everhook.storage.encryption import ENDPOINT_AUTH, ENDPOINT_TLS_KEY
from everhook.storage.header_encryption import header_columns
from everhook.storage.keyring import KeyRing
from everhook.storage.paging import Page, one_of, page_of
from everhook.storage.tables import CircuitRow, Endpoint, EndpointAlerts, EndpointSecret, Tenant, now

_VIEW: Select[Endpoint, CircuitRow, str] = (
    select(Endpoint, CircuitRow, col(Tenant.name))
    .join(CircuitRow, col(CircuitRow.endpoint_gid) == col(Endpoint.gid))
    .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
)


@dataclass(frozen=True)
class EndpointView:
    """An endpoint with everything that the API shows of it."""

    endpoint: Endpoint
    circuit: CircuitRow
    tenant: str
    public_keys: Sequence[EndpointPublicKey]


def route_to(view: EndpointView) -> Route:
    """The route of a message to one endpoint, regardless of its subscriptions."""
    endpoint = view.endpoint
    return Route(
        endpoint_gid=endpoint.gid,
        tenant_gid=endpoint.tenant_gid,
        tenant=view.tenant,
        events=(),
        filter=None,
        policy=resolve(endpoint.policy),
        rate_limit=queue_limit(endpoint.rate_limit, endpoint.max_in_flight),
        mode=endpoint.mode,
        options=endpoint.options,
    )


async def create(
    session: AsyncSession,
    keyring: KeyRing,
    endpoint: Endpoint,
    *,
    tls: TlsExtras | None = None,
    auth: EndpointAuth | None = None,
    ed25519: bool = False,
    secret: str | None = None,
    hold: Hold | None = None,
) -> str | None:
    """Store an endpoint with a closed circuit. The values of its headers are encrypted. Returns its signing secret:
    `secret`, or a new one; None in modes in which nothing is signed."""
    gid = endpoint.gid
    encrypted = tls_columns(keyring, gid, tls) | auth_columns(keyring, gid, auth)
    for name, value in (encrypted | header_columns(keyring, gid, endpoint.headers)).items():
        setattr(endpoint, name, value)
    session.add(endpoint)
    await session.flush()
    session.add(CircuitRow(endpoint_gid=gid, hold=hold))
    secret = (secret or new_secret()) if endpoint.mode.is_signed else None
    if secret is not None:
        session.add(secrets.encrypted_secret(keyring, gid, secret))
    if ed25519:
        session.add(secrets.new_key_pair(keyring, gid))
    await session.flush()
    return secret


def tls_columns(keyring: KeyRing, gid: str, extras: TlsExtras | None) -> dict[str, Any]:
    """TLS settings as an endpoint's row holds them, with the key encrypted for it."""
    extras = extras or TlsExtras()
    return {
        "tls_ca": extras.ca,
        "tls_certificate": extras.certificate,
        "tls_key": ENDPOINT_TLS_KEY.encrypt(keyring, extras.key, gid) if extras.key is not None else None,
    }


def auth_columns(keyring: KeyRing, gid: str, auth: EndpointAuth | None) -> dict[str, Any]:
    """`auth` as an endpoint's row holds it, with the secret encrypted for it."""
    if auth is None:
        return {"auth": None, "auth_secret": None}
    return {"auth": auth.shown(), "auth_secret": ENDPOINT_AUTH.encrypt(keyring, auth.secret, gid)}


async def view(session: AsyncSession, gid: str, *, for_change: bool = False) -> EndpointView | None:
    """None if there is no such endpoint, or it was deleted. `for_change` locks its row until the transaction ends."""
    statement = _VIEW.where(col(Endpoint.gid) == gid, col(Endpoint.deleted_at).is_(None))
    if for_change:
        statement = statement.with_for_update(of=Endpoint)
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        return None
    endpoint, circuit, tenant = row
    keys = await secrets.public_keys(session, [gid])
    return EndpointView(endpoint, circuit, tenant, keys.get(gid, ()))


async def receiving(session: AsyncSession, gid: str) -> Any | None:
    """What consumers need to know of an endpoint, read for each of their calls: `tenant_gid`, `tenant`, `mode`,
    `options`. None if there is no such endpoint, or it was deleted."""
    return (await session.execute(_RECEIVING, {"gid": gid})).one_or_none()


_RECEIVING = (
    select(
        col(Endpoint.tenant_gid),
        col(Tenant.name).label("tenant"),
        col(Endpoint.mode),
        col(Endpoint.options),
    )
    .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
    .where(col(Endpoint.gid) == bindparam("gid"), col(Endpoint.deleted_at).is_(None))
)


async def deleted(session: AsyncSession, gids: Collection[str]) -> set[str]:
    """Those of these endpoints that were deleted."""
    statement = select(col(Endpoint.gid)).where(col(Endpoint.gid).in_(gids), col(Endpoint.deleted_at).is_not(None))
    return set((await session.execute(statement)).scalars())


async def is_deleted(session: AsyncSession, gid: str) -> bool:
    return bool(await deleted(session, [gid]))


async def by_gid(session: AsyncSession, gids: Collection[str]) -> dict[str, Endpoint]:
    """Deleted ones, too: deliveries refer to them."""
    rows = await session.execute(select(Endpoint).where(col(Endpoint.gid).in_(gids)))
    return {endpoint.gid: endpoint for endpoint in rows.scalars()}


async def page(
    session: AsyncSession, *, tenant_gid: str | tuple[str, ...] | None, after: str | None, limit: int
) -> tuple[list[EndpointView], str | None]:
    statement = select(Endpoint).where(col(Endpoint.deleted_at).is_(None))
    statement = statement.where(*one_of(col(Endpoint.tenant_gid), tenant_gid))
    found: Page[Endpoint] = await page_of(session, statement, col(Endpoint.gid), after=after, limit=limit)
    gids = [endpoint.gid for endpoint in found.rows]
    keys = await secrets.public_keys(session, gids)
    rows = await session.execute(_VIEW.where(col(Endpoint.gid).in_(gids)).order_by(col(Endpoint.gid).desc()))
    views = [EndpointView(row, circuit, tenant, keys.get(row.gid, ())) for row, circuit, tenant in rows]
    return views, found.next_key


async def change(session: AsyncSession, endpoint: Endpoint, changes: dict[str, Any]) -> None:
    """Change an endpoint. Senders and publishers see the change as soon as it is committed.

    The endpoint must have been read `for_change`: otherwise two concurrent changes could get the same version.
    """
    if changes.get("policy", endpoint.policy) != endpoint.policy:
        await policy_history.record_policy(session, endpoint.policy, endpoint_gid=endpoint.gid)
    for name, value in changes.items():
        setattr(endpoint, name, value)
    endpoint.version += 1
    endpoint.updated_at = now()
    session.add(endpoint)
    await session.flush()
    await bump_endpoint(session, endpoint.gid)


async def remove(session: AsyncSession, endpoint: Endpoint) -> None:
    secret: dict[str, Any] = {"tls_key": None, "headers": {}, "header_values": None, "auth": None, "auth_secret": None}
    await subscriptions.remove_of_endpoint(session, endpoint.gid)
    await change(session, endpoint, {"deleted_at": now(), **secret})
    await session.execute(delete(EndpointSecret).where(col(EndpointSecret.endpoint_gid) == endpoint.gid))
    await session.execute(delete(EndpointAlerts).where(col(EndpointAlerts.endpoint_gid) == endpoint.gid))
