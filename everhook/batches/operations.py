"""Bulk operations: Temporal batch operations over the visibility query that an operator would write.

The server paces them and keeps their progress: no process of Everhook loops over thousands of workflows.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio.api.batch.v1 import BatchOperationSignal
from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import BatchOperationState
from temporalio.api.workflowservice.v1 import (
    DescribeBatchOperationRequest,
    StartBatchOperationRequest,
    StopBatchOperationRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import OperatorAction
from everhook.errors import BulkOperationRunning
from everhook.storage.tables import BatchState

TIMEOUT = timedelta(seconds=5)


@dataclass(frozen=True)
class Progress:
    """How far a batch is: of `total` workflows, `completed` were signalled, and `failed` could not be. Temporal counts
    neither for a batch that was stopped."""

    state: BatchState
    total: int
    completed: int
    failed: int
    closed_at: datetime | None

    @property
    def is_running(self) -> bool:
        return self.state is BatchState.RUNNING


async def start_signal_batch(client: Client, gid: str, query: str, signal: str, action: OperatorAction) -> None:
    """Start the batch `gid`, which signals every workflow that `query` selects. Raises BulkOperationRunning if
    Temporal runs the maximum number of batches of this namespace (its default is one)."""
    payloads = await client.data_converter.encode([action])
    request = StartBatchOperationRequest(
        namespace=client.namespace,
        visibility_query=query,
        job_id=gid,
        reason=f"{signal} by {action.by}: {action.because}",
        signal_operation=BatchOperationSignal(
            signal=signal, input=Payloads(payloads=payloads), identity=client.identity
        ),
    )
    try:
        await client.workflow_service.start_batch_operation(request, timeout=TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.RESOURCE_EXHAUSTED:
            raise BulkOperationRunning(
                "Temporal runs its maximum number of bulk operations; nothing was started."
            ) from error
        raise


async def stop(client: Client, gid: str, reason: str) -> None:
    """Stop a batch. The workflows that it has signalled go on. One that has ended, or that Temporal does not know, is
    no error."""
    request = StopBatchOperationRequest(namespace=client.namespace, job_id=gid, reason=reason, identity=client.identity)
    try:
        await client.workflow_service.stop_batch_operation(request, timeout=TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


async def progress(client: Client, gid: str) -> Progress | None:
    """How far a batch is. None if Temporal knows no batch of that gid."""
    try:
        found = await client.workflow_service.describe_batch_operation(
            DescribeBatchOperationRequest(namespace=client.namespace, job_id=gid), timeout=TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return Progress(
        state=_STATES.get(found.state, BatchState.RUNNING),
        total=found.total_operation_count,
        completed=found.complete_operation_count,
        failed=found.failure_operation_count,
        closed_at=found.close_time.ToDatetime(UTC) if found.HasField("close_time") else None,
    )


_STATES: dict[int, BatchState] = {
    BatchOperationState.BATCH_OPERATION_STATE_COMPLETED: BatchState.COMPLETED,
    BatchOperationState.BATCH_OPERATION_STATE_FAILED: BatchState.FAILED,
}
