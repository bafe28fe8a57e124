"""Delivers a message at the time that its publisher asked for. The workflow is started with that delay."""

from datetime import timedelta

from temporalio import workflow

from workflows.retry import RETRY_FOREVER

with workflow.unsafe.imports_passed_through():
    from activities.scheduling import ScheduleActivities
    from everhook.contracts import SCHEDULED_MESSAGE_WORKFLOW, ScheduledMessageInput

TIMEOUT = timedelta(seconds=30)


@workflow.defn(name=SCHEDULED_MESSAGE_WORKFLOW)
class ScheduledMessageWorkflow:
    @workflow.run
    async def run(self, input: ScheduledMessageInput) -> bool:
        """Whether this workflow delivered the message, and not the reconciler."""
        return await workflow.execute_activity_method(
            ScheduleActivities.deliver_scheduled,
            input,
            start_to_close_timeout=TIMEOUT,
            retry_policy=RETRY_FOREVER,
        )
