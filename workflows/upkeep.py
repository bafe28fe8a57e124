"""The workflows that run on Temporal Schedules."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import reduce

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

from workflows.retry import RETRY_A_FEW

with workflow.unsafe.imports_passed_through():
    from activities.events import EventActivities
    from activities.reconciling import ReconcilingActivities
    from activities.retention import RetentionActivities
    from activities.sealing import SealingActivities
    from everhook.contracts import (
        EVENTS_LOOP_WORKFLOW,
        EVENTS_WORKFLOW,
        LOOP_LENGTH,
        RECONCILE_LOOP_WORKFLOW,
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

    A failed pass is not retried: the next one comes soon. Schedules of earlier releases start it for each pass.
    """

    @workflow.run
    async def run(self) -> ReconcileResult:
        return await _reconcile()


async def _reconcile() -> ReconcileResult:
    result = await _reconcile_share(ReconcileShare())
    if not result.more:
        return result
    shares = [ReconcileShare(index, RECONCILE_PARTS) for index in range(RECONCILE_PARTS)]
    results = await asyncio.gather(*map(_reconcile_share, shares))
    return replace(reduce(ReconcileResult.plus, results, result), more=any(one.more for one in results))


async def _reconcile_share(share: ReconcileShare) -> ReconcileResult:
    return await workflow.execute_activity_method(
        ReconcilingActivities.reconcile,
        share,
        start_to_close_timeout=RECONCILE_TIMEOUT,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RetryPolicy(maximum_attempts=1),
    )


@workflow.defn(name=RECONCILE_LOOP_WORKFLOW)
class ReconcileLoopWorkflow:
    """Passes of the reconciler for some minutes. A pass that fails is followed by the next one."""

    @workflow.run
    async def run(self) -> ReconcileResult:
        total = ReconcileResult()
        ends_at = workflow.now() + LOOP_LENGTH
        while True:
            try:
                total = total.plus(await _reconcile())
            except ActivityError as error:
                _raise_if_cancelled(error)
            if workflow.now() + total.every >= ends_at:
                return total
            await workflow.sleep(total.every, summary="next pass")


def _raise_if_cancelled(error: FailureError) -> None:
    if is_cancelled_exception(error):
        raise error


EVENTS_TIMEOUT = timedelta(seconds=60)


@workflow.defn(name=EVENTS_WORKFLOW)
class EventsWorkflow:
    """Publishes operational events since the last pass. A pass comes every few seconds and mostly finds nothing, so it
    uses a local activity. Schedules of earlier releases start it for each pass."""

    @workflow.run
    async def run(self) -> EventsResult:
        return await _publish_events()


async def _publish_events() -> EventsResult:
    return await workflow.execute_local_activity_method(
        EventActivities.publish_events,
        start_to_close_timeout=EVENTS_TIMEOUT,
        retry_policy=RetryPolicy(maximum_attempts=1),
    )


@workflow.defn(name=EVENTS_LOOP_WORKFLOW)
class EventsLoopWorkflow:
    """Publishes operational events for some minutes, pass by pass. A pass that fails is followed by the next one."""

    @workflow.run
    async def run(self) -> EventsResult:
        total = EventsResult()
        ends_at = workflow.now() + LOOP_LENGTH
        while True:
            try:
                result = await _publish_events()
                total = EventsResult(total.published + result.published, result.every)
            except FailureError as error:  # of a local activity it is the error itself, and no ActivityError
                _raise_if_cancelled(error)
            if workflow.now() + total.every >= ends_at:
                return total
            await workflow.sleep(total.every, summary="next pass")


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
            RetentionActivities.apply_retention,
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
