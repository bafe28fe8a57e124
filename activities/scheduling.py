"""`deliver_scheduled`: gives a message its deliveries at the time that its publisher asked for."""

from temporalio import activity
from temporalio.exceptions import ApplicationError

from everhook.contracts import ScheduledMessageInput
from everhook.publishing.schedules import REFUSED_PAUSE, MessageSchedules, ScheduledDeliveryRefused


class ScheduleActivities:
    def __init__(self, schedules: MessageSchedules) -> None:
        self._schedules = schedules

    @activity.defn(name="deliver_scheduled")
    async def deliver_scheduled(self, input: ScheduledMessageInput) -> bool:
        """Whether the message was delivered by this call, and not cancelled or delivered before."""
        try:
            return await self._schedules.deliver(input.message_gid)
        except ScheduledDeliveryRefused as error:
            raise ApplicationError(
                str(error), type="ScheduledDeliveryRefused", next_retry_delay=REFUSED_PAUSE
            ) from error
