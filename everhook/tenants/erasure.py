"""Starts the erasure of a tenant. Used by the API, and by retention for erasures that were not started."""

from datetime import timedelta

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from everhook.contracts import ERASE_TENANT_WORKFLOW, TaskQueue, TenantErasure
from everhook.ids import erasure_workflow_id

START_TIMEOUT = timedelta(seconds=5)


async def start_erasure(client: Client, tenant_gid: str, grace: timedelta) -> None:
    """Start the erasure of a tenant that is marked for it. If the erasure is running, nothing changes."""
    await client.start_workflow(
        ERASE_TENANT_WORKFLOW,
        TenantErasure(tenant_gid, settle=grace),
        id=erasure_workflow_id(tenant_gid),
        task_queue=TaskQueue.DELIVERIES,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"erase {tenant_gid}",
        rpc_timeout=START_TIMEOUT,
    )
