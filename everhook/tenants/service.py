"""Use cases of tenants: create, rename, erase, and let one into its portal."""

import asyncio
from datetime import timedelta
from typing import Any

import structlog

from everhook.audit.store import Actor, record_audit
from everhook.errors import NotFound, TenantInUse, TenantNameTaken
from everhook.storage.engine import Session
from everhook.storage.paging import Page
from everhook.storage.tables import DEFAULT_TENANT_GID, Tenant
from everhook.storage.tenant_scope import TenantScope
from everhook.temporal.client import TemporalClient
from everhook.tenants import erasure_store as erasure
from everhook.tenants import store as tenants
from everhook.tenants.erasure import start_erasure

START_TIMEOUT_S = 2.0

log = structlog.get_logger()


class TenantService:
    """A tenant is named by its name or its gid. `grace` is how long an erasure lets deliveries in flight end."""

    def __init__(self, temporal: TemporalClient, grace: timedelta) -> None:
        self._temporal = temporal
        self._grace = grace

    async def create(self, session: Session, actor: Actor, name: str, publish_rate: str | None = None) -> Tenant:
        """`publish_rate`: messages that may be published for it, such as `100/minute`. Raises TenantNameTaken."""
        tenant = await tenants.create(session, name, publish_rate)
        if tenant is None:
            raise _name_taken(name)
        detail = {"name": tenant.name} | ({"publishRate": publish_rate} if publish_rate is not None else {})
        record_audit(session, actor, "tenant.created", tenant.gid, tenant_gid=tenant.gid, detail=detail)
        return tenant

    async def get(self, session: Session, named: str) -> Tenant:
        """Raises NotFound, also for a tenant that is being erased."""
        tenant = await tenants.find_tenant(session, named)
        if tenant is None:
            raise NotFound("tenant", named)
        return tenant

    async def page(self, session: Session, *, after: str | None, limit: int) -> Page[Tenant]:
        """One page, newest first."""
        return await tenants.page(session, after=after, limit=limit)

    async def rename(self, session: Session, actor: Actor, named: str, name: str) -> Tenant:
        """Workflows that are running keep the old name in Temporal. Raises NotFound and TenantNameTaken."""
        tenant = await self.get(session, named)
        before = tenant.name
        if not await tenants.rename(session, tenant, name):
            raise _name_taken(name)
        detail = {"from": before, "to": tenant.name}
        record_audit(session, actor, "tenant.renamed", tenant.gid, tenant_gid=tenant.gid, detail=detail)
        return tenant

    async def set_publish_rate(self, session: Session, actor: Actor, named: str, rate: str | None) -> Tenant:
        """None: no limit. Takes effect within seconds. Raises NotFound."""
        tenant = await self.get(session, named)
        await tenants.set_publish_rate(session, tenant, rate)
        detail = {"publishRate": rate}
        record_audit(session, actor, "tenant.changed", tenant.gid, tenant_gid=tenant.gid, detail=detail)
        return tenant

    async def set_alerts(self, session: Session, actor: Actor, named: str, alerts: dict[str, Any] | None) -> Tenant:
        """Set limits for the alerts of a tenant's endpoints. Raises NotFound."""
        tenant = await self.get(session, named)
        tenant.alerts = alerts
        session.add(tenant)
        await session.flush()
        record_audit(session, actor, "tenant.changed", tenant.gid, tenant_gid=tenant.gid, detail={"alerts": alerts})
        return tenant

    async def erase(self, scope: TenantScope, actor: Actor, gid: str) -> None:
        """Shut a tenant out at once, and start the workflow that deletes its rows. If Temporal is not reachable,
        retention starts it later. Takes a gid only. Raises NotFound and TenantInUse."""
        if gid == DEFAULT_TENANT_GID:
            raise TenantInUse(
                "The default tenant owns what names no tenant; it cannot be erased. Delete its endpoints instead."
            )
        async with scope.writing() as session:
            if not await erasure.begin(session, gid):
                raise NotFound("tenant", gid)
            record_audit(session, actor, "tenant.erased", gid)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await start_erasure(self._temporal, gid, self._grace)
        except Exception as error:
            log.warning("retention will start the erasure of a tenant", tenant_gid=gid, error=str(error))

    async def grant_portal_link(self, session: Session, actor: Actor, named: str) -> Tenant:
        """Record that a link to the portal was created, and return whose portal it opens. Raises NotFound."""
        tenant = await self.get(session, named)
        record_audit(session, actor, "portal_link.created", tenant.gid, tenant_gid=tenant.gid)
        return tenant


def _name_taken(name: str) -> TenantNameTaken:
    return TenantNameTaken(f"name: {name} is another tenant's, or looks like a gid.")
