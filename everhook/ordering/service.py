"""Starts the deliveries whose turn in their group it is, in the background of the process that settled the ones before.

Nothing depends on it: what it does not start, the reconciler does.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.guards import GuardStarter
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.inputs_store import InputDefaults, load_inputs_of
from everhook.ordering.store import Freed
from everhook.storage.engine import Database, is_unavailable

AT_ONCE = 200

log = structlog.get_logger()


class GroupStarter:
    """One for each process."""

    def __init__(
        self,
        database: Database,
        defaults: InputDefaults,
        dispatcher: Dispatcher,
        guards: GuardStarter,
        on_queued: Callable[[Collection[str]], None],
    ) -> None:
        """`on_queued` is called with the endpoints whose consumers have a new delivery to claim."""
        self._database = database
        self._defaults = defaults
        self._dispatcher = dispatcher
        self._guards = guards
        self._on_queued = on_queued
        self._waiting: list[Freed] = []
        self._task: asyncio.Task[None] | None = None

    def start(self, freed: Sequence[Freed]) -> None:
        """Start deliveries that were freed, after the commit. Returns at once."""
        if not freed:
            return
        self._on_queued({each.endpoint_gid for each in freed if each.is_pulled})
        self._waiting += [each for each in freed if not each.is_pulled or each.needs_workflow]
        if self._waiting and self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                await self._start(batch)
        finally:
            self._task = None

    async def _start(self, batch: Sequence[Freed]) -> None:
        try:
            async with self._database.read_connection() as connection:
                inputs = await load_inputs_of(connection, self._defaults, [each.delivery_gid for each in batch])
        except Exception as error:
            if not is_unavailable(error):
                log.exception("the next deliveries of groups could not be started")
            return
        guarded = {each.delivery_gid for each in batch if each.needs_workflow}
        self._dispatcher.dispatch(NewDelivery(input) for input in inputs if input.delivery_gid not in guarded)
        for input in inputs:
            if input.delivery_gid in guarded:
                self._guards.start(input)
