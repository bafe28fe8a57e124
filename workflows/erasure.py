"""Removing a tenant that was marked as being erased: from then on nothing is sent to it, and nobody can see it."""

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
"""Both activities beat after each step, and may be interrupted anywhere."""


@workflow.defn(name=ERASE_TENANT_WORKFLOW)
class EraseTenantWorkflow:
    @workflow.run
    async def run(self, erasure: TenantErasure) -> None:
        """What was in flight may still record its attempt, and what was just accepted may still be started: so there is
        a pause, and a second look, before anything is removed."""
        await self._do(ErasureActivities.end_workflows, erasure, "end what is under way")
        await workflow.sleep(erasure.settle, summary="until what was in flight is on record")
        await self._do(ErasureActivities.end_workflows, erasure, "end what was started since")
        await self._do(ErasureActivities.remove_tenant, erasure, "remove what is stored")

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
