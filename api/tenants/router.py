"""Tenants: the publisher's customers. Endpoints create them by naming them, too."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from api import problem_types
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.idempotency import OnceDep
from api.problems import documents, invalid, refuse_nulls
from api.schemas import Gid, ListOf, alerts_of
from api.tenants.schemas import TenantIn, TenantOut, TenantPatch
from everhook.storage.tables import Tenant

router = APIRouter(prefix="/tenants", tags=["tenants"])


@router.post("", status_code=HTTPStatus.CREATED, responses=documents(problem_types.TENANT_NAME_TAKEN))
async def create_tenant(
    body: TenantIn, services: ServicesDep, store: Store, caller: Principal, once: OnceDep
) -> TenantOut:
    """Create a tenant. Endpoints and messages refer to it by its name or its gid."""
    async with once.writing(store) as session:
        tenant = await services.tenants.create(session, caller.actor, body.name, body.publish_rate)
        return await once.keep(session, _shown(tenant), HTTPStatus.CREATED, tenant.gid)


@router.get("")
async def list_tenants(paging: Paging, services: ServicesDep, store: Store) -> ListOf[TenantOut]:
    """List tenants, newest first."""
    async with store.reading() as session:
        page = await services.tenants.page(session, after=paging.after, limit=paging.limit)
    return ListOf(data=[_shown(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/{gid}")
async def get_tenant(gid: Gid, services: ServicesDep, store: Store) -> TenantOut:
    """Get a tenant by its gid or its name."""
    async with store.reading() as session:
        return _shown(await services.tenants.get(session, gid))


@router.patch("/{gid}", responses=documents(problem_types.TENANT_NAME_TAKEN))
async def update_tenant(
    gid: Gid, body: TenantPatch, services: ServicesDep, store: Store, caller: Principal
) -> TenantOut:
    """Give a tenant another name or another rate, or its endpoints other alert settings. Workflows that are running
    keep the old name in Temporal; a rate takes effect within seconds."""
    if not body.model_fields_set:
        raise invalid("name", "is required, unless `publishRate` or `alerts` are given")
    refuse_nulls(body, ("publish_rate", "alerts"))
    async with store.writing() as session:
        tenant = await services.tenants.get(session, gid)
        if "publish_rate" in body.model_fields_set:
            tenant = await services.tenants.set_publish_rate(session, caller.actor, tenant.gid, body.publish_rate)
        if "alerts" in body.model_fields_set:
            tenant = await services.tenants.set_alerts(session, caller.actor, tenant.gid, alerts_of(body.alerts))
        if body.name is not None:
            tenant = await services.tenants.rename(session, caller.actor, tenant.gid, body.name)
        return _shown(tenant)


@router.delete(
    "/{gid}", status_code=HTTPStatus.ACCEPTED, response_class=Response, responses=documents(problem_types.TENANT_IN_USE)
)
async def erase_tenant(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Erase a tenant with everything that is stored of it. At once it does not exist any more, its keys are refused and
    nothing more is sent to it; its rows are deleted in the background, within minutes."""
    await services.tenants.erase(store, caller.actor, gid)


def _shown(tenant: Tenant) -> TenantOut:
    return TenantOut(
        tenant_gid=tenant.gid,
        name=tenant.name,
        publish_rate=tenant.publish_rate,
        alerts=tenant.alerts,
        created_at=tenant.created_at,
    )
