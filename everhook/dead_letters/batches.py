"""Bulk operations on dead letters: Temporal batch operations over the visibility query that an operator would write.

The server paces them and keeps their progress: no process of Everhook loops over thousands of workflows.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.api.batch.v1 import BatchOperationSignal
from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import BatchOperationState
from temporalio.api.workflowservice.v1 import (
    DescribeBatchOperationRequest,
    StartBatchOperationRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import DELIVERY_WORKFLOW, DeliveryStatus, OperatorAction
from everhook.dead_letters.store import DeadLetterFilter
from everhook.errors import BulkOperationRunning
from everhook.storage.tables import BatchState

INDEX_PATIENCE_S, INDEX_POLL_S = 5.0, 0.25
MAX_ENDPOINTS = 1_000
"""This many gids make a query of 32 KB."""


@dataclass(frozen=True)
class Progress:
    state: BatchState
    total: int
    completed: int
    failed: int
    started_at: datetime | None
    closed_at: datetime | None


def visibility_query(
    chosen: DeadLetterFilter, endpoints: Sequence[str] | None = None, *, but: Sequence[str] = ()
) -> str:
    """The open dead letters that a filter selects, in Temporal's list filter language; only those of `endpoints`, if
    given, and none of the endpoints `but`.

    If the filter names a tenant, `endpoints` must be that tenant's: a tenant's name can change owner, the gid of an
    endpoint cannot.
    """
    parts = [
        f'WorkflowType = "{DELIVERY_WORKFLOW}"',
        'ExecutionStatus = "Running"',
        f'DeliveryStatus = "{DeliveryStatus.DEAD_LETTERED}"',
    ]
    for attribute, value in (
        ("Channel", chosen.channel),
        ("Endpoint", chosen.endpoint_gid),
        ("EventType", chosen.event_type),
        ("DeadLetterReason", chosen.reason),
    ):
        if value is not None:
            parts.append(_is_one_of(attribute, [f'"{_quoted(one)}"' for one in value]))
    if chosen.tenant_gid is not None or endpoints is not None:
        parts.append(f"Endpoint IN ({_gids(endpoints or ('',))})")
    if but:
        parts.append(f"Endpoint NOT IN ({_gids(but)})")
    if chosen.status_code is not None:
        parts.append(_is_one_of("StatusCode", [str(code) for code in chosen.status_code]))
    if chosen.since is not None:
        parts.append(f'DeadLetteredAt >= "{_moment(chosen.since)}"')
    if chosen.until is not None:
        parts.append(f'DeadLetteredAt < "{_moment(chosen.until)}"')
    return " AND ".join(parts)


async def until_indexed(client: Client, query: str, matched: int) -> bool:
    """Wait for a few seconds until Temporal's index finds as many dead letters as the database: the index lags, and
    a batch reaches only what it finds. False if it still finds fewer."""
    give_up_at = time.monotonic() + INDEX_PATIENCE_S
    while (await client.count_workflows(query)).count < matched:
        if time.monotonic() >= give_up_at:
            return False
        await asyncio.sleep(INDEX_POLL_S)
    return True


async def start_signal_batch(client: Client, gid: str, query: str, signal: str, action: OperatorAction) -> None:
    """Start the batch `gid`, which signals every workflow that `query` selects. Raises BulkOperationRunning if
    Temporal runs as many batches as it may in this namespace (its default is one)."""
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
        await client.workflow_service.start_batch_operation(request)
    except RPCError as error:
        if error.status is RPCStatusCode.RESOURCE_EXHAUSTED:
            raise BulkOperationRunning(
                "Temporal runs as many bulk operations as it may at once; nothing was started."
            ) from error
        raise


async def progress(client: Client, gid: str) -> Progress | None:
    """How far a batch is. None if Temporal knows no batch of that gid."""
    try:
        found = await client.workflow_service.describe_batch_operation(
            DescribeBatchOperationRequest(namespace=client.namespace, job_id=gid)
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
        started_at=found.start_time.ToDatetime(UTC) if found.HasField("start_time") else None,
        closed_at=found.close_time.ToDatetime(UTC) if found.HasField("close_time") else None,
    )


_STATES: dict[int, BatchState] = {
    BatchOperationState.BATCH_OPERATION_STATE_COMPLETED: BatchState.COMPLETED,
    BatchOperationState.BATCH_OPERATION_STATE_FAILED: BatchState.FAILED,
}


def _is_one_of(attribute: str, values: Sequence[str]) -> str:
    """`values` are written as in a query."""
    return f"{attribute} = {values[0]}" if len(values) == 1 else f"{attribute} IN ({', '.join(values)})"


def _gids(gids: Sequence[str]) -> str:
    return ", ".join(f'"{_quoted(gid)}"' for gid in gids)


def _quoted(text: str) -> str:
    """Quote a value. Callers have checked it against a strict pattern; this makes sure of it."""
    if '"' in text or "\\" in text:
        raise ValueError(f"{text!r} cannot be part of a query")
    return text


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
