"""The cost of Temporal without Everhook: (a) an empty workflow, started eagerly; (b) one no-op regular activity.

Run as a separate process, so that its CPU is measured separately. It reads jobs from standard input (`{"workflow":
"Empty", "count": 500, "concurrency": 20}`) and writes a line of JSON for each.
"""

import asyncio
import json
import sys
import time
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from everhook import event_loop
from everhook.temporal.client import connect

TASK_QUEUE = "bench-baseline"


@activity.defn(name="bench_noop")
async def noop() -> None:
    """Nothing."""


@workflow.defn(name="BenchEmpty")
class EmptyWorkflow:
    @workflow.run
    async def run(self) -> None:
        """Nothing."""


@workflow.defn(name="BenchNaive")
class NaiveWorkflow:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(noop, start_to_close_timeout=timedelta(seconds=30))


async def run_many(client: Client, name: str, run: str, count: int, concurrency: int) -> dict[str, float]:
    """Start and await `count` workflows, `concurrency` at a time."""
    slots = asyncio.Semaphore(concurrency)

    async def one(number: int) -> None:
        async with slots:
            await client.execute_workflow(
                name, id=f"bench/{run}/{number}", task_queue=TASK_QUEUE, request_eager_start=name == "BenchEmpty"
            )

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(count)))
    seconds = time.monotonic() - began
    history = await client.get_workflow_handle(f"bench/{run}/0").fetch_history()
    return {"seconds": seconds, "history_events": len(history.events)}


async def main() -> None:
    client = await connect()
    async with Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[EmptyWorkflow, NaiveWorkflow],
        activities=[noop],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_workflow_tasks=400,
    ):
        print("baseline ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            result = await run_many(client, **order)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    event_loop.run(main())
