"""Provisions a Temporal cluster: namespace, search attributes, schedules, queue limits. Idempotent.

`everhook setup` runs all of it. Workers run the parts that need no operator's rights (`ensure_runtime`) at every start,
so that a cluster whose store was lost is provisioned again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import RateLimit
from temporalio.api.taskqueue.v1 import TaskQueue as TaskQueueName
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    RegisterNamespaceRequest,
    UpdateTaskQueueConfigRequest,
)
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import (
    EVENTS_LOOP_WORKFLOW,
    LOOP_LENGTH,
    RECONCILE_LOOP_WORKFLOW,
    RETENTION_WORKFLOW,
    SEAL_RECEIPTS_WORKFLOW,
    TaskQueue,
)
from everhook.settings import Settings
from everhook.temporal import search_attributes

RETENTION = timedelta(days=7)
"""How long Temporal keeps closed workflows, for debugging only: the history of deliveries is in the database."""

NOT_PERMITTED = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.UNIMPLEMENTED)
"""The responses of a managed Temporal, such as Temporal Cloud, to what has to be done in its own UI."""

KNOWN_WITHIN_S, KNOWN_RETRY_S = 45.0, 0.5

Report = Callable[[str], None]


async def setup(client: Client, settings: Settings, report: Report = lambda line: None) -> None:
    """Provision everything, including the namespace. `report` is called with a line of text about each step."""
    await ensure_namespace(client, report)
    await once_known(lambda: ensure_search_attributes(client, report))
    await once_known(lambda: ensure_schedules(client, settings, report))
    await once_known(lambda: ensure_queue_limits(client, report))


async def once_known(step: Callable[[], Awaitable[None]]) -> None:
    """Retry a step while the namespace is not known yet: a new one takes seconds to reach all parts of a server."""
    give_up_at = time.monotonic() + KNOWN_WITHIN_S
    while True:
        try:
            return await step()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND or time.monotonic() >= give_up_at:
                raise
        await asyncio.sleep(KNOWN_RETRY_S)


async def ensure_runtime(client: Client, settings: Settings, report: Report = lambda line: None) -> None:
    """Provision schedules and queue limits: everything that an ordinary client may set."""
    await ensure_schedules(client, settings, report)
    await ensure_queue_limits(client, report)


async def ensure_namespace(client: Client, report: Report) -> None:
    """Register the namespace if it does not exist."""
    request = RegisterNamespaceRequest(
        namespace=client.namespace,
        description="Everhook deliveries",
        workflow_execution_retention_period=Duration(seconds=int(RETENTION.total_seconds())),
    )
    try:
        await client.workflow_service.register_namespace(request)
        report(f"namespace {client.namespace}: created")
    except RPCError as error:
        if error.status in NOT_PERMITTED:
            report(f"namespace {client.namespace}: cannot be created here; make sure that it exists")
        elif error.status is RPCStatusCode.ALREADY_EXISTS:
            report(f"namespace {client.namespace}: exists")
        else:
            raise


async def ensure_search_attributes(client: Client, report: Report) -> None:
    """Add missing search attributes. On Temporal Cloud they are created in its UI: then report which ones are
    needed."""
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        missing = {
            key.name: key.indexed_value_type for key in search_attributes.ALL if key.name not in known.custom_attributes
        }
        if missing:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(
                    namespace=client.namespace,
                    search_attributes={name: kind.value for name, kind in missing.items()},  # type: ignore[misc]
                )
            )
    except RPCError as error:
        if error.status not in NOT_PERMITTED:
            raise
        names = ", ".join(f"{key.name} ({key.indexed_value_type.name.title()})" for key in search_attributes.ALL)
        report(f"search attributes: cannot be added here; make sure that these exist: {names}")
        return
    report(f"search attributes: {len(missing)} added, {len(search_attributes.ALL) - len(missing)} exist")


async def ensure_schedules(client: Client, settings: Settings, report: Report) -> None:
    """Create or update each schedule to what this version needs."""
    for job in scheduled_jobs(settings):
        await _ensure_schedule(client, job, report)


@dataclass(frozen=True)
class ScheduledJob:
    """A workflow without input that a Temporal Schedule starts at an interval. The ids of its runs start with its
    name.

    `is_loop`: the workflow makes passes until about the next start. It starts at once when the schedule is created, and
    a start that is due before it has ended waits for its end.
    """

    name: str
    workflow: str
    every: timedelta
    is_loop: bool = False
    longest: timedelta = timedelta(days=2)
    """A run that lasts longer cannot go on, and times out, for the schedule starts no other meanwhile."""

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            action=ScheduleActionStartWorkflow(
                self.workflow, id=self.name, task_queue=TaskQueue.DELIVERIES, execution_timeout=self.longest
            ),
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=self.every)]),
            # Passes missed during an outage are not made up for: the next pass finds everything.
            policy=SchedulePolicy(overlap=self._overlap, catchup_window=timedelta(seconds=10)),
        )

    @property
    def _overlap(self) -> ScheduleOverlapPolicy:
        return ScheduleOverlapPolicy.BUFFER_ONE if self.is_loop else ScheduleOverlapPolicy.SKIP


def scheduled_jobs(settings: Settings) -> list[ScheduledJob]:
    return [
        _loop("reconcile", RECONCILE_LOOP_WORKFLOW, settings.reconcile_every_seconds),
        _loop("events", EVENTS_LOOP_WORKFLOW, settings.events_every_seconds),
        ScheduledJob("retention", RETENTION_WORKFLOW, timedelta(seconds=settings.retention_every_seconds)),
        ScheduledJob(
            "seal-receipts",
            SEAL_RECEIPTS_WORKFLOW,
            timedelta(seconds=settings.seal_receipts_every_seconds),
            longest=timedelta(hours=1),
        ),
    ]


def _loop(name: str, workflow: str, every_seconds: float) -> ScheduledJob:
    """The activities know how often passes are due. If that is seldom, each run is one pass."""
    return ScheduledJob(
        name, workflow, max(LOOP_LENGTH, timedelta(seconds=every_seconds)), is_loop=True, longest=2 * LOOP_LENGTH
    )


async def _ensure_schedule(client: Client, job: ScheduledJob, report: Report) -> None:
    """Create the schedule, or update it to the settings. Its state belongs to operators: a schedule that was paused,
    perhaps for a legal hold, stays paused and keeps its note."""
    try:
        await client.create_schedule(job.name, job.schedule, trigger_immediately=job.is_loop)
        report(f"schedule {job.name}: created")
    except ScheduleAlreadyRunningError:
        paused = changed = False

        def with_its_state(current: ScheduleUpdateInput) -> ScheduleUpdate | None:
            nonlocal paused, changed
            before = current.description.schedule
            paused = before.state.paused
            changed = _definition(before) != _definition(job.schedule)
            return ScheduleUpdate(replace(job.schedule, state=before.state)) if changed else None

        handle = client.get_schedule_handle(job.name)
        await handle.update(with_its_state)
        if job.is_loop and changed and not paused:
            await handle.trigger()
        report(f"schedule {job.name}: up to date" + (", paused by an operator" if paused else ""))


def _definition(schedule: Schedule) -> tuple[object, ...]:
    """What this version and its settings define of a schedule."""
    action = schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    return action.workflow, action.task_queue, action.execution_timeout, schedule.spec.intervals, schedule.policy


async def ensure_queue_limits(client: Client, report: Report) -> None:
    """Limit `sends-limited` to one send per second and fairness key. The weight of a key, which is its endpoint's rate
    limit, multiplies this.

    An existing limit is not changed. A server without fairness reports that: senders apply rate limits anyway, but are
    given attempts that they must postpone.
    """
    try:
        if await _has_queue_limit(client):
            report(f"queue limits on {TaskQueue.SENDS_LIMITED}: exists")
            return
        await client.workflow_service.update_task_queue_config(
            UpdateTaskQueueConfigRequest(
                namespace=client.namespace,
                identity=client.identity,
                task_queue=TaskQueue.SENDS_LIMITED,
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
                update_fairness_key_rate_limit_default=UpdateTaskQueueConfigRequest.RateLimitUpdate(
                    rate_limit=RateLimit(requests_per_second=1.0), reason="Everhook: an endpoint's rateLimit"
                ),
            )
        )
        report(f"queue limits on {TaskQueue.SENDS_LIMITED}: set")
    except RPCError as error:
        if error.status not in NOT_PERMITTED:
            raise
        report(f"queue limits on {TaskQueue.SENDS_LIMITED}: not supported by this server; rate limits cost more")


async def _has_queue_limit(client: Client) -> bool:
    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueueName(name=TaskQueue.SENDS_LIMITED),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            report_config=True,
        )
    )
    return described.config.HasField("fairness_keys_rate_limit_default")
