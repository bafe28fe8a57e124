"""API keys, `<gid>_<random>`: shown once when created, stored as the SHA-256 of the whole key.

A key has 32 random bytes, so a fast hash is enough: it cannot be guessed.
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

from everhook.audit.store import Actor, record_audit
from everhook.contracts import DeliveryMode
from everhook.ids import Kind, is_gid, new_gid
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database
from everhook.storage.paging import Page, page_of
from everhook.storage.tables import ApiKey, Endpoint, Tenant, now

_KEY = re.compile(r"(ek_[0-7][0-9a-hjkmnp-tv-z]{25})_[A-Za-z0-9_-]{43}")
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_NO_KEY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
"""Compared with the presented key if no key has its id, so that an unknown id takes as long as a wrong key."""


class Scope(StrEnum):
    """What a caller may do. `tenant` is shown as `tenant:<gid>`: everything of that tenant, and nothing else.
    `receive` is granted for one endpoint, as `receive:<gid>`: take and acknowledge its deliveries, and nothing else.
    `tasks` is granted for one inbox, as `tasks:<gid>`: see and decide its tasks, and nothing else."""

    ADMIN = "admin"
    PUBLISH = "publish"
    READ = "read"
    TENANT = "tenant"
    RECEIVE = "receive"
    TASKS = "tasks"


GIVEN_SCOPES = frozenset({Scope.ADMIN, Scope.PUBLISH, Scope.READ})
"""The scopes that can be granted. The scope `tenant` is granted by naming a tenant."""

BOUND_SCOPES = frozenset({Scope.RECEIVE, Scope.TASKS})
"""Those that are granted for one endpoint. A key with one has no other scopes than such."""

SCOPE_PATTERN = rf"^({'|'.join(sorted(GIVEN_SCOPES))}|({'|'.join(sorted(BOUND_SCOPES))}):ep_[0-9a-z]{{26}})$"
"""A scope, as a request for a key names it."""


@dataclass(frozen=True)
class BoundScope:
    """A scope for one endpoint, written `receive:<gid>` or `tasks:<gid>`."""

    scope: Scope
    endpoint_gid: str

    @classmethod
    def parse(cls, text: str) -> "BoundScope | None":
        """None for any other scope."""
        name, separator, gid = text.partition(":")
        if not separator or name not in BOUND_SCOPES or not is_gid(gid, Kind.ENDPOINT):
            return None
        return cls(Scope(name), gid)


@dataclass(frozen=True)
class Holder:
    """The holder of a key. `bound` are the scopes for one endpoint each, `scopes` all others. `tenant_rate` is how much
    may be published for its tenant."""

    gid: str
    name: str
    scopes: frozenset[Scope]
    tenant_gid: str | None
    bound: frozenset[BoundScope] = frozenset()
    tenant_rate: str | None = None


class ApiKeys:
    """Looks up presented keys: one read by primary key; concurrent requests share one query.

    Nothing is cached, so a revocation takes effect with its commit. The read costs a single request 0.7 ms of CPU, and
    each of fifty concurrent ones 0.03 ms: a cache would save little under load, and be late.
    """

    def __init__(self, database: Database) -> None:
        self._group = BatchExecutor(database.read_connection, _load)

    async def holder(self, presented: str) -> Holder | None:
        """The holder of a key; None if the key does not exist, was altered or revoked, or has expired."""
        shape = _KEY.fullmatch(presented)
        if shape is None:
            return None
        row = await self._group.submit(shape[1])
        is_right = hmac.compare_digest(_sha256(presented), row.sha256 if row is not None else _NO_KEY)
        return _holder(row) if is_right else None

    async def holder_of(self, gid: str) -> Holder | None:
        """The holder of a key that was presented earlier, by its gid; None once the key is no longer valid."""
        return _holder(await self._group.submit(gid))


def _holder(row: Any) -> Holder | None:
    if row is None or not _is_usable(row, now()):
        return None
    bound = {scope: BoundScope.parse(scope) for scope in row.scopes}
    return Holder(
        row.gid,
        row.name,
        frozenset(Scope(text) for text, scope in bound.items() if scope is None),
        row.tenant_gid,
        frozenset(scope for scope in bound.values() if scope is not None),
        row.publish_rate,
    )


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
        col(Tenant.publish_rate),
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
    """The scopes as people see them: a tenant's key names the tenant."""
    return [f"tenant:{row.tenant_gid}" if scope == Scope.TENANT else scope for scope in row.scopes]


def why_refused(name: str, scopes: Collection[str], *, has_tenant: bool) -> tuple[str, str] | None:
    """The invalid field of a request for a key, and the reason; None if all fields are valid."""
    if not NAME.fullmatch(name):
        return "name", "takes 1 to 100 characters, none of them a control character"
    others = [scope for scope in scopes if BoundScope.parse(scope) is None]
    if others and len(others) < len(scopes):
        return "scopes", "for one endpoint open nothing else: leave out the others"
    known = {Scope.PUBLISH} if has_tenant else GIVEN_SCOPES
    if not known.issuperset(others):
        why = "of a tenant's key can only be publish" if has_tenant else "can be admin, publish and read"
        return "scopes", why
    if not scopes and not has_tenant:
        return "scopes", "must name at least one scope, or a tenant"
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
    scopes: Collection[str],
    *,
    tenant_gid: str | None = None,
    expires_at: datetime | None = None,
    created_by: str,
) -> tuple[ApiKey, str]:
    """Create a key. A tenant's key may do everything in its tenant, unless its scopes are for single endpoints.
    Returns its row and the key itself, which is not stored."""
    gid = new_gid(Kind.API_KEY)
    key = f"{gid}_{secrets.token_urlsafe(32)}"
    is_bound = any(BoundScope.parse(scope) is not None for scope in scopes)
    row = ApiKey(
        gid=gid,
        name=name,
        sha256=_sha256(key),
        scopes=sorted({*scopes, Scope.TENANT} if tenant_gid is not None and not is_bound else set(scopes)),
        tenant_gid=tenant_gid,
        created_by=created_by,
        expires_at=expires_at,
    )
    session.add(row)
    await session.flush()
    return row, key


async def owners_of(session: AsyncSession, scopes: Collection[BoundScope]) -> dict[BoundScope, str]:
    """The tenants of the endpoints of these scopes, for those that exist and have a mode that suits the scope."""
    rows = await session.execute(
        select(col(Endpoint.gid), col(Endpoint.tenant_gid), col(Endpoint.mode)).where(
            col(Endpoint.gid).in_({scope.endpoint_gid for scope in scopes}), col(Endpoint.deleted_at).is_(None)
        )
    )
    found = {row.gid: row for row in rows}
    return {
        scope: row.tenant_gid
        for scope in scopes
        if (row := found.get(scope.endpoint_gid)) is not None and _suits(scope.scope, row.mode)
    }


def _suits(scope: Scope, mode: DeliveryMode) -> bool:
    return mode is DeliveryMode.INBOX if scope is Scope.TASKS else mode.is_pulled


async def get(session: AsyncSession, gid: str) -> ApiKey | None:
    return await session.get(ApiKey, gid)


async def in_tenant_scope(session: AsyncSession, gids: Collection[str]) -> set[str]:
    """Those of these keys that the session can see: the session of a tenant sees its own."""
    found = await session.execute(select(col(ApiKey.gid)).where(col(ApiKey.gid).in_(gids)))
    return set(found.scalars())


async def page(session: AsyncSession, *, after: str | None, limit: int) -> Page[ApiKey]:
    return await page_of(session, select(ApiKey), col(ApiKey.gid), after=after, limit=limit)


async def revoke(session: AsyncSession, key: ApiKey) -> None:
    """Revoke a key. It is invalid from the commit on. Revoking it twice keeps the first time."""
    key.revoked_at = key.revoked_at or now()
    session.add(key)
    await session.flush()


def audit(session: AsyncSession, actor: Actor, action: str, key: ApiKey) -> None:
    """Record in the audit trail that a key was created or revoked."""
    detail = {"name": key.name, "scopes": shown_scopes(key)}
    record_audit(session, actor, action, key.gid, tenant_gid=key.tenant_gid, detail=detail)


async def has_usable(session: AsyncSession) -> bool:
    """Whether any valid key exists."""
    found = await session.execute(select(col(ApiKey.gid)).where(_usable(now())).limit(1))
    return found.scalar_one_or_none() is not None
