"""Erases a tenant that is marked for it: nothing is sent to it any more, and no caller can see it."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from temporalio import workflow

from workflows.retry import RETRY_FOREVER

with workflow.unsafe.imports_passed_through():
    from activities.erasure import ErasureActivities
    from everhook.contracts import ERASE_TENANT_WORKFLOW, TenantErasure

TIMEOUT = timedelta(hours=24)
STEP_TIMEOUT = timedelta(seconds=30)
"""Both activities heartbeat after each step, and can be interrupted at any point."""


@workflow.defn(name=ERASE_TENANT_WORKFLOW)
class EraseTenantWorkflow:
    @workflow.run
    async def run(self, erasure: TenantErasure) -> None:
        """Terminate the tenant's workflows twice, with a pause, before its data is deleted: attempts in flight may
        still be recorded, and deliveries that were just accepted may still be started."""
        await self._do(ErasureActivities.end_workflows, erasure, "terminate running workflows")
        await workflow.sleep(erasure.settle, summary="until attempts in flight are recorded")
        await self._do(ErasureActivities.end_workflows, erasure, "terminate workflows started since")
        await self._do(ErasureActivities.remove_tenant, erasure, "delete the data")

    @staticmethod
    async def _do(
        step: Callable[[ErasureActivities, TenantErasure], Coroutine[Any, Any, None]],
        erasure: TenantErasure,
        summary: str,
    ) -> None:
        await workflow.execute_activity_method(
            step,
            erasure,
            start_to_close_timeout=TIMEOUT,
            heartbeat_timeout=STEP_TIMEOUT,
            retry_policy=RETRY_FOREVER,
            summary=summary,
        )
