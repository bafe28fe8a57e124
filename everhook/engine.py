"""The delivery engine: the parts that API and worker processes share."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from everhook.circuit.announcer import CircuitAnnouncer
from everhook.circuit.client import CircuitClient
from everhook.circuit.reporter import OutcomeReporter
from everhook.circuit.states_store import EndpointStates
from everhook.decisions.service import TaskService
from everhook.decisions.timers import TaskTimers
from everhook.delivery.dispatcher import Dispatcher, LaneLimits
from everhook.delivery.fitness import EndpointFitness
from everhook.delivery.guards import GuardStarter
from everhook.delivery.history import History, HistoryLimits
from everhook.delivery.inputs_store import InputDefaults
from everhook.delivery.recorder_store import Recorder
from everhook.delivery.sender import Sender
from everhook.delivery.starter import Starter, StarterLimits
from everhook.egress import EgressClient, EgressRules
from everhook.internal.service import InternalHandlers, mailer_of
from everhook.lifecycle.service import LifecycleService
from everhook.lifecycle.watch import MessageWatch
from everhook.ordering.service import GroupStarter
from everhook.publishing.schedules import MessageSchedules
from everhook.publishing.store import Acceptor
from everhook.pulling.direct import DirectHandOut
from everhook.pulling.service import PullQueue
from everhook.pulling.wake_ups import WakeUps
from everhook.receipts.issuer import issuer_name
from everhook.receipts.keys_store import IssuerCache
from everhook.settings import Settings
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing
from everhook.streaming.service import PullStreams
from everhook.temporal.client import TemporalClient
from everhook.tenants.retention_store import RetentionPeriods


@dataclass(frozen=True)
class DeliveryEngine:
    """What API and worker processes share. One for each process: it holds connections, caches and background tasks."""

    client: TemporalClient
    database: Database
    settings: Settings
    defaults: InputDefaults
    keyring: KeyRing
    issuers: IssuerCache
    recorder: Recorder
    circuits: CircuitClient
    announcer: CircuitAnnouncer
    egress: EgressClient
    sender: Sender
    dispatcher: Dispatcher
    pulls: PullQueue
    wake_ups: WakeUps
    direct: DirectHandOut
    streams: PullStreams
    lifecycle: LifecycleService
    tasks: TaskService
    timers: TaskTimers
    schedules: MessageSchedules
    groups: GroupStarter


@asynccontextmanager
async def delivery_engine(
    client: TemporalClient, database: Database, settings: Settings, *, sends: bool = True
) -> AsyncIterator[DeliveryEngine]:
    """Build the parts. At the end of the block, finish what is in progress. `sends`: this process may make first
    attempts."""
    keyring = KeyRing.from_settings(settings)
    issuers = IssuerCache(database, keyring, issuer_name(settings))
    circuits = CircuitClient(client, settings.circuit_policy)
    announcer = CircuitAnnouncer(database, circuits)
    reporter = OutcomeReporter(circuits)
    keeps_history = settings.temporal_history == "all"
    recorder = Recorder(database, keep_history=keeps_history)
    egress = EgressClient(EgressRules.from_settings(settings))
    fitness = EndpointFitness(timedelta(milliseconds=settings.express_slow_ms))
    states = EndpointStates(database)
    watch = MessageWatch(database)
    defaults = InputDefaults.from_settings(settings)
    wake_ups, direct = WakeUps(database), DirectHandOut()
    acceptor = Acceptor(database, defaults, wake_ups.wake, direct)
    retention = RetentionPeriods.from_settings(settings).deliveries
    handlers = InternalHandlers(database, egress, acceptor, mailer_of(settings), retention=retention)
    sender = Sender(
        database,
        recorder,
        issuers,
        egress,
        reporter,
        fitness,
        keyring,
        watch.wake,
        handlers,
        settings.max_payload_bytes,
    )
    starter = Starter(client, database, recorder, states, _starter_limits(settings))
    lane = _lane_limits(settings) if sends and settings.express else None
    dispatcher = Dispatcher(sender, starter, states, fitness, lane)
    handlers.dispatch_by(dispatcher.dispatch)
    history = History(client, database, dispatcher.traffic, _history_limits(settings))
    if keeps_history:
        dispatcher.keep_history(history)
    guards = GuardStarter(client, database)
    pulls = PullQueue(
        database,
        defaults,
        issuers,
        reporter,
        history if keeps_history else None,
        guards,
        wake_ups,
        dispatcher.traffic,
        settings.circuit_policy,
        watch.wake,
        settings.max_payload_bytes,
    )
    schedules = MessageSchedules(client, database, acceptor, dispatcher, watch.wake)
    groups = GroupStarter(database, defaults, dispatcher, guards, wake_ups.wake)
    recorder.free_by(groups.start)
    pulls.free_by(groups.start)
    tasks = TaskService(issuers, defaults, guards, dispatcher, watch.wake, wake_ups.wake)
    closing = (
        announcer.close,
        watch.close,
        wake_ups.close,
        schedules.close,
        groups.close,
        dispatcher.close,
        sender.close,
        guards.close,
        history.close,
        reporter.close,
        egress.aclose,
    )
    async with AsyncExitStack() as stack:  # where one of them fails, the others are closed all the same
        for close in reversed(closing):
            stack.push_async_callback(close)
        yield DeliveryEngine(
            client=client,
            database=database,
            settings=settings,
            defaults=defaults,
            keyring=keyring,
            issuers=issuers,
            recorder=recorder,
            circuits=circuits,
            announcer=announcer,
            egress=egress,
            sender=sender,
            dispatcher=dispatcher,
            pulls=pulls,
            wake_ups=wake_ups,
            direct=direct,
            streams=PullStreams(pulls, wake_ups, direct),
            lifecycle=LifecycleService(watch),
            tasks=tasks,
            timers=TaskTimers(database, tasks),
            schedules=schedules,
            groups=groups,
        )


def _lane_limits(settings: Settings) -> LaneLimits:
    return LaneLimits(
        in_flight=settings.express_in_flight,
        in_flight_in_all=settings.express_in_flight_in_all,
        waiting=settings.express_waiting_in_all,
        waiting_per_endpoint=settings.express_waiting,
        wait_s=settings.express_wait_seconds,
        memory_bytes=settings.express_memory_mb * 1024 * 1024,
    )


def _starter_limits(settings: Settings) -> StarterLimits:
    return StarterLimits(
        concurrency=settings.dispatch_concurrency,
        waiting=settings.dispatch_queue,
        waiting_per_endpoint=max(1, settings.dispatch_queue // 5),
    )


def _history_limits(settings: Settings) -> HistoryLimits:
    return HistoryLimits(concurrency=settings.history_concurrency, per_second=settings.history_rate)
