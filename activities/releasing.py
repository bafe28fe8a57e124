"""`release_parked` and `count_parked`: the parked deliveries of an endpoint, for its workflow."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import structlog
from temporalio import activity
from temporalio.client import Client

from everhook.circuit.store import endpoint_states
from everhook.contracts import DeliveryInput, PullCheck, ReleaseInput, ReleaseParkedInput, ReleaseResult
from everhook.decisions.timers import TaskTimers
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.inputs_store import InputDefaults, load_inputs_of
from everhook.delivery.parked_store import accept_again, count_parked, mark_released, oldest_parked
from everhook.delivery.starts import is_away, is_overloaded, start_delivery
from everhook.inbox.store import open_of
from everhook.pulling import queue_store as queue
from everhook.storage.engine import Database
from everhook.storage.tables import now

RELEASE_CONCURRENCY = 20

log = structlog.get_logger()


class ReleasingActivities:
    def __init__(
        self,
        client: Client,
        database: Database,
        defaults: InputDefaults,
        dispatcher: Dispatcher,
        timers: TaskTimers,
    ) -> None:
        self._client = client
        self._database = database
        self._defaults = defaults
        self._dispatcher = dispatcher
        self._timers = timers

    @activity.defn(name="count_parked")
    async def count_parked(self, endpoint_gid: str) -> int:
        """How many deliveries of an endpoint are parked, counted up to 100,000."""
        async with self._database.read_connection() as connection:
            return await count_parked(connection, endpoint_gid)

    @activity.defn(name="release_parked")
    async def release_parked(self, input: ReleaseParkedInput) -> ReleaseResult:
        """Release the oldest parked deliveries of an endpoint.

        While the circuit is closed, deliveries that were parked before they had a workflow are accepted again, as if
        they had just been published. All others get the signal `release` by signal-with-start, which also works if
        their workflow was lost.
        """
        seen_at = now()
        async with self._database.read_connection() as connection:
            found = await oldest_parked(connection, input.endpoint_gid, input.limit + 1)
            batch = found[: input.limit]
            gids = [parked.gid for parked in batch]
            deliveries = await load_inputs_of(connection, self._defaults, gids)
            state = (await endpoint_states(connection, [input.endpoint_gid])).get(input.endpoint_gid)
        without_workflow = set[str]()
        if input.dead_letter is None and state is not None and state.sends:
            without_workflow = {parked.gid for parked in batch if not parked.has_workflow}
        activity.heartbeat()
        await self._accept_again([each for each in deliveries if each.delivery_gid in without_workflow], seen_at)
        activity.heartbeat()
        with_workflow = [each for each in deliveries if each.delivery_gid not in without_workflow]
        await self._signal(with_workflow, ReleaseInput(dead_letter=input.dead_letter))
        async with self._database.write_connection() as connection:
            # Deliveries of a tenant that is being erased have no input, but are marked too: else the next call would
            # find them again.
            await mark_released(connection, [gid for gid in gids if gid not in without_workflow], seen_at)
        given_up = 0
        if input.dead_letter is not None and not found:
            given_up = await self._give_up_pulled(input) or await self._give_up_tasks(input)
        return ReleaseResult(
            released=len(batch) + given_up, remaining=len(found) > len(batch) or given_up == input.limit
        )

    async def _give_up_pulled(self, input: ReleaseParkedInput) -> int:
        """Signal the workflows of queued deliveries of an endpoint that is given up, so that they dead-letter them.
        These deliveries are no longer handed out, and the next call does not find them."""
        async with self._database.read_connection() as connection:
            gids = await queue.queued_of(connection, input.endpoint_gid, input.limit)
            deliveries = await load_inputs_of(connection, self._defaults, gids) if gids else []
        await self._signal(deliveries, ReleaseInput(dead_letter=input.dead_letter))
        async with self._database.write_connection() as connection:
            await queue.close_rounds(connection, gids)
        return len(gids)

    async def _give_up_tasks(self, input: ReleaseParkedInput) -> int:
        """Dead-letter the deliveries of an inbox that is given up, and have their workflows find out."""
        async with self._database.read_connection() as connection:
            gids = await open_of(connection, input.endpoint_gid, input.limit)
            deliveries = await load_inputs_of(connection, self._defaults, gids) if gids else []
        for each in deliveries:
            check = PullCheck(each.delivery_gid, each.round, each.dead_letter_retention, input.dead_letter)
            await self._timers.check(check)
            activity.heartbeat()
        await self._signal(deliveries, ReleaseInput(dead_letter=input.dead_letter))
        return len(deliveries)

    async def _accept_again(self, deliveries: Sequence[DeliveryInput], seen_at: datetime) -> None:
        """Mark deliveries as accepted, then dispatch them. Marked first: if this process dies, the reconciler starts
        their workflows once `due_at` has passed."""
        if not deliveries:
            return
        bound = max(self._defaults.first_attempt_bound(each.policy) for each in deliveries)
        async with self._database.write_connection() as connection:
            taken = await accept_again(connection, [each.delivery_gid for each in deliveries], seen_at, bound)
        # Without `parked_since`, the window starts anew if the delivery is parked again.
        self._dispatcher.dispatch(
            NewDelivery(replace(each, parked_since=None)) for each in deliveries if each.delivery_gid in taken
        )

    async def _signal(self, deliveries: Sequence[DeliveryInput], release: ReleaseInput) -> None:
        """Signal the workflows. This comes before `mark_released`, so that no delivery is marked but not signalled.

        A delivery whose signal Temporal refuses is marked as well: the reconciler starts it, and no other waits for it.
        """
        slots = asyncio.Semaphore(RELEASE_CONCURRENCY)

        async def signal(delivery: DeliveryInput) -> None:
            async with slots:
                try:
                    await start_delivery(self._client, delivery, signal="release", note=release)
                except Exception as error:
                    if is_away(error) or is_overloaded(error):
                        raise
                    log.error("a delivery cannot be released", delivery_gid=delivery.delivery_gid, error=str(error))
                activity.heartbeat()

        await asyncio.gather(*(signal(delivery) for delivery in deliveries))
