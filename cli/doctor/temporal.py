"""Checks of Temporal: connection, namespace, search attributes, schedules, queue limits, workers, clock."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue as TaskQueueName
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    GetSystemInfoRequest,
)
from temporalio.client import Client, ScheduleDescription, ScheduleInfo
from temporalio.service import RPCError, RPCStatusCode

from cli.doctor import first_line, run_check
from cli.findings import Finding, Severity, ok, skipped, warning, wrong
from everhook.contracts import TaskQueue
from everhook.durations import rough_duration
from everhook.settings import Settings
from everhook.temporal import search_attributes
from everhook.temporal.client import connect
from everhook.temporal.options import connect_options
from everhook.temporal.provisioning import NOT_PERMITTED, ScheduledJob, scheduled_jobs
from everhook.temporal.sdk_errors import in_words

SETUP = "everhook setup"
START_WORKERS = "everhook worker"

REACH_S = 5.0
"""A server that hangs accepts the connection and does not respond."""

POLLS_EVERY = timedelta(minutes=2)
"""A poll lasts a minute; a worker without a poll for two minutes is gone."""

WORKFLOW, ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
QUEUES = (
    (TaskQueue.DELIVERIES, WORKFLOW),
    (TaskQueue.DELIVERIES, ACTIVITY),
    (TaskQueue.SENDS, ACTIVITY),
    (TaskQueue.SENDS_LIMITED, ACTIVITY),
)
NEEDS_NAMESPACE = ("search attributes", "schedules", "queue limits", "workers", "Temporal's clock")


async def temporal_findings(settings: Settings) -> AsyncIterator[Finding]:
    client: Client | None = None

    async def reach() -> Finding:
        nonlocal client
        client, found = await _reach()
        return found

    yield await run_check("Temporal", reach())
    if client is None:
        for name in ("namespace", *NEEDS_NAMESPACE):
            yield skipped(name, "needs Temporal")
        return
    namespace = await run_check("namespace", _namespace(client))
    yield namespace
    if namespace.level is Severity.WRONG:
        for name in NEEDS_NAMESPACE:
            yield skipped(name, "needs the namespace")
        return
    yield await run_check("search attributes", _search_attributes(client))
    yield await run_check("schedules", _schedules(client, settings))
    yield await run_check("queue limits", _queue_limits(client))
    yield await run_check("workers", _workers(client))
    yield await run_check("Temporal's clock", _clock(client, settings))


async def _reach() -> tuple[Client | None, Finding]:
    address = connect_options()["target_host"]
    try:
        async with asyncio.timeout(REACH_S):
            client = await connect()
            info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    except TimeoutError:
        return None, wrong("Temporal", f"{address} does not respond", "restart it, or fix TEMPORAL_ADDRESS")
    except (RuntimeError, RPCError) as error:
        why = in_words(first_line(error)).removeprefix("cannot connect to Temporal: ").removeprefix(f"{address}: ")
        return None, wrong("Temporal", f"{address} cannot be reached: {why}", "start it, or fix TEMPORAL_ADDRESS")
    return client, ok("Temporal", f"version {info.server_version or 'unknown'}, {address}")


async def _namespace(client: Client) -> Finding:
    try:
        found = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return wrong("namespace", f"there is no {client.namespace}", f"{SETUP}, or fix TEMPORAL_NAMESPACE")
        raise
    kept = found.config.workflow_execution_retention_ttl.ToTimedelta()
    return ok("namespace", f"{client.namespace}, closed workflows are kept for {rough_duration(kept)}")


async def _search_attributes(client: Client) -> Finding:
    name = "search attributes"
    try:
        request = ListSearchAttributesRequest(namespace=client.namespace)
        known = (await client.operator_service.list_search_attributes(request)).custom_attributes
    except RPCError as error:
        if error.status not in NOT_PERMITTED:
            raise
        return warning(name, "this Temporal does not list them", f"{SETUP} creates or names them")
    missing = [key.name for key in search_attributes.ALL if key.name not in known]
    other = [
        key.name
        for key in search_attributes.ALL
        if key.name in known and known[key.name] != key.indexed_value_type.value
    ]
    if missing:
        return wrong(name, f"missing: {', '.join(missing)}", SETUP)
    if other:
        return wrong(name, f"with another type than needed: {', '.join(other)}", "give Everhook a separate namespace")
    return ok(name, f"all {len(search_attributes.ALL)} exist")


async def _schedules(client: Client, settings: Settings) -> Finding:
    jobs = scheduled_jobs(settings)
    troubles = [trouble for job in jobs if (trouble := await _trouble(client, job)) is not None]
    if not troubles:
        return ok("schedules", f"they run: {', '.join(job.name for job in jobs)}")
    level = max((level for level, _, _ in troubles), key=[Severity.WARNING, Severity.WRONG].index)
    return Finding("schedules", level, "; ".join(text for _, text, _ in troubles), troubles[0][2])


async def _trouble(client: Client, job: ScheduledJob) -> tuple[Severity, str, str] | None:
    found = await _description(client, job)
    if found is None:
        return Severity.WRONG, f"there is no {job.name}", SETUP
    if found.schedule.state.paused:
        unpause = f"temporal schedule toggle --schedule-id {job.name} --unpause --reason 'well again'"
        return Severity.WRONG, f"{job.name} is paused ({found.schedule.state.note})", unpause
    if [interval.every for interval in found.schedule.spec.intervals] != [job.every]:
        return Severity.WARNING, f"{job.name} has another interval than {rough_duration(job.every)}", SETUP
    silent = datetime.now(UTC) - _last_run(found.info)
    if silent > (2 if job.is_loop else 3) * job.every + timedelta(seconds=30):
        return (
            Severity.WRONG,
            f"{job.name} last ran {rough_duration(silent)} ago",
            "do Temporal and workers run? see below",
        )
    return None


async def _description(client: Client, job: ScheduledJob) -> ScheduleDescription | None:
    try:
        return await client.get_schedule_handle(job.name).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


def _last_run(info: ScheduleInfo) -> datetime:
    """The time of the last run; now if one is still running, because overlapping runs are skipped."""
    if info.running_actions:
        return datetime.now(UTC)
    runs = [action.started_at for action in info.recent_actions]
    return max([info.created_at, *([info.last_updated_at] if info.last_updated_at else []), *runs])


async def _queue_limits(client: Client) -> Finding:
    name = "queue limits"
    found = await _queue(client, TaskQueue.SENDS_LIMITED, ACTIVITY)
    rate = found.config.fairness_keys_rate_limit_default.rate_limit.requests_per_second
    if rate == 1.0:
        return ok(name, f"set on {TaskQueue.SENDS_LIMITED}")
    fix = f"{SETUP}; the server needs `matching.enableFairness`, see docs/deployment.md"
    return warning(name, f"not set on {TaskQueue.SENDS_LIMITED}: enforcing endpoints' rateLimit costs more", fix)


async def _workers(client: Client) -> Finding:
    unserved: list[str] = []
    identities: set[str] = set()
    for queue, kind in QUEUES:
        polling = _polling(await _queue(client, queue, kind))
        identities.update(polling)
        if not polling:
            unserved.append(f"{queue} ({'workflows' if kind == WORKFLOW else 'activities'})")
    if unserved:
        return wrong("workers", f"no worker polls {', '.join(unserved)}: its tasks wait", START_WORKERS)
    return ok("workers", f"{len(identities)} poll every queue: {', '.join(sorted(identities))}")


def _polling(queue: DescribeTaskQueueResponse) -> Sequence[str]:
    now = datetime.now(UTC)
    return [p.identity for p in queue.pollers if now - p.last_access_time.ToDatetime(UTC) < POLLS_EVERY]


async def _queue(client: Client, queue: TaskQueue, kind: "TaskQueueType.ValueType") -> DescribeTaskQueueResponse:
    return await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueueName(name=queue),
            task_queue_type=kind,
            report_config=True,
        )
    )


async def _clock(client: Client, settings: Settings) -> Finding:
    """No call returns Temporal's time. But the next run of a schedule is in Temporal's future, within one interval."""
    name = "Temporal's clock"
    job = min(scheduled_jobs(settings), key=lambda job: job.every)
    found = await _description(client, job)
    if found is None or not found.info.next_action_times or found.schedule.state.paused:
        return skipped(name, f"needs the schedule {job.name}")
    now, next_ = datetime.now(UTC), found.info.next_action_times[0]
    slack = job.every + timedelta(seconds=5)
    if not -slack < next_ - now < job.every + slack:
        return wrong(
            name, f"differs from this machine's by {rough_duration(abs(next_ - now))}", "synchronize both with NTP"
        )
    return ok(name, f"agrees with this machine's, to within {rough_duration(slack)}")
