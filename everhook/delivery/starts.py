"""Starting, signalling and querying the workflow of a delivery: used by API, workers and replays alike.

The workflow id is derived from the delivery gid, so a start that finds the workflow running changes nothing: when in
doubt, start again.
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

from everhook.contracts import (
    DELIVERY_WORKFLOW,
    REPLAY_PRIORITY,
    AttemptOutcome,
    DeliveryInput,
    DeliveryState,
    OperatorAction,
    TaskQueue,
)
from everhook.ids import delivery_workflow_id
from everhook.temporal import search_attributes as sa

START_TIMEOUT = timedelta(seconds=5)

LOWEST = 5
"""The priority of a history workflow: it only shows what happened, and never delays one that has work to do."""

REPLAY, SETTLED = "replay", "settled"
"""Signals."""

_AWAY = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.ABORTED,
        RPCStatusCode.NOT_FOUND,  # the namespace is missing: Temporal's store was lost and is being set up again
    }
)


def is_away(error: BaseException) -> bool:
    """Whether Temporal is unavailable, rather than refusing this one request."""
    if isinstance(error, RPCError):
        return error.status in _AWAY
    return isinstance(error, RuntimeError)  # a lazy client that cannot connect


def is_overloaded(error: BaseException) -> bool:
    """Whether Temporal asks to slow down."""
    return isinstance(error, RPCError) and error.status is RPCStatusCode.RESOURCE_EXHAUSTED


async def start_delivery(
    client: Client,
    delivery: DeliveryInput,
    *,
    signal: str | None = None,
    note: Any = None,
    first: bool = False,
    eager: bool = False,
    replayed: bool = False,
) -> None:
    """Start a delivery's workflow, or find it running; with `signal`, signal it in either case (signal-with-start).

    `first`: this is the delivery's first start, so a workflow that has completed is not run again. Without it a lost
    workflow is restarted. `eager`: a worker of this process may take the first task at once. `note` is the argument of
    the signal. `replayed`: it is part of a replay, also in its first round. Raises RPCError or RuntimeError.

    The workflow of a later round may have completed in the round before, or may wait as its dead letter for an
    operator. It is run again, or signalled to take up the round; if it has, the signal makes it check the database.
    """
    if delivery.round > 1:
        first = False
        if signal in (None, SETTLED):
            signal, note = REPLAY, OperatorAction(round=delivery.round)
    with suppress(WorkflowAlreadyStartedError):  # it has completed
        await client.start_workflow(
            DELIVERY_WORKFLOW,
            delivery,
            id=delivery_workflow_id(delivery.delivery_gid),
            task_queue=TaskQueue.DELIVERIES,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=(
                WorkflowIDReusePolicy.REJECT_DUPLICATE if first else WorkflowIDReusePolicy.ALLOW_DUPLICATE
            ),
            search_attributes=_search_attributes(delivery),
            static_summary=_summary(delivery),
            static_details=_details(delivery),
            priority=Priority(priority_key=_priority(delivery, replayed), fairness_key=delivery.endpoint_gid),
            start_signal=signal,
            start_signal_args=[] if note is None else [note],
            request_eager_start=eager and signal is None,
            rpc_timeout=START_TIMEOUT,
        )


async def wake_delivery(client: Client, delivery: DeliveryInput) -> None:
    """Make a delivery take its next step now. Signal-with-start, so that a delivery without a workflow gets one."""
    await start_delivery(client, delivery, signal="attempt_now")


async def delivery_state(client: Client, delivery_gid: str) -> DeliveryState | None:
    """What the workflow of a delivery says of itself. None where there is no such workflow."""
    try:
        handle = client.get_workflow_handle(delivery_workflow_id(delivery_gid))
        state: DeliveryState = await handle.query("status", result_type=DeliveryState)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return state


def _priority(delivery: DeliveryInput, replayed: bool) -> int | None:
    if delivery.is_delivered:
        return LOWEST
    return REPLAY_PRIORITY if replayed or delivery.round > 1 else None


def _search_attributes(delivery: DeliveryInput) -> TypedSearchAttributes:
    return TypedSearchAttributes(
        [
            SearchAttributePair(sa.TENANT, delivery.tenant),
            SearchAttributePair(sa.ENDPOINT, delivery.endpoint_gid),
            SearchAttributePair(sa.CHANNEL, delivery.channel),
            SearchAttributePair(sa.EVENT_TYPE, delivery.event_type),
            SearchAttributePair(sa.DELIVERY_STATUS, delivery.status_at_start.value),
        ]
    )


def _summary(delivery: DeliveryInput) -> str:
    return f"{delivery.event_type} on {delivery.channel} to {delivery.endpoint_gid} of {delivery.tenant}"


def _details(delivery: DeliveryInput) -> str | None:
    """What the Temporal UI shows of an attempt that was made before the workflow started."""
    if delivery.previous is None:
        return None
    outcome = delivery.previous.outcome
    return _in_words(delivery, outcome) if outcome.attempt_gid is not None else None


def _in_words(delivery: DeliveryInput, outcome: AttemptOutcome) -> str:
    return (
        f"Attempt {delivery.attempt} of {delivery.policy.attempts} ({outcome.attempt_gid}) was made before this "
        f"workflow started: **{outcome.verdict}**, {outcome.response} after {outcome.duration_ms} ms."
    )
