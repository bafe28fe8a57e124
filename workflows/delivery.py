"""One message to one endpoint, until it is delivered, discarded, or waits as a dead letter for an operator."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn, TypedDict

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

from workflows.retry import RETRY_FOREVER

with workflow.unsafe.imports_passed_through():
    from activities.pulling import PullingActivities
    from activities.recording import RecordingActivities
    from activities.sending import SendingActivities
    from activities.tasks import TaskActivities
    from everhook.contracts import (
        DELIVERY_WORKFLOW,
        REPLAY_PRIORITY,
        AttemptInput,
        AttemptOutcome,
        DeadLetterInput,
        DeadLetterReason,
        DeliveryInput,
        DeliveryMode,
        DeliveryResult,
        DeliveryState,
        DeliveryStatus,
        DiscardInput,
        HandlerInput,
        OperatorAction,
        ParkedRound,
        PreviousAttempt,
        PullCheck,
        PulledState,
        ReleaseInput,
        RoundInput,
        TaskProgress,
        TaskQueue,
        Verdict,
    )
    from everhook.delivery.policy import RetryPlan
    from everhook.temporal import search_attributes as sa

RECORDING_MARGIN = timedelta(seconds=12)
"""How long `send_attempt` may take after its HTTP deadline: loading, and waiting for the database to record."""

RECORD_TIMEOUT = timedelta(seconds=15)

MIN_STEP = timedelta(seconds=1)
"""Between two steps of a delivery that Everhook handles itself: clocks differ a little."""

DAY = timedelta(days=1)
LONGEST_PARK_CHECK = timedelta(hours=6)
PARK_JITTER = 0.2
"""Subtracted from the interval of a check. The attempt has written the whole interval to `due_at`, so that the
reconciler does not take the delivery for overdue."""

PARK_BACK_OFF = "park-back-off"

RETENTION = "retention"
"""Who discards a dead letter that no operator decided about."""


class _SendingOptions(TypedDict):
    task_queue: TaskQueue
    priority: Priority
    start_to_close_timeout: timedelta
    retry_policy: RetryPolicy
    summary: str


@workflow.defn(name=DELIVERY_WORKFLOW)
class DeliveryWorkflow:
    @workflow.init
    def __init__(self, input: DeliveryInput) -> None:
        self._input = input
        self._number = input.attempt
        self._status = DeliveryStatus.SENDING
        parked = input.parked_round
        self._last: AttemptOutcome | None = parked.last if parked else None
        self._reason = input.dead_letter.reason if input.dead_letter else None
        self._round_began = parked.began if parked else workflow.now()
        self._parked_since = input.parked_since
        self._park_check = parked.check if parked else input.park_check
        self._park_checks = 0
        self._next_attempt_at: datetime | None = None
        self._waiting_for = "the first attempt"
        self._shown_status = DeliveryStatus.PARKED if parked else DeliveryStatus.SENDING
        self._attempt_now = False
        self._release: ReleaseInput | None = None
        self._replay: OperatorAction | None = None
        self._early_replay: OperatorAction | None = None
        self._discard: OperatorAction | None = None
        self._dead_since = input.dead_letter.since if input.dead_letter else None
        self._settled = False
        self._shown_due_at: datetime | None = None
        self._step = 0
        if self._is_pulled():
            self._status = self._shown_status = input.status_at_start
            self._waiting_for = self._taker

    @workflow.run
    async def run(self, input: DeliveryInput) -> DeliveryResult:
        """One round of attempts; if it fails, wait for an operator's decision. A replay continues as a new run."""
        if input.dead_letter is None:
            self._reason = await (self._pulled_round() if self._is_pulled() else self._round())
            if self._reason is not None and not self._is_pulled():
                self._dead_since = await self._record_dead_letter(self._reason)
        if self._reason is not None:
            self._show_dead_letter(self._reason)
            await self._await_operator()
        if self._replay is not None and self._is_superseded():
            await self._open_next_round(self._replay)
            return DeliveryResult(self._status, self._input.round, self._number)
        if self._status is DeliveryStatus.DELIVERED:
            return self._delivered()  # a discard during the attempt came too late
        if self._discard is not None:
            await self._end_discarded(self._discard)
        elif self._replay is not None:
            await self._open_next_round(self._replay)
        return DeliveryResult(self._status, self._input.round, self._number)

    @workflow.signal(description="Begin a new round of attempts of a dead letter; optional input {actor, reason}")
    def replay(self, action: OperatorAction = OperatorAction()) -> None:
        """Takes effect once the round is over. A replay of a delivery that is still in progress is ignored.

        If the database opened the round already, it is taken up at the next step; if that is this round, or an earlier
        one, the database is checked.
        """
        if action.round > self._input.round or (action.round == 0 and self._reason is not None):
            self._replay = action
        elif action.round:
            self._settled = True
        else:
            self._early_replay = action

    def _is_superseded(self) -> bool:
        """Whether the database has opened a later round: the one of this workflow was over."""
        return self._replay is not None and self._replay.round > self._input.round

    @workflow.signal(description="Give the delivery up for good; optional input {actor, reason}")
    def discard(self, action: OperatorAction = OperatorAction()) -> None:
        """Takes effect at the next step. That of a bulk operation, which Temporal may send late, is ignored if the dead
        letter that it was for has been replayed."""
        if action.before is None or self._is_dead_since_before(action.before):
            self._discard = action

    def _is_dead_since_before(self, moment: datetime) -> bool:
        return self._replay is None and self._dead_since is not None and self._dead_since < moment

    @workflow.signal(description="Leave the parking: the circuit allows it, or the endpoint is gone for good")
    def release(self, input: ReleaseInput = ReleaseInput()) -> None:
        self._release = input

    @workflow.signal(description="Do not wait for the next attempt's time: make it now")
    def attempt_now(self) -> None:
        self._attempt_now = True

    @workflow.signal(description="It was acknowledged or decided, or its round is over: check the database")
    def settled(self) -> None:
        self._settled = True

    @workflow.query(description="Where the delivery stands, and what it waits for")
    def status(self) -> DeliveryState:
        return DeliveryState(
            status=self._status,
            round=self._input.round,
            attempt=self._number,
            waiting_for=self._waiting_for,
            next_attempt_at=self._next_attempt_at,
            dead_letter_reason=self._reason,
        )

    async def _round(self) -> DeadLetterReason | None:
        """Make attempts on the schedule. Returns why the round ended; None if it was delivered or discarded."""
        previous = self._input.previous
        while True:
            if previous is not None:
                outcome, wait = await self._continue_after(previous)
                previous = None
            else:
                plan = self._plan()
                result = await self._attempt(plan)
                if not isinstance(result, AttemptOutcome):
                    return result
                outcome, wait = result, plan.wait(result.retry_after) if plan else None
            if self._status is DeliveryStatus.DELIVERED:
                return None
            if outcome.verdict is Verdict.REJECTED:
                return outcome.reason or DeadLetterReason.REJECTED
            if wait is None:
                return outcome.reason or DeadLetterReason.EXHAUSTED
            await self._rest(wait, outcome)
            if self._is_ended():
                return None
            self._number += 1

    def _is_pulled(self) -> bool:
        """Whether the database knows what becomes of the delivery, and this workflow only guards it. A delivery
        that was acknowledged before its workflow started needs no guard."""
        mode = self._input.mode
        return (mode.is_pulled or mode is DeliveryMode.INBOX) and not self._input.is_delivered

    @property
    def _taker(self) -> str:
        """Who ends a delivery that this workflow only guards."""
        return "a person" if self._input.mode is DeliveryMode.INBOX else "a consumer"

    async def _pulled_round(self) -> DeadLetterReason | None:
        """Guard a delivery that consumers pull or that a person decides. Returns why the round ended; None if it was
        delivered or discarded."""
        give_up: DeadLetterReason | None = None
        while not self._is_ended():
            if self._release is not None:
                give_up = self._release.dead_letter or give_up
            self._release, self._settled, self._attempt_now = None, False, False
            self._early_replay = None
            state = await self._check_pulled(give_up)
            self._number, self._last = max(state.attempts, 1), state.last
            if state.status in (DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED):
                self._status, self._waiting_for = state.status, "nothing"
                if state.outcome is not None:
                    workflow.upsert_search_attributes([sa.OUTCOME.value_set(state.outcome)])
                return None
            if state.status is DeliveryStatus.DEAD_LETTERED:
                # The database had the dead letter before this workflow knows of it: a replay may have come meanwhile.
                if self._early_replay is not None and workflow.patched("replay-during-check"):
                    self._replay = self._early_replay
                self._dead_since = state.dead_lettered_at
                return state.reason or DeadLetterReason.EXHAUSTED
            await self._await_news(state)
        return None

    async def _check_pulled(self, give_up: DeadLetterReason | None) -> PulledState:
        input = self._input
        check = PullCheck(input.delivery_gid, input.round, input.dead_letter_retention, give_up)
        if input.mode is DeliveryMode.INBOX:
            return await workflow.execute_activity_method(
                TaskActivities.check_task,
                check,
                start_to_close_timeout=RECORD_TIMEOUT,
                retry_policy=RETRY_FOREVER,
                summary="check the task",
            )
        return await workflow.execute_activity_method(
            PullingActivities.check_pulled,
            check,
            start_to_close_timeout=RECORD_TIMEOUT,
            retry_policy=RETRY_FOREVER,
            summary="check the pull queue",
        )

    async def _await_news(self, state: PulledState) -> None:
        """Wait until the delivery was acknowledged or decided, its round may be over, or a timer of its task is due."""
        check_at = state.check_at or workflow.now() + LONGEST_PARK_CHECK
        details = self._of_task(state.task) if state.task is not None else self._of_queue(state)
        workflow.set_current_details(f"{details} Next check at {check_at:%Y-%m-%d %H:%M:%S} UTC. Signal: `discard`.")
        if workflow.info().is_continue_as_new_suggested() and not self._has_news():
            workflow.continue_as_new(replace(self._input, previous=None))
        delay = max(check_at - workflow.now(), timedelta(seconds=1))
        await self._wait(self._has_news, delay, self._taker)

    def _of_task(self, task: TaskProgress) -> str:
        """An open task in a few words, without its title. Its due date can be searched for."""
        if self._shown_due_at != task.due_at:
            self._shown_due_at = task.due_at
            workflow.upsert_search_attributes([sa.DUE_AT.value_set(task.due_at)])
        people = f"{task.assignees} {'assignee' if task.assignees == 1 else 'assignees'}"
        reminders = f", reminder {task.reminders_sent} of {task.reminders} sent" if task.reminders else ""
        escalated = ", escalated" if task.escalated else ""
        return (
            f"Asks *{task.inbox}* ({people if task.assignees else 'everyone'}). "
            f"Due {task.due_at:%Y-%m-%d %H:%M} UTC{reminders}{escalated}."
        )

    def _of_queue(self, state: PulledState) -> str:
        last = f"; the last attempt: {state.last.response}" if state.last is not None else ""
        return (
            f"Waits for {self._taker}. {state.attempts} of {self._input.policy.attempts} attempts in round "
            f"{self._input.round}{last}."
        )

    def _has_news(self) -> bool:
        return self._settled or self._is_woken()

    def _plan(self) -> RetryPlan | None:
        return self._input.policy.plan(self._number, workflow.now() - self._round_began, workflow.random().random())

    async def _continue_after(self, previous: PreviousAttempt) -> tuple[AttemptOutcome, timedelta | None]:
        """Continue after an attempt that was made before this workflow started. Returns its outcome and the
        remaining wait."""
        await self._take_outcome(previous.outcome)
        due = previous.next_attempt_at
        return previous.outcome, max(due - workflow.now(), timedelta()) if due is not None else None

    async def _attempt(self, plan: RetryPlan | None) -> AttemptOutcome | DeadLetterReason | None:
        """Make one attempt as soon as the circuit allows it. Returns its outcome; or why it was given up; or None:
        discarded, or replayed."""
        while not self._is_ended():
            if self._release is not None and self._release.dead_letter is not None:
                return self._release.dead_letter
            outcome = await self._send(plan)
            if outcome is None:
                continue
            if outcome.verdict is not Verdict.PARKED:
                self._attempt_now = False  # a signal during the attempt was for this attempt
                self._end_parking()
                await self._take_outcome(outcome)
                return outcome
            self._parked_since = self._parked_since or workflow.now()
            too_long = workflow.now() - self._parked_since >= self._input.policy.max_window
            if too_long and outcome.reason is not None:
                return outcome.reason
            await self._park()
        return None

    def _end_parking(self) -> None:
        """End the parking. The time parked does not count for the window, which bounds how long attempts may fail."""
        if self._parked_since is not None:
            self._round_began += workflow.now() - max(self._parked_since, self._round_began)
            self._parked_since = None
            self._park_check = self._input.park_check

    async def _take_outcome(self, outcome: AttemptOutcome) -> None:
        """Take an attempt into account, and have it recorded if the database was unavailable."""
        if outcome.unrecorded is not None:
            await self._record(outcome)
        self._last = outcome
        if outcome.verdict is Verdict.DELIVERED:
            self._status, self._waiting_for = DeliveryStatus.DELIVERED, "nothing"

    async def _send(self, plan: RetryPlan | None) -> AttemptOutcome | None:
        """One attempt on the fair queue, or on the queue where the server dispatches attempts at the endpoint's rate
        limit. None if Everhook handles the delivery itself, and has waited until its next step is due."""
        input = self._input
        self._waiting_for, self._next_attempt_at = "the endpoint's response", None
        # Cleared here and not where it is awaited: a release that arrives during the attempt must not be lost.
        self._release, self._attempt_now = None, False
        attempt = input.attempt_input(self._number, plan, self._park_check)
        outcome: AttemptOutcome | None
        if input.mode is DeliveryMode.INTERNAL:
            outcome = await self._run_handler(attempt)
        else:
            outcome = await workflow.execute_activity_method(
                SendingActivities.send_attempt, attempt, **self._sending_options()
            )
        if outcome is not None and outcome.new_rate_limit is not None:
            self._input = replace(input, rate_limit=outcome.new_rate_limit.per_second)
        return outcome

    def _sending_options(self) -> "_SendingOptions":
        input = self._input
        return {
            "task_queue": TaskQueue.SENDS_LIMITED if input.rate_limit is not None else TaskQueue.SENDS,
            "priority": Priority(
                # The workflow of a dead letter has the priority of its first round. None: that of the workflow.
                priority_key=REPLAY_PRIORITY if input.round > 1 else None,
                fairness_key=input.endpoint_gid,
                fairness_weight=input.rate_limit,
            ),
            "start_to_close_timeout": input.policy.timeout + RECORDING_MARGIN,
            "retry_policy": RETRY_FOREVER,
            "summary": f"attempt {self._number} of {input.policy.attempts}, round {input.round}",
        }

    async def _run_handler(self, attempt: AttemptInput) -> AttemptOutcome | None:
        """Have Everhook handle the delivery. If its attempt is due later, wait until its next step is due. This time
        does not count for the window, which bounds how long attempts may fail."""
        result = await workflow.execute_activity_method(
            SendingActivities.run_handler, HandlerInput(attempt, self._step), **self._sending_options()
        )
        if result.outcome is not None or result.due_at is None:
            return result.outcome
        self._end_parking()
        self._step, began = result.step, workflow.now()
        self._show(DeliveryStatus.SENDING)
        self._waiting_for, self._next_attempt_at = "its time", result.due_at
        workflow.set_current_details(
            f"Everhook handles this delivery itself. Its next step is due at {result.due_at:%Y-%m-%d %H:%M:%S} UTC. "
            "Signal: `discard`."
        )
        await self._wait(self._is_woken, max(result.due_at - began, MIN_STEP), "next step")
        self._round_began += workflow.now() - began
        return None

    async def _record(self, outcome: AttemptOutcome) -> None:
        assert outcome.unrecorded is not None
        await workflow.execute_activity_method(
            RecordingActivities.record_attempt,
            outcome.unrecorded,
            start_to_close_timeout=RECORD_TIMEOUT,
            retry_policy=RETRY_FOREVER,
            summary="the database was away: record the attempt",
        )

    async def _rest(self, delay: timedelta, outcome: AttemptOutcome) -> None:
        """Wait for the next attempt's time, or for `attempt_now` or `discard`."""
        self._show(DeliveryStatus.RETRYING)
        self._next_attempt_at = workflow.now() + delay
        self._waiting_for = f"attempt {self._number + 1}"
        workflow.set_current_details(
            f"Attempt {self._number} of {self._input.policy.attempts} in round {self._input.round}: "
            f"{outcome.response}. Next attempt at {self._next_attempt_at:%Y-%m-%d %H:%M:%S} UTC. "
            "Signals: `attempt_now`, `discard`."
        )
        await self._wait(lambda: self._attempt_now or self._is_ended(), delay, f"next: {self._waiting_for}")

    async def _park(self) -> None:
        """Wait for the release, and check again after a while in any case."""
        self._show(DeliveryStatus.PARKED)
        self._waiting_for = "the endpoint's circuit"
        workflow.set_current_details(
            f"Parked before attempt {self._number}: the endpoint's circuit is open, or the endpoint is paused or "
            "disabled. It continues by itself. Signals: `attempt_now`, `discard`."
        )
        if not self._backs_off():
            check = self._input.park_check * (1 + PARK_JITTER * workflow.random().random())
        elif self._is_continued():
            self._continue_parked()
        else:
            check = self._next_check()
        await self._wait(self._is_woken, check, "parked")

    def _is_woken(self) -> bool:
        return self._release is not None or self._attempt_now or self._is_ended()

    def _is_ended(self) -> bool:
        """Whether this round ends without another attempt."""
        return self._discard is not None or self._is_superseded()

    def _backs_off(self) -> bool:
        """Whether the checks of this run back off. A run whose first checks were made by code that did not, continues
        as new at its first check by this code: `patched` stays false for an id that was asked for in a replay, so each
        further check has an id of its own. One marker is written at most."""
        self._park_checks += 1
        if workflow.patched(PARK_BACK_OFF):
            return True
        if not self._is_woken() and workflow.patched(f"{PARK_BACK_OFF}-{self._park_checks}"):
            self._continue_parked()
        return False

    def _is_continued(self) -> bool:
        """Whether the history is long. What has woken the delivery is done first: a new run would not know of it."""
        return workflow.info().is_continue_as_new_suggested() and not self._is_woken()

    def _next_check(self) -> timedelta:
        """How long to wait for the next check: twice as long each time, but no longer than the window, so that a
        delivery that cannot be sent is not dead-lettered hours late."""
        check = self._park_check * (1 - PARK_JITTER * workflow.random().random())
        self._park_check = max(min(self._park_check * 2, LONGEST_PARK_CHECK), self._input.park_check)
        parked_for = workflow.now() - (self._parked_since or workflow.now())
        left = self._input.policy.max_window - parked_for
        return min(check, left) if left > timedelta() else check

    def _continue_parked(self) -> NoReturn:
        """Continue as new in the middle of a round. The new run begins with a check.

        The signals that have arrived are handled (`_is_woken`); if another one arrives now, Temporal rejects the
        command, and this code runs again with the signal.
        """
        round_ = ParkedRound(self._round_began, self._park_check, self._last)
        workflow.continue_as_new(
            replace(
                self._input,
                attempt=self._number,
                previous=None,
                parked_since=self._parked_since,
                parked_round=round_,
            )
        )

    async def _record_dead_letter(self, reason: DeadLetterReason) -> datetime | None:
        """Record the dead letter before it can be found by search, so that it can be read as soon as it is found.
        Returns its moment in the database; activities of earlier versions return None."""
        input = self._input
        return await workflow.execute_activity_method(
            RecordingActivities.dead_letter,
            DeadLetterInput(input.delivery_gid, reason, input.round, input.dead_letter_retention),
            start_to_close_timeout=RECORD_TIMEOUT,
            retry_policy=RETRY_FOREVER,
            summary=f"dead letter: {reason}",
        )

    def _show_dead_letter(self, reason: DeadLetterReason) -> None:
        input = self._input
        self._status = self._shown_status = DeliveryStatus.DEAD_LETTERED
        self._waiting_for, self._next_attempt_at = "an operator", None
        known = input.dead_letter
        # Bulk replays choose by this time here, and count by the one of the database.
        since = self._dead_since = self._dead_since or workflow.now()
        status_code = known.status_code if known else self._last.status_code if self._last else None
        workflow.upsert_search_attributes(
            [
                sa.DELIVERY_STATUS.value_set(DeliveryStatus.DEAD_LETTERED),
                sa.DEAD_LETTER_REASON.value_set(reason),
                sa.DEAD_LETTERED_AT.value_set(since),
                sa.STATUS_CODE.value_set(status_code) if status_code is not None else sa.STATUS_CODE.value_unset(),
            ]
        )
        response = f" The last response was {self._last.response}." if self._last else ""
        attempts = "1 attempt" if self._number == 1 else f"{self._number} attempts"
        workflow.set_current_details(
            f"Dead letter after {attempts} in round {input.round}: **{reason}**.{response} "
            "Signals: `replay` for a new round, `discard` to give it up."
        )

    async def _await_operator(self) -> None:
        retention = self._input.dead_letter_retention
        decided = await self._wait(
            lambda: self._replay is not None or self._discard is not None, retention, "waiting for an operator"
        )
        if not decided:
            untouched = workflow.now() - (self._dead_since or workflow.now())
            self._discard = OperatorAction(RETENTION, f"untouched for {round(untouched / DAY)} days")

    async def _end_discarded(self, action: OperatorAction) -> None:
        # A replay may have opened a round in the database that this workflow does not know yet. An operator who names
        # one delivery discards it in any round.
        spares_replayed = action.by == RETENTION or action.before is not None
        await workflow.execute_activity_method(
            RecordingActivities.discard,
            DiscardInput(self._input.delivery_gid, action, self._input.round if spares_replayed else 0),
            start_to_close_timeout=RECORD_TIMEOUT,
            retry_policy=RETRY_FOREVER,
            summary=f"discarded by {action.by}",
        )
        self._status, self._waiting_for = DeliveryStatus.DISCARDED, "nothing"
        workflow.upsert_search_attributes([sa.DELIVERY_STATUS.value_set(DeliveryStatus.DISCARDED)])
        workflow.set_current_details(f"Discarded by {action.by}. {action.because}")

    async def _open_next_round(self, action: OperatorAction) -> None:
        input = await workflow.execute_activity_method(
            RecordingActivities.open_round,
            RoundInput(self._input.delivery_gid, self._input.round, action),
            start_to_close_timeout=RECORD_TIMEOUT,
            retry_policy=RETRY_FOREVER,
            summary=f"replayed by {action.by}",
        )
        workflow.upsert_search_attributes(
            [
                sa.DELIVERY_STATUS.value_set(input.status_at_start),
                sa.DEAD_LETTER_REASON.value_unset(),
                sa.DEAD_LETTERED_AT.value_unset(),
                sa.STATUS_CODE.value_unset(),
            ]
        )
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._discard is not None:  # it came after the replay, and a new run would not know of it
            await self._end_discarded(self._discard)
            return
        workflow.continue_as_new(input)

    def _delivered(self) -> DeliveryResult:
        last = self._last or AttemptOutcome(Verdict.DELIVERED)
        return DeliveryResult(
            DeliveryStatus.DELIVERED,
            self._input.round,
            self._number,
            attempt_gid=last.attempt_gid,
            status_code=last.status_code,
            duration_ms=last.duration_ms,
        )

    def _show(self, status: DeliveryStatus) -> None:
        """Set the status. The search attribute is set only at the first retry and the first parking, because upserts
        cost."""
        self._status = status
        if self._shown_status is not status:
            self._shown_status = status
            workflow.upsert_search_attributes([sa.DELIVERY_STATUS.value_set(status)])

    @staticmethod
    async def _wait(until: Callable[[], bool], timeout: timedelta, summary: str) -> bool:
        """Wait for a condition. False if the time ran out first."""
        try:
            await workflow.wait_condition(until, timeout=timeout, timeout_summary=summary)
        except TimeoutError:
            return False
        return True
