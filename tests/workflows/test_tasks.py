"""The workflow of a delivery to an inbox: it waits for the timers of its task, and for the decision."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from everhook.contracts import (
    DeadLetterReason,
    DeliveryMode,
    DeliveryResult,
    DeliveryStatus,
    OperatorAction,
    ReleaseInput,
)
from everhook.inbox.schedule import Step
from everhook.temporal import search_attributes as sa
from testing.waiting import assert_eventually
from tests.workflows.engine import DELIVERED, DeliveryHandle, Engine, attribute, details, run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
REMINDERS = {"afterSeconds": 3_600, "everySeconds": 7_200, "max": 2}
AWAITING = DeliveryStatus.AWAITING_DECISION


async def asked(engine: Engine, **document: Any) -> DeliveryHandle:
    """The workflow of a task, after its first check."""
    engine.fakes.task.ask(await engine.now(), **document)
    handle = await engine.start(engine.input(mode=DeliveryMode.INBOX), first=True)
    await engine.until_queryable(handle)
    return handle


async def hours(engine: Engine) -> list[int]:
    """When the workflow checked, in whole hours after its first check."""
    first, *others = engine.fakes.of("check_task")
    return [round((call.at - first.at) / HOUR) for call in others]


async def test_a_decision_ends_it_at_once(engine: Engine) -> None:
    handle = await asked(engine)
    assert await attribute(handle, sa.DELIVERY_STATUS) == AWAITING
    await engine.until(handle, AWAITING, "a person")
    engine.fakes.task.end(DeliveryStatus.DELIVERED)
    await handle.signal("settled")
    assert await engine.result_without_skipping(handle) == DeliveryResult(
        DeliveryStatus.DELIVERED, 1, 1, status_code=DELIVERED.status_code
    )
    assert engine.fakes.of("send_attempt") == engine.fakes.of("check_pulled") == engine.fakes.of("dead_letter") == []


async def test_reminders_escalation_and_due_date_come_at_their_times(engine: Engine) -> None:
    handle = await asked(engine, reminders=REMINDERS, escalation={"afterReminders": 2, "to": "dan"})
    await engine.skip(30 * HOUR)
    state = await engine.until(handle, DeliveryStatus.DEAD_LETTERED)
    assert state.dead_letter_reason is DeadLetterReason.EXPIRED
    assert engine.fakes.task.steps == [Step.REMIND, Step.REMIND, Step.ESCALATE, Step.END]
    assert await hours(engine) == [1, 3, 5, 24]
    assert engine.fakes.of("dead_letter") == []  # the check has recorded it


async def test_the_details_show_how_it_stands_without_its_title(engine: Engine) -> None:
    handle = await asked(engine, title="Fire Bob?", reminders=REMINDERS)
    await engine.skip(2 * HOUR)
    await engine.until_called("check_task", 2)
    await engine.until(handle, AWAITING)
    shown = await details(handle)
    assert shown.startswith("Asks *Managers* (2 assignees). Due ") and "UTC, reminder 1 of 2 sent." in shown
    assert "Bob" not in str((await handle.fetch_history()).to_json())


@pytest.mark.parametrize(
    ("on_due", "status"), [("decline", DeliveryStatus.DISCARDED), ("pass", DeliveryStatus.DELIVERED)]
)
async def test_the_due_date_may_decide(engine: Engine, on_due: str, status: DeliveryStatus) -> None:
    handle = await asked(engine, onDue=on_due)

    async def shown_due_at() -> datetime:
        shown = await attribute(handle, sa.DUE_AT)
        assert shown is not None
        return datetime.fromisoformat(shown)

    due_at = await assert_eventually(shown_due_at)
    assert (await engine.result(handle)).status is status
    assert await hours(engine) == [24]
    assert engine.fakes.task.schedule is not None and due_at == engine.fakes.task.schedule.due_at
    assert await attribute(handle, sa.OUTCOME) == {"decline": "rejected", "pass": "approved"}[on_due]


async def test_a_task_whose_signal_was_lost_ends_at_the_next_check(engine: Engine) -> None:
    handle = await asked(engine, reminders=REMINDERS)
    engine.fakes.task.end(DeliveryStatus.DISCARDED)
    assert (await engine.result(handle)).status is DeliveryStatus.DISCARDED
    assert (engine.fakes.task.steps, await hours(engine)) == ([], [1])


async def test_a_replay_asks_again(engine: Engine) -> None:
    handle = await asked(engine)
    await engine.skip(25 * HOUR)
    await engine.until(handle, DeliveryStatus.DEAD_LETTERED)
    engine.fakes.task.ask(await engine.now())
    engine.fakes.task.ended = None
    checks = len(engine.fakes.of("check_task"))
    await handle.signal("replay", OperatorAction("ann"))
    await engine.until(handle, AWAITING, round_=2)
    assert await attribute(handle, sa.DELIVERY_STATUS) == AWAITING
    await engine.until_called("check_task", checks + 1)
    assert engine.fakes.arguments("check_task")[-1].round == 2


async def test_an_inbox_that_is_given_up_gives_up_its_tasks(engine: Engine) -> None:
    handle = await asked(engine)
    await handle.signal("release", ReleaseInput(dead_letter=DeadLetterReason.ENDPOINT_DELETED))
    state = await engine.until(handle, DeliveryStatus.DEAD_LETTERED)
    assert state.dead_letter_reason is DeadLetterReason.ENDPOINT_DELETED


async def test_the_workflow_waits_for_a_year(engine: Engine) -> None:
    handle = await asked(engine, dueSeconds=366 * 86_400)
    await engine.skip(365 * DAY)
    assert len(engine.fakes.of("check_task")) == 1
    await engine.skip(2 * DAY)
    await engine.until(handle, DeliveryStatus.DEAD_LETTERED)


async def test_a_long_history_continues_as_new_and_keeps_the_timers(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "temporalio.workflow.Info.is_continue_as_new_suggested", lambda info: info.get_current_history_length() > 100
    )
    reminders = {"afterSeconds": 3_600, "everySeconds": 3_600, "max": 50}
    handle = await asked(engine, dueSeconds=10 * 86_400, reminders=reminders)
    first = await run_id(handle)
    await engine.skip(11 * DAY)
    await engine.until(handle, DeliveryStatus.DEAD_LETTERED)
    assert engine.fakes.task.steps == [Step.REMIND] * 50 + [Step.END]
    assert await run_id(handle) != first
    assert len((await handle.fetch_history()).events) < 150
