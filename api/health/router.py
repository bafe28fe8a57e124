"""The health of endpoints: of one, or an overview."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import ServicesDep, Store
from api.health.schemas import EndpointHealthOut, OverviewOut
from api.schemas import Gid, Name
from everhook.health.overview_store import WORST
from everhook.health.score import Window

router = APIRouter(tags=["health"])


@router.get("/endpoints/{gid}/health")
async def get_endpoint_health(
    gid: Gid, services: ServicesDep, store: Store, window: Window = Window.DAY
) -> EndpointHealthOut:
    """Get the score of an endpoint with its parts, and its attempts within the window, for charts.

    The score does not depend on the window: it covers the last hour and the last day.
    """
    async with store.reading() as session:
        found = await services.health.endpoint(session, gid, window)
    return EndpointHealthOut.shown(found, window)


@router.get("/health/overview")
async def get_health_overview(
    services: ServicesDep,
    store: Store,
    tenant: Name | None = None,
    limit: Annotated[int, Query(ge=1, le=WORST, description="How many endpoints at most.")] = 20,
) -> OverviewOut:
    """Get the endpoints with the lowest scores, the errors and what waits: of one tenant, or of all that the caller may
    see."""
    return OverviewOut.of(await services.health.overview(store, tenant), limit)
