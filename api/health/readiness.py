"""Whether this process can accept messages: what `/readyz` says."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum

from async_lru import alru_cache
from pydantic import ConfigDict
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from api.schemas import ApiModel
from everhook.storage.engine import Database

CHECK_TIMEOUT_S = 2.0
CHECK_EVERY_S = 1.0


class DependencyState(StrEnum):
    """Whether a dependency responded to the last check."""

    OK = "ok"
    DOWN = "down"


class Readiness(ApiModel):
    """`ready`: can accept messages. That takes the database alone; with Temporal down, deliveries wait."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ready": True, "database": "ok", "temporal": "ok"}]})

    ready: bool
    database: DependencyState
    temporal: DependencyState


ReadinessCheck = Callable[[], Awaitable[Readiness]]


def readiness_check(database: Database, temporal: Client) -> ReadinessCheck:
    """Checks the dependencies once a second (single flight), however many ask: it takes no key to ask."""

    @alru_cache(ttl=CHECK_EVERY_S)
    async def check() -> Readiness:
        of_database, of_temporal = await asyncio.gather(_state(database.ping()), _state(_described(temporal)))
        return Readiness(ready=of_database is DependencyState.OK, database=of_database, temporal=of_temporal)

    return check


async def _described(temporal: Client) -> None:
    await temporal.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=temporal.namespace))


async def _state(check: Awaitable[None]) -> DependencyState:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check
    except Exception:
        return DependencyState.DOWN
    return DependencyState.OK
