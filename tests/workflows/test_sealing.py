"""The pass that seals receipts, as the schedule starts it."""

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from everhook.contracts import SealResult, TaskQueue
from tests.workflows.engine import Engine
from workflows.upkeep import SealReceiptsWorkflow

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def started(engine: Engine) -> WorkflowHandle[SealReceiptsWorkflow, SealResult]:
    return await engine.client.start_workflow(
        SealReceiptsWorkflow.run, id="seal-receipts", task_queue=TaskQueue.DELIVERIES
    )


async def test_a_pass_returns_what_was_sealed_and_what_was_found_damaged(engine: Engine) -> None:
    assert await (await started(engine)).result() == SealResult(7, 2, ("ten_1",))


async def test_a_pass_that_fails_is_left_to_the_next(engine: Engine) -> None:
    engine.fakes.fail("seal_receipts", 1)
    with pytest.raises(WorkflowFailureError):
        await (await started(engine)).result()
    assert len(engine.fakes.of("seal_receipts")) == 1
