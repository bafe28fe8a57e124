"""The worker: the only file that knows every workflow and activity."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from enum import StrEnum
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from activities.circuits import CircuitActivities
from activities.erasure import ErasureActivities
from activities.events import EventActivities
from activities.pulling import PullingActivities
from activities.reconciling import ReconcilingActivities
from activities.recording import RecordingActivities
from activities.releasing import ReleasingActivities
from activities.replaying import ReplayingActivities
from activities.retention import RetentionActivities
from activities.scheduling import ScheduleActivities
from activities.sealing import SealingActivities
from activities.sending import SendingActivities
from activities.tasks import TaskActivities
from everhook import __version__
from everhook.contracts import TaskQueue
from everhook.engine import DeliveryEngine, delivery_engine
from everhook.event_loop import sleep_unless
from everhook.health.alerts_store import AlertEvaluator, Limits, endpoint_limits
from everhook.health.endpoint_alerts_store import EndpointAlertEvaluator
from everhook.notifications.publisher_store import EventPublisher
from everhook.observability.tracing import tracing
from everhook.publishing.store import Acceptor
from everhook.redelivery.pages import ReplayPages
from everhook.serving.metrics_server import metrics_served, sdk_metrics_address
from everhook.settings import Settings
from everhook.storage.engine import Database
from everhook.temporal.client import connect, connect_for_workers
from everhook.temporal.provisioning import ensure_runtime
from everhook.tenants.retention_store import RetentionPeriods
from workflows.delivery import DeliveryWorkflow
from workflows.endpoint import EndpointWorkflow
from workflows.erasure import EraseTenantWorkflow
from workflows.replay import ReplayWorkflow
from workflows.scheduled import ScheduledMessageWorkflow
from workflows.upkeep import (
    EventsLoopWorkflow,
    EventsWorkflow,
    ReconcileLoopWorkflow,
    ReconcileWorkflow,
    RetentionWorkflow,
    SealReceiptsWorkflow,
)

WORKFLOWS: Sequence[type] = [
    DeliveryWorkflow,
    EndpointWorkflow,
    ReconcileWorkflow,
    ReconcileLoopWorkflow,
    EventsWorkflow,
    EventsLoopWorkflow,
    RetentionWorkflow,
    EraseTenantWorkflow,
    SealReceiptsWorkflow,
    ReplayWorkflow,
    ScheduledMessageWorkflow,
]

GRACE = timedelta(seconds=45)
"""How long attempts in flight may take after SIGTERM: the longest deadline (30 s), and the time to record."""

RECONNECT_S = 2.0

Activity = Callable[..., Any]

log = structlog.get_logger()


class Role(StrEnum):
    """What a worker process does. Processes with the role `sends` can run on separate machines with their own
    network."""

    ALL = "all"
    WORKFLOWS = "workflows"
    SENDS = "sends"


@asynccontextmanager
async def running_workers(engine: DeliveryEngine, role: Role = Role.ALL) -> AsyncIterator[Sequence[Worker]]:
    """Run the workers of a role until the block ends; then drain them."""
    async with AsyncExitStack() as stack:
        workers = _workers(engine, role)
        for worker in workers:
            await stack.enter_async_context(worker)
        log.info("worker started", role=role.value, namespace=engine.client.namespace)
        yield workers
        log.info("worker draining")
        # Concurrently, because each may take the whole grace period.
        await asyncio.gather(*(worker.shutdown() for worker in workers))


def _workers(engine: DeliveryEngine, role: Role) -> list[Worker]:
    workers = [_workflow_worker(engine)] if role is not Role.SENDS else []
    return workers if role is Role.WORKFLOWS else workers + _send_workers(engine)


def _workflow_worker(engine: DeliveryEngine) -> Worker:
    settings = engine.settings
    return Worker(
        engine.client,
        task_queue=TaskQueue.DELIVERIES,
        workflows=WORKFLOWS,
        activities=[*_recording(engine), *_upkeep(engine)],
        workflow_runner=SandboxedWorkflowRunner() if settings.sandbox else UnsandboxedWorkflowRunner(),
        max_cached_workflows=settings.cached_workflows,
        max_concurrent_workflow_tasks=settings.workflow_tasks,
        max_concurrent_workflow_task_polls=settings.workflow_pollers,
        max_concurrent_activities=100,
        max_concurrent_activity_task_polls=settings.activity_pollers,
        graceful_shutdown_timeout=GRACE,
        deployment_config=_deployment(settings),
    )


def _deployment(settings: Settings) -> WorkerDeploymentConfig:
    """The version that the workers carry.

    With a worker deployment a workflow moves to the current version with its next task. Without one, workers are not
    versioned and histories show the version of the product: the SDK's default, a hash of all modules, takes 0.6 s of
    CPU time at each start.
    """
    if settings.worker_deployment is None or settings.build_id is None:
        return WorkerDeploymentConfig(WorkerDeploymentVersion("everhook", __version__), use_worker_versioning=False)
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(settings.worker_deployment, settings.build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE,
    )


def _recording(engine: DeliveryEngine) -> list[Activity]:
    """The activities of deliveries and circuits, except sending."""
    recording = RecordingActivities(
        engine.database, engine.recorder, engine.issuers, engine.defaults, engine.groups.start
    )
    circuits = CircuitActivities(engine.database, engine.settings.circuit_policy)
    releasing = ReleasingActivities(engine.client, engine.database, engine.defaults, engine.dispatcher, engine.timers)
    return [
        recording.record_attempt,
        recording.dead_letter,
        recording.open_round,
        recording.discard,
        PullingActivities(engine.pulls).check_pulled,
        TaskActivities(engine.timers).check_task,
        circuits.load_endpoint,
        circuits.load_circuit,
        circuits.load_circuit_policy,
        circuits.project_circuit,
        releasing.count_parked,
        releasing.release_parked,
        ScheduleActivities(engine.schedules).deliver_scheduled,
    ]


def _upkeep(engine: DeliveryEngine) -> list[Activity]:
    """The activities that run on schedules, and those that erase tenants."""
    client, database, settings = engine.client, engine.database, engine.settings
    reconciling = ReconcilingActivities(
        client,
        database,
        engine.circuits,
        engine.defaults,
        overdue_grace=timedelta(seconds=settings.overdue_grace_seconds),
        every=timedelta(seconds=settings.reconcile_every_seconds),
        schedules=engine.schedules,
        groups=engine.groups,
        traffic=engine.dispatcher.traffic,
    )
    of_endpoints = EndpointAlertEvaluator(database, endpoint_limits(settings))
    alerts = AlertEvaluator(database, Limits.from_settings(settings), of_endpoints)
    acceptor = Acceptor(database, engine.defaults, engine.wake_ups.wake)
    events = EventActivities(
        EventPublisher(database, acceptor),
        alerts,
        engine.dispatcher,
        every=timedelta(seconds=settings.events_every_seconds),
    )
    retention = RetentionActivities(client, database, RetentionPeriods.from_settings(settings), engine.keyring)
    erasure = ErasureActivities(client, database)
    replaying = ReplayingActivities(
        client,
        database,
        ReplayPages(database, acceptor, engine.defaults),
        engine.wake_ups.wake,
        engine.lifecycle.watch.wake,
        engine.dispatcher,
        per_second=settings.replay_rate,
    )
    return [
        reconciling.reconcile,
        events.publish_events,
        retention.resume_erasures,
        retention.apply_retention,
        erasure.end_workflows,
        erasure.remove_tenant,
        replaying.replay_pages,
        replaying.cancel_replay,
        SealingActivities(database, engine.keyring).seal_receipts,
    ]


def _send_workers(engine: DeliveryEngine) -> list[Worker]:
    slots = engine.settings.max_concurrent_sends
    sending = {queue: SendingActivities(engine.sender, slots) for queue in (TaskQueue.SENDS, TaskQueue.SENDS_LIMITED)}
    return [
        Worker(
            engine.client,
            task_queue=queue,
            activities=[activities.send_attempt, activities.run_handler],
            max_concurrent_activities=slots,
            max_concurrent_activity_task_polls=engine.settings.activity_pollers,
            graceful_shutdown_timeout=GRACE,
            deployment_config=_deployment(engine.settings),
        )
        for queue, activities in sending.items()
    ]


async def work(settings: Settings, role: Role) -> None:
    """Connect, make sure that schedules and queue limits exist, and work until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with tracing(settings, "everhook-worker"):
        client = await _connected(settings, stop)
        if client is not None:
            await _work(client, settings, role, stop)


async def _work(client: Client, settings: Settings, role: Role, stop: asyncio.Event) -> None:
    database = Database(settings.database_url, pool_size=settings.database_pool_size)
    try:
        async with (
            metrics_served(settings, database, sdk_metrics_address(settings)),
            delivery_engine(client, database, settings, sends=role is Role.ALL) as engine,
            running_workers(engine, role),
        ):
            await stop.wait()
    finally:
        await database.close()


@asynccontextmanager
async def working(engine: DeliveryEngine) -> AsyncIterator[None]:
    """Run workers in the process of the API (`everhook serve --worker`) until the block ends; then drain them.

    They start when Temporal can be reached, and restart if they fail; publishing does not wait for them.
    """
    stop = asyncio.Event()
    task = asyncio.create_task(_keep_working(engine, stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def _keep_working(engine: DeliveryEngine, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await connect_for_workers(engine.client)
            await ensure_runtime(engine.client, engine.settings)
            async with running_workers(engine):
                await stop.wait()
        except (RPCError, RuntimeError) as error:
            log.warning("workers wait for temporal (if the namespace is missing: `everhook setup`)", error=str(error))
        except Exception:
            log.exception("the workers failed; restarting them")
        await sleep_unless(stop, RECONNECT_S)


async def _connected(settings: Settings, stop: asyncio.Event) -> Client | None:
    """Connect to a provisioned namespace, waiting as long as needed; None if the process is stopped first."""
    while not stop.is_set():
        try:
            client = await connect(metrics_address=sdk_metrics_address(settings))
            await ensure_runtime(client, settings)
            return client
        except (RPCError, RuntimeError) as error:
            log.warning("waiting for temporal (if the namespace is missing: `everhook setup`)", error=str(error))
        await sleep_unless(stop, RECONNECT_S)
    return None


if __name__ == "__main__":
    from cli.main import main

    main(["worker", *sys.argv[1:]])
