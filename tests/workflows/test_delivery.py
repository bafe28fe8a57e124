"""One delivery, from its first attempt to its end, on a server that skips time."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowExecutionStatus

from everhook.contracts import (
    AttemptInput,
    AttemptOutcome,
    DeadLetterInput,
    DeadLetterReason,
    DeliveryResult,
    DeliveryStatus,
    DiscardInput,
    NewRateLimit,
    OpenDeadLetter,
    OperatorAction,
    PreviousAttempt,
    ReleaseInput,
    RoundInput,
    TaskQueue,
    Verdict,
)
from everhook.delivery.policy import DOCUMENTED, JITTER_FROM, DeliveryPolicy
from everhook.temporal import search_attributes as sa
from tests.workflows.engine import (
    BLOCKED,
    DELIVERED,
    FAILED,
    LONG_AGO,
    PARKED,
    PAUSED,
    REJECTED,
    UNSENDABLE,
    DeliveryHandle,
    Engine,
    attribute,
    count_events,
    details,
    run_id,
    running_engine,
    time_skipping_server,
    timers,
    unrecorded,
)
from tests.workflows.released import ReleasedDeliveryWorkflow

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECOND, MINUTE, HOUR, DAY = (timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days"))
ONCE = DeliveryPolicy(delays=(), jitter=0)
"""One attempt a round."""

ANN = OperatorAction("ann", "the endpoint is fixed")


def delivered(attempts: int, round_: int = 1, outcome: AttemptOutcome = DELIVERED) -> DeliveryResult:
    """The result of a delivery that `outcome` ended."""
    return DeliveryResult(
        DeliveryStatus.DELIVERED,
        round_,
        attempts,
        attempt_gid=outcome.attempt_gid,
        status_code=outcome.status_code,
        duration_ms=outcome.duration_ms,
    )


def numbers(engine: Engine) -> list[tuple[int, int]]:
    """Round and number of every attempt asked for, in order."""
    inputs: list[AttemptInput] = engine.fakes.arguments("send_attempt")
    return [(input.round, input.number) for input in inputs]


def rests(engine: Engine) -> list[timedelta]:
    """What lay between the attempts."""
    times = [call.at for call in engine.fakes.of("send_attempt")]
    return [later - earlier for earlier, later in pairwise(times)]


async def dead(engine: Engine, outcome: AttemptOutcome = FAILED, **changes: Any) -> DeliveryHandle:
    """A delivery that waits as a dead letter after one attempt."""
    engine.fakes.script(outcome)
    handle = await engine.start(engine.input(policy=ONCE, **changes))
    await engine.until_dead(handle)
    return handle


async def dead_since(handle: DeliveryHandle) -> datetime:
    return datetime.fromisoformat(await attribute(handle, sa.DEAD_LETTERED_AT))


async def parked(engine: Engine, outcome: AttemptOutcome = PARKED, **changes: Any) -> DeliveryHandle:
    """A delivery that is parked before its first attempt."""
    engine.fakes.script(outcome)
    handle = await engine.start(engine.input(**changes))
    await engine.until_parked(handle)
    return handle


# --- the first attempt before the workflow


async def test_a_delivery_that_was_delivered_before_completes_in_its_first_task(engine: Engine) -> None:
    outcome = replace(DELIVERED, attempt_gid="att_1", duration_ms=31)
    handle = await engine.start(engine.order_after(outcome), first=True)
    assert await engine.result(handle) == DeliveryResult(
        DeliveryStatus.DELIVERED, round=1, attempts=1, attempt_gid="att_1", status_code=200, duration_ms=31
    )
    assert engine.fakes.calls == []
    assert [event.event_type for event in (await handle.fetch_history()).events] == [
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    ]
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.DELIVERED
    await engine.until(handle, DeliveryStatus.DELIVERED, "nothing")


async def test_a_discard_with_the_start_of_a_delivered_delivery_is_too_late(engine: Engine) -> None:
    handle = await engine.start(engine.order_after(DELIVERED), signal="discard", note=ANN)
    assert await engine.result(handle) == delivered(attempts=1)
    assert engine.fakes.calls == []


async def test_the_result_names_the_attempt_that_delivered(engine: Engine) -> None:
    outcome = replace(DELIVERED, attempt_gid="att_2", duration_ms=40)
    engine.fakes.script(replace(FAILED, attempt_gid="att_1", duration_ms=9), outcome)
    assert await engine.result(await engine.start()) == delivered(attempts=2, outcome=outcome)


async def test_a_first_start_runs_no_delivery_that_has_ended_and_a_restart_does(engine: Engine) -> None:
    input = engine.input()
    handle = await engine.start(input, first=True)
    await engine.result(handle)
    first_run = await run_id(handle)
    await engine.start(input, first=True)
    assert await run_id(handle) == first_run
    await engine.start(input)
    await engine.result(handle)
    assert await run_id(handle) != first_run
    assert numbers(engine) == [(1, 1), (1, 1)]


async def test_a_delivery_whose_first_attempt_failed_makes_the_second_when_it_is_due(engine: Engine) -> None:
    engine.fakes.script(FAILED)
    due = await engine.now() + 20 * MINUTE
    handle = await engine.start(engine.order_after(FAILED, due))
    state = await engine.until_retrying(handle, 2)
    assert (state.attempt, state.next_attempt_at) == (1, due)
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.RETRYING
    await engine.skip(3 * HOUR)
    await engine.until_dead(handle)
    assert numbers(engine) == [(1, number) for number in range(2, 7)]
    assert due <= engine.fakes.calls[0].at < due + SECOND
    for rest, documented in zip(rests(engine), DOCUMENTED[1:], strict=True):
        assert documented <= rest < documented + SECOND


async def test_a_second_attempt_that_was_due_before_the_workflow_started_is_made_at_once(engine: Engine) -> None:
    began = await engine.now()
    handle = await engine.start(engine.order_after(FAILED, LONG_AGO))
    assert await engine.result(handle) == delivered(attempts=2)
    assert numbers(engine) == [(1, 2)]
    assert engine.fakes.calls[0].at - began < MINUTE


async def test_attempt_now_with_the_start_makes_the_second_attempt(engine: Engine) -> None:
    """An operator asks for it after the first attempt failed and before the workflow starts."""
    due = await engine.now() + HOUR
    handle = await engine.start(engine.order_after(FAILED, due), signal="attempt_now")
    [call] = await engine.until_called("send_attempt", 1)
    assert call.argument.number == 2
    assert call.at < due - MINUTE
    assert await engine.result(handle) == delivered(attempts=2)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (FAILED, DeadLetterReason.EXHAUSTED),
        (UNSENDABLE, DeadLetterReason.UNSENDABLE),
        (REJECTED, DeadLetterReason.REJECTED),
        (BLOCKED, DeadLetterReason.BLOCKED),
    ],
    ids=["exhausted", "unsendable", "rejected", "blocked"],
)
async def test_a_delivery_without_a_second_attempt_starts_as_a_dead_letter(
    engine: Engine, outcome: AttemptOutcome, reason: DeadLetterReason
) -> None:
    input = engine.order_after(outcome, policy=ONCE)
    handle = await engine.start(input)
    state = await engine.until_dead(handle)
    assert (state.dead_letter_reason, state.attempt) == (reason, 1)
    assert engine.fakes.arguments("dead_letter") == [
        DeadLetterInput(input.delivery_gid, reason, 1, input.dead_letter_retention)
    ]
    assert numbers(engine) == []
    assert await attribute(handle, sa.STATUS_CODE) == outcome.status_code


@pytest.mark.parametrize("outcome", [FAILED, DELIVERED], ids=["failed", "delivered"])
async def test_a_first_attempt_that_the_database_could_not_take_is_recorded_by_the_workflow(
    engine: Engine, outcome: AttemptOutcome
) -> None:
    input = engine.input()
    made = unrecorded(outcome, input)
    input = replace(input, previous=PreviousAttempt(made, await engine.now() + MINUTE))
    engine.fakes.fail("record_attempt", times=2)
    attempts = 1 if outcome is DELIVERED else 2
    assert await engine.result(await engine.start(input)) == delivered(attempts)
    assert engine.fakes.arguments("record_attempt") == [made.unrecorded] * 3
    assert numbers(engine) == [(1, 2)][: attempts - 1]


@pytest.mark.parametrize("kind", ["not attempted", "parked", "first attempt failed"])
async def test_a_discard_with_the_start_is_carried_out_before_any_attempt(engine: Engine, kind: str) -> None:
    now = await engine.now()
    input = {
        "not attempted": engine.input(),
        "parked": engine.input(parked_since=now),
        "first attempt failed": engine.order_after(FAILED, now + HOUR),
    }[kind]
    handle = await engine.start(input, signal="discard", note=ANN)
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED
    assert [call.name for call in engine.fakes.calls] == ["discard"]
    assert engine.fakes.arguments("discard") == [DiscardInput(input.delivery_gid, ANN)]


async def test_a_delivery_that_is_given_up_with_its_start_is_a_dead_letter_before_any_attempt(engine: Engine) -> None:
    note = ReleaseInput(DeadLetterReason.ENDPOINT_DELETED)
    handle = await engine.start(engine.input(parked_since=await engine.now()), signal="release", note=note)
    assert (await engine.until_dead(handle)).dead_letter_reason is DeadLetterReason.ENDPOINT_DELETED
    assert [call.name for call in engine.fakes.calls] == ["dead_letter"]


async def test_a_release_with_the_start_counts_for_the_first_attempt_only(engine: Engine) -> None:
    engine.fakes.script(PARKED)
    handle = await engine.start(
        engine.input(parked_since=await engine.now(), park_check=DAY), signal="release", note=ReleaseInput()
    )
    await engine.until_parked(handle)
    await engine.skip(HOUR)
    assert numbers(engine) == [(1, 1)]


async def test_the_temporal_ui_shows_the_attempt_before_the_workflow(engine: Engine) -> None:
    outcome = replace(FAILED, attempt_gid="att_1", duration_ms=31)
    handle = await engine.start(engine.order_after(outcome, await engine.now() + HOUR))
    await engine.until_retrying(handle, 2)
    assert "Attempt 1 of 6 in round 1: HTTP 503" in await details(handle)
    assert await (await handle.describe()).static_details() == (
        "Attempt 1 of 6 (att_1) was made before this workflow started: **retry**, HTTP 503 after 31 ms."
    )


# --- the queues


async def test_an_attempt_uses_the_fair_queue_under_its_endpoints_key(engine: Engine) -> None:
    input = engine.input()
    await engine.result(await engine.start(input))
    [call] = engine.fakes.calls
    assert call.queue == TaskQueue.SENDS
    assert (call.priority.fairness_key, call.priority.fairness_weight) == (input.endpoint_gid, None)


async def test_a_rate_limited_attempt_uses_the_limited_queue_with_the_limit_as_its_weight(engine: Engine) -> None:
    input = engine.input(rate_limit=7.5)
    await engine.result(await engine.start(input))
    [call] = engine.fakes.calls
    assert call.queue == TaskQueue.SENDS_LIMITED
    assert (call.priority.fairness_key, call.priority.fairness_weight) == (input.endpoint_gid, 7.5)


@pytest.mark.parametrize(("before", "now"), [(None, 3.0), (3.0, 50.0), (3.0, None)])
async def test_the_next_attempt_uses_the_limit_that_the_last_one_reported(
    engine: Engine, before: float | None, now: float | None
) -> None:
    input = engine.input(rate_limit=before)
    engine.fakes.script(replace(FAILED, new_rate_limit=NewRateLimit(now)), DELIVERED)
    await engine.result(await engine.start(input))
    first, second = engine.fakes.calls
    assert (first.argument.rate_limit, second.argument.rate_limit) == (before, now)
    assert (first.queue == TaskQueue.SENDS, second.queue == TaskQueue.SENDS) == (before is None, now is None)
    assert second.priority.fairness_weight == now


async def test_an_attempt_is_asked_for_with_all_that_decides_about_it(engine: Engine) -> None:
    policy = DeliveryPolicy(delays=(MINUTE,), jitter=0, timeout=timedelta(seconds=7), retry_statuses=(408, 425))
    input = engine.input(policy=policy, park_check=timedelta(minutes=3))
    engine.fakes.script(FAILED, DELIVERED)
    await engine.result(await engine.start(input))
    first, last = engine.fakes.arguments("send_attempt")
    assert first == AttemptInput(
        delivery_gid=input.delivery_gid,
        endpoint_gid=input.endpoint_gid,
        round=1,
        number=1,
        timeout=timedelta(seconds=7),
        retry=policy.plan(1, timedelta(), 0),
        retry_statuses=(408, 425),
        park_check=timedelta(minutes=3),
    )
    assert (last.number, last.retry) == (2, None)


# --- the schedule


async def test_the_documented_schedule_is_kept_exactly_and_ends_in_a_dead_letter(engine: Engine) -> None:
    engine.fakes.script(FAILED)
    handle = await engine.start()
    await engine.skip(3 * HOUR)
    state = await engine.until_dead(handle)
    assert [rest.total_seconds() for rest in (await timers(handle))[:5]] == [1, 30, 300, 1800, 7200]
    for rest, documented in zip(rests(engine), DOCUMENTED, strict=True):
        assert documented <= rest < documented + SECOND
    assert numbers(engine) == [(1, number) for number in range(1, 7)]
    assert state.dead_letter_reason is DeadLetterReason.EXHAUSTED
    [note] = engine.fakes.arguments("dead_letter")
    assert (note.reason, note.round, note.retention) == (DeadLetterReason.EXHAUSTED, 1, 30 * DAY)


async def test_jitter_lengthens_rests_of_half_a_minute_or_more_by_up_to_a_tenth(engine: Engine) -> None:
    engine.fakes.script(FAILED)
    handle = await engine.start(engine.input(policy=DeliveryPolicy()))
    await engine.skip(3 * HOUR)
    await engine.until_dead(handle)
    drawn = list(zip((await timers(handle))[:5], DOCUMENTED, strict=True))
    for rest, documented in drawn:
        assert documented <= rest <= documented * (1.1 if documented >= JITTER_FROM else 1)
    assert any(rest > documented for rest, documented in drawn)


async def test_a_success_ends_the_schedule(engine: Engine) -> None:
    engine.fakes.script(FAILED, FAILED, DELIVERED)
    handle = await engine.start()
    assert await engine.result(handle) == delivered(attempts=3)
    assert engine.fakes.arguments("dead_letter") == []


async def test_no_attempt_is_made_past_the_window(engine: Engine) -> None:
    engine.fakes.script(FAILED)
    policy = DeliveryPolicy(delays=(MINUTE, MINUTE, HOUR, MINUTE), jitter=0, max_window=30 * MINUTE)
    handle = await engine.start(engine.input(policy=policy))
    await engine.skip(2 * HOUR)
    assert (await engine.until_dead(handle)).dead_letter_reason is DeadLetterReason.EXHAUSTED
    assert numbers(engine) == [(1, 1), (1, 2), (1, 3)]
    assert engine.fakes.arguments("send_attempt")[-1].retry is None


@pytest.mark.parametrize(
    ("named", "waited"),
    [(2 * HOUR, 2 * HOUR), (10 * SECOND, MINUTE), (timedelta(), MINUTE)],
    ids=["longer than the delay", "shorter", "none at all"],
)
async def test_a_retry_after_time_lengthens_the_delay_and_never_shortens_it(
    engine: Engine, named: timedelta, waited: timedelta
) -> None:
    engine.fakes.script(AttemptOutcome(Verdict.RETRY, status_code=429, retry_after=named), DELIVERED)
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(MINUTE,), jitter=0)))
    await engine.result(handle)
    assert await timers(handle) == [waited]
    assert waited <= rests(engine)[0] < waited + SECOND


async def test_a_retry_after_time_past_the_window_is_cut_to_it_and_the_attempt_then_is_the_last(engine: Engine) -> None:
    engine.fakes.script(AttemptOutcome(Verdict.RETRY, status_code=503, retry_after=5 * HOUR))
    policy = DeliveryPolicy(delays=(MINUTE,) * 5, jitter=0, max_window=HOUR)
    handle = await engine.start(engine.input(policy=policy))
    await engine.skip(2 * HOUR)
    assert (await engine.until_dead(handle)).dead_letter_reason is DeadLetterReason.EXHAUSTED
    [rest] = rests(engine)
    assert HOUR - SECOND < rest < HOUR + SECOND


# --- dead letters


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (REJECTED, DeadLetterReason.REJECTED),
        (BLOCKED, DeadLetterReason.BLOCKED),
        (AttemptOutcome(Verdict.REJECTED, DeadLetterReason.ENDPOINT_DELETED), DeadLetterReason.ENDPOINT_DELETED),
    ],
    ids=["4xx", "blocked", "endpoint deleted"],
)
async def test_a_rejected_delivery_is_a_dead_letter_at_once(
    engine: Engine, outcome: AttemptOutcome, reason: DeadLetterReason
) -> None:
    engine.fakes.script(outcome)
    input = engine.input()
    handle = await engine.start(input)
    state = await engine.until_dead(handle)
    assert (state.dead_letter_reason, state.attempt, state.next_attempt_at) == (reason, 1, None)
    assert await timers(handle) == [input.dead_letter_retention]
    [note] = engine.fakes.arguments("dead_letter")
    assert note == DeadLetterInput(input.delivery_gid, reason, 1, input.dead_letter_retention)


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ((UNSENDABLE, UNSENDABLE), DeadLetterReason.UNSENDABLE),
        ((FAILED, UNSENDABLE), DeadLetterReason.UNSENDABLE),
        ((UNSENDABLE, FAILED), DeadLetterReason.EXHAUSTED),
    ],
    ids=["always", "at last", "at first"],
)
async def test_a_round_that_is_exhausted_ends_for_the_reason_of_its_last_attempt(
    engine: Engine, outcomes: tuple[AttemptOutcome, ...], reason: DeadLetterReason
) -> None:
    engine.fakes.script(*outcomes)
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(MINUTE,), jitter=0)))
    await engine.skip(2 * MINUTE)
    assert (await engine.until_dead(handle)).dead_letter_reason is reason
    assert numbers(engine) == [(1, 1), (1, 2)]
    assert [note.reason for note in engine.fakes.arguments("dead_letter")] == [reason]


async def test_a_dead_letter_is_found_by_its_search_attributes(engine: Engine) -> None:
    input = engine.input(policy=ONCE)
    engine.fakes.script(REJECTED)
    handle = await engine.start(input)
    await engine.until_dead(handle)
    assert await attribute(handle, sa.TENANT) == input.tenant
    assert await attribute(handle, sa.ENDPOINT) == input.endpoint_gid
    assert await attribute(handle, sa.CHANNEL) == input.channel
    assert await attribute(handle, sa.EVENT_TYPE) == input.event_type
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.DEAD_LETTERED
    assert await attribute(handle, sa.DEAD_LETTER_REASON) == DeadLetterReason.REJECTED
    assert await attribute(handle, sa.STATUS_CODE) == 404


async def test_the_search_knows_a_dead_letter_by_the_time_that_the_database_has(engine: Engine) -> None:
    """Bulk replays count in the database and choose in Temporal."""
    engine.fakes.dead_since = LONG_AGO
    handle = await dead(engine, REJECTED)
    assert await dead_since(handle) == LONG_AGO


async def test_an_activity_of_an_earlier_version_does_not_return_the_time_of_a_dead_letter(engine: Engine) -> None:
    handle = await dead(engine, REJECTED)
    died_at = await dead_since(handle)
    assert abs(died_at - await engine.now()) < MINUTE


async def test_a_dead_letter_without_a_response_has_no_status_code(engine: Engine) -> None:
    handle = await dead(engine, BLOCKED)
    assert await attribute(handle, sa.DEAD_LETTER_REASON) == DeadLetterReason.BLOCKED
    assert await attribute(handle, sa.STATUS_CODE) is None


async def test_the_database_knows_a_dead_letter_before_the_search_does(engine: Engine) -> None:
    gate = engine.fakes.hold("dead_letter")
    engine.fakes.script(REJECTED)
    handle = await engine.start()
    await gate.entered.wait()
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.SENDING
    gate.open()
    await engine.until_dead(handle)
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.DEAD_LETTERED


async def test_retention_discards_an_untouched_dead_letter(engine: Engine) -> None:
    input = engine.input(policy=ONCE, dead_letter_retention=30 * DAY)
    engine.fakes.script(FAILED)
    handle = await engine.start(input)
    await engine.until_dead(handle)
    await engine.skip(29 * DAY)
    await engine.until_dead(handle)
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED
    [note] = engine.fakes.arguments("discard")
    assert (note.delivery_gid, note.note.by) == (input.delivery_gid, "retention")
    assert note.note.because == "untouched for 30 days"
    [died], [discarded] = engine.fakes.of("dead_letter"), engine.fakes.of("discard")
    assert 30 * DAY <= discarded.at - died.at < 30 * DAY + MINUTE
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.DISCARDED


async def test_retention_counts_the_days_before_a_workflow_was_started_again(engine: Engine) -> None:
    since = await engine.now() - 30 * DAY + 3 * HOUR
    known = OpenDeadLetter(DeadLetterReason.EXHAUSTED, since, 500)
    handle = await engine.start(engine.input(dead_letter=known, dead_letter_retention=3 * HOUR))
    await engine.result(handle)
    [input] = engine.fakes.arguments("discard")
    assert input.note.because == "untouched for 30 days"


# --- replays


async def test_a_replay_opens_a_second_round_with_the_order_that_the_database_gives(engine: Engine) -> None:
    input = engine.input(policy=ONCE, rate_limit=None)
    changed = replace(input, policy=DeliveryPolicy(delays=(MINUTE,), jitter=0, timeout=3 * SECOND), rate_limit=2.0)
    engine.fakes.inputs[input.delivery_gid] = changed
    engine.fakes.script(FAILED, FAILED, DELIVERED)
    handle = await engine.start(input)
    await engine.until_dead(handle)
    first_run = await run_id(handle)
    await handle.signal("replay", ANN)
    assert await engine.result(handle) == delivered(attempts=2, round_=2)
    assert engine.fakes.arguments("open_round") == [RoundInput(input.delivery_gid, 1, ANN)]
    assert numbers(engine) == [(1, 1), (2, 1), (2, 2)]
    second = engine.fakes.of("send_attempt")[1]
    assert (second.queue, second.argument.timeout) == (TaskQueue.SENDS_LIMITED, 3 * SECOND)
    assert await run_id(handle) != first_run


async def test_a_replay_takes_the_dead_letters_marks_away(engine: Engine) -> None:
    handle = await dead(engine, REJECTED)
    gate = engine.fakes.hold("send_attempt")
    await handle.signal("replay", ANN)
    await gate.entered.wait()
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.SENDING
    assert await attribute(handle, sa.DEAD_LETTER_REASON) is None
    assert await attribute(handle, sa.DEAD_LETTERED_AT) is None
    assert await attribute(handle, sa.STATUS_CODE) is None
    gate.open()
    await engine.until_dead(handle, round_=2)


async def test_a_delivery_can_be_replayed_again_and_again(engine: Engine) -> None:
    handle = await dead(engine)
    for round_ in (2, 3, 4):
        await handle.signal("replay", ANN)
        await engine.until_dead(handle, round_)
    assert numbers(engine) == [(1, 1), (2, 1), (3, 1), (4, 1)]


async def test_a_replay_without_an_input_works_as_the_temporal_cli_sends_it(engine: Engine) -> None:
    handle = await dead(engine)
    await handle.signal("replay")
    await engine.until_dead(handle, round_=2)
    [input] = engine.fakes.arguments("open_round")
    assert (input.note.by, input.note.because) == ("temporal", "")


async def test_a_replay_signal_with_the_fields_of_earlier_versions_is_understood(engine: Engine) -> None:
    handle = await dead(engine)
    await handle.signal("replay", {"who": "ann", "why": "they fixed it"})
    await engine.until_dead(handle, round_=2)
    [input] = engine.fakes.arguments("open_round")
    assert (input.note.by, input.note.because) == ("ann", "they fixed it")


async def test_a_replay_before_the_round_is_over_is_ignored(engine: Engine) -> None:
    engine.fakes.script(FAILED)
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(HOUR,), jitter=0)))
    await engine.until_retrying(handle, 2)
    await handle.signal("replay", ANN)
    await engine.skip(2 * HOUR)
    await engine.until_dead(handle)
    await engine.skip(DAY)
    await engine.until_dead(handle)
    assert engine.fakes.arguments("open_round") == []


async def test_a_replay_that_arrives_while_the_dead_letter_is_being_written_counts(engine: Engine) -> None:
    gate = engine.fakes.hold("dead_letter")
    engine.fakes.script(FAILED)
    handle = await engine.start(engine.input(policy=ONCE))
    await gate.entered.wait()
    await handle.signal("replay", ANN)
    gate.open()
    await engine.until_dead(handle, round_=2)
    assert len(engine.fakes.arguments("open_round")) == 1


async def test_two_replays_at_once_open_one_round(engine: Engine) -> None:
    handle = await dead(engine)
    gate = engine.fakes.hold("open_round")
    await asyncio.gather(handle.signal("replay", ANN), handle.signal("replay", ANN))
    await gate.entered.wait()
    await handle.signal("replay", ANN)
    gate.open()
    await engine.until_dead(handle, round_=2)
    await engine.skip(DAY)
    await engine.until_dead(handle, round_=2)
    assert len(engine.fakes.arguments("open_round")) == 1
    assert numbers(engine) == [(1, 1), (2, 1)]


async def test_a_dead_letter_whose_workflow_was_lost_is_taken_up_as_it_was(engine: Engine) -> None:
    handle = await engine.start(engine.dead_order(attempt=2))
    state = await engine.until_dead(handle)
    assert state.dead_letter_reason is DeadLetterReason.REJECTED
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.DEAD_LETTERED
    assert await attribute(handle, sa.DEAD_LETTER_REASON) == DeadLetterReason.REJECTED
    assert await attribute(handle, sa.STATUS_CODE) == 404
    assert await dead_since(handle) == LONG_AGO
    assert engine.fakes.calls == []


async def test_a_dead_letter_that_is_taken_up_is_kept_for_what_is_left_of_its_retention(engine: Engine) -> None:
    handle = await engine.start(engine.dead_order(dead_letter_retention=2 * DAY))
    await engine.until_dead(handle)
    assert await timers(handle) == [2 * DAY]
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED


async def test_a_replay_starts_the_workflow_of_a_dead_letter_that_lost_it(engine: Engine) -> None:
    input = engine.dead_order(round=3, attempt=7)
    engine.fakes.inputs[input.delivery_gid] = replace(input, dead_letter=None)
    handle = await engine.start(input, signal="replay", note=ANN)
    assert await engine.result(handle) == delivered(attempts=1, round_=4)
    assert engine.fakes.arguments("open_round") == [RoundInput(input.delivery_gid, 3, ANN)]
    assert engine.fakes.arguments("dead_letter") == []


async def test_a_restarted_delivery_continues_where_its_round_was(engine: Engine) -> None:
    engine.fakes.script(FAILED)
    handle = await engine.start(engine.input(round=2, attempt=5))
    await engine.skip(3 * HOUR)
    await engine.until_dead(handle, round_=2)
    assert numbers(engine) == [(2, 5), (2, 6)]


# --- discarding, and other commands


async def test_a_dead_letter_is_discarded_on_command(engine: Engine) -> None:
    handle = await dead(engine)
    await handle.signal("discard", ANN)
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED
    [note] = engine.fakes.arguments("discard")
    assert note.note == ANN
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.DISCARDED


async def test_a_delivery_is_discarded_while_it_rests(engine: Engine) -> None:
    engine.fakes.script(FAILED)
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(HOUR,), jitter=0)))
    await engine.until_retrying(handle, 2)
    await handle.signal("discard", ANN)
    assert await engine.result(handle) == DeliveryResult(DeliveryStatus.DISCARDED, round=1, attempts=1)
    assert numbers(engine) == [(1, 1)]
    assert engine.fakes.arguments("dead_letter") == []


async def test_a_delivery_is_discarded_while_it_is_parked(engine: Engine) -> None:
    handle = await parked(engine)
    await handle.signal("discard", ANN)
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED
    assert len(numbers(engine)) == 1
    assert engine.fakes.arguments("dead_letter") == []


async def test_a_discard_that_comes_too_late_leaves_the_delivery_delivered(engine: Engine) -> None:
    gate = engine.fakes.hold("send_attempt")
    handle = await engine.start()
    await gate.entered.wait()
    await handle.signal("discard", ANN)
    gate.open()
    assert (await engine.result(handle)).status is DeliveryStatus.DELIVERED
    assert engine.fakes.arguments("discard") == []


async def test_a_discard_during_an_attempt_that_fails_is_kept(engine: Engine) -> None:
    gate = engine.fakes.hold("send_attempt")
    engine.fakes.script(FAILED)
    handle = await engine.start()
    await gate.entered.wait()
    await handle.signal("discard", ANN)
    gate.open()
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED
    assert numbers(engine) == [(1, 1)]


async def test_a_discard_after_a_replay_is_not_lost_with_the_run(engine: Engine) -> None:
    handle = await dead(engine)
    gate = engine.fakes.hold("open_round")
    await handle.signal("replay", ANN)
    await gate.entered.wait()
    await handle.signal("discard", ANN)
    gate.open()
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED
    assert numbers(engine) == [(1, 1)]
    [note] = engine.fakes.arguments("discard")
    assert note.note == ANN


async def test_a_bulk_discard_leaves_later_rounds_and_later_dead_letters_alone(engine: Engine) -> None:
    """Temporal sends its signals one after another: an operator may have replayed the dead letter meanwhile."""
    handle = await dead(engine)
    bulk = replace(ANN, before=await dead_since(handle) + SECOND)
    await engine.skip(MINUTE)
    gate = engine.fakes.hold("send_attempt")
    engine.fakes.script(FAILED)
    await handle.signal("replay", ANN)
    await gate.entered.wait()
    await handle.signal("discard", bulk)
    gate.open()
    await engine.until_dead(handle, round_=2)
    await handle.signal("discard", bulk)
    await engine.until_dead(handle, round_=2)
    assert engine.fakes.arguments("discard") == []

    bulk = replace(ANN, before=await dead_since(handle) + SECOND)
    await handle.signal("discard", bulk)
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED
    [input] = engine.fakes.arguments("discard")
    assert (input.note, input.round) == (bulk, 2), "the database compares the round, which a replay opens there first"


async def test_attempt_now_cuts_a_rest_short(engine: Engine) -> None:
    engine.fakes.script(FAILED, DELIVERED)
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(2 * HOUR,), jitter=0)))
    await engine.until_retrying(handle, 2)
    await handle.signal("attempt_now")
    await engine.until_called("send_attempt", 2)
    assert rests(engine)[0] < MINUTE
    assert await engine.result(handle) == delivered(attempts=2)


async def test_attempt_now_during_an_attempt_asked_for_that_attempt(engine: Engine) -> None:
    gate = engine.fakes.hold("send_attempt")
    engine.fakes.script(FAILED)
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(HOUR, HOUR), jitter=0)))
    await gate.entered.wait()
    await handle.signal("attempt_now")
    gate.open()
    await engine.until_retrying(handle, 2)
    await engine.skip(HOUR - MINUTE)
    await engine.until_retrying(handle, 2)
    assert numbers(engine) == [(1, 1)]


async def test_eight_times_attempt_now_make_one_attempt(engine: Engine) -> None:
    engine.fakes.script(FAILED)
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(HOUR, HOUR), jitter=0)))
    await engine.until_retrying(handle, 2)
    gate = engine.fakes.hold("send_attempt")
    await asyncio.gather(*(handle.signal("attempt_now") for _ in range(8)))
    await gate.entered.wait()
    gate.open()
    await engine.until_retrying(handle, 3)
    await engine.skip(HOUR - MINUTE)
    await engine.until_retrying(handle, 3)
    assert numbers(engine) == [(1, 1), (1, 2)]


async def test_attempt_now_while_an_attempt_is_being_recorded_asks_for_the_next(engine: Engine) -> None:
    input = engine.input(policy=DeliveryPolicy(delays=(HOUR,), jitter=0))
    engine.fakes.script(unrecorded(FAILED, input), DELIVERED)
    gate = engine.fakes.hold("record_attempt")
    handle = await engine.start(input)
    await gate.entered.wait()
    await handle.signal("attempt_now")
    gate.open()
    await engine.until_called("send_attempt", 2)
    assert rests(engine)[0] < MINUTE
    assert await engine.result(handle) == delivered(attempts=2)


async def test_attempt_now_makes_a_parked_delivery_check_again(engine: Engine) -> None:
    handle = await parked(engine)
    await handle.signal("attempt_now")
    await engine.until_called("send_attempt", 2)
    assert rests(engine)[0] < MINUTE
    assert numbers(engine) == [(1, 1), (1, 1)]


# --- parking


async def test_a_parked_delivery_continues_when_released_and_the_parking_is_no_attempt(engine: Engine) -> None:
    handle = await parked(engine)
    engine.fakes.script(DELIVERED)
    await handle.signal("release", ReleaseInput())
    await engine.until_called("send_attempt", 2)
    assert rests(engine)[0] < MINUTE
    assert await engine.result(handle) == delivered(attempts=1)
    assert numbers(engine) == [(1, 1), (1, 1)]


async def test_a_released_delivery_still_has_its_whole_schedule(engine: Engine) -> None:
    engine.fakes.script(PARKED, FAILED, PARKED, FAILED)
    handle = await engine.start()
    await engine.until_parked(handle)
    await handle.signal("release", ReleaseInput())
    await engine.skip(4 * HOUR)
    await engine.until_dead(handle)
    assert numbers(engine) == [(1, n) for n in (1, 1, 2, 2, 3, 4, 5, 6)]


async def test_a_pause_longer_than_the_window_uses_up_none_of_it(engine: Engine) -> None:
    engine.fakes.script(PAUSED, FAILED)
    handle = await engine.start(engine.input(park_check=100 * HOUR))
    await engine.until_parked(handle)
    await engine.skip(130 * HOUR)
    await engine.until_dead(handle)
    assert numbers(engine) == [(1, n) for n in (1, 1, 2, 3, 4, 5, 6)]


async def test_a_parked_delivery_checks_again_by_itself_after_a_while(engine: Engine) -> None:
    handle = await parked(engine, park_check=10 * MINUTE)
    engine.fakes.script(DELIVERED)
    await engine.result(handle)
    [waited] = rests(engine)
    assert 8 * MINUTE <= waited <= 10 * MINUTE + SECOND


async def test_a_parked_delivery_checks_less_and_less_often(engine: Engine) -> None:
    """Each wait is a little shorter than what the attempt before it wrote to `due_at`."""
    handle = await parked(engine, PAUSED, park_check=HOUR)
    await engine.skip(30 * HOUR)
    waits = await timers(handle)
    announced = [input.park_check for input in engine.fakes.arguments("send_attempt")]
    assert announced[:5] == [HOUR, 2 * HOUR, 4 * HOUR, 6 * HOUR, 6 * HOUR]
    assert len(set(waits)) == len(waits) >= 6
    assert all(0.8 * check <= wait < check for wait, check in zip(waits, announced, strict=True))


async def test_the_next_parking_starts_with_the_shortest_check_interval(engine: Engine) -> None:
    engine.fakes.script(PAUSED, PAUSED, FAILED, PAUSED)
    handle = await engine.start(engine.input(park_check=10 * MINUTE))
    await engine.skip(HOUR)
    await engine.until_parked(handle)
    announced = [input.park_check / MINUTE for input in engine.fakes.arguments("send_attempt")]
    assert announced[:5] == [10, 20, 40, 10, 20]


async def test_a_delivery_parked_for_weeks_has_a_short_history_and_is_released_at_once(engine: Engine) -> None:
    handle = await parked(engine, PAUSED)
    await engine.skip(20 * DAY)
    await engine.until_parked(handle)
    calls = len(engine.fakes.of("send_attempt"))
    assert 80 < calls < 107
    assert len((await handle.fetch_history()).events) < 1_200, "3,600 in two months"
    engine.fakes.script(DELIVERED)
    before = await engine.now()
    await handle.signal("release", ReleaseInput())
    await engine.until_called("send_attempt", calls + 1)
    assert engine.fakes.of("send_attempt")[-1].at - before < MINUTE
    assert (await engine.result(handle)).status is DeliveryStatus.DELIVERED


@pytest.fixture
def short_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporal suggests to continue as new after 100 events; this server never does."""
    monkeypatch.setattr(
        "temporalio.workflow.Info.is_continue_as_new_suggested", lambda info: info.get_current_history_length() > 100
    )


@pytest.mark.usefixtures("short_histories")
async def test_a_parked_delivery_continues_as_new_where_it_was(engine: Engine) -> None:
    """The time before the parking counts for the window, the time parked does not, in any run."""
    engine.fakes.script(FAILED, PAUSED)
    policy = DeliveryPolicy(delays=(HOUR, 5 * HOUR), jitter=0, max_window=4 * HOUR)
    handle = await engine.start(engine.input(policy=policy))
    await engine.until_retrying(handle, 2)
    first = await run_id(handle)
    await engine.skip(5 * DAY)
    await engine.until_parked(handle)
    assert await run_id(handle) != first
    assert len((await handle.fetch_history()).events) < 150
    announced = [input.park_check for input in engine.fakes.arguments("send_attempt")][1:]
    assert announced == sorted(announced), "the interval is passed on"
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.PARKED
    engine.fakes.script(FAILED)
    await handle.signal("release", ReleaseInput())
    await engine.until_dead(handle)
    assert numbers(engine)[-1] == (1, 2), "the next attempt would be after the window: an hour of it was used"
    assert await attribute(handle, sa.STATUS_CODE) == 503


@pytest.mark.usefixtures("short_histories")
async def test_no_signal_is_lost_when_a_parked_delivery_continues_as_new(engine: Engine) -> None:
    """Signals arrive all the time, and the delivery is parked again each time: the last one is the one that counts."""
    handle = await parked(engine, PAUSED, park_check=DAY)
    first = await run_id(handle)
    for _ in range(25):
        calls = len(engine.fakes.of("send_attempt"))
        gate = engine.fakes.hold("send_attempt")
        await handle.signal("attempt_now")
        await gate.entered.wait()
        await handle.signal("release", ReleaseInput())
        gate.open()
        await engine.until_called("send_attempt", calls + 2)
        if await run_id(handle) != first:
            break
    else:
        pytest.fail("it never continued as new")
    await engine.until_parked(handle)
    await handle.signal("discard", ANN)
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED


async def test_a_delivery_that_released_code_parked_continues_with_the_back_off() -> None:
    """Old runs check every ten minutes, and some have a long history: each continues as new at its next check."""
    async with time_skipping_server() as env:
        async with running_engine(env, delivery=ReleasedDeliveryWorkflow) as old:
            handle = await parked(old, PAUSED)
            await old.skip(HOUR)
            await old.until_parked(handle)
            first = await run_id(handle)
            await old.keep()
        async with running_engine(env) as engine:
            engine.fakes.script(PAUSED)
            await engine.skip(2 * HOUR)
            await engine.until_parked(engine.delivery(old.fakes.arguments("send_attempt")[0].delivery_gid))
            assert await run_id(handle) != first
            announced = [input.park_check / MINUTE for input in engine.fakes.arguments("send_attempt")]
            assert announced[:4] == [10, 10, 20, 40], "one check of the old run, then those of the new one"


async def test_a_delivery_parked_past_its_window_is_a_dead_letter_and_not_before(engine: Engine) -> None:
    handle = await parked(engine, policy=DeliveryPolicy(max_window=HOUR))
    began = engine.fakes.calls[0].at
    await engine.skip(80 * MINUTE)
    state = await engine.until_dead(handle)
    assert state.dead_letter_reason is DeadLetterReason.CIRCUIT_OPEN
    [died] = engine.fakes.of("dead_letter")
    assert HOUR <= died.at - began <= HOUR + 12 * MINUTE + SECOND
    assert {number for _, number in numbers(engine)} == {1}


async def test_the_time_parked_before_the_workflow_counts_towards_the_window(engine: Engine) -> None:
    now = await engine.now()
    input = engine.input(policy=DeliveryPolicy(max_window=HOUR), parked_since=now - 30 * MINUTE)
    engine.fakes.script(PARKED)
    handle = await engine.start(input)
    await engine.until_parked(handle)
    await engine.skip(45 * MINUTE)
    assert (await engine.until_dead(handle)).dead_letter_reason is DeadLetterReason.CIRCUIT_OPEN
    [died] = engine.fakes.of("dead_letter")
    assert 30 * MINUTE <= died.at - now <= 42 * MINUTE + SECOND


async def test_a_delivery_parked_without_a_workflow_for_its_whole_window_is_tried_once_and_given_up(
    engine: Engine,
) -> None:
    engine.fakes.script(PARKED)
    policy = DeliveryPolicy(max_window=HOUR)
    handle = await engine.start(engine.input(policy=policy, parked_since=await engine.now() - HOUR))
    assert (await engine.until_dead(handle)).dead_letter_reason is DeadLetterReason.CIRCUIT_OPEN
    assert numbers(engine) == [(1, 1)]


async def test_a_delivery_parked_without_a_workflow_by_a_pause_waits_on(engine: Engine) -> None:
    engine.fakes.script(PAUSED)
    policy = DeliveryPolicy(max_window=HOUR)
    handle = await engine.start(engine.input(policy=policy, parked_since=await engine.now() - DAY))
    await engine.until_parked(handle)
    assert engine.fakes.arguments("dead_letter") == []


async def test_a_delivery_parked_without_a_workflow_for_longer_than_its_window_still_has_its_whole_schedule(
    engine: Engine,
) -> None:
    engine.fakes.script(FAILED)
    handle = await engine.start(
        engine.input(parked_since=await engine.now() - 100 * HOUR), signal="release", note=ReleaseInput()
    )
    await engine.skip(4 * HOUR)
    await engine.until_dead(handle)
    assert numbers(engine) == [(1, number) for number in range(1, 7)]


async def test_a_delivery_parked_by_a_disabled_endpoint_says_so_when_its_window_is_over(engine: Engine) -> None:
    handle = await parked(
        engine,
        AttemptOutcome(Verdict.PARKED, DeadLetterReason.ENDPOINT_DISABLED),
        policy=DeliveryPolicy(max_window=HOUR),
    )
    await engine.skip(80 * MINUTE)
    assert (await engine.until_dead(handle)).dead_letter_reason is DeadLetterReason.ENDPOINT_DISABLED


async def test_a_delivery_parked_by_a_pause_waits_for_ever(engine: Engine) -> None:
    handle = await parked(engine, PAUSED, policy=DeliveryPolicy(max_window=HOUR), park_check=DAY)
    await engine.skip(20 * DAY)
    assert len(await engine.until_called("send_attempt", 15)) <= 27
    await engine.until_parked(handle)
    assert engine.fakes.arguments("dead_letter") == []


async def test_a_parked_delivery_whose_endpoint_is_given_up_is_a_dead_letter_with_that_reason(engine: Engine) -> None:
    handle = await parked(engine)
    await handle.signal("release", ReleaseInput(DeadLetterReason.ENDPOINT_DELETED))
    state = await engine.until_dead(handle)
    assert state.dead_letter_reason is DeadLetterReason.ENDPOINT_DELETED
    [note] = engine.fakes.arguments("dead_letter")
    assert note.reason is DeadLetterReason.ENDPOINT_DELETED
    assert len(numbers(engine)) == 1


async def test_a_release_that_overtakes_the_parking_is_not_lost(engine: Engine) -> None:
    gate = engine.fakes.hold("send_attempt")
    engine.fakes.script(PARKED, DELIVERED)
    handle = await engine.start()
    await gate.entered.wait()
    await handle.signal("release", ReleaseInput())
    gate.open()
    await engine.until_called("send_attempt", 2)
    assert rests(engine)[0] < MINUTE
    assert (await engine.result(handle)).status is DeliveryStatus.DELIVERED


async def test_a_release_of_an_earlier_parking_does_not_count_for_a_later_one(engine: Engine) -> None:
    engine.fakes.script(FAILED, PARKED)
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(HOUR,), jitter=0), park_check=DAY))
    await engine.until_retrying(handle, 2)
    await handle.signal("release", ReleaseInput())
    await engine.until_retrying(handle, 2)
    await engine.skip(2 * HOUR)
    await engine.until_parked(handle)
    assert numbers(engine) == [(1, 1), (1, 2)]


# --- internal errors


async def test_an_attempt_that_the_database_could_not_take_is_recorded_by_the_workflow(engine: Engine) -> None:
    input = engine.input(policy=DeliveryPolicy(delays=(MINUTE,), jitter=0))
    failed, delivered = unrecorded(FAILED, input, 1), unrecorded(DELIVERED, input, 2)
    engine.fakes.script(failed, delivered)
    engine.fakes.fail("record_attempt", times=3)
    assert (await engine.result(await engine.start(input))).attempts == 2
    assert engine.fakes.arguments("record_attempt") == [failed.unrecorded] * 4 + [delivered.unrecorded]
    names = [call.name for call in engine.fakes.calls]
    assert names == ["send_attempt", *["record_attempt"] * 4, "send_attempt", "record_attempt"]


async def test_a_recorded_attempt_is_not_recorded_again(engine: Engine) -> None:
    engine.fakes.script(FAILED, DELIVERED)
    await engine.result(await engine.start())
    assert engine.fakes.arguments("record_attempt") == []


async def test_an_internal_error_is_retried_and_is_no_attempt(engine: Engine) -> None:
    engine.fakes.fail("send_attempt", times=5)
    handle = await engine.start(engine.input(policy=ONCE))
    assert await engine.result(handle) == delivered(attempts=1)
    assert numbers(engine) == [(1, 1)] * 6


@pytest.mark.parametrize("name", ["dead_letter", "open_round", "discard"])
async def test_a_write_to_the_database_is_retried_until_it_succeeds(engine: Engine, name: str) -> None:
    engine.fakes.fail(name, times=4)
    engine.fakes.script(FAILED)
    handle = await engine.start(engine.input(policy=ONCE))
    await engine.skip(MINUTE)
    await engine.until_dead(handle)
    await handle.signal("replay", ANN)
    await engine.skip(MINUTE)
    await engine.until_dead(handle, round_=2)
    await handle.signal("discard", ANN)
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED
    calls = engine.fakes.arguments(name)
    wanted = {"dead_letter": 6, "open_round": 5, "discard": 5}
    assert len(calls) == wanted[name]
    assert isinstance(calls[0], DeadLetterInput | RoundInput | DiscardInput)


# --- what operators see


async def test_a_delivery_says_where_it_stands_at_every_step(engine: Engine) -> None:
    engine.fakes.script(FAILED, PARKED, REJECTED)
    gate = engine.fakes.hold("send_attempt")
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(HOUR, HOUR), jitter=0)))
    await gate.entered.wait()
    sending = await engine.until(handle, DeliveryStatus.SENDING, "the endpoint's response")
    assert (sending.round, sending.attempt, sending.next_attempt_at) == (1, 1, None)
    gate.open()
    resting = await engine.until_retrying(handle, 2)
    assert resting.next_attempt_at is not None
    assert abs(resting.next_attempt_at - await engine.now() - HOUR) < MINUTE
    await handle.signal("attempt_now")
    assert (await engine.until_parked(handle)).attempt == 2
    await handle.signal("release", ReleaseInput())
    assert (await engine.until_dead(handle)).dead_letter_reason is DeadLetterReason.REJECTED
    await handle.signal("discard", ANN)
    await engine.result(handle)
    await engine.until(handle, DeliveryStatus.DISCARDED, "nothing")


async def test_a_delivered_delivery_still_says_so(engine: Engine) -> None:
    handle = await engine.start()
    await engine.result(handle)
    state = await engine.until(handle, DeliveryStatus.DELIVERED, "nothing")
    assert (state.attempt, state.dead_letter_reason) == (1, None)


async def test_the_status_is_searchable_from_the_first_retry_on_and_costs_an_event_only_then(engine: Engine) -> None:
    engine.fakes.script(FAILED, FAILED, FAILED, PARKED)
    handle = await engine.start()
    await engine.until_retrying(handle, 2)
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.RETRYING
    await engine.skip(2 * MINUTE)
    await engine.until_retrying(handle, 4)
    assert await count_events(handle, EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES) == 1
    await engine.skip(HOUR)
    await engine.until_parked(handle)
    assert await attribute(handle, sa.DELIVERY_STATUS) == DeliveryStatus.PARKED
    parked_and_patched = 2  # Temporal itself makes the marker of a patch searchable
    upserts = await count_events(handle, EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
    assert upserts == 1 + parked_and_patched


async def test_the_temporal_ui_shows_what_a_dead_letter_is_and_what_to_do_with_it(engine: Engine) -> None:
    handle = await dead(engine, REJECTED)
    metadata: WorkflowMetadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    for word in ("rejected", "HTTP 404", "`replay`", "`discard`"):
        assert word in metadata.current_details
    assert {"replay", "discard", "release", "attempt_now"} <= {s.name for s in metadata.definition.signal_definitions}


async def test_starting_a_delivery_that_is_open_changes_nothing(engine: Engine) -> None:
    input = engine.input(policy=ONCE)
    engine.fakes.script(FAILED)
    handle = await engine.start(input)
    await engine.until_dead(handle)
    await engine.start(input)
    await engine.until_dead(handle)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    assert numbers(engine) == [(1, 1)]
