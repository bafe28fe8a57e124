"""The workflow of one endpoint. It owns the circuit, from the first failure or command until the endpoint is deleted.

All changes go through the pure state machine in `everhook/circuit/machine.py`. Only the main loop writes the projection
that senders read, and releases parked deliveries, so no lock is needed.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

from workflows.retry import RETRY_FOREVER

with workflow.unsafe.imports_passed_through():
    from activities.circuits import CircuitActivities
    from activities.releasing import ReleasingActivities
    from everhook.circuit import machine
    from everhook.circuit.machine import Circuit, CircuitPolicy, Hold
    from everhook.contracts import (
        ENDPOINT_WORKFLOW,
        CircuitProjection,
        DeadLetterReason,
        EndpointCircuit,
        EndpointInput,
        OutcomeReport,
        ReleaseParkedInput,
        ReleaseResult,
    )
    from everhook.temporal import search_attributes as sa

ACTIVITY_TIMEOUT = timedelta(seconds=15)
RELEASE_TIMEOUT = timedelta(minutes=2)
RELEASE_HEARTBEAT_TIMEOUT = timedelta(seconds=20)
"""A release that was lost with its worker holds up the circuit for this long. Each signal heartbeats; a statement may
take 10 s."""
RELEASE_PERIOD = timedelta(seconds=1)
FIRST_COUNT, LONGEST_COUNT = timedelta(minutes=1), timedelta(hours=1)
"""While deliveries are held, the parked ones are counted after the first interval, and then less and less often."""

GIVE_UP_BATCH = 500
CIRCUIT_SETTINGS = "circuit-settings"
"""The id of the patch that applies the settings of an endpoint and its channels to the circuit."""

ENABLED_DURING_GIVE_UP = "enabled-during-give-up"
"""The id of the patch that stops giving up parked deliveries once their endpoint is enabled again."""

STEADY_RELEASE = "steady-release"
"""The id of the patch that releases parked deliveries each second, and not a second after the last release ended."""

MAX_UPDATES = 1_000
"""Temporal's limit is 2,000 updates for each run; continue as new well before it."""


@workflow.defn(name=ENDPOINT_WORKFLOW)
class EndpointWorkflow:
    @workflow.init
    def __init__(self, input: EndpointInput) -> None:
        self._input = input
        self._policy = input.policy
        self._policy_is_old = False
        self._policy_checks = 0
        self._circuit = input.circuit or Circuit()
        self._loaded = input.circuit is not None
        self._projected = input.circuit.version if input.circuit else -1
        self._reports: list[OutcomeReport] = []
        self._release_rate = input.release_rate
        self._release_at: datetime | None = workflow.now() if input.release_rate else None
        self._probe_due = False
        self._giving_up: DeadLetterReason | None = None
        self._deleted = False
        self._updates = 0
        self._shown = self._search_value(self._circuit)
        self._parked: int | None = None
        self._count_wait = FIRST_COUNT
        self._count_at: datetime | None = None

    @workflow.run
    async def run(self, input: EndpointInput) -> None:
        await self._load()
        self._show_known()
        while True:
            await self._refresh_policy()
            self._take_reports()
            self._pass_time()
            await self._project()
            await self._serve_parked()
            await self._count_parked()
            if self._is_idle():
                if self._ends_run() and await self._handlers_finished():
                    if self._deleted:
                        return
                    self._continue_as_new()
                await self._rest()

    @workflow.signal(description="What a worker saw of the endpoint")
    def report(self, report: OutcomeReport) -> None:
        self._reports.append(report)

    @workflow.signal(description="The circuit settings of the endpoint or of a channel have changed")
    def settings_changed(self) -> None:
        self._policy_is_old = True

    @workflow.update(description="Hold all deliveries until `resume`")
    async def pause(self) -> Circuit:
        return await self._change(machine.pause)

    @workflow.update(description="End a pause")
    async def resume(self) -> Circuit:
        return await self._change(machine.resume)

    @workflow.update(description="Disable the endpoint: its messages are parked until `enable`")
    async def disable(self) -> Circuit:
        return await self._change(machine.disable)

    @workflow.update(description="Enable a disabled endpoint, with a closed circuit")
    async def enable(self) -> Circuit:
        return await self._change(machine.enable)

    @workflow.update(description="Open the circuit")
    async def trip(self) -> Circuit:
        return await self._change(lambda circuit: machine.trip(circuit, workflow.now(), self._policy, self._draw()))

    @workflow.update(description="Close the circuit")
    async def reset(self) -> Circuit:
        return await self._change(machine.reset)

    @workflow.update(description="The endpoint was deleted: dead-letter what is parked, and end")
    async def delete(self) -> Circuit:
        self._deleted = True
        self._giving_up = DeadLetterReason.ENDPOINT_DELETED
        return await self._change(lambda circuit: machine.disable(circuit, "deleted"))

    @workflow.query(description="The circuit as the workflow knows it")
    def state(self) -> Circuit:
        return self._circuit

    async def _load(self) -> None:
        """Load the circuit from the database: a pause outlives even the loss of Temporal's store."""
        if self._loaded:
            return
        known = await self._known_circuit()
        if known is None:
            self._deleted = True
            self._giving_up = DeadLetterReason.ENDPOINT_DELETED
        else:
            self._circuit = known
            self._projected = known.version
            self._begin_release_if_flowing()
            self._probe_due = known.probes
        self._loaded = True

    async def _known_circuit(self) -> Circuit | None:
        """The circuit in the database. Its policy is loaded too."""
        if not workflow.patched(CIRCUIT_SETTINGS):
            return await workflow.execute_activity_method(
                CircuitActivities.load_circuit,
                self._input.endpoint_gid,
                start_to_close_timeout=ACTIVITY_TIMEOUT,
                retry_policy=RETRY_FOREVER,
                summary="load the circuit",
            )
        self._policy_is_old = False
        found: EndpointCircuit | None = await workflow.execute_activity_method(
            CircuitActivities.load_endpoint,
            self._input.endpoint_gid,
            start_to_close_timeout=ACTIVITY_TIMEOUT,
            retry_policy=RETRY_FOREVER,
            summary="load the circuit",
        )
        if found is None:
            return None
        self._policy = found.policy
        return found.circuit

    async def _refresh_policy(self) -> None:
        """Load the policy after a signal that it has changed."""
        if not self._policy_is_old:
            return
        self._policy_is_old = False
        if self._knows_settings():
            policy = await workflow.execute_activity_method(
                CircuitActivities.load_circuit_policy,
                self._input.endpoint_gid,
                start_to_close_timeout=ACTIVITY_TIMEOUT,
                retry_policy=RETRY_FOREVER,
                summary="load the circuit settings",
            )
            self._adopt(policy)

    def _knows_settings(self) -> bool:
        """Whether this code, and not that of an earlier version, made the commands that follow. `patched` stays false
        for an id that was asked for in a replay, so in a run that an earlier version began each check has an id of its
        own."""
        self._policy_checks += 1
        return workflow.patched(CIRCUIT_SETTINGS) or workflow.patched(f"{CIRCUIT_SETTINGS}-{self._policy_checks}")

    def _adopt(self, policy: CircuitPolicy) -> None:
        """Apply a policy from now on, also to the current cooldown and to a release that is under way."""
        self._policy = policy
        self._circuit = machine.shorten(self._circuit, workflow.now(), policy)
        if self._release_rate is not None:
            self._release_rate = min(self._release_rate, policy.release_rate_max)

    def _take_reports(self) -> None:
        reports, self._reports = self._reports, []
        for report in reports:
            if report.succeeded:
                self._become(machine.succeed(self._circuit))
            if report.failures:
                if self._release_rate is not None:  # slow down; if the circuit opens, the release ends
                    self._release_rate = self._policy.release_rate
                self._become(machine.fail(self._circuit, report.failures, workflow.now(), self._policy, self._draw()))
            if report.stranded and self._release_rate is None:
                self._begin_release_if_flowing()
            if report.gone:
                self._become(machine.disable(self._circuit, "the endpoint responded 410 Gone"))

    def _pass_time(self) -> None:
        before = self._circuit
        self._become(machine.tick(before, workflow.now(), self._policy))
        if self._circuit is not before:
            self._probe_due = self._circuit.probes

    def _become(self, circuit: Circuit) -> None:
        """Change to a state, and begin to release, probe with or give up the parked deliveries accordingly."""
        before, self._circuit = self._circuit, circuit
        if not before.sends and circuit.sends:
            self._begin_release_if_flowing()
        if not before.probes and circuit.probes:
            self._probe_due = True
        newly_disabled = before.hold is not Hold.DISABLED and circuit.hold is Hold.DISABLED
        if newly_disabled and circuit.hold_reason != machine.BY_OPERATOR:
            self._giving_up = self._giving_up or DeadLetterReason.ENDPOINT_DISABLED
        elif (
            self._giving_up is DeadLetterReason.ENDPOINT_DISABLED
            and circuit.hold is not Hold.DISABLED
            and workflow.patched(ENABLED_DURING_GIVE_UP)
        ):
            self._giving_up = None  # what is still parked is released

    def _begin_release_if_flowing(self) -> None:
        if self._circuit.sends:
            self._release_rate, self._release_at = self._policy.release_rate, workflow.now()

    async def _change(self, transition: Callable[[Circuit], Circuit]) -> Circuit:
        """Apply an operator's change and wait until senders can read it."""
        self._updates += 1
        await workflow.wait_condition(lambda: self._loaded)
        self._take_reports()  # they came before the change, so that a reset clears their failures too
        self._become(transition(self._circuit))
        wanted = self._circuit
        await workflow.wait_condition(lambda: self._projected >= wanted.version)
        return wanted

    async def _project(self) -> None:
        """Write the circuit where senders read it, until the latest version is written."""
        while self._projected < self._circuit.version:
            circuit = self._circuit
            policy: CircuitPolicy | None = await workflow.execute_activity_method(
                CircuitActivities.project_circuit,
                CircuitProjection(self._input.endpoint_gid, circuit),
                start_to_close_timeout=ACTIVITY_TIMEOUT,
                retry_policy=RETRY_FOREVER,
                summary=self._describe(circuit),
            )
            self._projected = circuit.version
            # Earlier versions of the activity return nothing.
            if policy is not None and policy != self._policy and self._knows_settings():
                self._adopt(policy)
            self._parked, self._count_wait = None, FIRST_COUNT
            self._count_at = None if circuit.sends else workflow.now() + FIRST_COUNT
            self._show(circuit)

    async def _count_parked(self) -> None:
        """Count the parked deliveries for the Temporal UI: those without a workflow cannot be counted there."""
        if not self._count_is_due():
            return
        try:
            self._parked = await workflow.execute_activity_method(
                ReleasingActivities.count_parked,
                self._input.endpoint_gid,
                start_to_close_timeout=ACTIVITY_TIMEOUT,
                retry_policy=RetryPolicy(maximum_attempts=1),
                summary="count the parked deliveries",
            )
        except ActivityError as error:  # the number is only informative and must not block the circuit
            if is_cancelled_exception(error):
                raise
        self._count_wait = min(self._count_wait * 2, LONGEST_COUNT)
        self._count_at = workflow.now() + self._count_wait
        self._show(self._circuit)

    def _count_is_due(self) -> bool:
        return self._count_at is not None and workflow.now() >= self._count_at

    async def _serve_parked(self) -> None:
        """Release the parked deliveries whose turn it is: one probe, the next part of a release, or all of an
        endpoint that is given up."""
        if self._giving_up is not None:
            result = await self._wake(GIVE_UP_BATCH, self._giving_up)
            if not result.remaining:
                self._giving_up = None
        elif self._probe_due and self._circuit.probes:
            self._probe_due = False
            if not (await self._wake(1)).released:
                self._circuit = machine.await_traffic(self._circuit, workflow.now(), self._policy)
        elif self._release_is_due():
            await self._release_some()

    async def _release_some(self) -> None:
        """Release the deliveries of one second. The next second gets twice as many. A relapse ends the release; the
        next closing starts it again."""
        assert self._release_rate is not None and self._release_at is not None
        due_at = self._release_at
        result = await self._wake(max(1, round(self._release_rate)))
        if not result.remaining or not self._circuit.sends:
            self._release_rate = self._release_at = None
            return
        self._release_rate = min(self._release_rate * 2, self._policy.release_rate_max)
        moment = workflow.now()
        if moment < due_at + RELEASE_PERIOD and workflow.patched(STEADY_RELEASE):
            moment = due_at  # what a release takes does not lower the rate
        self._release_at = moment + RELEASE_PERIOD

    async def _wake(self, limit: int, dead_letter: DeadLetterReason | None = None) -> ReleaseResult:
        return await workflow.execute_activity_method(
            ReleasingActivities.release_parked,
            ReleaseParkedInput(self._input.endpoint_gid, limit, dead_letter),
            start_to_close_timeout=RELEASE_TIMEOUT,
            heartbeat_timeout=RELEASE_HEARTBEAT_TIMEOUT,
            retry_policy=RETRY_FOREVER,
            summary=f"give up {limit} parked: {dead_letter}" if dead_letter else f"release {limit} parked",
        )

    def _release_is_due(self) -> bool:
        return self._circuit.sends and self._release_at is not None and workflow.now() >= self._release_at

    def _is_idle(self) -> bool:
        """Whether there is nothing to do now."""
        busy = (
            self._reports
            or self._policy_is_old
            or self._projected < self._circuit.version
            or self._giving_up is not None
            or (self._probe_due and self._circuit.probes)
            or self._release_is_due()
            or self._count_is_due()
        )
        return not busy

    async def _rest(self) -> None:
        """Wait for a report or an update, or until the next step is due."""
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: not self._is_idle() or self._ends_run(),
                timeout=self._until_next_step(),
                timeout_summary="next step",
            )

    def _until_next_step(self) -> timedelta | None:
        moments = [
            self._circuit.until if self._circuit.hold is None else None,
            self._release_at if self._circuit.sends else None,
            self._count_at,
        ]
        waits = [max(moment - workflow.now(), timedelta()) for moment in moments if moment is not None]
        return min(waits, default=None)

    def _ends_run(self) -> bool:
        """Whether the run ends: the endpoint was deleted, or the history has become long."""
        return self._deleted or workflow.info().is_continue_as_new_suggested() or self._updates >= MAX_UPDATES

    async def _handlers_finished(self) -> bool:
        """Wait for all handlers. False if there is work first: a handler may be waiting for this loop to do it."""
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() or not self._is_idle())
        return self._is_idle()

    def _continue_as_new(self) -> NoReturn:
        workflow.continue_as_new(
            replace(self._input, policy=self._policy, circuit=self._circuit, release_rate=self._release_rate)
        )

    def _show_known(self) -> None:
        """Show a circuit that was loaded, or passed on by the last run: it is not projected again."""
        self._count_at = None if self._circuit.sends else workflow.now() + FIRST_COUNT
        self._show(self._circuit)

    def _show(self, circuit: Circuit) -> None:
        """Show the circuit in the Temporal UI. The search attribute is set only if it changed."""
        shown = self._search_value(circuit)
        if shown != self._shown:
            self._shown = shown
            workflow.upsert_search_attributes([sa.CIRCUIT_STATE.value_set(shown)])
        parked = f", {self._parked:,} deliveries parked" if self._parked is not None else ""
        workflow.set_current_details(
            f"{self._describe(circuit)}{parked}. Updates: `pause`, `resume`, `trip`, `reset`, `enable`, `disable`."
        )

    @staticmethod
    def _search_value(circuit: Circuit) -> str:
        """The search attribute. A new workflow starts with that of a closed circuit, a new run with that of the last
        run."""
        return circuit.hold.value if circuit.hold else circuit.state.value

    @staticmethod
    def _describe(circuit: Circuit) -> str:
        held = (
            f", {circuit.hold}" + (f" ({circuit.hold_reason})" if circuit.hold_reason else "") if circuit.hold else ""
        )
        until = f" until {circuit.until:%H:%M:%S} UTC" if circuit.until else ""
        return f"circuit {circuit.state}{until}, {circuit.failures} failures in a row{held}"

    @staticmethod
    def _draw() -> float:
        return workflow.random().random()
