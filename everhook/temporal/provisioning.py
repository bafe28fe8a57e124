"""What Everhook needs of a Temporal cluster: namespace, search attributes, schedules, queue limits. Idempotent.

Run by `everhook setup`; workers see to the parts that need no operator's rights (`ensure_runtime`) at every start,
so that a cluster whose store was lost is whole again.
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
    EVENTS_WORKFLOW,
    RECONCILE_WORKFLOW,
    RETENTION_WORKFLOW,
    SEAL_RECEIPTS_WORKFLOW,
    TaskQueue,
)
from everhook.settings import Settings
from everhook.temporal import search_attributes

RETENTION = timedelta(days=7)
"""How long Temporal keeps closed workflows: comfort for debugging; delivery history lives in the database."""

NOT_OURS = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.UNIMPLEMENTED)
"""How a managed Temporal, such as Temporal Cloud, answers what is done in its own UI there."""

KNOWN_WITHIN_S, KNOWN_RETRY_S = 45.0, 0.5

Tell = Callable[[str], None]


async def setup(client: Client, settings: Settings, tell: Tell = lambda line: None) -> None:
    """Everything, namespace included. `tell` is given a line for people about each step."""
    await ensure_namespace(client, tell)
    await once_known(lambda: ensure_search_attributes(client, tell))
    await once_known(lambda: ensure_schedules(client, settings, tell))
    await once_known(lambda: ensure_queue_limits(client, tell))


async def once_known(step: Callable[[], Awaitable[None]]) -> None:
    """A namespace that was just made is not known to all of a server's parts for some seconds."""
    give_up_at = time.monotonic() + KNOWN_WITHIN_S
    while True:
        try:
            return await step()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND or time.monotonic() >= give_up_at:
                raise
        await asyncio.sleep(KNOWN_RETRY_S)


async def ensure_runtime(client: Client, settings: Settings, tell: Tell = lambda line: None) -> None:
    """Schedules and queue limits: what an ordinary client may set."""
    await ensure_schedules(client, settings, tell)
    await ensure_queue_limits(client, tell)


async def ensure_namespace(client: Client, tell: Tell) -> None:
    """Register the namespace where there is none of its name."""
    request = RegisterNamespaceRequest(
        namespace=client.namespace,
        description="Everhook deliveries",
        workflow_execution_retention_period=Duration(seconds=int(RETENTION.total_seconds())),
    )
    try:
        await client.workflow_service.register_namespace(request)
        tell(f"namespace {client.namespace}: created")
    except RPCError as error:
        if error.status in NOT_OURS:
            tell(f"namespace {client.namespace}: not ours to make here, see that it exists")
        elif error.status is RPCStatusCode.ALREADY_EXISTS:
            tell(f"namespace {client.namespace}: there")
        else:
            raise


async def ensure_search_attributes(client: Client, tell: Tell) -> None:
    """Add those that are missing. On Temporal Cloud they are made in its own UI: then this says which."""
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
        if error.status not in NOT_OURS:
            raise
        names = ", ".join(f"{key.name} ({key.indexed_value_type.name.title()})" for key in search_attributes.ALL)
        tell(f"search attributes: not ours to add here, see that these exist: {names}")
        return
    tell(f"search attributes: {len(missing)} added, {len(search_attributes.ALL) - len(missing)} there")


async def ensure_schedules(client: Client, settings: Settings, tell: Tell) -> None:
    """Make each schedule what this version wants of it."""
    for job in scheduled_jobs(settings):
        await _ensure_schedule(client, job, tell)


@dataclass(frozen=True)
class ScheduledJob:
    """A workflow without input that a Temporal Schedule starts every so often. Its runs are named after the job."""

    name: str
    workflow: str
    every: timedelta
    overlap: ScheduleOverlapPolicy = ScheduleOverlapPolicy.SKIP

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            action=ScheduleActionStartWorkflow(self.workflow, id=self.name, task_queue=TaskQueue.DELIVERIES),
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=self.every)]),
            # Passes that an outage swallowed are not made up for: the next one finds everything.
            policy=SchedulePolicy(overlap=self.overlap, catchup_window=timedelta(seconds=10)),
        )


def scheduled_jobs(settings: Settings) -> list[ScheduledJob]:
    return [
        ScheduledJob("reconcile", RECONCILE_WORKFLOW, timedelta(seconds=settings.reconcile_every_seconds)),
        ScheduledJob("events", EVENTS_WORKFLOW, timedelta(seconds=settings.events_every_seconds)),
        ScheduledJob("retention", RETENTION_WORKFLOW, timedelta(seconds=settings.retention_every_seconds)),
        ScheduledJob("seal-receipts", SEAL_RECEIPTS_WORKFLOW, timedelta(seconds=settings.seal_receipts_every_seconds)),
    ]


async def _ensure_schedule(client: Client, job: ScheduledJob, tell: Tell) -> None:
    """Make the schedule, or bring it to what the settings say. Its state belongs to operators: a schedule that was
    paused, for a legal hold perhaps, stays paused, with its note."""
    try:
        await client.create_schedule(job.name, job.schedule)
        tell(f"schedule {job.name}: created")
    except ScheduleAlreadyRunningError:
        paused = False

        def keeping_its_state(current: ScheduleUpdateInput) -> ScheduleUpdate | None:
            nonlocal paused
            before = current.description.schedule
            paused = before.state.paused
            same = _essence(before) == _essence(job.schedule)
            return None if same else ScheduleUpdate(replace(job.schedule, state=before.state))

        await client.get_schedule_handle(job.name).update(keeping_its_state)
        tell(f"schedule {job.name}: up to date" + (", paused by an operator" if paused else ""))


def _essence(schedule: Schedule) -> tuple[object, ...]:
    """What this version and its settings want of a schedule."""
    action = schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    return action.workflow, action.task_queue, schedule.spec.intervals, schedule.policy


async def ensure_queue_limits(client: Client, tell: Tell) -> None:
    """One send a second for each fairness key on `sends-limited`; a key's weight, its endpoint's own limit,
    multiplies that. A limit that is there already stays as it is. A server without fairness says so: senders keep
    rate limits anyway, but are handed attempts that they must put off."""
    try:
        if await _has_queue_limit(client):
            tell(f"queue limits on {TaskQueue.SENDS_LIMITED}: there")
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
        tell(f"queue limits on {TaskQueue.SENDS_LIMITED}: set")
    except RPCError as error:
        if error.status not in NOT_OURS:
            raise
        tell(f"queue limits on {TaskQueue.SENDS_LIMITED}: this server has none, keeping rateLimit costs more")


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
