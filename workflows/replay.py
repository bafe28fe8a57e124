"""A replay of the messages of a channel. The database has its position and its counts."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from workflows.retry import RETRY_FOREVER

with workflow.unsafe.imports_passed_through():
    from activities.replaying import ReplayingActivities
    from everhook.contracts import REPLAY_WORKFLOW, ReplayInput, ReplayProgress

TURN_TIMEOUT = timedelta(minutes=5)
"""One activity works for 20 s."""

HEARTBEAT_TIMEOUT = timedelta(seconds=15)
"""Each page and each start heartbeats. After this time another worker takes over from one that died."""

CANCEL_TIMEOUT = timedelta(seconds=15)
MAX_TURNS = 100
"""Of one run, which is half an hour."""


@workflow.defn(name=REPLAY_WORKFLOW)
class ReplayWorkflow:
    @workflow.run
    async def run(self, input: ReplayInput) -> ReplayProgress:
        """Have pages replayed until nothing is left, or the replay is cancelled in the database. If this workflow is
        cancelled, so is the replay."""
        try:
            for _ in range(MAX_TURNS):
                progress = await self._turn(input)
                if not progress.more:
                    return progress
                workflow.set_current_details(
                    f"{progress.started} deliveries started, {progress.skipped} left alone, "
                    f"{progress.erased} without a payload; up to `{progress.position}`."
                )
                if workflow.info().is_continue_as_new_suggested():
                    break
        except ActivityError as error:
            if is_cancelled_exception(error):
                await self._cancel(input)
            raise
        workflow.continue_as_new(input)

    @staticmethod
    async def _turn(input: ReplayInput) -> ReplayProgress:
        return await workflow.execute_activity_method(
            ReplayingActivities.replay_pages,
            input,
            start_to_close_timeout=TURN_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RETRY_FOREVER,
        )

    @staticmethod
    async def _cancel(input: ReplayInput) -> None:
        await workflow.execute_activity_method(
            ReplayingActivities.cancel_replay,
            input,
            start_to_close_timeout=CANCEL_TIMEOUT,
            retry_policy=RETRY_FOREVER,
            summary="record the cancellation",
        )
