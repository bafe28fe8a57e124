"""The activities that erase a tenant. Each can be interrupted at any point and run again: it continues with what is
left."""

import asyncio
from collections.abc import Iterable

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import TenantErasure
from everhook.ids import delivery_workflow_id, endpoint_workflow_id
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database
from everhook.tenants import erasure_store as tenant_erasure

CONCURRENCY = 20


class ErasureActivities:
    def __init__(self, client: Client, database: Database) -> None:
        self._client = client
        self._database = database

    @activity.defn(name="end_tenant_workflows")
    async def end_workflows(self, erasure: TenantErasure) -> None:
        """End the workflows of a tenant's open deliveries, of those of its operational events to operators, and of its
        endpoints.

        The tenant is shut once more before, because something may have been accepted while it was being shut.
        """
        async with self._database.writing() as session:
            await tenant_erasure.shut(session, erasure.tenant_gid)
        bulk, tenant_gid = Bulk(self._database, activity.heartbeat), erasure.tenant_gid
        async for gids in bulk.pages(tenant_erasure.open_ones(tenant_erasure.deliveries_of(tenant_gid))):
            await self._terminate(map(delivery_workflow_id, gids))
        async for messages in bulk.pages(tenant_erasure.messages_of(tenant_gid)):
            to_others = tenant_erasure.open_ones(tenant_erasure.deliveries_to_others(messages, tenant_gid))
            await self._terminate(map(delivery_workflow_id, await bulk.find(to_others)))
        async for gids in bulk.pages(tenant_erasure.endpoints_of(tenant_gid)):
            await self._terminate(map(endpoint_workflow_id, gids))

    @activity.defn(name="remove_tenant")
    async def remove_tenant(self, erasure: TenantErasure) -> None:
        await tenant_erasure.remove(Bulk(self._database, activity.heartbeat), erasure.tenant_gid)

    async def _terminate(self, workflow_ids: Iterable[str]) -> None:
        slots = asyncio.Semaphore(CONCURRENCY)

        async def terminate(workflow_id: str) -> None:
            async with slots:
                try:
                    await self._client.get_workflow_handle(workflow_id).terminate(reason="the tenant is being erased")
                except RPCError as error:
                    if error.status is not RPCStatusCode.NOT_FOUND:
                        raise
            activity.heartbeat()

        await asyncio.gather(*map(terminate, workflow_ids))
