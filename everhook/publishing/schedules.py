"""Messages with a time of delivery: a workflow that waits for it delivers them.

The database is the truth: to deliver a message is to take its row off the schedule, in the transaction that creates its
deliveries. If the workflow was never started, or was lost, the reconciler delivers the message a little later.
"""

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

import structlog
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from everhook.audit.store import Actor, record_audit
from everhook.contracts import SCHEDULED_MESSAGE_WORKFLOW, ScheduledMessageInput, TaskQueue
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.starts import START_TIMEOUT
from everhook.errors import NotFound, NotScheduled
from everhook.observability.metrics import SCHEDULED_REFUSED
from everhook.publishing import schedules_store as store
from everhook.publishing import store as messages
from everhook.publishing.gates import compiled
from everhook.publishing.publication import Accepted, Refused
from everhook.publishing.store import Acceptor
from everhook.publishing.stored import published_before
from everhook.storage.engine import Database, is_unavailable, once_more_if_outdated
from everhook.storage.tables import now
from everhook.storage.tenant_scope import TenantScope
from everhook.temporal import search_attributes as sa

CONCURRENCY = 16
"""Starts of workflows in flight."""

REFUSED_PAUSE = timedelta(minutes=10)
"""How long after a refusal the reconciler tries again."""

log = structlog.get_logger()


class ScheduledDeliveryRefused(Exception):
    """A scheduled message has no deliveries yet, because its gate or its endpoint is not there."""


class MessageSchedules:
    """One for each process."""

    def __init__(
        self,
        client: Client,
        database: Database,
        acceptor: Acceptor,
        dispatcher: Dispatcher,
        on_change: Callable[[Collection[str]], None],
    ) -> None:
        """`on_change` is called with messages that got their deliveries or were cancelled, after the commit."""
        self._client = client
        self._database = database
        self._acceptor = acceptor
        self._dispatcher = dispatcher
        self._on_change = on_change
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._starts: set[asyncio.Task[None]] = set()

    def start_soon(self, accepted: Accepted) -> None:
        """Start the workflow of a scheduled message that was committed. Returns at once."""
        if accepted.deliver_at is None or accepted.duplicate:
            return
        task = asyncio.create_task(self._start(accepted, accepted.deliver_at))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    async def close(self) -> None:
        """Finish the starts in flight."""
        if self._starts:
            await asyncio.wait(self._starts)

    async def _start(self, accepted: Accepted, deliver_at: datetime) -> None:
        async with self._slots:
            try:
                await self._client.start_workflow(
                    SCHEDULED_MESSAGE_WORKFLOW,
                    ScheduledMessageInput(accepted.message_gid),
                    id=_workflow_id(accepted.message_gid),
                    task_queue=TaskQueue.DELIVERIES,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    start_delay=max(deliver_at - now(), timedelta()),
                    search_attributes=TypedSearchAttributes(
                        [
                            SearchAttributePair(sa.CHANNEL, accepted.channel),
                            SearchAttributePair(sa.EVENT_TYPE, accepted.event_type),
                        ]
                    ),
                    static_summary=f"{accepted.event_type} on {accepted.channel} at {deliver_at:%Y-%m-%d %H:%M:%S} UTC",
                    rpc_timeout=START_TIMEOUT,
                )
            except WorkflowAlreadyStartedError:
                pass
            except (RPCError, RuntimeError) as error:  # the reconciler delivers it when it is due
                log.warning(
                    "the workflow of a scheduled message was not started",
                    message_gid=accepted.message_gid,
                    error=str(error),
                )

    async def deliver(self, message_gid: str) -> bool:
        """Create the deliveries of a scheduled message and start them. False if it does not wait any more.

        Raises ScheduledDeliveryRefused if its gate cannot be asked or its endpoint was deleted; the message then keeps
        waiting.
        """
        accepted = await once_more_if_outdated(lambda: self._deliver(message_gid))
        if accepted is None:
            return False
        self._acceptor.wake_queues(accepted.queued)
        self._dispatcher.dispatch(accepted.new)
        self._on_change([message_gid])
        return True

    async def _deliver(self, message_gid: str) -> Accepted | None:
        async with self._acceptor.transaction() as connection:
            scheduled = await store.take(connection, message_gid)
            if scheduled is None or scheduled.message.payload is None:
                return None
            gates = scheduled.document.get("gates")
            publication = published_before(
                scheduled.message,
                tenant_gid=scheduled.message.tenant_gid,
                publisher=scheduled.document.get("publisher"),
                task=scheduled.document.get("task") or {},
                gates=compiled(gates) if gates is not None else None,
            )
            accepted = await self._acceptor.deliver_scheduled(connection, publication)
            if isinstance(accepted, Refused):  # the transaction is rolled back
                SCHEDULED_REFUSED.inc()
                raise ScheduledDeliveryRefused(f"{accepted.field}: {accepted.message}")
            return accepted

    async def deliver_overdue(self, grace: timedelta, limit: int) -> tuple[int, int]:
        """Deliver messages that should have been delivered `grace` ago. Returns how many there were, up to `limit`, and
        how many of them were delivered. One that cannot be delivered is tried again after `REFUSED_PAUSE`, and holds up
        no other."""
        async with self._database.read_connection() as connection:
            overdue = await store.overdue(connection, now() - grace, limit)
        delivered = 0
        for gid in overdue:
            try:
                delivered += await self.deliver(gid)
            except Exception as error:
                if is_unavailable(error):
                    raise
                reason = str(error) if isinstance(error, ScheduledDeliveryRefused) else type(error).__name__
                log.error("a scheduled message cannot be delivered", message_gid=gid, error=reason)
                async with self._database.write_connection() as connection:
                    await store.postpone(connection, gid, now() + REFUSED_PAUSE)
        return len(overdue), delivered

    async def cancel(self, scope: TenantScope, actor: Actor, gid: str, published_by: str | None) -> None:
        """Cancel a message that waits for its time; with `published_by`, only one that was published with this key.
        Raises NotFound and NotScheduled; to cancel one again changes nothing."""
        async with scope.writing() as session:
            message = await messages.get(session, gid)
            if message is None or published_by not in (None, message.published_by):
                raise NotFound("message", gid)
            if message.cancelled_at is not None:
                return
            if not await store.cancel(await session.connection(), gid):
                raise NotScheduled(f"{gid} does not wait for its delivery, so it cannot be cancelled.")
            record_audit(session, actor, "message.cancelled", gid, tenant_gid=message.tenant_gid)
        self._on_change([gid])
        try:
            await self._client.get_workflow_handle(_workflow_id(gid)).terminate(
                "the message was cancelled", rpc_timeout=START_TIMEOUT
            )
        except (RPCError, RuntimeError) as error:  # then it finds nothing to deliver
            log.info("the workflow of a cancelled message was not terminated", message_gid=gid, error=str(error))


def _workflow_id(message_gid: str) -> str:
    return f"scheduled/{message_gid}"
