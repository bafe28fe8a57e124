"""What runs on a schedule, each pass by itself."""

from datetime import timedelta

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from everhook.contracts import RetentionResult, TaskQueue
from tests.workflows.engine import Engine
from workflows.upkeep import RetentionWorkflow

pytestmark = pytest.mark.asyncio(loop_scope="module")

REMOVED = RetentionResult(messages=2, payloads=1)


async def begun(engine: Engine) -> WorkflowHandle[RetentionWorkflow, RetentionResult]:
    """A pass whose activity has been asked for. Before that the server would skip to the end of time."""
    handle = await engine.client.start_workflow(RetentionWorkflow.run, id="retention", task_queue=TaskQueue.DELIVERIES)
    await engine.until_called("remove_past", 1)
    return handle


async def test_a_pass_of_retention_tells_what_it_removed(engine: Engine) -> None:
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


async def test_a_pass_that_cannot_succeed_makes_way_for_the_next(engine: Engine) -> None:
    engine.fakes.fail("remove_past", 5)
    handle = await begun(engine)
    await retried(engine, 4)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
