"""`send_attempt`: an attempt that a delivery's workflow asks for."""

from temporalio import activity

from everhook.contracts import AttemptOrder, AttemptOutcome
from everhook.delivery.sender import Sender


class Sending:
    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    @activity.defn(name="send_attempt")
    async def send_attempt(self, order: AttemptOrder) -> AttemptOutcome:
        """Make one attempt and return once it is recorded; an attempt that is recorded already is not made again.

        Raises only while nothing can be known or recorded, because the database is away: Temporal then asks again.
        """
        return await self._sender.attempt(order)
