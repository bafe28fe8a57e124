"""The workflow of a delivery that Everhook handles itself: its own timers, and otherwise that of a webhook."""

from dataclasses import replace
from datetime import timedelta

import pytest

from everhook.contracts import (
    DeadLetterReason,
    DeliveryMode,
    DeliveryStatus,
    HandlerInput,
    HandlerResult,
    NewRateLimit,
    OperatorAction,
    ReleaseInput,
    TaskQueue,
)
from everhook.delivery.policy import DeliveryPolicy
from everhook.temporal import search_attributes as sa
from tests.workflows.engine import DELIVERED, FAILED, REJECTED, DeliveryHandle, Engine, Script, attribute

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR = timedelta(hours=1)
SLACK = timedelta(minutes=5)
INTERNAL = DeliveryMode.INTERNAL


async def handled(engine: Engine, *results: HandlerResult, **changes: object) -> DeliveryHandle:
    engine.fakes.handlings = Script(*results)
    return await engine.start(engine.input(mode=INTERNAL, **changes))


async def later(engine: Engine, after: timedelta = HOUR, step: int = 0) -> HandlerResult:
    return HandlerResult(due_at=await engine.now() + after, step=step)


def inputs(engine: Engine) -> list[HandlerInput]:
    return engine.fakes.arguments("run_handler")


async def test_attempts_are_made_by_the_handler_on_the_queue_of_sends(engine: Engine) -> None:
    handle = await handled(engine, HandlerResult(DELIVERED))
    assert (await engine.result(handle)).status is DeliveryStatus.DELIVERED
    (call,) = engine.fakes.of("run_handler")
    assert call.queue == TaskQueue.SENDS
    assert call.priority.fairness_key == call.argument.attempt.endpoint_gid
    assert engine.fakes.of("send_attempt") == []


async def test_a_failed_attempt_is_retried_and_a_rejected_one_is_a_dead_letter(engine: Engine) -> None:
    limited = HandlerResult(replace(FAILED, new_rate_limit=NewRateLimit(5.0)))
    handle = await handled(engine, limited, HandlerResult(REJECTED), policy=DeliveryPolicy(delays=(HOUR,), jitter=0))
    await engine.until_retrying(handle, 2)
    await engine.skip(HOUR + SLACK)
    await engine.until_dead(handle)
    assert [input.attempt.number for input in inputs(engine)] == [1, 2]
    assert [call.queue for call in engine.fakes.of("run_handler")] == [TaskQueue.SENDS, TaskQueue.SENDS_LIMITED]
    assert [note.reason for note in engine.fakes.arguments("dead_letter")] == [DeadLetterReason.REJECTED]
    await handle.signal("discard", OperatorAction("ann"))
    await engine.result(handle)


async def test_the_workflow_waits_for_each_step_without_an_activity(engine: Engine) -> None:
    began = await engine.now()
    day = timedelta(days=1)
    handle = await handled(
        engine, await later(engine, 3 * day, 0), await later(engine, 5 * day, 1), HandlerResult(DELIVERED)
    )
    state = await engine.until(handle, DeliveryStatus.SENDING, "its time")
    assert state.next_attempt_at is not None and timedelta() <= state.next_attempt_at - began - 3 * day < SLACK
    assert await attribute(handle, sa.DELIVERY_STATUS) == "sending"
    result = await engine.result(handle)
    assert (result.status, result.attempts) == (DeliveryStatus.DELIVERED, 1)
    at = [call.at - began for call in engine.fakes.of("run_handler")]
    assert [
        timedelta() <= each - expected < SLACK for each, expected in zip(at, (0 * day, 3 * day, 5 * day), strict=True)
    ]
    assert [input.step for input in inputs(engine)] == [0, 0, 1]
    assert {input.attempt.number for input in inputs(engine)} == {1}


async def test_the_time_that_it_waits_does_not_count_for_the_window(engine: Engine) -> None:
    policy = DeliveryPolicy(delays=(HOUR, HOUR), jitter=0, max_window=2 * HOUR)
    results = [await later(engine, 100 * HOUR), HandlerResult(FAILED), HandlerResult(DELIVERED)]
    assert (await engine.result(await handled(engine, *results, policy=policy))).attempts == 2


async def test_a_signal_ends_the_wait(engine: Engine) -> None:
    handle = await handled(engine, await later(engine), await later(engine), HandlerResult(DELIVERED))
    await engine.until(handle, DeliveryStatus.SENDING, "its time")
    await handle.signal("attempt_now")
    await engine.until_called("run_handler", 2)
    await engine.until(handle, DeliveryStatus.SENDING, "its time")
    await handle.signal("discard", OperatorAction("ann", "not needed"))
    assert (await engine.result_without_skipping(handle)).status is DeliveryStatus.DISCARDED
    assert len(inputs(engine)) == 2


async def test_a_delivery_of_an_endpoint_that_is_given_up_waits_no_longer(engine: Engine) -> None:
    handle = await handled(engine, await later(engine))
    await engine.until(handle, DeliveryStatus.SENDING, "its time")
    await handle.signal("release", ReleaseInput(DeadLetterReason.ENDPOINT_DELETED))
    await engine.until_dead(handle)
    await handle.signal("discard", OperatorAction("ann"))
    await engine.result(handle)
