"""`send_attempt` and `run_handler`: make one attempt of a delivery."""

from temporalio import activity

from everhook.contracts import AttemptInput, AttemptOutcome, HandlerInput, HandlerResult
from everhook.delivery.sender import Sender
from everhook.delivery.slots import SlotShare


class SendingActivities:
    """The attempts of one worker. `slots` is how many it makes concurrently."""

    def __init__(self, sender: Sender, slots: int) -> None:
        self._sender = sender
        self._share = SlotShare(slots)

    @activity.defn(name="send_attempt")
    async def send_attempt(self, input: AttemptInput) -> AttemptOutcome:
        """Make one attempt. Returns once it is recorded. An attempt that is already recorded is not made again.

        Raises if the database is unavailable; Temporal then retries. Raises an error with a retry delay if the attempt
        is to be made later: the rate limit of the endpoint does not allow it yet, or earlier attempts of the endpoint
        hang and hold its share of slots.
        """
        tries = activity.info().attempt
        with self._share.taken(input.endpoint_gid, tries):
            return await self._sender.attempt(input, tries)

    @activity.defn(name="run_handler")
    async def run_handler(self, input: HandlerInput) -> HandlerResult:
        """Make one attempt of a delivery that Everhook handles itself. Returns without one if it is not due yet."""
        tries = activity.info().attempt
        with self._share.taken(input.attempt.endpoint_gid, tries):
            return await self._sender.handle(input, tries)
