"""Is it up, can it accept, what is it."""

from fastapi import APIRouter, Response

from api.dependencies import ServicesDep
from api.health.readiness import Readiness
from everhook import __version__

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(services: ServicesDep, response: Response) -> Readiness:
    """Which dependency is down; `503` only where messages cannot be accepted."""
    readiness = await services.readiness()
    if not readiness.ready:
        response.status_code = 503
    return readiness


@router.get("/version")
async def version() -> dict[str, str]:
    """Which version of Everhook this is."""
    return {"version": __version__}
