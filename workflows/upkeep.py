"""The workflows that run on Temporal Schedules."""

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
"""A pass that was lost with its worker delays the next one by this. Each start heartbeats; a query may take 15 s."""


@workflow.defn(name=RECONCILE_WORKFLOW)
class ReconcileWorkflow:
    """One pass of the reconciler. If much is left to do, another pass is shared by all workers.

    A failed pass is not retried: the schedule soon starts the next one.
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
    """Publishes operational events since the last pass. It runs every few seconds and mostly finds nothing, so it
    uses a local activity."""

    @workflow.run
    async def run(self) -> EventsResult:
        return await workflow.execute_local_activity_method(
            EventActivities.publish_events,
            start_to_close_timeout=EVENTS_TIMEOUT,
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


RETENTION_TIMEOUT = timedelta(hours=24)
"""The first pass over an old database may take hours; while it runs, the schedule starts no other."""

STEP_TIMEOUT = timedelta(seconds=30)
"""RetentionActivities heartbeats after each of its steps. A step waits for the writer and runs a statement: seconds
at most."""


@workflow.defn(name=RETENTION_WORKFLOW)
class RetentionWorkflow:
    """One pass of retention. If its worker dies, another continues with what is left."""

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
    """One pass of the sealer. As with the reconciler, the next pass does what a failed one did not."""

    @workflow.run
    async def run(self) -> SealResult:
        return await workflow.execute_activity_method(
            SealingActivities.seal_receipts,
            start_to_close_timeout=SEAL_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
