"""Fairness weights on `sends-limited`: they give Temporal the current rate limits of endpoints.

An attempt that waits on the queue has the weight of the time at which it was queued. An override of its endpoint's
weight applies to all of its waiting attempts at once. The server holds at most 1,000 overrides; one is needed only
while attempts wait that were queued before the change.
"""

from collections.abc import Collection, Mapping
from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue as TaskQueueName
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, UpdateTaskQueueConfigRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import TaskQueue
from everhook.delivery.limits import UNLIMITED
from everhook.delivery.rate_limits_store import rate_limits
from everhook.storage.engine import Database

MAX_OVERRIDES = 1_000
"""The server's default for `matching.maxFairnessKeyWeightOverrides`, and the maximum of one request."""

RPC_TIMEOUT = timedelta(seconds=2)
TOLERANCE = 1e-4
"""Weights are returned as 32-bit floats."""


def weight_of(limit: float | None) -> float:
    """An endpoint's fairness weight on `sends-limited`, where the server dispatches one attempt per second and
    weight."""
    return limit if limit is not None else UNLIMITED


async def apply_limit(client: Client, endpoint_gid: str, limit: float | None) -> None:
    """Apply a new limit to the waiting attempts of an endpoint.

    Raises RPCError if Temporal is unavailable or has no fairness: then waiting attempts keep their pace. Senders apply
    the new limit in any case.
    """
    weights = {endpoint_gid: weight_of(limit)}
    try:
        await _update(client, weights)
    except RPCError as error:
        if error.status is not RPCStatusCode.INVALID_ARGUMENT:
            raise
        # There is no room for another override. The attempts that the others are for were probably dispatched long ago.
        await _update(client, weights, without=(await _overrides(client)).keys() - weights.keys())


async def sync_limits(client: Client, database: Database) -> int:
    """Correct the overrides that differ from the limits of their endpoints, because Temporal was unavailable when these
    changed, and remove those of deleted endpoints. Returns how many there were of both."""
    overrides = await _overrides(client)
    if not overrides:
        return 0
    async with database.read_connection() as connection:
        limits = await rate_limits(connection, sorted(overrides))
    weights = {gid: weight_of(limit) for gid, limit in limits.items()}
    wrong = {gid: weight for gid, weight in weights.items() if abs(overrides[gid] / weight - 1) > TOLERANCE}
    deleted = overrides.keys() - weights.keys()
    if wrong or deleted:
        await _update(client, wrong, without=deleted)
    return len(wrong) + len(deleted)


async def _overrides(client: Client) -> Mapping[str, float]:
    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueueName(name=TaskQueue.SENDS_LIMITED),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            report_config=True,
        ),
        timeout=RPC_TIMEOUT,
    )
    return dict(described.config.fairness_weight_overrides)


async def _update(client: Client, weights: Mapping[str, float], *, without: Collection[str] = ()) -> None:
    await client.workflow_service.update_task_queue_config(
        UpdateTaskQueueConfigRequest(
            namespace=client.namespace,
            identity=client.identity,
            task_queue=TaskQueue.SENDS_LIMITED,
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            set_fairness_weight_overrides=weights,
            unset_fairness_weight_overrides=sorted(without)[: MAX_OVERRIDES - len(weights)],
        ),
        timeout=RPC_TIMEOUT,
    )
