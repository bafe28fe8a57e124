"""Starts the workflow of a replay. Used by the API, and by the reconciler for replays whose workflow is missing."""

from datetime import timedelta

from temporalio.client import Client
from temporalio.common import Priority, WorkflowIDConflictPolicy

from everhook.contracts import REPLAY_PRIORITY, REPLAY_WORKFLOW, ReplayInput, TaskQueue
from everhook.ids import replay_workflow_id

START_TIMEOUT = timedelta(seconds=5)


async def start_replay(client: Client, batch_gid: str) -> None:
    """Start the workflow of a replay that is recorded. If it is running, nothing changes."""
    await client.start_workflow(
        REPLAY_WORKFLOW,
        ReplayInput(batch_gid),
        id=replay_workflow_id(batch_gid),
        task_queue=TaskQueue.DELIVERIES,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"replay {batch_gid}",
        priority=Priority(priority_key=REPLAY_PRIORITY),
        rpc_timeout=START_TIMEOUT,
    )
