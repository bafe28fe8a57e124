"""Workflows by themselves: real workflow code in the sandbox, a server that skips time, scripted activities."""

import asyncio
import json
import sys
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.api.testservice.v1 import LockTimeSkippingRequest, UnlockTimeSkippingRequest
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.common import Priority, SearchAttributeKey
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from everhook.circuit.client import CircuitClient
from everhook.circuit.machine import Circuit, CircuitPolicy
from everhook.contracts import (
    AttemptInput,
    AttemptOutcome,
    AttemptRecord,
    CircuitProjection,
    DeadLetterInput,
    DeadLetterReason,
    DeliveryInput,
    DeliveryResult,
    DeliveryState,
    DeliveryStatus,
    DiscardInput,
    EndpointCircuit,
    EventsResult,
    HandlerInput,
    HandlerResult,
    OpenDeadLetter,
    OutcomeReport,
    PreviousAttempt,
    PullCheck,
    PulledState,
    ReconcileResult,
    ReconcileShare,
    ReleaseParkedInput,
    ReleaseResult,
    ReplayInput,
    ReplayProgress,
    RetentionResult,
    RoundInput,
    ScheduledMessageInput,
    SealResult,
    TaskProgress,
    TaskQueue,
    TenantErasure,
    Verdict,
)
from everhook.delivery.policy import DeliveryPolicy
from everhook.delivery.starts import start_delivery
from everhook.ids import Kind, delivery_workflow_id, endpoint_workflow_id, new_gid
from everhook.inbox.schedule import Schedule, Step
from everhook.inbox.tasks import Effect, TaskKind, default_outcomes, outcome_on_due
from everhook.temporal import search_attributes
from everhook.temporal.client import PLUGIN
from testing.waiting import assert_eventually
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

T = TypeVar("T")

WORKFLOWS: Sequence[type] = [
    DeliveryWorkflow,
    EndpointWorkflow,
    ReconcileWorkflow,
    ReconcileLoopWorkflow,
    RetentionWorkflow,
    EventsWorkflow,
    EventsLoopWorkflow,
    EraseTenantWorkflow,
    SealReceiptsWorkflow,
    ReplayWorkflow,
    ScheduledMessageWorkflow,
]
BINARIES = Path(sys.prefix) / "bin"
TENANT = "acme"
PATIENCE_S = 30.0
LONGEST_STEP = timedelta(days=10)
LONG_AGO = datetime(2026, 1, 31, tzinfo=UTC)
ENDS_OF_ACTIVITIES = (
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
)
UNDER_WAY = (EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)

DELIVERED = AttemptOutcome(Verdict.DELIVERED, status_code=200)
FAILED = AttemptOutcome(Verdict.RETRY, status_code=503, error="http_503")
UNSENDABLE = AttemptOutcome(Verdict.RETRY, DeadLetterReason.UNSENDABLE, error="unsendable")
REJECTED = AttemptOutcome(Verdict.REJECTED, DeadLetterReason.REJECTED, status_code=404, error="http_404")
BLOCKED = AttemptOutcome(Verdict.REJECTED, DeadLetterReason.BLOCKED, error="blocked")
PARKED = AttemptOutcome(Verdict.PARKED, DeadLetterReason.CIRCUIT_OPEN)
PAUSED = AttemptOutcome(Verdict.PARKED)


def unrecorded(outcome: AttemptOutcome, input: DeliveryInput, number: int = 1) -> AttemptOutcome:
    """The same outcome of an attempt that the database could not take."""
    record = AttemptRecord(
        attempt_gid=new_gid(Kind.ATTEMPT),
        delivery_gid=input.delivery_gid,
        endpoint_gid=input.endpoint_gid,
        round=input.round,
        number=number,
        verdict=outcome.verdict,
        started_at=LONG_AGO,
        duration_ms=12,
        status_code=outcome.status_code,
    )
    return replace(outcome, unrecorded=record)


DeliveryHandle = WorkflowHandle[DeliveryWorkflow, DeliveryResult]
EndpointHandle = WorkflowHandle[EndpointWorkflow, None]


class DatabaseAway(Exception):
    """A fault on our side."""


@dataclass(frozen=True)
class Call:
    """One execution of an activity. `at` is the server's time, skipped time included."""

    name: str
    argument: Any
    at: datetime
    queue: str
    priority: Priority


@dataclass
class Gate:
    """Holds one execution of an activity at its beginning."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self) -> None:
        self.opened.set()


class Script(Generic[T]):
    """What an activity returns, call by call; the last step repeats."""

    def __init__(self, *steps: T) -> None:
        self._steps = deque(steps)

    def next(self) -> T:
        return self._steps.popleft() if len(self._steps) > 1 else self._steps[0]


class FakeTask:
    """A task in memory: its schedule, the steps it took, and how it ended."""

    def __init__(self) -> None:
        self.schedule: Schedule | None = None
        self.steps: list[Step] = []
        self.ended: PulledState | None = None

    def ask(self, at: datetime, **document: Any) -> None:
        self.schedule = Schedule.of({"dueSeconds": 86_400, **document}, at)

    def end(self, status: DeliveryStatus, reason: DeadLetterReason | None = None, outcome: str | None = None) -> None:
        self.ended = PulledState(status, attempts=1, reason=reason, last=DELIVERED, outcome=outcome)

    def check(self, check: PullCheck, moment: datetime) -> PulledState:
        assert self.schedule is not None
        step = self.schedule.step(moment) if self.ended is None and check.give_up is None else None
        if step is not None:
            self.steps.append(step)
        if step is Step.REMIND:
            self.schedule = self.schedule.reminded(moment)
        elif step is Step.ESCALATE:
            self.schedule = self.schedule.escalated(moment)
        elif step is Step.END or check.give_up is not None:
            self._end(check)
        return self.ended or self._open()

    def _end(self, check: PullCheck) -> None:
        assert self.schedule is not None
        outcome = outcome_on_due({"outcomes": default_outcomes(TaskKind.APPROVAL), **self.schedule.document})
        if check.give_up is not None or outcome is None:
            self.end(DeliveryStatus.DEAD_LETTERED, check.give_up or DeadLetterReason.EXPIRED)
        else:
            is_passed = outcome.effect is Effect.PASS
            self.end(DeliveryStatus.DELIVERED if is_passed else DeliveryStatus.DISCARDED, outcome=outcome.name)

    def _open(self) -> PulledState:
        assert self.schedule is not None
        found = self.schedule
        progress = TaskProgress("Managers", 2, found.due_at, found.reminders_sent, found.reminders, found.is_escalated)
        return PulledState(DeliveryStatus.AWAITING_DECISION, check_at=found.next_at, task=progress)


class FakeActivities:
    """All activities under their real names. Each records its call; then waits at its gate, raises, or returns.

    `parked` stands for the parked deliveries of the database: `release_parked` takes from them. `policies` are the
    circuit settings of endpoints.
    """

    def __init__(self, clock: Callable[[], Any]) -> None:
        self.calls: list[Call] = []
        self.finished: list[str] = []
        self.sends: Script[AttemptOutcome] = Script(DELIVERED)
        self.faults: defaultdict[str, list[Exception]] = defaultdict(list)
        self.inputs: dict[str, DeliveryInput] = {}
        self.circuit: Circuit | None = Circuit()
        self.policies: dict[str, CircuitPolicy] = {}
        self.parked = 0
        self.passes: Script[ReconcileResult] = Script(ReconcileResult(started=3, restarted=2, endpoints=1, history=4))
        self.handlings: Script[HandlerResult] = Script(HandlerResult(DELIVERED))
        self.pulls: Script[PulledState] = Script(PulledState(DeliveryStatus.DELIVERED, attempts=1))
        self.task = FakeTask()
        self.dead_since: datetime | None = None
        self.turns: Script[ReplayProgress] = Script(ReplayProgress(more=False))
        self._clock = clock
        self._gates: defaultdict[str, list[Gate]] = defaultdict(list)
        self._running: list[tuple[str | None, Gate]] = []

    def script(self, *outcomes: AttemptOutcome) -> None:
        """The outcomes of the next attempts."""
        self.sends = Script(*outcomes)

    def fail(self, name: str, times: int) -> None:
        """Have the next executions of an activity fail with an internal error."""
        self.faults[name] += [DatabaseAway("no database") for _ in range(times)]

    def hold(self, name: str) -> Gate:
        """Hold the next execution of an activity."""
        gate = Gate()
        self._gates[name].append(gate)
        return gate

    def of(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]

    def arguments(self, name: str) -> list[Any]:
        return [call.argument for call in self.of(name)]

    async def open_all(self) -> None:
        """Let everything go that is held, and wait until it has gone."""
        for gate in (gate for gates in self._gates.values() for gate in gates):
            gate.entered.set()
            gate.open()
        await assert_eventually(self._nothing_runs)

    def _nothing_runs(self) -> None:
        assert not self._running

    def held(self, workflow_id: str) -> int:
        """How many of its activities wait at a gate that is closed."""
        return sum(holder == workflow_id and not gate.opened.is_set() for holder, gate in self._running)

    async def _called(self, name: str, argument: Any) -> None:
        info = activity.info()
        now: datetime = await self._clock()
        self.calls.append(Call(name, argument, now, info.task_queue, info.priority))
        gate = next((gate for gate in self._gates[name] if not gate.entered.is_set()), None)
        if gate is not None:
            holding = (info.workflow_id, gate)
            self._running.append(holding)
            gate.entered.set()
            await gate.opened.wait()
            self._running.remove(holding)
        if self.faults[name]:
            raise self.faults[name].pop(0)

    @activity.defn(name="send_attempt")
    async def send_attempt(self, input: AttemptInput) -> AttemptOutcome:
        outcome = self.sends.next() if not self.faults["send_attempt"] else DELIVERED
        await self._called("send_attempt", input)
        return outcome

    @activity.defn(name="run_handler")
    async def run_handler(self, input: HandlerInput) -> HandlerResult:
        await self._called("run_handler", input)
        return self.handlings.next()

    @activity.defn(name="record_attempt")
    async def record_attempt(self, record: AttemptRecord) -> None:
        await self._called("record_attempt", record)

    @activity.defn(name="dead_letter")
    async def dead_letter(self, note: DeadLetterInput) -> datetime | None:
        await self._called("dead_letter", note)
        return self.dead_since

    @activity.defn(name="open_round")
    async def open_round(self, input: RoundInput) -> DeliveryInput:
        """The order registered for the delivery, or the one it was started with, in its next round."""
        await self._called("open_round", input)
        return replace(self.inputs[input.delivery_gid], round=input.round + 1, attempt=1)

    @activity.defn(name="check_pulled")
    async def check_pulled(self, check: PullCheck) -> PulledState:
        await self._called("check_pulled", check)
        return self.pulls.next()

    @activity.defn(name="check_task")
    async def check_task(self, check: PullCheck) -> PulledState:
        """Takes the step that is due at the server's time, as the database would."""
        await self._called("check_task", check)
        return self.task.check(check, await self._clock())

    @activity.defn(name="discard")
    async def discard(self, note: DiscardInput) -> None:
        await self._called("discard", note)

    @activity.defn(name="load_endpoint")
    async def load_endpoint(self, endpoint_gid: str) -> EndpointCircuit | None:
        await self._called("load_endpoint", endpoint_gid)
        return EndpointCircuit(self.circuit, self.policies[endpoint_gid]) if self.circuit is not None else None

    @activity.defn(name="load_circuit_policy")
    async def load_circuit_policy(self, endpoint_gid: str) -> CircuitPolicy:
        await self._called("load_circuit_policy", endpoint_gid)
        return self.policies[endpoint_gid]

    @activity.defn(name="load_circuit")
    async def load_circuit(self, endpoint_gid: str) -> Circuit | None:
        await self._called("load_circuit", endpoint_gid)
        return self.circuit

    @activity.defn(name="project_circuit")
    async def project_circuit(self, projection: CircuitProjection) -> CircuitPolicy:
        await self._called("project_circuit", projection)
        self.finished.append("project_circuit")
        return self.policies[projection.endpoint_gid]

    @activity.defn(name="release_parked")
    async def release_parked(self, input: ReleaseParkedInput) -> ReleaseResult:
        await self._called("release_parked", input)
        released = min(self.parked, input.limit)
        self.parked -= released
        return ReleaseResult(released, remaining=self.parked > 0)

    @activity.defn(name="count_parked")
    async def count_parked(self, endpoint_gid: str) -> int:
        await self._called("count_parked", endpoint_gid)
        return self.parked

    @activity.defn(name="publish_events")
    async def publish_events(self) -> EventsResult:
        await self._called("publish_events", None)
        return EventsResult(published=4)

    @activity.defn(name="reconcile")
    async def reconcile(self, share: ReconcileShare) -> ReconcileResult:
        result = self.passes.next()
        await self._called("reconcile", share)
        return result

    @activity.defn(name="resume_erasures")
    async def resume_erasures(self) -> None:
        await self._called("resume_erasures", None)

    @activity.defn(name="end_tenant_workflows")
    async def end_tenant_workflows(self, erasure: TenantErasure) -> None:
        await self._called("end_tenant_workflows", erasure)

    @activity.defn(name="remove_tenant")
    async def remove_tenant(self, erasure: TenantErasure) -> None:
        await self._called("remove_tenant", erasure)

    @activity.defn(name="remove_past")
    async def apply_retention(self) -> RetentionResult:
        await self._called("remove_past", None)
        return RetentionResult(messages=2, payloads=1)

    @activity.defn(name="replay_pages")
    async def replay_pages(self, input: ReplayInput) -> ReplayProgress:
        await self._called("replay_pages", input)
        return self.turns.next()

    @activity.defn(name="cancel_replay")
    async def cancel_replay(self, input: ReplayInput) -> None:
        await self._called("cancel_replay", input)

    @activity.defn(name="deliver_scheduled")
    async def deliver_scheduled(self, input: ScheduledMessageInput) -> bool:
        await self._called("deliver_scheduled", input)
        return True

    @activity.defn(name="seal_receipts")
    async def seal_receipts(self) -> SealResult:
        await self._called("seal_receipts", None)
        return SealResult(receipts=7, checkpoints=2, damaged=("ten_1",))

    @property
    def all(self) -> list[Callable[..., Any]]:
        return [
            self.send_attempt,
            self.run_handler,
            self.record_attempt,
            self.dead_letter,
            self.open_round,
            self.discard,
            self.check_pulled,
            self.check_task,
            self.load_endpoint,
            self.load_circuit,
            self.load_circuit_policy,
            self.project_circuit,
            self.release_parked,
            self.count_parked,
            self.reconcile,
            self.publish_events,
            self.resume_erasures,
            self.apply_retention,
            self.end_tenant_workflows,
            self.remove_tenant,
            self.seal_receipts,
            self.replay_pages,
            self.cancel_replay,
            self.deliver_scheduled,
        ]


class Engine:
    """A Temporal with our workflows and the fake activities, and the means to drive one through the other."""

    def __init__(
        self,
        env: WorkflowEnvironment,
        delivery: type[DeliveryWorkflow] = DeliveryWorkflow,
        endpoint: type[EndpointWorkflow] = EndpointWorkflow,
    ) -> None:
        self.env = env
        self._released = {DeliveryWorkflow: delivery, EndpointWorkflow: endpoint}
        self.client: Client = env.client
        self.fakes = FakeActivities(self.now)
        self._opened: list[str] = []

    async def now(self) -> datetime:
        return await self.env.get_current_time()

    async def skip(self, duration: timedelta) -> None:
        """Let this much time pass, with all that happens in it.

        In steps, because the server responds when all that happens in a step has happened, and a call has a deadline.
        """
        while duration > LONGEST_STEP:
            await self.env.sleep(LONGEST_STEP)
            duration -= LONGEST_STEP
        await self.env.sleep(duration)

    async def passed(self, handle: WorkflowHandle[Any, Any], name: str, calls: int, every: timedelta) -> None:
        """Let a loop make passes until an activity was called `calls` times. No time is skipped during a call: it
        would end without a heartbeat."""
        while True:
            done = len(self.fakes.of(name))
            await until_at_rest(handle)
            if done >= calls:
                return
            await self.skip(every)
            await self.until_called(name, done + 1)

    def input(self, **changes: Any) -> DeliveryInput:
        """A delivery order, without jitter unless `changes` say otherwise."""
        input = DeliveryInput(
            delivery_gid=new_gid(Kind.DELIVERY),
            message_gid=new_gid(Kind.MESSAGE),
            endpoint_gid=new_gid(Kind.ENDPOINT),
            tenant=TENANT,
            channel="orders",
            event_type="order.created",
            policy=DeliveryPolicy(jitter=0),
        )
        return replace(input, **changes)

    def dead_order(self, **changes: Any) -> DeliveryInput:
        """The order of a dead letter whose workflow was lost."""
        return self.input(dead_letter=OpenDeadLetter(DeadLetterReason.REJECTED, LONG_AGO, 404), **changes)

    def order_after(
        self, outcome: AttemptOutcome, next_attempt_at: datetime | None = None, **changes: Any
    ) -> DeliveryInput:
        """The order of a delivery whose first attempt was made before its workflow started."""
        return self.input(previous=PreviousAttempt(outcome, next_attempt_at), **changes)

    async def start(
        self,
        input: DeliveryInput | None = None,
        *,
        signal: str | None = None,
        note: Any = None,
        first: bool = False,
    ) -> DeliveryHandle:
        """Start a delivery as the product does."""
        input = input or self.input()
        self.fakes.inputs.setdefault(input.delivery_gid, input)
        await start_delivery(self.client, input, signal=signal, note=note, first=first)
        return self.delivery(input.delivery_gid)

    def delivery(self, delivery_gid: str) -> DeliveryHandle:
        workflow_id = delivery_workflow_id(delivery_gid)
        self._opened.append(workflow_id)
        return self.client.get_workflow_handle_for(DeliveryWorkflow.run, workflow_id)

    def endpoint(self, policy: CircuitPolicy | None = None, gid: str | None = None) -> "Endpoint":
        gid = gid or new_gid(Kind.ENDPOINT)
        self._opened.append(endpoint_workflow_id(gid))
        policy = policy or CircuitPolicy(jitter=0)
        self.fakes.policies[gid] = policy
        return Endpoint(self, gid, policy)

    async def result(self, handle: WorkflowHandle[Any, T]) -> T:
        """Wait for the workflow's end and skip the time until then."""
        service = self.client.test_service
        await service.unlock_time_skipping(UnlockTimeSkippingRequest())
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await handle.result()
        finally:
            await service.lock_time_skipping(LockTimeSkippingRequest())

    async def result_without_skipping(self, handle: WorkflowHandle[Any, T]) -> T:
        """Wait for the workflow's end and skip no time, so that no activity reaches its timeout."""
        with self.env.auto_time_skipping_disabled():
            async with asyncio.timeout(PATIENCE_S):
                return await handle.result()

    async def until(
        self, handle: DeliveryHandle, status: DeliveryStatus, waiting_for: str | None = None, round_: int | None = None
    ) -> DeliveryState:
        """Wait until the delivery says that it stands there. Time is not skipped meanwhile."""

        async def stands_there() -> DeliveryState:
            await self.until_queryable(handle)
            state = await handle.query(DeliveryWorkflow.status)
            assert state.status is status, state
            assert waiting_for is None or state.waiting_for == waiting_for, state
            assert round_ is None or state.round == round_, state
            return state

        return await assert_eventually(stands_there, PATIENCE_S)

    async def until_queryable(self, handle: WorkflowHandle[Any, Any]) -> None:
        """Wait until nothing is under way that ends in a workflow task, except what a gate holds.

        The server never responds to a query that arrives during the task that ends a run, for example with a new round
        of a delivery, and skips no time from then on.
        """

        async def queryable() -> None:
            history = await handle.fetch_history()
            assert history.events[-1].event_type not in UNDER_WAY
            assert _activities_under_way(history) == self.fakes.held(handle.id)

        await assert_eventually(queryable, PATIENCE_S)

    async def until_retrying(self, handle: DeliveryHandle, attempt: int) -> DeliveryState:
        return await self.until(handle, DeliveryStatus.RETRYING, f"attempt {attempt}")

    async def until_parked(self, handle: DeliveryHandle) -> DeliveryState:
        return await self.until(handle, DeliveryStatus.PARKED, "the endpoint's circuit")

    async def until_dead(self, handle: DeliveryHandle, round_: int = 1) -> DeliveryState:
        return await self.until(handle, DeliveryStatus.DEAD_LETTERED, "an operator", round_)

    async def until_called(self, name: str, times: int) -> list[Call]:
        def called() -> list[Call]:
            calls = self.fakes.of(name)
            assert len(calls) >= times, calls
            return calls

        return await assert_eventually(called)

    async def keep(self) -> None:
        """Leave the workflows open for the next engine. At rest: what an activity did would be lost."""
        for workflow_id in self._opened:
            await until_at_rest(self.client.get_workflow_handle(workflow_id))
        self._opened.clear()

    async def close(self) -> None:
        """End what the test left open, so that no later test meets it.

        At rest first: the server skips no time while a task is under way, and a workflow that is terminated in the
        middle of one leaves it so for good.
        """
        await self.fakes.open_all()
        for workflow_id in self._opened:
            handle = self.client.get_workflow_handle(workflow_id)
            with suppress(RPCError):
                await until_at_rest(handle)
                await handle.terminate()

    def workers(self) -> list[Worker]:
        return [
            self.worker(
                TaskQueue.DELIVERIES,
                workflows=self._workflows(),
                activities=self.fakes.all,
                # Without a cache there is no sticky queue, so the next engine gets the tasks at once.
                max_cached_workflows=0 if self._workflows() != list(WORKFLOWS) else 1_000,
            ),
            self.worker(TaskQueue.SENDS, activities=[self.fakes.send_attempt, self.fakes.run_handler]),
            self.worker(TaskQueue.SENDS_LIMITED, activities=[self.fakes.send_attempt, self.fakes.run_handler]),
        ]

    def _workflows(self) -> list[type]:
        return [self._released.get(each, each) for each in WORKFLOWS]

    def worker(self, queue: str, **options: Any) -> Worker:
        return Worker(self.client, task_queue=queue, workflow_runner=PreparedOnce(), **options)


class PreparedOnce(SandboxedWorkflowRunner):
    """The sandbox, which validates each workflow class once in a process and not for each worker (150 ms for all)."""

    _prepared: ClassVar[set[type]] = set()

    def prepare_workflow(self, defn: Any) -> None:
        if defn.cls not in self._prepared:
            super().prepare_workflow(defn)
            self._prepared.add(defn.cls)


class Endpoint:
    """One endpoint's entity, spoken to as the product does."""

    def __init__(self, engine: Engine, gid: str, policy: CircuitPolicy) -> None:
        self.gid = gid
        self._engine = engine
        self._circuits = CircuitClient(engine.client, policy)
        self.handle: EndpointHandle = engine.client.get_workflow_handle_for(
            EndpointWorkflow.run, endpoint_workflow_id(gid)
        )

    async def report(
        self, *, succeeded: bool = False, failures: int = 0, gone: bool = False, stranded: bool = False
    ) -> None:
        await self._circuits.report(self.gid, TENANT, OutcomeReport(succeeded, failures, gone, stranded))

    async def command(self, update: str) -> Circuit:
        return await self._circuits.command(self.gid, TENANT, update)

    async def settings_changed(self, policy: CircuitPolicy) -> None:
        """Change the settings in the database, and announce them."""
        self._engine.fakes.policies[self.gid] = policy
        await self._circuits.settings_changed(self.gid)

    async def state(self) -> Circuit:
        await self._engine.until_queryable(self.handle)
        return await self.handle.query(EndpointWorkflow.state)

    async def until(self, **wanted: Any) -> Circuit:
        """Wait until the circuit's fields are as wanted."""

        async def as_wanted() -> Circuit:
            circuit = await self.state()
            assert {name: getattr(circuit, name) for name in wanted} == wanted, circuit
            return circuit

        return await assert_eventually(as_wanted)

    def projections(self) -> list[Circuit]:
        """What senders were let know, in order."""
        written: list[CircuitProjection] = self._engine.fakes.arguments("project_circuit")
        return [projection.circuit for projection in written if projection.endpoint_gid == self.gid]

    async def until_projected(self, **wanted: Any) -> Circuit:
        """Wait until the last thing that senders were let know is as wanted."""

        def as_wanted() -> Circuit:
            assert self.projections()
            circuit = self.projections()[-1]
            assert {name: getattr(circuit, name) for name in wanted} == wanted, circuit
            return circuit

        return await assert_eventually(as_wanted)

    def releases(self) -> list[ReleaseParkedInput]:
        inputs: list[ReleaseParkedInput] = self._engine.fakes.arguments("release_parked")
        return [input for input in inputs if input.endpoint_gid == self.gid]

    async def until_released(self, times: int) -> list[ReleaseParkedInput]:
        def released() -> list[ReleaseParkedInput]:
            assert len(self.releases()) >= times, self.releases()
            return self.releases()

        return await assert_eventually(released)


async def until_at_rest(handle: WorkflowHandle[Any, Any]) -> WorkflowHistory:
    """Wait until no task of the workflow is under way, and return its history."""

    async def at_rest() -> WorkflowHistory:
        history = await handle.fetch_history()
        assert history.events[-1].event_type not in UNDER_WAY
        if history.events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
            return history  # the end of the activity that was cancelled is not recorded
        assert _activities_under_way(history) == 0
        return history

    return await assert_eventually(at_rest)


def _activities_under_way(history: WorkflowHistory) -> int:
    kinds = [event.event_type for event in history.events]
    ended = sum(kind in ENDS_OF_ACTIVITIES for kind in kinds)
    return kinds.count(EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED) - ended


async def register_search_attributes(client: Client) -> None:
    kinds = {key.name: key.indexed_value_type.value for key in search_attributes.ALL}
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=client.namespace, search_attributes=kinds)  # type: ignore[arg-type]
    )


@asynccontextmanager
async def time_skipping_server() -> AsyncIterator[WorkflowEnvironment]:
    """Fixtures keep it for a module: it starts in half a second."""
    binary = str(BINARIES / "temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=binary, plugins=[PLUGIN]) as env:
        await register_search_attributes(env.client)
        yield env


SKIPS_WITHIN_S = 3.0


class TimeSkippingServers:
    """A server that skips time, replaced by another when it skips no more.

    It skips none while a task is under way. A workflow that is terminated in the middle of one leaves it so for good,
    and every later test would wait for hours to pass.
    """

    def __init__(self) -> None:
        self._running = AsyncExitStack()
        self._env: WorkflowEnvironment | None = None

    async def __aenter__(self) -> "TimeSkippingServers":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._running.aclose()

    async def ready(self) -> WorkflowEnvironment:
        """A server that skips time."""
        if self._env is None or not await self._skips(self._env):
            await self._running.aclose()
            self._env = await self._running.enter_async_context(time_skipping_server())
        return self._env

    @staticmethod
    async def _skips(env: WorkflowEnvironment) -> bool:
        try:
            await asyncio.wait_for(env.sleep(timedelta(minutes=1)), SKIPS_WITHIN_S)
        except (TimeoutError, RPCError):
            return False
        return True


@asynccontextmanager
async def running_engine(
    env: WorkflowEnvironment,
    delivery: type[DeliveryWorkflow] = DeliveryWorkflow,
    endpoint: type[EndpointWorkflow] = EndpointWorkflow,
) -> AsyncIterator[Engine]:
    """`delivery` is the code that runs deliveries, `endpoint` the one that runs endpoints."""
    engine = Engine(env, delivery, endpoint)
    async with AsyncExitStack() as stack:
        for worker in engine.workers():
            await stack.enter_async_context(worker)
        stack.push_async_callback(engine.close)
        yield engine


async def described(handle: WorkflowHandle[Any, Any]) -> WorkflowExecutionInfo:
    """The newest run, without the SDK: the time-skipping server keeps search attributes that were taken away as
    nulls, and the SDK stumbles over those."""
    client = handle._client
    execution = WorkflowExecution(workflow_id=handle.id)
    response = await client.workflow_service.describe_workflow_execution(
        DescribeWorkflowExecutionRequest(namespace=client.namespace, execution=execution)
    )
    return response.workflow_execution_info


async def attribute(handle: WorkflowHandle[Any, Any], key: SearchAttributeKey[Any]) -> Any:
    """A search attribute of a workflow as it is in JSON, None where it has none."""
    fields = (await described(handle)).search_attributes.indexed_fields
    return json.loads(fields[key.name].data or b"null") if key.name in fields else None


async def run_id(handle: WorkflowHandle[Any, Any]) -> str:
    return (await described(handle)).execution.run_id


async def details(handle: WorkflowHandle[Any, Any]) -> str:
    """What the Temporal UI shows as the workflow's current details."""
    metadata: WorkflowMetadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return metadata.current_details


async def timers(handle: WorkflowHandle[Any, Any]) -> list[timedelta]:
    """How long the workflow meant to wait, each time that it waited."""
    return [
        event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
        for event in (await handle.fetch_history()).events
        if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED
    ]


async def count_events(handle: WorkflowHandle[Any, Any], kind: EventType.ValueType) -> int:
    return sum(event.event_type == kind for event in (await handle.fetch_history()).events)
