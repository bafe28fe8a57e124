"""Whether the process runs, whether it can accept messages, and which version it is."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import ConfigDict

from api.dependencies import ServicesDep
from api.health.readiness import Readiness
from api.schemas import ApiModel
from everhook import __version__

router = APIRouter(tags=["health"])


class Liveness(ApiModel):
    """The process runs and its event loop responds."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok"] = "ok"


class Version(ApiModel):
    """Which version of Everhook this is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "1.0.0"}]})

    version: str


@router.get("/livez")
async def get_liveness() -> Liveness:
    """Check that the process runs."""
    return Liveness()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Messages cannot be accepted."}})
async def get_readiness(services: ServicesDep, response: Response) -> Readiness:
    """Check which dependency is down. The status is `503` only if messages cannot be accepted."""
    readiness = await services.readiness()
    if not readiness.ready:
        response.status_code = 503
    return readiness


@router.get("/version")
async def get_version() -> Version:
    """Get the version of Everhook."""
    return Version(version=__version__)
