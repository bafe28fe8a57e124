"""API keys: made, listed, revoked. A key is shown once, when it is made."""

from datetime import datetime
from http import HTTPStatus
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from api.dependencies import Paging, Principal, Store
from api.idempotency import NOT_KEYED, OnceDep
from api.problems import invalid, not_found
from api.schemas import ApiModel, Gid, ListOf, Moment
from everhook.storage.tables import ApiKey, Tenant, now
from everhook.tenants import api_keys_store as api_keys
from everhook.tenants import store as tenants
from everhook.tenants.api_keys_store import Scope

router = APIRouter(prefix="/api-keys", tags=["API keys"])

_EXAMPLE_IN: dict[str, Any] = {"name": "billing", "scopes": ["publish"], "expiresAt": "2099-01-31T12:00:00Z"}
_EXAMPLE: dict[str, Any] = {
    "keyGid": "ek_01m83prhbfe23sdyzab24cmhby",
    "name": "portal of acme",
    "scopes": ["publish", "tenant:ten_01m83prhbfe23sdyzab24cmhby"],
    "tenant": "acme",
    "state": "active",
    "createdBy": "environment",
    "createdAt": "2026-01-31T12:00:00Z",
    "expiresAt": None,
    "revokedAt": None,
}


class ApiKeyIn(ApiModel):
    """With `tenant` the key reaches that tenant's things only, and `publish` alone may be added to it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "billing", "scopes": ["publish"], "expiresAt": "2099-01-31T12:00:00Z"}]
        }
    )

    name: str = Field(description="Whose it is; goes on record with what they do.")
    scopes: list[Literal["admin", "publish", "read"]] = Field(default_factory=list)
    tenant: Gid | None = Field(None, description="Name or gid.")
    expires_at: Moment | None = None


class ApiKeyOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    key_gid: str
    name: str
    scopes: list[str]
    tenant: str | None
    state: Literal["active", "expired", "revoked"]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class ApiKeyCreated(ApiKeyOut):
    key: str = Field(description="Shown this once.")


@router.post("", status_code=HTTPStatus.CREATED)
async def create_api_key(body: ApiKeyIn, store: Store, caller: Principal, once: OnceDep = NOT_KEYED) -> ApiKeyCreated:
    """Make a key. The answer holds it; afterwards only its hash is known."""
    if (wrong := api_keys.why_refused(body.name, body.scopes, has_tenant=body.tenant is not None)) is not None:
        raise invalid(*wrong)
    if body.expires_at is not None and body.expires_at <= now():
        raise invalid("expiresAt", "lies in the past")
    async with once.writing(store) as session:
        tenant = await _owner(session, body.tenant)
        row, key = await api_keys.create(
            session,
            body.name,
            [Scope(scope) for scope in body.scopes],
            tenant_gid=tenant.gid if tenant is not None else None,
            expires_at=body.expires_at,
            created_by=caller.name,
        )
        api_keys.audit(session, caller.actor, "api_key.created", row)
        shown = _shown(row, tenant.name if tenant is not None else None)
        response = ApiKeyCreated(**shown.model_dump(), key=key)
        return await once.keep(session, response, HTTPStatus.CREATED, row.tenant_gid)


@router.get("")
async def list_api_keys(paging: Paging, store: Store) -> ListOf[ApiKeyOut]:
    """Newest first, those that were revoked or have expired among them."""
    async with store.reading() as session:
        page = await api_keys.page(session, after=paging.after, limit=paging.limit)
        names = await tenants.names(session, {row.tenant_gid for row in page.rows if row.tenant_gid})
    data = [_shown(row, names.get(row.tenant_gid or "")) for row in page.rows]
    return ListOf(data=data, next_cursor=paging.next_cursor(page.next_key))


@router.get("/{gid}")
async def get_api_key(gid: Gid, store: Store) -> ApiKeyOut:
    """One key: whose, for what, for how long. The key itself is not shown again."""
    async with store.reading() as session:
        row = await _key(session, gid)
        names = await tenants.names(session, {row.tenant_gid} if row.tenant_gid else set())
    return _shown(row, names.get(row.tenant_gid or ""))


@router.delete("/{gid}", status_code=HTTPStatus.NO_CONTENT)
async def revoke_api_key(gid: Gid, store: Store, caller: Principal) -> None:
    """Revoke it. Once this is answered it opens nothing, at any process."""
    async with store.writing() as session:
        row = await _key(session, gid)
        await api_keys.revoke(session, row)
        api_keys.audit(session, caller.actor, "api_key.revoked", row)


async def _key(session: AsyncSession, gid: str) -> ApiKey:
    row = await api_keys.get(session, gid)
    if row is None:
        raise not_found("API key", gid)
    return row


async def _owner(session: AsyncSession, named: str | None) -> Tenant | None:
    tenant = await tenants.find_tenant(session, named) if named is not None else None
    if named is not None and tenant is None:
        raise invalid("tenant", f"there is no tenant {named}")
    return tenant


def _shown(row: ApiKey, tenant: str | None) -> ApiKeyOut:
    return ApiKeyOut(
        key_gid=row.gid,
        name=row.name,
        scopes=api_keys.shown_scopes(row),
        tenant=tenant,
        state=api_keys.state_of(row),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
