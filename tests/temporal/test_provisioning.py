"""What is set up in a namespace: in one that was made a moment ago, and in one that operators have changed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import RateLimit
from temporalio.api.taskqueue.v1 import TaskQueue as TaskQueueName
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, UpdateTaskQueueConfigRequest
from temporalio.client import Client, ScheduleActionStartWorkflow, ScheduleDescription
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import EVENTS_WORKFLOW, LOOP_LENGTH, RECONCILE_WORKFLOW, TaskQueue
from everhook.settings import Settings
from everhook.temporal.client import connect
from everhook.temporal.provisioning import (
    ScheduledJob,
    _definition,
    ensure_runtime,
    once_known,
    scheduled_jobs,
    setup,
)
from testing.temporal_server import NAMESPACE, TemporalServer
from testing.waiting import assert_eventually


class Step:
    """Raises these, one a time, and then is done."""

    def __init__(self, *statuses: RPCStatusCode) -> None:
        self._statuses = list(statuses)

    async def __call__(self) -> None:
        if self._statuses:
            raise RPCError("Namespace everhook is not found.", self._statuses.pop(0), b"")


async def test_a_namespace_that_is_not_known_everywhere_yet_is_waited_for() -> None:
    await once_known(Step(RPCStatusCode.NOT_FOUND, RPCStatusCode.NOT_FOUND))


async def test_another_error_than_an_unknown_namespace_is_raised_at_once() -> None:
    with pytest.raises(RPCError):
        await once_known(Step(RPCStatusCode.UNAVAILABLE))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with TemporalServer(tmp_path) as server:
        yield await connect(target_host=server.address, namespace=NAMESPACE)


async def test_changes_by_operators_are_kept_when_a_worker_starts(client: Client) -> None:
    """A paused schedule, its note, and another limit on the queue outlive deploys; a changed setting takes effect."""
    await setup(client, Settings(dev=True))
    retention = client.get_schedule_handle("retention")
    await retention.pause(note="legal hold")
    await _set_queue_limit(client, 3.0)

    reported: list[str] = []
    await ensure_runtime(client, Settings(dev=True, retention_every_seconds=60), reported.append)

    schedule = (await retention.describe()).schedule
    assert (schedule.state.paused, schedule.state.note) == (True, "legal hold")
    assert [interval.every for interval in schedule.spec.intervals] == [timedelta(seconds=60)]
    assert isinstance(schedule.action, ScheduleActionStartWorkflow)
    assert "schedule retention: up to date, paused by an operator" in reported
    assert await _queue_limit(client) == 3.0


async def test_schedules_of_an_earlier_release_become_loops_in_place(client: Client) -> None:
    """One that runs starts its first loop at once. One that was paused stays paused, and starts none."""
    for name, workflow in (("reconcile", RECONCILE_WORKFLOW), ("events", EVENTS_WORKFLOW)):
        job = ScheduledJob(name, workflow, timedelta(days=365))
        await client.create_schedule(name, job.schedule)
    await client.get_schedule_handle("events").pause(note="maintenance")

    await setup(client, Settings(dev=True))
    await ensure_runtime(client, Settings(dev=True))

    async def has_started() -> ScheduleDescription:
        described = await client.get_schedule_handle("reconcile").describe()
        assert described.info.num_actions == 1
        return described

    reconcile = await assert_eventually(has_started)
    events = await client.get_schedule_handle("events").describe()
    assert [_definition(each.schedule) for each in (reconcile, events)] == [
        _definition(job.schedule) for job in scheduled_jobs(Settings(dev=True)) if job.is_loop
    ]
    assert (events.schedule.state.paused, events.schedule.state.note) == (True, "maintenance")
    assert events.info.num_actions == 0
    for action in (reconcile.schedule.action, events.schedule.action):
        assert isinstance(action, ScheduleActionStartWorkflow)
        assert action.execution_timeout == 2 * LOOP_LENGTH  # one that hangs is replaced by the next


async def _set_queue_limit(client: Client, rate: float) -> None:
    await client.workflow_service.update_task_queue_config(
        UpdateTaskQueueConfigRequest(
            namespace=client.namespace,
            task_queue=TaskQueue.SENDS_LIMITED,
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            update_fairness_key_rate_limit_default=UpdateTaskQueueConfigRequest.RateLimitUpdate(
                rate_limit=RateLimit(requests_per_second=rate), reason="an operator"
            ),
        )
    )


async def _queue_limit(client: Client) -> float:
    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueueName(name=TaskQueue.SENDS_LIMITED),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            report_config=True,
        )
    )
    return described.config.fairness_keys_rate_limit_default.rate_limit.requests_per_second
