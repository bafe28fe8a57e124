"""Tenants: whose endpoints there are."""

import asyncio
from datetime import timedelta
from http import HTTPStatus

import structlog
from fastapi import APIRouter

from api.dependencies import Principal, ServicesDep
from api.problems import conflict, not_found
from api.schemas import Gid
from everhook.erasure import start_erasure
from everhook.storage import tenant_erasure
from everhook.storage.tables import DEFAULT_TENANT_GID

router = APIRouter(prefix="/tenants", tags=["tenants"])
log = structlog.get_logger()

START_TIMEOUT_S = 2.0


@router.delete("/{gid}", status_code=HTTPStatus.ACCEPTED)
async def erase_tenant(gid: Gid, services: ServicesDep, caller: Principal) -> None:
    """Erase a tenant with all that is stored of it. From now on it does not exist, its keys are refused, and nothing
    more is sent to it; its rows are removed in the background, minutes later."""
    if gid == DEFAULT_TENANT_GID:
        raise conflict(
            "The default tenant owns what names no tenant; it cannot be erased. Delete its endpoints instead."
        )
    async with services.database.writing() as session:
        if not await tenant_erasure.begin(session, gid):
            raise not_found("tenant", gid)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            settle = timedelta(seconds=services.settings.erasure_settle_seconds)
            await start_erasure(services.temporal, gid, settle)
    except Exception as error:
        log.warning("retention will go on with the erasure of a tenant", tenant_gid=gid, error=str(error))
