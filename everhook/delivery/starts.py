"""Starting the workflow of a delivery: used by API, workers and replays alike.

The workflow id is derived from the delivery gid, so a start that finds the workflow open changes nothing: in doubt,
start again.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import (
    Priority,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import DELIVERY_WORKFLOW, AttemptOutcome, DeliveryOrder, DeliveryStatus, TaskQueue
from everhook.ids import delivery_workflow_id
from everhook.temporal import search_attributes as sa

START_TIMEOUT = timedelta(seconds=5)

LOWEST = 5
"""Temporal's lowest priority: a settled workflow only shows what happened, and never delays one that has work to do."""

_AWAY = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.ABORTED,
        RPCStatusCode.NOT_FOUND,  # the namespace: a store that was lost is being set up again
    }
)


def is_away(error: BaseException) -> bool:
    """Whether Temporal cannot be reached, rather than that it refuses this one request."""
    if isinstance(error, RPCError):
        return error.status in _AWAY
    return isinstance(error, RuntimeError)  # a lazy client that cannot connect


def is_overloaded(error: BaseException) -> bool:
    """Whether Temporal asks to slow down."""
    return isinstance(error, RPCError) and error.status is RPCStatusCode.RESOURCE_EXHAUSTED


async def start_delivery(
    client: Client,
    order: DeliveryOrder,
    *,
    signal: str | None = None,
    note: Any = None,
    first: bool = False,
    eager: bool = False,
) -> None:
    """Start a delivery's workflow, or find it open; with `signal` either way (signal-with-start).

    `first`: this is the delivery's first start, so a workflow that has completed already is not run again. A lost
    workflow is restarted without it. `eager`: a worker of this process may take the first task at once. Raises RPCError
    or RuntimeError.
    """
    with suppress(WorkflowAlreadyStartedError):  # it has run
        await client.start_workflow(
            DELIVERY_WORKFLOW,
            order,
            id=delivery_workflow_id(order.delivery_gid),
            task_queue=TaskQueue.DELIVERIES,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=(
                WorkflowIDReusePolicy.REJECT_DUPLICATE if first else WorkflowIDReusePolicy.ALLOW_DUPLICATE
            ),
            search_attributes=_search_attributes(order),
            static_summary=f"{order.event_type} on {order.channel} to {order.endpoint_gid} of {order.tenant}",
            static_details=_details(order),
            priority=Priority(priority_key=LOWEST if order.is_delivered else None, fairness_key=order.endpoint_gid),
            start_signal=signal,
            start_signal_args=[] if note is None else [note],
            request_eager_start=eager and signal is None,
            rpc_timeout=START_TIMEOUT,
        )


async def wake_delivery(client: Client, order: DeliveryOrder) -> None:
    """Have a delivery take its next step now. Signal-with-start, so that one without a workflow gets one."""
    await start_delivery(client, order, signal="attempt_now")


def _search_attributes(order: DeliveryOrder) -> TypedSearchAttributes:
    status = DeliveryStatus.DELIVERED if order.is_delivered else DeliveryStatus.SENDING
    return TypedSearchAttributes(
        [
            SearchAttributePair(sa.TENANT, order.tenant),
            SearchAttributePair(sa.ENDPOINT, order.endpoint_gid),
            SearchAttributePair(sa.CHANNEL, order.channel),
            SearchAttributePair(sa.EVENT_TYPE, order.event_type),
            SearchAttributePair(sa.DELIVERY_STATUS, status.value),
        ]
    )


def _details(order: DeliveryOrder) -> str | None:
    """What the Temporal UI tells of an attempt that was made before the workflow started."""
    if order.previous is None:
        return None
    outcome = order.previous.outcome
    return _in_words(order, outcome) if outcome.attempt_gid is not None else None


def _in_words(order: DeliveryOrder, outcome: AttemptOutcome) -> str:
    return (
        f"Attempt {order.attempt} of {order.policy.attempts} ({outcome.attempt_gid}) was made before this workflow "
        f"started: **{outcome.verdict}**, {outcome.response} after {outcome.duration_ms} ms."
    )
