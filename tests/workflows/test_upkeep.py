"""What runs on a schedule, each pass by itself."""

import asyncio
from datetime import timedelta

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from everhook.contracts import ReconcileResult, ReconcileShare, RetentionResult, TaskQueue
from tests.workflows.engine import PATIENCE_S, Engine, Script, until_at_rest
from workflows.upkeep import EventsLoopWorkflow, ReconcileLoopWorkflow, ReconcileWorkflow, RetentionWorkflow

pytestmark = pytest.mark.asyncio(loop_scope="module")

REMOVED = RetentionResult(messages=2, payloads=1)


async def begun(engine: Engine) -> WorkflowHandle[RetentionWorkflow, RetentionResult]:
    """A pass whose activity has been asked for. Before that the server would skip to the end of time."""
    handle = await engine.client.start_workflow(RetentionWorkflow.run, id="retention", task_queue=TaskQueue.DELIVERIES)
    await engine.until_called("remove_past", 1)
    return handle


async def test_a_pass_of_retention_returns_what_it_removed(engine: Engine) -> None:
    assert await (await begun(engine)).result() == REMOVED
    assert len(engine.fakes.of("remove_past")) == 1


async def retried(engine: Engine, times: int) -> None:
    """Pass over the waits between the tries, and nothing else: the server would skip over the time of a try as well,
    and end it for want of a heartbeat."""
    for tries in range(1, times + 1):
        await engine.skip(timedelta(seconds=2 ** (tries - 1) + 0.5))
        await engine.until_called("remove_past", tries + 1)


async def test_a_pass_that_fails_in_the_middle_is_taken_up_again(engine: Engine) -> None:
    engine.fakes.fail("remove_past", 3)
    handle = await begun(engine)
    await retried(engine, 3)
    assert await handle.result() == REMOVED


async def test_a_pass_that_cannot_succeed_is_given_up_for_the_next(engine: Engine) -> None:
    engine.fakes.fail("remove_past", 5)
    handle = await begun(engine)
    await retried(engine, 4)
    with pytest.raises(WorkflowFailureError):
        await handle.result()


# --- the reconciler

SHARES = [ReconcileShare(index, parts=4) for index in range(4)]


async def reconciling(engine: Engine, *results: ReconcileResult) -> WorkflowHandle[ReconcileWorkflow, ReconcileResult]:
    """Start a pass of the reconciler whose activities return these results, the last one repeatedly."""
    engine.fakes.passes = Script(*results)
    return await engine.client.start_workflow(ReconcileWorkflow.run, id="reconcile", task_queue=TaskQueue.DELIVERIES)


async def test_a_pass_that_completes_is_the_only_one(engine: Engine) -> None:
    done = ReconcileResult(started=3, restarted=2, endpoints=1, history=4)
    handle = await reconciling(engine, done)
    assert await engine.result_without_skipping(handle) == done
    assert engine.fakes.arguments("reconcile") == [ReconcileShare(0, 1)]


async def test_a_pass_that_leaves_work_is_followed_by_four_shares_in_parallel(engine: Engine) -> None:
    gates = [engine.fakes.hold("reconcile") for _ in range(5)]
    handle = await reconciling(
        engine,
        ReconcileResult(started=1, restarted=2, endpoints=3, history=4, more=True),
        ReconcileResult(started=10, restarted=20, endpoints=30, history=40),
    )
    await gates[0].entered.wait()
    assert engine.fakes.arguments("reconcile") == [ReconcileShare(0, 1)]
    gates[0].open()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(gate.entered.wait() for gate in gates))
    assert sorted(engine.fakes.arguments("reconcile")[1:], key=lambda share: share.index) == SHARES
    for gate in gates:
        gate.open()
    assert await engine.result_without_skipping(handle) == ReconcileResult(
        started=41, restarted=82, endpoints=123, history=164
    )


async def test_the_result_says_whether_the_shares_left_work(engine: Engine) -> None:
    handle = await reconciling(engine, ReconcileResult(started=1, more=True))
    assert await engine.result_without_skipping(handle) == ReconcileResult(started=5, more=True)
    assert len(engine.fakes.of("reconcile")) == 5


@pytest.mark.parametrize("failing", [1, 2], ids=["the first", "a share"])
async def test_a_pass_of_the_reconciler_that_fails_is_not_repeated(engine: Engine, failing: int) -> None:
    gates = [engine.fakes.hold("reconcile") for _ in range(5)]
    handle = await reconciling(engine, ReconcileResult(more=True))
    for number, gate in enumerate(gates[:failing], 1):
        await gate.entered.wait()
        if number == failing:
            engine.fakes.fail("reconcile", times=1)
        gate.open()
    with pytest.raises(WorkflowFailureError):
        await engine.result_without_skipping(handle)
    await engine.fakes.open_all()
    assert len(engine.fakes.of("reconcile")) == (1 if failing == 1 else 5)


# --- loops


async def looping(engine: Engine, *results: ReconcileResult) -> WorkflowHandle[ReconcileLoopWorkflow, ReconcileResult]:
    engine.fakes.passes = Script(*results)
    run = ReconcileLoopWorkflow.run
    return await engine.client.start_workflow(run, id="reconcile-loop", task_queue=TaskQueue.DELIVERIES)


async def test_a_loop_makes_passes_until_the_schedule_starts_the_next_one(engine: Engine) -> None:
    every = timedelta(minutes=1)
    handle = await looping(engine, ReconcileResult(started=1, every=every))
    await engine.passed(handle, "reconcile", 5, every)
    assert await handle.result() == ReconcileResult(started=5, every=every)
    passes = [call.at for call in engine.fakes.of("reconcile")]
    assert [round((at - passes[0]) / every) for at in passes] == [0, 1, 2, 3, 4]


async def test_a_pass_of_a_loop_that_fails_is_followed_by_the_next_one(engine: Engine) -> None:
    engine.fakes.fail("reconcile", times=1)
    every = timedelta(minutes=2)
    handle = await looping(engine, ReconcileResult(started=1, every=every))
    await engine.passed(handle, "reconcile", 2, ReconcileResult().every)
    await engine.passed(handle, "reconcile", 4, every)
    assert (await handle.result()).started == 3


async def test_a_loop_whose_passes_are_seldom_is_one_pass(engine: Engine) -> None:
    handle = await looping(engine, ReconcileResult(started=1, every=timedelta(hours=1)))
    assert (await engine.result_without_skipping(handle)).started == 1


async def test_events_are_published_pass_by_pass(engine: Engine) -> None:
    run = EventsLoopWorkflow.run
    handle = await engine.client.start_workflow(run, id="events-loop", task_queue=TaskQueue.DELIVERIES)
    await engine.passed(handle, "publish_events", 60, timedelta(seconds=5))
    assert (await handle.result()).published == 60 * 4
    assert (await until_at_rest(handle)).events[-1].event_id < 1_000


async def test_a_pass_that_publishes_no_events_because_it_fails_is_followed_by_the_next_one(engine: Engine) -> None:
    engine.fakes.fail("publish_events", times=2)
    run = EventsLoopWorkflow.run
    handle = await engine.client.start_workflow(run, id="events-loop", task_queue=TaskQueue.DELIVERIES)
    await engine.passed(handle, "publish_events", 60, timedelta(seconds=5))
    assert (await handle.result()).published == 58 * 4
