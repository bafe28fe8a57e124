"""Use cases of API keys: created, shown once, listed, revoked; and whose key a caller presents."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from everhook.audit.store import Actor
from everhook.errors import InvalidField, NotFound
from everhook.storage.engine import Database, Session
from everhook.storage.paging import Page
from everhook.storage.tables import ApiKey, Tenant, now
from everhook.tenants import api_keys_store as store
from everhook.tenants import store as tenants
from everhook.tenants.api_keys_store import ApiKeys, BoundScope, Holder, Scope


@dataclass(frozen=True)
class NewApiKey:
    """A key that is asked for. `tenant`, a name or a gid, makes it reach that tenant only."""

    name: str
    scopes: Collection[str] = ()
    tenant: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class ApiKeyView:
    """A key with the name of its tenant. `scopes` are as people see them: a tenant's key names its tenant."""

    row: ApiKey
    tenant: str | None

    @property
    def scopes(self) -> list[str]:
        return store.shown_scopes(self.row)

    @property
    def state(self) -> Literal["active", "expired", "revoked"]:
        return store.state_of(self.row)


@dataclass(frozen=True)
class CreatedApiKey(ApiKeyView):
    """`key` cannot be shown again: only its hash is stored."""

    key: str


class ApiKeyService:
    """Creates, lists and revokes keys, and finds the holder of one that is presented."""

    def __init__(self, database: Database) -> None:
        self._keys = ApiKeys(database)

    async def holder(self, presented: str) -> Holder | None:
        """None for a key that was never created, was altered or revoked, or has expired."""
        return await self._keys.holder(presented)

    async def holder_of(self, gid: str) -> Holder | None:
        """The holder of a key that was presented before. None once it opens nothing."""
        return await self._keys.holder_of(gid)

    async def create(self, session: Session, actor: Actor, new: NewApiKey) -> CreatedApiKey:
        """Raises InvalidField."""
        if (wrong := store.why_refused(new.name, new.scopes, has_tenant=new.tenant is not None)) is not None:
            raise InvalidField(*wrong)
        if new.expires_at is not None and new.expires_at <= now():
            raise InvalidField("expiresAt", "lies in the past")
        tenant = await _owner(session, new.tenant)
        tenant_gid = tenant.gid if tenant is not None else None
        if bound := [scope for scope in map(BoundScope.parse, new.scopes) if scope is not None]:
            tenant_gid = await _owner_of(session, bound, tenant_gid)
        row, key = await store.create(
            session,
            new.name,
            new.scopes,
            tenant_gid=tenant_gid,
            expires_at=new.expires_at,
            created_by=actor.name,
        )
        store.audit(session, actor, "api_key.created", row)
        names = await tenants.names(session, {tenant_gid} if tenant_gid is not None else set())
        return CreatedApiKey(row, names.get(tenant_gid or ""), key)

    async def page(self, session: Session, *, after: str | None, limit: int) -> Page[ApiKeyView]:
        """Newest first, expired and revoked ones included."""
        page = await store.page(session, after=after, limit=limit)
        names = await tenants.names(session, {row.tenant_gid for row in page.rows if row.tenant_gid})
        return Page([ApiKeyView(row, names.get(row.tenant_gid or "")) for row in page.rows], page.next_key)

    async def get(self, session: Session, gid: str) -> ApiKeyView:
        """Raises NotFound."""
        row = await _find(session, gid)
        names = await tenants.names(session, {row.tenant_gid} if row.tenant_gid else set())
        return ApiKeyView(row, names.get(row.tenant_gid or ""))

    async def revoke(self, session: Session, actor: Actor, gid: str) -> None:
        """From the commit on it opens nothing, at any process. Raises NotFound."""
        row = await _find(session, gid)
        await store.revoke(session, row)
        store.audit(session, actor, "api_key.revoked", row)

    async def has_usable(self, session: Session) -> bool:
        """Whether any key opens anything."""
        return await store.has_usable(session)


async def _find(session: Session, gid: str) -> ApiKey:
    row = await store.get(session, gid)
    if row is None:
        raise NotFound("API key", gid)
    return row


async def _owner_of(session: Session, bound: Collection[BoundScope], tenant_gid: str | None) -> str:
    """The tenant that owns the endpoints of these scopes. Raises InvalidField."""
    owners = await store.owners_of(session, bound)
    for scope in bound:
        owner = owners.get(scope)
        if owner is None or tenant_gid not in (None, owner):
            where = "there is" if tenant_gid is None else "this tenant has"
            what = "with the mode inbox" if scope.scope is Scope.TASKS else "with the mode poll or stream"
            raise InvalidField("scopes", f"{where} no endpoint {scope.endpoint_gid} {what}")
    if len(set(owners.values())) > 1:
        raise InvalidField("scopes", "name endpoints of more than one tenant")
    return owners[next(iter(bound))]


async def _owner(session: Session, named: str | None) -> Tenant | None:
    return await tenants.named_tenant(session, named) if named is not None else None
