"""How well endpoints do: one of them, or all at a glance."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import ServicesDep, Store
from api.health.schemas import EndpointHealthOut, OverviewOut
from api.problems import invalid, not_found
from api.schemas import Gid, Name
from everhook.endpoints import store as endpoints
from everhook.health.overview_store import WORST
from everhook.health.score import Window
from everhook.health.store import endpoint_health
from everhook.storage.tables import now
from everhook.tenants import store as tenants

router = APIRouter(tags=["health"])


@router.get("/endpoints/{gid}/health")
async def get_endpoint_health(gid: Gid, store: Store, window: Window = Window.DAY) -> EndpointHealthOut:
    """Its score and what the score is made of; and what it did within the window, for charts.

    The score is of this moment, whatever the window: it looks at the last hour and the last day.
    """
    async with store.reading() as session:
        view = await endpoints.view(session, gid)
        if view is None:
            raise not_found("endpoint", gid)
        found = await endpoint_health(session, view.circuit, window, now())
    return EndpointHealthOut.shown(view, window, found)


@router.get("/health/overview")
async def get_overview(
    services: ServicesDep, store: Store, tenant: Name | None = None, limit: Annotated[int, Query(ge=1, le=WORST)] = 20
) -> OverviewOut:
    """Everything that one glance must tell: of one tenant, or of all that the caller reaches."""
    tenant_gid = store.tenant_gid
    if tenant is not None:
        async with store.reading() as session:
            found = await tenants.find_tenant(session, tenant)
        if found is None:
            raise invalid("tenant", f"there is no tenant {tenant}")
        tenant_gid = found.gid
    return OverviewOut.of(await services.board.overview(tenant_gid), limit)
