"""What endpoint entities ask for: load and project their circuits, and release parked deliveries."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlmodel import col
from temporalio import activity
from temporalio.client import Client

from everhook.circuit.machine import Circuit
from everhook.circuit.store import endpoint_states, load_circuit, project
from everhook.contracts import CircuitProjection, DeliveryInput, ReleaseInput, ReleaseParkedInput, ReleaseResult
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.inputs_store import InputDefaults, load_inputs
from everhook.delivery.starts import start_delivery
from everhook.delivery.store import accept_again, count_parked, mark_released, oldest_parked
from everhook.storage.engine import Database
from everhook.storage.tables import Delivery, now

RELEASE_CONCURRENCY = 20


class CircuitActivities:
    def __init__(self, client: Client, database: Database, defaults: InputDefaults, dispatcher: Dispatcher) -> None:
        self._client = client
        self._database = database
        self._defaults = defaults
        self._dispatcher = dispatcher

    @activity.defn(name="load_circuit")
    async def load_circuit(self, endpoint_gid: str) -> Circuit | None:
        """What the database last knew; None where the endpoint was deleted."""
        async with self._database.reading() as session:
            return await load_circuit(session, endpoint_gid)

    @activity.defn(name="project_circuit")
    async def project_circuit(self, projection: CircuitProjection) -> None:
        async with self._database.writing() as session:
            await project(session, projection.endpoint_gid, projection.circuit)

    @activity.defn(name="count_parked")
    async def count_parked(self, endpoint_gid: str) -> int:
        """How many deliveries of an endpoint are parked, counted up to 100,000."""
        async with self._database.read_connection() as connection:
            return await count_parked(connection, endpoint_gid)

    @activity.defn(name="release_parked")
    async def release_parked(self, input: ReleaseParkedInput) -> ReleaseResult:
        """Wake the oldest parked deliveries of an endpoint.

        While the circuit is closed, those that were parked before they had a workflow are accepted again, as if they
        had just been published. All others are woken by signal-with-start, which works even where a workflow is gone.
        """
        seen_at = now()
        async with self._database.read_connection() as connection:
            found = await oldest_parked(connection, input.endpoint_gid, input.limit + 1)
            batch = found[: input.limit]
            gids = [parked.gid for parked in batch]
            inputs = await load_inputs(connection, self._defaults, [col(Delivery.gid).in_(gids)], limit=input.limit)
            state = (await endpoint_states(connection, [input.endpoint_gid])).get(input.endpoint_gid)
        unguarded = set[str]()
        if input.dead_letter is None and state is not None and state.sends:
            unguarded = {parked.gid for parked in batch if not parked.has_workflow}
        await self._accept_again([one for one in inputs if one.delivery_gid in unguarded], seen_at)
        guarded = [one for one in inputs if one.delivery_gid not in unguarded]
        await self._signal(guarded, ReleaseInput(dead_letter=input.dead_letter))
        async with self._database.write_connection() as connection:
            # Also those of a tenant that is being erased, which have no order: else they would be found again at once.
            await mark_released(connection, [gid for gid in gids if gid not in unguarded], seen_at)
        return ReleaseResult(released=len(batch), remaining=len(found) > len(batch))

    async def _accept_again(self, inputs: Sequence[DeliveryInput], seen_at: datetime) -> None:
        """Marked first: from then on a `due_at` that passes has the reconciler start them, should this process die."""
        if not inputs:
            return
        bound = max(self._defaults.first_attempt_bound(input.policy) for input in inputs)
        async with self._database.write_connection() as connection:
            taken = await accept_again(connection, [input.delivery_gid for input in inputs], seen_at, bound)
        # Were it parked again, its window would begin again.
        self._dispatcher.dispatch(
            NewDelivery(replace(input, parked_since=None)) for input in inputs if input.delivery_gid in taken
        )

    async def _signal(self, inputs: Sequence[DeliveryInput], note: ReleaseInput) -> None:
        """Woken before they are marked as released, so that nothing is marked and not woken."""
        slots = asyncio.Semaphore(RELEASE_CONCURRENCY)

        async def wake(delivery: DeliveryInput) -> None:
            async with slots:
                await start_delivery(self._client, delivery, signal="release", note=note)

        await asyncio.gather(*(wake(delivery) for delivery in inputs))
