"""Workflow code makes the same commands as the code that made the saved histories."""

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio.workflow import NondeterminismError

from everhook.contracts import (
    DELIVERY_WORKFLOW,
    ENDPOINT_WORKFLOW,
    ERASE_TENANT_WORKFLOW,
    EVENTS_LOOP_WORKFLOW,
    EVENTS_WORKFLOW,
    RECONCILE_LOOP_WORKFLOW,
    RECONCILE_WORKFLOW,
    REPLAY_WORKFLOW,
    RETENTION_WORKFLOW,
    SCHEDULED_MESSAGE_WORKFLOW,
    SEAL_RECEIPTS_WORKFLOW,
)
from tests.histories.commands import commands_of, saved_commands
from tests.histories.record import HERE, record

HISTORIES = sorted(HERE.glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    history: dict[str, Any] = json.loads(path.read_text())
    return history


def recorded(directory: Path) -> dict[str, dict[str, Any]]:
    return {path.name: load(path) for path in sorted(directory.glob("*.json"))}


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_saved_history_replays_with_the_same_commands_as_before(path: Path) -> None:
    """Down to each timeout, queue, policy and input. See `tests/histories/commands.py` if a difference is wanted."""
    assert await commands_of(load(path)) == saved_commands(path).read_text()


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_history_of_other_commands_does_not_replay(path: Path) -> None:
    """That replaying can fail: as if the code had asked for something else than it did."""
    with pytest.raises(NondeterminismError):
        await commands_of(_with_another_first_command(load(path)))


async def test_the_histories_that_are_recorded_now_replay(tmp_path: Path) -> None:
    """What is committed may be older than the code; what the code does today must be replayable as well."""
    await record(tmp_path)
    now = recorded(tmp_path)
    assert now.keys() == recorded(HERE).keys()
    for history in now.values():
        await commands_of(history)


def test_every_workflow_has_a_saved_history() -> None:
    first = [history["events"][0] for history in recorded(HERE).values()]
    kinds = {event["workflowExecutionStartedEventAttributes"]["workflowType"]["name"] for event in first}
    assert kinds == {
        DELIVERY_WORKFLOW,
        ENDPOINT_WORKFLOW,
        EVENTS_WORKFLOW,
        EVENTS_LOOP_WORKFLOW,
        RECONCILE_WORKFLOW,
        RECONCILE_LOOP_WORKFLOW,
        RETENTION_WORKFLOW,
        ERASE_TENANT_WORKFLOW,
        SCHEDULED_MESSAGE_WORKFLOW,
        SEAL_RECEIPTS_WORKFLOW,
        REPLAY_WORKFLOW,
    }


def _with_another_first_command(history: dict[str, Any]) -> dict[str, Any]:
    """Another activity than the first one; or, where there is none, a timer instead of the workflow's end."""
    for event in history["events"]:
        if "activityTaskScheduledEventAttributes" in event:
            event["activityTaskScheduledEventAttributes"]["activityType"]["name"] = "something_else"
            return history
    end = history["events"][-1]
    completed = end.pop("workflowExecutionCompletedEventAttributes")
    end["eventType"] = "EVENT_TYPE_TIMER_STARTED"
    end["timerStartedEventAttributes"] = {
        "timerId": "1",
        "startToFireTimeout": "60s",
        "workflowTaskCompletedEventId": completed["workflowTaskCompletedEventId"],
    }
    return history
