"""What runs on a Temporal Schedule."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from workflows.retry import RETRY_A_FEW

with workflow.unsafe.imports_passed_through():
    from activities.events import EventActivities
    from activities.reconciling import ReconcilingActivities
    from activities.retention import RetentionActivities
    from activities.sealing import SealingActivities
    from everhook.contracts import (
        EVENTS_WORKFLOW,
        RECONCILE_WORKFLOW,
        RETENTION_WORKFLOW,
        SEAL_RECEIPTS_WORKFLOW,
        EventsResult,
        ReconcileResult,
        ReconcileShare,
        RetentionResult,
        SealResult,
    )

RECONCILE_TIMEOUT = timedelta(minutes=2)
RECONCILE_PARTS = 4
SEAL_TIMEOUT = timedelta(minutes=30)
HEARTBEAT_TIMEOUT = timedelta(seconds=30)
"""No pass begins while one is lost with its worker. Each start beats; a query may take 15 s."""


@workflow.defn(name=RECONCILE_WORKFLOW)
class ReconcileWorkflow:
    """One pass of the reconciler; where much is left to do, another by all workers together.

    A failed pass is not repeated: the schedule brings the next one soon enough.
    """

    @workflow.run
    async def run(self) -> ReconcileResult:
        result = await self._reconcile(ReconcileShare())
        if not result.more:
            return result
        shares = [ReconcileShare(index, RECONCILE_PARTS) for index in range(RECONCILE_PARTS)]
        results = [result, *await asyncio.gather(*map(self._reconcile, shares))]
        return ReconcileResult(
            started=sum(one.started for one in results),
            restarted=sum(one.restarted for one in results),
            endpoints=sum(one.endpoints for one in results),
            history=sum(one.history for one in results),
            more=any(one.more for one in results[1:]),
        )

    async def _reconcile(self, share: ReconcileShare) -> ReconcileResult:
        return await workflow.execute_activity_method(
            ReconcilingActivities.reconcile,
            share,
            start_to_close_timeout=RECONCILE_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


EVENTS_TIMEOUT = timedelta(seconds=60)


@workflow.defn(name=EVENTS_WORKFLOW)
class EventsWorkflow:
    """Tell operators what happened since the last pass. It runs every few seconds and mostly finds nothing, hence a
    local activity."""

    @workflow.run
    async def run(self) -> EventsResult:
        return await workflow.execute_local_activity_method(
            EventActivities.publish_events,
            start_to_close_timeout=EVENTS_TIMEOUT,
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


RETENTION_TIMEOUT = timedelta(hours=24)
"""The first pass over an old database may take hours; while it runs, the schedule begins no other."""

STEP_TIMEOUT = timedelta(seconds=30)
"""RetentionActivities beats after each of its steps, which take the writer's queue and a statement: seconds at most."""


@workflow.defn(name=RETENTION_WORKFLOW)
class RetentionWorkflow:
    """One pass of retention. Where a worker dies in the middle, another goes on with what is left."""

    @workflow.run
    async def run(self) -> RetentionResult:
        await workflow.execute_activity_method(
            RetentionActivities.resume_erasures, start_to_close_timeout=STEP_TIMEOUT, retry_policy=RETRY_A_FEW
        )
        return await workflow.execute_activity_method(
            RetentionActivities.remove_past,
            start_to_close_timeout=RETENTION_TIMEOUT,
            heartbeat_timeout=STEP_TIMEOUT,
            retry_policy=RETRY_A_FEW,
        )


@workflow.defn(name=SEAL_RECEIPTS_WORKFLOW)
class SealReceiptsWorkflow:
    """One pass of the sealer. As with the reconciler, what a failed pass left is the next one's."""

    @workflow.run
    async def run(self) -> SealResult:
        return await workflow.execute_activity_method(
            SealingActivities.seal_receipts,
            start_to_close_timeout=SEAL_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
