"""The workflow of a replay of a channel: turn after turn, as a new run before its history is long, and cancelled."""

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle

from everhook.contracts import REPLAY_PRIORITY, ReplayInput, ReplayProgress
from everhook.ids import Kind, new_gid, replay_workflow_id
from everhook.redelivery.starts import start_replay
from tests.workflows.engine import Engine, Script, run_id
from workflows import replay

pytestmark = pytest.mark.asyncio(loop_scope="module")

MORE, DONE = ReplayProgress(more=True), ReplayProgress(more=False, started=3)


async def started(engine: Engine) -> tuple[str, WorkflowHandle[object, object]]:
    gid = new_gid(Kind.BATCH)
    await start_replay(engine.client, gid)
    return gid, engine.client.get_workflow_handle(replay_workflow_id(gid))


async def test_turns_follow_each_other_at_a_low_priority_and_a_failed_one_is_repeated(engine: Engine) -> None:
    engine.fakes.turns = Script(MORE, MORE, DONE)
    engine.fakes.fail("replay_pages", 1)
    gid, handle = await started(engine)
    await engine.result(handle)
    calls = engine.fakes.of("replay_pages")
    assert [call.argument for call in calls] == [ReplayInput(gid)] * 4
    assert {call.priority.priority_key for call in calls} == {REPLAY_PRIORITY}


async def test_a_long_replay_continues_as_new(engine: Engine) -> None:
    engine.fakes.turns = Script(*[MORE] * replay.MAX_TURNS, DONE)
    _, handle = await started(engine)
    first = await run_id(handle)
    await engine.result_without_skipping(handle)
    assert len(engine.fakes.of("replay_pages")) == replay.MAX_TURNS + 1
    assert await run_id(handle) != first


async def test_a_replay_that_is_cancelled_in_temporal_is_cancelled_in_the_database(engine: Engine) -> None:
    gate = engine.fakes.hold("replay_pages")
    gid, handle = await started(engine)
    await gate.entered.wait()
    await handle.cancel()
    await engine.until_called("cancel_replay", 1)
    gate.open()
    with pytest.raises(WorkflowFailureError):
        await engine.result_without_skipping(handle)
    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert engine.fakes.arguments("cancel_replay") == [ReplayInput(gid)]
