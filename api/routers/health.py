"""Is it up, can it accept, what is it."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Response
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

from api.dependencies import Services, ServicesDep
from api.schemas import ApiModel
from everhook import __version__

CHECK_TIMEOUT_S = 2.0

router = APIRouter(tags=["health"])

State = Literal["ok", "down"]


class Readiness(ApiModel):
    """`ready`: can accept messages. That takes the database alone; with Temporal down, deliveries wait."""

    ready: bool
    database: State
    temporal: State


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(services: ServicesDep, response: Response) -> Readiness:
    """Which dependency is down; `503` only where messages cannot be accepted."""
    database, temporal = await asyncio.gather(_database_state(services), _temporal_state(services))
    if database == "down":
        response.status_code = 503
    return Readiness(ready=database == "ok", database=database, temporal=temporal)


@router.get("/version")
async def version() -> dict[str, str]:
    """Which version of Everhook this is."""
    return {"version": __version__}


async def _database_state(services: Services) -> State:
    try:
        await asyncio.wait_for(services.database.ping(), CHECK_TIMEOUT_S)
    except Exception:
        return "down"
    return "ok"


async def _temporal_state(services: Services) -> State:
    client = services.temporal
    try:
        await asyncio.wait_for(
            client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace)),
            CHECK_TIMEOUT_S,
        )
    except Exception:
        return "down"
    return "ok"
