"""The worker: the only file that knows every workflow and activity."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from activities.circuits import Circuits, OutcomeReporter
from activities.erasure import Erasure
from activities.events import Events
from activities.express import ExpressLane
from activities.recording import Recording
from activities.retention import Retention
from activities.sealing import Sealing
from activities.sending import Sending
from activities.upkeep import Upkeep
from everhook.contracts import TaskQueue
from everhook.dispatch import Dispatcher
from everhook.egress import EgressClient, EgressRules
from everhook.entities import EndpointEntities
from everhook.keyring import KeyRing
from everhook.metrics_server import metrics_served, sdk_metrics_address
from everhook.provisioning import ensure_runtime
from everhook.receipt_issuer import issuer_name
from everhook.settings import Settings
from everhook.storage.attempts import Recorder
from everhook.storage.engine import Database
from everhook.storage.event_publisher import EventPublisher
from everhook.storage.messages import Acceptor
from everhook.storage.orders import OrderDefaults
from everhook.storage.receipt_keys import IssuerCache
from everhook.storage.retention import RetentionPeriods
from everhook.storage.thresholds import Limits, ThresholdWatch
from everhook.temporal import connect
from everhook.tracing import tracing
from workflows.delivery import DeliveryWorkflow
from workflows.endpoint import EndpointWorkflow
from workflows.erasure import EraseTenantWorkflow
from workflows.upkeep import EventsWorkflow, ReconcileWorkflow, RetentionWorkflow, SealReceiptsWorkflow

WORKFLOWS: Sequence[type] = [
    DeliveryWorkflow,
    EndpointWorkflow,
    ReconcileWorkflow,
    EventsWorkflow,
    RetentionWorkflow,
    EraseTenantWorkflow,
    SealReceiptsWorkflow,
]

WORKFLOW_TASKS = 400
LOCAL_ACTIVITIES = 300
CACHED_WORKFLOWS = 200
"""A delivery that waits for hours is better rebuilt from its short history than kept; this is for those in flight."""

GRACE = timedelta(seconds=30)
"""On SIGTERM attempts in flight get this long: twice the default deadline of one."""

RECONNECT_S = 2.0

Activity = Callable[..., Any]

log = structlog.get_logger()


class Role(StrEnum):
    """What a worker process does: `sends` may sit on machines of their own, with their own way out."""

    ALL = "all"
    WORKFLOWS = "workflows"
    SENDS = "sends"


@dataclass(frozen=True)
class _Shared:
    """What the workers of one process have in common."""

    client: Client
    database: Database
    settings: Settings
    keyring: KeyRing
    issuers: IssuerCache
    recorder: Recorder
    entities: EndpointEntities
    dispatcher: Dispatcher
    sending: Sending


@asynccontextmanager
async def running_workers(
    client: Client, database: Database, settings: Settings, role: Role = Role.ALL
) -> AsyncIterator[Sequence[Worker]]:
    """Workers for a role, polling until the block ends; then they drain."""
    async with _shared(client, database, settings, role) as shared, AsyncExitStack() as stack:
        workers = _workers(shared, role)
        for worker in workers:
            await stack.enter_async_context(worker)
        log.info("worker started", role=role.value, namespace=client.namespace)
        yield workers
        log.info("worker draining")
        # Together, not one after the other: each may take the whole grace.
        await asyncio.gather(*(worker.shutdown() for worker in workers))


@asynccontextmanager
async def _shared(client: Client, database: Database, settings: Settings, role: Role) -> AsyncIterator[_Shared]:
    entities = EndpointEntities(client, settings.circuit_policy)
    reporter = OutcomeReporter(entities)
    recorder = Recorder(database)
    egress = EgressClient(EgressRules.from_settings(settings))
    # Without senders in this process nothing is sent express: the local activity hands back `deferred` at once.
    in_flight = settings.express_in_flight if role is Role.ALL else 0
    express = ExpressLane(in_flight, timedelta(milliseconds=settings.express_slow_ms))
    keyring = KeyRing.from_settings(settings)
    issuers = IssuerCache(database, keyring, issuer_name(settings))
    dispatcher = Dispatcher(client, database, concurrency=settings.dispatch_concurrency, queue=settings.dispatch_queue)
    sending = Sending(database, recorder, issuers, egress, reporter, express, keyring)
    try:
        yield _Shared(client, database, settings, keyring, issuers, recorder, entities, dispatcher, sending)
    finally:
        await dispatcher.close()
        await reporter.close()
        await egress.aclose()


def _workers(shared: _Shared, role: Role) -> list[Worker]:
    workers = [_workflow_worker(shared)] if role is not Role.SENDS else []
    return workers if role is Role.WORKFLOWS else workers + _send_workers(shared)


def _workflow_worker(shared: _Shared) -> Worker:
    sandboxed = shared.settings.sandbox
    return Worker(
        shared.client,
        task_queue=TaskQueue.DELIVERIES,
        workflows=WORKFLOWS,
        activities=[shared.sending.send_attempt, *_recording(shared), *_upkeep(shared)],
        workflow_runner=SandboxedWorkflowRunner() if sandboxed else UnsandboxedWorkflowRunner(),
        max_cached_workflows=CACHED_WORKFLOWS,
        max_concurrent_workflow_tasks=WORKFLOW_TASKS,
        max_concurrent_local_activities=LOCAL_ACTIVITIES,
        max_concurrent_activities=100,
        graceful_shutdown_timeout=GRACE,
    )


def _recording(shared: _Shared) -> list[Activity]:
    """What deliveries and circuits ask for beside sending."""
    defaults = OrderDefaults.from_settings(shared.settings)
    recording = Recording(shared.database, shared.recorder, shared.issuers, defaults)
    circuits = Circuits(shared.client, shared.database, defaults)
    return [
        recording.record_attempt,
        recording.dead_letter,
        recording.open_round,
        recording.discard,
        circuits.load_circuit,
        circuits.project_circuit,
        circuits.release_parked,
    ]


def _upkeep(shared: _Shared) -> list[Activity]:
    """What runs on a schedule, and the erasure of tenants."""
    client, database, settings = shared.client, shared.database, shared.settings
    defaults = OrderDefaults.from_settings(settings)
    upkeep = Upkeep(
        client,
        database,
        shared.entities,
        defaults,
        undispatched_grace=timedelta(seconds=settings.undispatched_grace_seconds),
        overdue_grace=timedelta(seconds=settings.overdue_grace_seconds),
    )
    watch = ThresholdWatch(database, Limits.from_settings(settings))
    events = Events(EventPublisher(database, Acceptor(database, defaults)), watch, shared.dispatcher)
    retention = Retention(client, database, RetentionPeriods.from_settings(settings))
    erasure = Erasure(client, database)
    return [
        upkeep.reconcile,
        events.publish_events,
        retention.resume_erasures,
        retention.remove_past,
        erasure.end_workflows,
        erasure.remove_tenant,
        Sealing(database, shared.keyring).seal_receipts,
    ]


def _send_workers(shared: _Shared) -> list[Worker]:
    return [
        Worker(
            shared.client,
            task_queue=queue,
            activities=[shared.sending.send_attempt],
            max_concurrent_activities=shared.settings.max_concurrent_sends,
            graceful_shutdown_timeout=GRACE,
        )
        for queue in (TaskQueue.SENDS, TaskQueue.SENDS_LIMITED)
    ]


async def work(settings: Settings, role: Role) -> None:
    """Connect, see that schedules and limits are there, and work until SIGTERM or SIGINT."""
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
            running_workers(client, database, settings, role),
        ):
            await stop.wait()
    finally:
        await database.close()


async def _connected(settings: Settings, stop: asyncio.Event) -> Client | None:
    """A connection to a provisioned namespace, waited for as long as it takes; None where we are stopped first."""
    while not stop.is_set():
        try:
            client = await connect(metrics_address=sdk_metrics_address(settings))
            await ensure_runtime(client, settings)
            return client
        except (RPCError, RuntimeError) as error:
            log.warning("waiting for temporal (is the namespace there? `everhook setup`)", error=str(error))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RECONNECT_S)
    return None


if __name__ == "__main__":
    from everhook.cli import main

    main(["worker", *sys.argv[1:]])
