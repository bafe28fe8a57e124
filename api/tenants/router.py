"""Tenants: the publisher's customers. Endpoints make them by naming them; here they are made beforehand and renamed."""

import asyncio
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import APIRouter
from pydantic import ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from api.dependencies import Paging, Principal, ServicesDep, Store
from api.idempotency import NOT_KEYED, OnceDep
from api.problems import Problem, conflict, not_found
from api.schemas import ApiModel, Gid, ListOf, Name
from everhook.storage.tables import DEFAULT_TENANT_GID, Tenant
from everhook.tenants import erasure_store as tenant_erasure
from everhook.tenants import store as tenants
from everhook.tenants.audit_store import record_audit
from everhook.tenants.erasure import start_erasure

router = APIRouter(prefix="/tenants", tags=["tenants"])
log = structlog.get_logger()

START_TIMEOUT_S = 2.0

_EXAMPLE: dict[str, Any] = {
    "tenantGid": "ten_01m83prhbfe23sdyzab24cmhby",
    "name": "acme",
    "createdAt": "2026-01-31T12:00:00Z",
}


class TenantIn(ApiModel):
    name: Name = Field(examples=["acme"])


class TenantOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    tenant_gid: str
    name: str
    created_at: datetime


@router.post("", status_code=HTTPStatus.CREATED)
async def create_tenant(body: TenantIn, store: Store, caller: Principal, once: OnceDep = NOT_KEYED) -> TenantOut:
    """Make a tenant. Endpoints and messages name it, by its name or its gid."""
    async with once.writing(store) as session:
        tenant = await tenants.create(session, body.name)
        if tenant is None:
            raise _taken(body.name)
        detail = {"name": tenant.name}
        record_audit(session, caller.actor, "tenant.created", tenant.gid, tenant_gid=tenant.gid, detail=detail)
        return await once.keep(session, _shown(tenant), HTTPStatus.CREATED, tenant.gid)


@router.get("")
async def list_tenants(paging: Paging, store: Store) -> ListOf[TenantOut]:
    """Newest first."""
    async with store.reading() as session:
        page = await tenants.page(session, after=paging.after, limit=paging.limit)
    return ListOf(data=[_shown(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/{gid}")
async def get_tenant(gid: Gid, store: Store) -> TenantOut:
    """One tenant, by gid or name."""
    async with store.reading() as session:
        return _shown(await _tenant(session, gid))


@router.patch("/{gid}")
async def rename_tenant(gid: Gid, body: TenantIn, store: Store, caller: Principal) -> TenantOut:
    """Give it another name. Workflows that run keep the old one in Temporal."""
    async with store.writing() as session:
        found = await _tenant(session, gid)
        before = found.name
        if not await tenants.rename(session, found, body.name):
            raise _taken(body.name)
        detail = {"from": before, "to": found.name}
        record_audit(session, caller.actor, "tenant.renamed", found.gid, tenant_gid=found.gid, detail=detail)
        return _shown(found)


@router.delete("/{gid}", status_code=HTTPStatus.ACCEPTED)
async def erase_tenant(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Erase a tenant with all that is stored of it. From now on it does not exist, its keys are refused, and nothing
    more is sent to it; its rows are removed in the background, minutes later."""
    if gid == DEFAULT_TENANT_GID:
        raise conflict(
            "The default tenant owns what names no tenant; it cannot be erased. Delete its endpoints instead."
        )
    async with store.writing() as session:
        if not await tenant_erasure.begin(session, gid):
            raise not_found("tenant", gid)
        record_audit(session, caller.actor, "tenant.erased", gid)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            settle = timedelta(seconds=services.settings.erasure_settle_seconds)
            await start_erasure(services.temporal, gid, settle)
    except Exception as error:
        log.warning("retention will go on with the erasure of a tenant", tenant_gid=gid, error=str(error))


async def _tenant(session: AsyncSession, named: str) -> Tenant:
    tenant = await tenants.find_tenant(session, named)
    if tenant is None:
        raise not_found("tenant", named)
    return tenant


def _taken(name: str) -> Problem:
    return conflict(f"name: {name} is another tenant's, or looks like a gid.")


def _shown(tenant: Tenant) -> TenantOut:
    return TenantOut(tenant_gid=tenant.gid, name=tenant.name, created_at=tenant.created_at)
