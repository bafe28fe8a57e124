"""Use cases of batches: list and follow replays of channels and bulk operations on dead letters, and cancel them.

The rows of replays are exact: see `everhook/redelivery/pages.py`. Those of bulk operations say which they are and how
they ended. While one runs, Temporal knows how far it is, and is asked when it is shown; the reconciler asks too, so
that an end that no one watches is recorded.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

import structlog
from temporalio.client import Client
from temporalio.service import RPCError

from everhook.audit.store import Actor, record_audit
from everhook.batches import operations
from everhook.batches import store as batches
from everhook.batches.operations import Progress
from everhook.contracts import OperatorAction
from everhook.errors import BulkOperationRunning, Conflict, NotFound
from everhook.lifecycle.service import Viewer
from everhook.storage.engine import Session
from everhook.storage.paging import Page, any_of
from everhook.storage.tables import Batch, BatchKind, BatchState, now
from everhook.storage.tenant_scope import TenantScope
from everhook.tenants import store as tenants

MAX_FOLLOWED = 20
"""Bulk operations that Temporal is asked about at once. It runs one in a namespace, unless it is configured."""

UNKNOWN_AFTER = timedelta(minutes=1)
"""How old a bulk operation is that Temporal must know. A younger one may be about to start."""

UNKNOWN = (
    "Temporal has no record of it: it was not started, or Temporal's store was lost. Start another one for the dead "
    "letters that still match."
)
FAILED = "Temporal ended it before it was done. Start another one for the dead letters that still match."

log = structlog.get_logger()


class Store(Protocol):
    """The database, or what a tenant sees of it."""

    def reading(self) -> AbstractAsyncContextManager[Session]: ...
    def writing(self) -> AbstractAsyncContextManager[Session]: ...


@dataclass(frozen=True)
class BatchView:
    """`tenant` is the name of the tenant whose deliveries a batch is limited to."""

    batch: Batch
    tenant: str | None


class BatchService:
    def __init__(self, temporal: Client) -> None:
        self._temporal = temporal

    async def find(self, scope: TenantScope, viewer: Viewer, gid: str) -> BatchView:
        """A batch, and how far it is. Raises NotFound."""
        async with scope.reading() as session:
            batch = await batches.find(session, gid, key_gid=viewer.publisher_gid)
        if batch is None:
            raise NotFound("batch", gid)
        if _is_followed(batch):
            batch = await self._follow(scope, batch)
        async with scope.reading() as session:
            return (await _views(session, [batch]))[0]

    async def page(
        self,
        scope: TenantScope,
        viewer: Viewer,
        *,
        kinds: Sequence[BatchKind] | None = None,
        channels: Sequence[str] | None = None,
        tenants_named: Sequence[str] | None = None,
        states: Sequence[BatchState] | None = None,
        after: str | None,
        limit: int,
    ) -> Page[BatchView]:
        """Batches, newest first. Bulk operations that have ended are recorded before, so that `states` is true."""
        running = {batch.gid: batch for batch in await self.follow(scope)} if viewer.publisher_gid is None else {}
        async with scope.reading() as session:
            found = await batches.page(
                session,
                kind=any_of(kinds),
                channel=any_of(channels),
                tenant_gid=await tenants.chosen_gids(session, tenants_named),
                state=any_of(states),
                key_gid=viewer.publisher_gid,
                after=after,
                limit=limit,
            )
            return Page(await _views(session, [running.get(row.gid, row) for row in found.rows]), found.next_key)

    async def cancel(self, scope: TenantScope, actor: Actor, viewer: Viewer, gid: str) -> BatchView:
        """End a replay at its next page, or have Temporal stop a bulk operation. What it has started goes on. Raises
        NotFound, and Conflict if it has ended otherwise. If Temporal is unavailable, the reconciler stops a bulk
        operation later: until then its state is `running`."""
        async with scope.writing() as session:
            batch = await batches.find(session, gid, key_gid=viewer.publisher_gid, for_change=True)
            if batch is None:
                raise NotFound("batch", gid)
            if batch.state in (BatchState.COMPLETED, BatchState.FAILED):
                raise Conflict(f"{gid} has {batch.state}.")
            if batch.state is BatchState.RUNNING:
                if batch.kind is BatchKind.CHANNEL_REPLAY:
                    batches.end_cancelled(session, actor, batch)
                elif batch.cancel_requested_at is None:
                    batch.cancel_requested_at = now()
                    session.add(batch)
                    record_audit(session, actor, "dead_letters.batch_cancelled", gid, tenant_gid=batch.tenant_gid)
        return await self.find(scope, viewer, gid)

    async def start_bulk(
        self, scope: TenantScope, batch: Batch, query: str, signal: str, action: OperatorAction
    ) -> None:
        """Record a bulk operation and start it: `signal` goes to every workflow that `query` selects. Raises
        BulkOperationRunning: a tenant's keys start one at a time, since Temporal runs a few in all, for all tenants.

        The row is committed first, so that nothing runs that is not listed. If this process dies in between, the row
        reports that Temporal does not know it.
        """
        await self.follow(scope)
        async with scope.writing() as session:
            if scope.tenant_gid is not None and await batches.has_running_bulk(session, scope.tenant_gid):
                raise BulkOperationRunning("Another bulk operation of this tenant is running; nothing was started.")
            session.add(batch)
        try:
            await operations.start_signal_batch(self._temporal, batch.gid, query, signal, action)
        except BulkOperationRunning:
            async with scope.writing() as session:
                await batches.remove(session, batch.gid)
            raise

    async def follow(self, store: Store) -> Sequence[Batch]:
        """Ask Temporal about the bulk operations that run; stop those that were cancelled, and record those that have
        ended. Returns them as they are now. If Temporal is unavailable: as they were recorded."""
        async with store.reading() as session:
            running = await batches.running_bulk(session, MAX_FOLLOWED)
        return await asyncio.gather(*(self._follow(store, batch) for batch in running))

    async def _follow(self, store: Store, batch: Batch) -> Batch:
        try:
            found = await operations.progress(self._temporal, batch.gid)
            if found is not None and found.is_running and batch.cancel_requested_at is not None:
                await operations.stop(self._temporal, batch.gid, "cancelled")
                # Temporal forgets the counts of a batch that was stopped.
                found = _with_counts(found, await operations.progress(self._temporal, batch.gid))
        except (RPCError, RuntimeError) as error:
            log.warning("the progress of a bulk operation is unknown", batch_gid=batch.gid, error=str(error))
            return batch
        if found is None and now() - batch.created_at < UNKNOWN_AFTER:
            return batch
        if found is not None and found.is_running:
            return _counted(batch, found)
        async with store.writing() as session:
            locked = await batches.find(session, batch.gid, for_change=True)
            if locked is None or locked.state is not BatchState.RUNNING:
                return locked or batch
            _end(locked, found)
            session.add(locked)
            await session.flush()
        return locked


def _is_followed(batch: Batch) -> bool:
    return batch.kind is not BatchKind.CHANNEL_REPLAY and batch.state is BatchState.RUNNING


def _end(batch: Batch, found: Progress | None) -> None:
    """Record the end of a bulk operation. `found` is None if Temporal does not know it."""
    batch.ended_at = now()
    if found is not None:
        _counted(batch, found)
        batch.ended_at = found.closed_at or batch.ended_at
    if found is not None and found.state is BatchState.COMPLETED:
        batch.state = BatchState.COMPLETED
    elif batch.cancel_requested_at is not None:
        batch.state = BatchState.CANCELLED
    else:
        batch.state, batch.error = BatchState.FAILED, FAILED if found is not None else UNKNOWN


def _counted(batch: Batch, found: Progress) -> Batch:
    """A batch with Temporal's counts, which never fall: Temporal counts anew if it has to start a batch again, and no
    longer finds those that it signalled before. A batch that completed has none left to signal."""
    batch.matched = max(batch.matched, found.total)
    batch.started, batch.failed = max(batch.started, found.completed), max(batch.failed, found.failed)
    if found.state is BatchState.COMPLETED:
        batch.started = batch.matched - batch.failed
    return batch


def _with_counts(before: Progress, after: Progress | None) -> Progress:
    """The progress after a batch was stopped, with the counts from before where it has none."""
    if after is None:
        return before
    return replace(
        after,
        total=after.total or before.total,
        completed=max(after.completed, before.completed),
        failed=max(after.failed, before.failed),
    )


async def _views(session: Session, found: Sequence[Batch]) -> list[BatchView]:
    names = await tenants.names(session, {batch.tenant_gid for batch in found if batch.tenant_gid is not None})
    return [BatchView(batch, names.get(batch.tenant_gid or "")) for batch in found]
