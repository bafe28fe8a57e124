"""`check_pulled`: what became of a delivery that consumers pull."""

from temporalio import activity

from everhook.contracts import PullCheck, PulledState
from everhook.pulling.service import PullQueue


class PullingActivities:
    def __init__(self, pulls: PullQueue) -> None:
        self._pulls = pulls

    @activity.defn(name="check_pulled")
    async def check_pulled(self, check: PullCheck) -> PulledState:
        """What became of a delivery. If its round is over, it is dead-lettered in the same transaction."""
        return await self._pulls.check(check)
