"""`reconcile`: starts the workflows of deliveries that have none, or whose workflow was lost."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from everhook.batches import store as batches
from everhook.batches.service import BatchService
from everhook.circuit import store as circuit_store
from everhook.circuit.client import CircuitClient
from everhook.contracts import (
    DeliveryInput,
    OutcomeReport,
    ReconcileResult,
    ReconcileShare,
    TaskQueue,
)
from everhook.delivery import history_store as history
from everhook.delivery import overdue_store as overdue
from everhook.delivery.history import MAX_LAG
from everhook.delivery.inputs_store import InputDefaults, load_dead_letters, load_delivered, load_inputs_of
from everhook.delivery.overdue_store import Overdue, Position, Window, overdue_window
from everhook.delivery.starts import SETTLED, is_away, start_delivery
from everhook.delivery.store import mark_dispatched
from everhook.delivery.traffic import Traffic
from everhook.delivery.weights import sync_limits
from everhook.ids import delivery_workflow_id, gid_endings
from everhook.observability.metrics import HISTORY_SKIPPED
from everhook.ordering.service import GroupStarter
from everhook.ordering.store import free_stalled
from everhook.publishing.schedules import MessageSchedules
from everhook.pulling import queue_store as queue
from everhook.redelivery.starts import start_replay
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.tables import now
from everhook.temporal.provisioning import NOT_PERMITTED

PASS_S = 12.0
"""A pass is short, so that each one begins with what is most urgent at that time."""

BATCH = 500
WINDOW = 10_000
"""Overdue deliveries that are read at a time: 10 ms, and a few megabytes."""

ENDPOINT_SHARE = 50
"""How many deliveries of one endpoint are started before the next endpoint has its turn."""

CONCURRENCY = 20
DEAD_LETTER_AUDIT_S = 60.0
DEAD_LETTER_PAGE = 100
DEAD_LETTER_PAGES = 10
"""Queries of Temporal's visibility store in a minute: it allows 10 a second for all clients."""

DEAD_LETTER_SETTLED = timedelta(minutes=1)
"""Younger dead letters may not be in Temporal's visibility store yet."""

STRANDED_AFTER = timedelta(seconds=20)
PAUSE_LASTS = timedelta(hours=1)
HISTORY_AFTER = timedelta(minutes=5)
"""The process that made the delivery starts younger ones itself."""

HISTORY_BATCH, HISTORY_BATCH_WITH_FRESH = 200, 20
REPLAY_STALLED = timedelta(seconds=60)
"""A replay records its position several times a second."""

GUARD_AFTER = timedelta(seconds=60)
"""A pulled delivery that waits for longer gets its workflow, so that operators see it in Temporal."""

SCHEDULED_BATCH = 50
STALLED_AFTER = timedelta(minutes=10)
GROUPS = 200
"""Groups in which nothing happened for `STALLED_AFTER` are checked, so many in one transaction."""

log = structlog.get_logger()


@dataclass
class _PassSummary:
    """One pass over a share of the endpoints. `restarted` counts starts of deliveries that had been started before."""

    endings: str
    until: float
    is_first: bool
    started: int = 0
    restarted: int = 0
    endpoints: int = 0
    history: int = 0
    guarded: int = 0
    more: bool = False

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until


class ReconcilingActivities:
    def __init__(
        self,
        client: Client,
        database: Database,
        circuits: CircuitClient,
        defaults: InputDefaults,
        *,
        overdue_grace: timedelta,
        every: timedelta = timedelta(seconds=15),
        schedules: MessageSchedules | None = None,
        groups: GroupStarter | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        """`every`: how long after a pass the next one is due. Without `schedules` and `groups` a pass leaves
        scheduled messages and groups alone. `traffic`: that of this process, if it accepts messages."""
        self._client = client
        self._database = database
        self._circuits = circuits
        self._defaults = defaults
        self._overdue_grace = overdue_grace
        self._every = every
        self._schedules = schedules
        self._groups = groups
        self._traffic = traffic
        self._batches = BatchService(client)
        self._dead_letters_due = 0.0
        self._checked = ""  # the last dead letter whose workflow was looked for; empty: begin with the newest

    @activity.defn(name="reconcile")
    async def reconcile(self, share: ReconcileShare = ReconcileShare()) -> ReconcileResult:
        """One pass over a share of the endpoints, for a few seconds.

        The cost follows the amount of trouble: each query uses an index that holds only what may need help. The steps
        are independent of each other, and so are the deliveries of a step: an error is logged and the rest continues.
        """
        current = _PassSummary(
            gid_endings(share.index, share.parts), time.monotonic() + PASS_S, is_first=share.index == 0
        )
        steps: list[Callable[[_PassSummary], Awaitable[None]]] = [self._start_overdue]
        if current.is_first:
            steps = [
                self._wake_circuits,
                self._start_overdue,
                self._restore_dead_letters,
                self._start_history,
                self._resume_replays,
                self._follow_bulk_operations,
                self._guard_pulled,
                self._deliver_scheduled,
                self._free_groups,
                self._sync_limits,
            ]
        for step in steps:
            try:
                await step(current)
            except Exception as error:
                if is_away(error):
                    raise
                name = step.__name__.strip("_")
                if is_unavailable(error):
                    log.warning("a step of the reconciler had no database", step=name, error=type(error).__name__)
                else:
                    log.exception("a step of the reconciler failed", step=name)
            activity.heartbeat()
        result = ReconcileResult(
            current.started,
            current.restarted,
            current.endpoints,
            current.history,
            more=current.more,
            guarded=current.guarded,
            every=self._every,
        )
        if current.started or current.restarted or current.endpoints or current.history or current.guarded:
            log.info(
                "reconciled",
                started=result.started,
                restarted=result.restarted,
                endpoints=result.endpoints,
                history=result.history,
                guarded=result.guarded,
                more=result.more,
            )
        return result

    async def _start_overdue(self, current: _PassSummary) -> None:
        """Start the workflows of overdue deliveries. Endpoints take turns: each gets its share before any gets more."""
        # All of them first: those that are left would get workflows.
        while not current.is_over and await self._defer_paused(current) == BATCH:
            activity.heartbeat()
        after: Position | None = None
        while not current.is_over:
            window = await self._overdue(current, after)
            for start in range(0, len(window.overdue), BATCH):
                await self._start_batch(current, window.overdue[start : start + BATCH])
                if current.is_over:
                    break
            if not window.overdue and after is None:
                return
            after = window.end  # None: from the beginning again, for what the endpoints' shares left
        current.more = True

    async def _defer_paused(self, current: _PassSummary) -> int:
        async with self._database.write_connection() as connection:
            return await overdue.defer_paused(connection, PAUSE_LASTS, BATCH, endings=current.endings)

    async def _overdue(self, current: _PassSummary, after: Position | None) -> Window:
        async with self._database.read_connection() as connection:
            lost_before = now() - self._overdue_grace
            return await overdue_window(
                connection, lost_before, after, rows=WINDOW, share=ENDPOINT_SHARE, endings=current.endings
            )

    async def _start_batch(self, current: _PassSummary, batch: Sequence[Overdue]) -> None:
        had_workflow = {one.gid for one in batch if one.has_workflow}
        async with self._database.read_connection() as connection:
            gids = [one.gid for one in batch]
            inputs = await load_inputs_of(connection, self._defaults, gids)
        started = await self._start_all(inputs, first=lambda input: input.delivery_gid not in had_workflow)
        async with self._database.write_connection() as connection:
            await mark_dispatched(
                connection, [(each.delivery_gid, each.round) for each in inputs if each.delivery_gid in started]
            )
            # Also deliveries that could not be started and those that were deleted, so that the others have their turn
            # first.
            await overdue.defer(connection, gids, self._overdue_grace)
        current.restarted += len(started & had_workflow)
        current.started += len(started - had_workflow)

    async def _start_all(
        self,
        inputs: Sequence[DeliveryInput],
        *,
        first: Callable[[DeliveryInput], bool] = lambda _: False,
        signal: str | None = None,
    ) -> set[str]:
        """Start workflows that do not run yet; with `signal`, signal all of them. Returns the gids of those that run. A
        refusal by Temporal is logged; raises only if Temporal is unavailable."""
        slots = asyncio.Semaphore(CONCURRENCY)
        started: set[str] = set()

        async def start(input: DeliveryInput) -> None:
            async with slots:
                try:
                    await start_delivery(self._client, input, first=first(input), signal=signal)
                    started.add(input.delivery_gid)
                except Exception as error:
                    if is_away(error):
                        raise
                    log.error("a workflow cannot be started", delivery_gid=input.delivery_gid, error=str(error))
            activity.heartbeat()

        results = await asyncio.gather(*(start(input) for input in inputs), return_exceptions=True)
        if failed := [result for result in results if result is not None]:
            raise failed[0]
        return started

    async def _wake_circuits(self, current: _PassSummary) -> None:
        """Wake the workflows of circuits that should have changed state, and of endpoints whose parked deliveries are
        not released: these workflows may have been lost."""
        moment = now()
        async with self._database.read_connection() as connection:
            grace = self._overdue_grace
            stalled = await circuit_store.stalled_circuits(connection, moment - grace, grace)
            stranded = await circuit_store.stranded(connection, moment - STRANDED_AFTER)
        reports = {endpoint: OutcomeReport() for endpoint in stalled}
        reports |= {endpoint: OutcomeReport(stranded=True) for endpoint in stranded}
        for (endpoint_gid, tenant), report in reports.items():
            await self._circuits.report(endpoint_gid, tenant, report)
        if reports:
            async with self._database.write_connection() as connection:
                await circuit_store.touch(connection, [gid for gid, _ in reports])
        current.endpoints = len(reports)

    async def _restore_dead_letters(self, current: _PassSummary) -> None:
        """Restart the workflows of dead letters that Temporal does not have. A dead letter has no next step for a
        month, so a lost workflow would not be noticed. Replays by query need these workflows; a replay of a single
        delivery starts its workflow if needed.

        Each minute a few pages are checked, newest first, and the next ones in the next minute. While pages lack
        workflows, the check goes on at once.
        """
        if time.monotonic() < self._dead_letters_due:
            return
        for _ in range(DEAD_LETTER_PAGES):
            if current.is_over:
                return
            while await self._restore_page(current):
                if current.is_over:
                    current.more = True
                    return
            if not self._checked:
                break  # all were checked
        self._dead_letters_due = time.monotonic() + DEAD_LETTER_AUDIT_S

    async def _restore_page(self, current: _PassSummary) -> bool:
        """Check the next page of dead letters. Returns whether workflows were missing."""
        async with self._database.read_connection() as connection:
            before = now() - DEAD_LETTER_SETTLED
            inputs = await load_dead_letters(connection, self._defaults, before, self._checked, DEAD_LETTER_PAGE)
        missing = await self._without_workflow(inputs)
        current.restarted += len(await self._start_all(missing))
        # Only now: if Temporal becomes unavailable meanwhile, the page is checked again.
        self._checked = inputs[-1].delivery_gid if len(inputs) == DEAD_LETTER_PAGE else ""
        return bool(missing) and bool(self._checked)

    async def _without_workflow(self, inputs: Sequence[DeliveryInput]) -> list[DeliveryInput]:
        """Those whose workflow does not run."""
        if not inputs:
            return []
        ids = ", ".join(f"'{delivery_workflow_id(input.delivery_gid)}'" for input in inputs)
        query = f"ExecutionStatus = 'Running' AND WorkflowId IN ({ids})"
        found = self._client.list_workflows(query, page_size=DEAD_LETTER_PAGE)
        running = {each.id async for each in found}
        return [input for input in inputs if delivery_workflow_id(input.delivery_gid) not in running]

    async def _start_history(self, current: _PassSummary) -> None:
        """Start the history workflows that no other process started, because it died or lagged far. While fresh
        messages flow in this process, a pass starts few of them, and makes only the signals and skips the late ones."""
        moment = now()
        fresh_flows = self._traffic is not None and self._traffic.flows
        urgent_before = moment - MAX_LAG if fresh_flows else None
        while not current.is_over and await self._start_some_history(current, moment, HISTORY_BATCH, urgent_before):
            pass
        if fresh_flows:
            await self._start_some_history(current, moment, HISTORY_BATCH_WITH_FRESH)

    async def _start_some_history(
        self, current: _PassSummary, moment: datetime, limit: int, urgent_before: datetime | None = None
    ) -> bool:
        """False if there are none."""
        async with self._database.read_connection() as connection:
            found = await history.pending(connection, moment - HISTORY_AFTER, limit, urgent_before=urgent_before)
            signalled = [each.delivery_gid for each in found if each.signal]
            late = {each.delivery_gid for each in found if each.settled_at < moment - MAX_LAG} - set(signalled)
            shown = [each.delivery_gid for each in found if each.delivery_gid not in late and not each.signal]
            inputs = await load_delivered(connection, self._defaults, shown)
            to_signal = await load_inputs_of(connection, self._defaults, signalled)
        if not found:
            return False
        started = await self._start_all(inputs, first=lambda _: True)
        HISTORY_SKIPPED.inc(len(late) + len(inputs) - len(started))
        await self._start_all(to_signal, signal=SETTLED)
        async with self._database.write_connection() as connection:
            await history.forget(connection, [each.delivery_gid for each in found])
        current.history += len(started)
        return True

    async def _guard_pulled(self, current: _PassSummary) -> None:
        """Start the workflows of deliveries that wait for a consumer for a while. They are marked first, so that an
        acknowledgement either sees the mark and signals, or came first. If this process dies in between, the workflow
        is started when the round ends."""
        while not current.is_over:
            async with self._database.read_connection() as connection:
                found = await queue.unguarded(connection, now() - GUARD_AFTER, BATCH)
            if not found:
                return
            async with self._database.write_connection() as connection:
                marked = await queue.mark_guarded(connection, found)
                inputs = await load_inputs_of(connection, self._defaults, sorted(marked))
            current.guarded += len(await self._start_all(inputs))
        current.more = True

    async def _resume_replays(self, _: _PassSummary) -> None:
        """Start the workflows of replays that make no progress: they may have been lost, or never started."""
        async with self._database.read_connection() as connection:
            stalled = await batches.stalled(connection, now() - REPLAY_STALLED, BATCH)
        for batch_gid in stalled:
            await start_replay(self._client, batch_gid)
        if stalled:
            async with self._database.write_connection() as connection:
                await batches.touch(connection, stalled)

    async def _follow_bulk_operations(self, _: _PassSummary) -> None:
        """Record bulk operations on dead letters that have ended, and stop those that were cancelled."""
        await self._batches.follow(self._database)

    async def _deliver_scheduled(self, current: _PassSummary) -> None:
        """Deliver scheduled messages whose workflow was not started, or was lost."""
        while self._schedules is not None and not current.is_over:
            found, delivered = await self._schedules.deliver_overdue(self._overdue_grace, SCHEDULED_BATCH)
            current.started += delivered
            activity.heartbeat()
            if found < SCHEDULED_BATCH:
                return

    async def _free_groups(self, current: _PassSummary) -> None:
        """Free the next deliveries of groups in which nothing happened for a while."""
        while self._groups is not None and not current.is_over:
            async with self._database.write_connection() as connection:
                checked, freed = await free_stalled(connection, now() - STALLED_AFTER, GROUPS)
            self._groups.start(freed)
            current.started += len(freed)
            activity.heartbeat()
            if checked < GROUPS:
                return

    async def _sync_limits(self, _: _PassSummary) -> None:
        """Send Temporal the rate limits that changed while it was unavailable."""
        try:
            corrected = await sync_limits(self._client, self._database)
        except RPCError as error:
            if error.status not in NOT_PERMITTED:  # a server without fairness, or one that is configured elsewhere
                raise
            return
        if corrected:
            log.info("corrected the weights of endpoints", queue=TaskQueue.SENDS_LIMITED.value, corrected=corrected)
