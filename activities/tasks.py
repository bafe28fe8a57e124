"""`check_task`: what became of a task, and the timers of one that is open."""

from temporalio import activity

from everhook.contracts import PullCheck, PulledState
from everhook.decisions.timers import TaskTimers


class TaskActivities:
    def __init__(self, timers: TaskTimers) -> None:
        self._timers = timers

    @activity.defn(name="check_task")
    async def check_task(self, check: PullCheck) -> PulledState:
        """What became of a delivery to an inbox. If a step of its task is due, it is taken in the same transaction."""
        return await self._timers.check(check)
