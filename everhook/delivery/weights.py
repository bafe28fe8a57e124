"""Changed rate limits, in Temporal: attempts that wait on `sends-limited` carry the limit of the time they were queued.

An override of an endpoint's fairness weight counts for all of them at once. The server holds 1,000 overrides at most;
it needs one only while attempts wait that were queued before the change.
"""

from collections.abc import Collection, Mapping
from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue as TaskQueueName
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, UpdateTaskQueueConfigRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import TaskQueue
from everhook.delivery.rate_limits_store import rate_limits
from everhook.storage.engine import Database

LIFTED = 1_000.0
"""The weight of an endpoint without a limit: the highest limit there is."""

MAX_OVERRIDES = 1_000
"""The server's default for `matching.maxFairnessKeyWeightOverrides`, and for one request."""

RPC_TIMEOUT = timedelta(seconds=2)
SAME = 1e-4
"""Weights come back as 32-bit floats."""


def weight_of(limit: float | None) -> float:
    """An endpoint's fairness weight on `sends-limited`, where the server hands out one attempt a second and weight."""
    return limit if limit is not None else LIFTED


async def apply_limit(client: Client, endpoint_gid: str, limit: float | None) -> None:
    """Have what waits for an endpoint handed out at its new limit. Raises RPCError where Temporal is away, or is one
    that lacks fairness: then the attempts that wait keep their pace. What is sent keeps to the new limit anyway."""
    weights = {endpoint_gid: weight_of(limit)}
    try:
        await _update(client, weights)
    except RPCError as error:
        if error.status is not RPCStatusCode.INVALID_ARGUMENT:
            raise
        # There is no room for another. All that wait for the others were probably handed out long ago.
        await _update(client, weights, without=(await _overrides(client)).keys() - weights.keys())


async def sync_limits(client: Client, database: Database) -> int:
    """Correct the overrides that differ from their endpoints' limits, because Temporal was away when these changed;
    remove those of deleted endpoints. Returns how many there were of both."""
    overrides = await _overrides(client)
    if not overrides:
        return 0
    async with database.read_connection() as connection:
        limits = await rate_limits(connection, sorted(overrides))
    weights = {gid: weight_of(limit) for gid, limit in limits.items()}
    wrong = {gid: weight for gid, weight in weights.items() if abs(overrides[gid] / weight - 1) > SAME}
    gone = overrides.keys() - weights.keys()
    if wrong or gone:
        await _update(client, wrong, without=gone)
    return len(wrong) + len(gone)


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
