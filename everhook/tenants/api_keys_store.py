"""API keys, `<gid>_<random>`: shown once when created, stored as the SHA-256 of the whole.

A key is 32 random bytes, so a fast hash is enough: there is nothing to guess.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, bindparam, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.ids import Kind, new_gid
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database
from everhook.storage.paging import Page, page_of
from everhook.storage.tables import ApiKey, Tenant, now
from everhook.tenants.audit_store import Actor, record_audit

_KEY = re.compile(r"(ek_[0-7][0-9a-hjkmnp-tv-z]{25})_[A-Za-z0-9_-]{43}")
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_NOBODYS = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
"""Compared against where no key has the id, so that an unknown id takes as long as a wrong key."""


class Scope(StrEnum):
    """What a caller may do. `tenant` is shown as `tenant:<gid>`: everything of that tenant's, and nothing else."""

    ADMIN = "admin"
    PUBLISH = "publish"
    READ = "read"
    TENANT = "tenant"


GIVEN_SCOPES = frozenset({Scope.ADMIN, Scope.PUBLISH, Scope.READ})
"""`tenant` is given by naming one."""


@dataclass(frozen=True)
class Holder:
    """Who a key belongs to."""

    gid: str
    name: str
    scopes: frozenset[Scope]
    tenant_gid: str | None


class ApiKeys:
    """Whose keys are presented: one read by primary key, those of concurrent requests in one query.

    Nothing is kept, so a revocation counts from its commit on. The read costs a lone request 0.7 ms of CPU, and each of
    fifty at once 0.03 ms: keeping keys for a second would save little where it matters, and be late.
    """

    def __init__(self, database: Database) -> None:
        self._group = BatchExecutor(database.read_connection, _load)

    async def holder(self, presented: str) -> Holder | None:
        """None for a key that was never created, was altered or revoked, or has expired."""
        shape = _KEY.fullmatch(presented)
        if shape is None:
            return None
        row = await self._group.submit(shape[1])
        is_right = hmac.compare_digest(_sha256(presented), row.sha256 if row is not None else _NOBODYS)
        return _holder(row) if is_right else None

    async def holder_of(self, gid: str) -> Holder | None:
        """Of a key that was presented before, and is named since then. None once it opens nothing."""
        return _holder(await self._group.submit(gid))


def _holder(row: Any) -> Holder | None:
    if row is None or not _is_usable(row, now()):
        return None
    return Holder(row.gid, row.name, frozenset(Scope(scope) for scope in row.scopes), row.tenant_gid)


async def _load(connection: AsyncConnection, gids: Sequence[str]) -> Sequence[Any]:
    found = {row.gid: row for row in await connection.execute(_ROWS, {"gids": set(gids)})}
    return [found.get(gid) for gid in gids]


_ROWS: Select[*tuple[Any, ...]] = (
    select(
        col(ApiKey.gid),
        col(ApiKey.name),
        col(ApiKey.sha256),
        col(ApiKey.scopes),
        col(ApiKey.tenant_gid),
        col(ApiKey.expires_at),
        col(ApiKey.revoked_at),
        col(Tenant.erasing_since),
    )
    .outerjoin(Tenant, col(Tenant.gid) == col(ApiKey.tenant_gid))
    .where(col(ApiKey.gid).in_(bindparam("gids", expanding=True)))
)


def _is_usable(row: Any, moment: datetime) -> bool:
    return state_of(row, moment) == "active" and row.erasing_since is None


def state_of(row: Any, moment: datetime | None = None) -> Literal["active", "expired", "revoked"]:
    if row.revoked_at is not None:
        return "revoked"
    return "active" if row.expires_at is None or row.expires_at > (moment or now()) else "expired"


def shown_scopes(row: ApiKey) -> list[str]:
    """As people see them: a tenant's key names its tenant."""
    return [f"tenant:{row.tenant_gid}" if scope == Scope.TENANT else scope for scope in row.scopes]


def why_refused(name: str, scopes: Collection[str], *, has_tenant: bool) -> tuple[str, str] | None:
    """The field that is wrong with a key that is asked for, and why."""
    if not NAME.fullmatch(name):
        return "name", "takes 1 to 100 characters, none of them a control character"
    known = {Scope.PUBLISH} if has_tenant else GIVEN_SCOPES
    if not known.issuperset(scopes):
        why = "to a tenant's key only publish can be added" if has_tenant else "takes admin, publish and read"
        return "scopes", why
    if not scopes and not has_tenant:
        return "scopes", "names none, and without a tenant such a key opens nothing"
    return None


def _usable(moment: datetime) -> ColumnElement[bool]:
    return and_(
        col(ApiKey.revoked_at).is_(None), or_(col(ApiKey.expires_at).is_(None), col(ApiKey.expires_at) > moment)
    )


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def create(
    session: AsyncSession,
    name: str,
    scopes: Collection[Scope],
    *,
    tenant_gid: str | None = None,
    expires_at: datetime | None = None,
    created_by: str,
) -> tuple[ApiKey, str]:
    """Make a key; returns its row and the key itself, which cannot be had again."""
    gid = new_gid(Kind.API_KEY)
    key = f"{gid}_{secrets.token_urlsafe(32)}"
    row = ApiKey(
        gid=gid,
        name=name,
        sha256=_sha256(key),
        scopes=sorted({*scopes, Scope.TENANT} if tenant_gid is not None else scopes),
        tenant_gid=tenant_gid,
        created_by=created_by,
        expires_at=expires_at,
    )
    session.add(row)
    await session.flush()
    return row, key


async def get(session: AsyncSession, gid: str) -> ApiKey | None:
    return await session.get(ApiKey, gid)


async def in_tenant_scope(session: AsyncSession, gids: Collection[str]) -> set[str]:
    """Those of these keys that the session sees: a tenant's sees its own."""
    found = await session.execute(select(col(ApiKey.gid)).where(col(ApiKey.gid).in_(gids)))
    return set(found.scalars())


async def page(session: AsyncSession, *, after: str | None, limit: int) -> Page[ApiKey]:
    return await page_of(session, select(ApiKey), col(ApiKey.gid), after=after, limit=limit)


async def revoke(session: AsyncSession, key: ApiKey) -> None:
    """From the commit on it opens nothing. Revoking twice keeps the first time."""
    key.revoked_at = key.revoked_at or now()
    session.add(key)
    await session.flush()


def audit(session: AsyncSession, actor: Actor, action: str, key: ApiKey) -> None:
    """Record that a key was created or revoked."""
    detail = {"name": key.name, "scopes": shown_scopes(key)}
    record_audit(session, actor, action, key.gid, tenant_gid=key.tenant_gid, detail=detail)


async def has_usable(session: AsyncSession) -> bool:
    """Whether anybody could call at all."""
    found = await session.execute(select(col(ApiKey.gid)).where(_usable(now())).limit(1))
    return found.scalar_one_or_none() is not None
