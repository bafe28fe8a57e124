"""`send_attempt`: an attempt that a delivery's workflow asks for."""

from temporalio import activity

from everhook.contracts import AttemptInput, AttemptOutcome
from everhook.delivery.sender import Sender
from everhook.delivery.slots import SlotShare


class SendingActivities:
    """The sends of one worker. `slots` is how many it makes at once."""

    def __init__(self, sender: Sender, slots: int) -> None:
        self._sender = sender
        self._share = SlotShare(slots)

    @activity.defn(name="send_attempt")
    async def send_attempt(self, input: AttemptInput) -> AttemptOutcome:
        """Make one attempt and return once it is recorded; an attempt that is recorded already is not made again.

        Raises while nothing can be known or recorded, because the database is away: Temporal then asks again. Raises
        as well where the attempt is to be made later: its endpoint's rate limit does not allow it yet, or its endpoint
        hangs and holds its share of slots.
        """
        tries = activity.info().attempt
        with self._share.taken(input.endpoint_gid, tries):
            return await self._sender.attempt(input, tries)
