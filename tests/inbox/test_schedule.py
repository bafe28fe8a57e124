"""When a task is reminded of, escalated and due."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from everhook.inbox.schedule import Schedule, Step

ASKED = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
REMINDERS = {"afterSeconds": 3_600, "everySeconds": 7_200, "max": 2}


def asked(**document: Any) -> Schedule:
    return Schedule.of({"dueSeconds": 86_400, **document}, ASKED)


def course(schedule: Schedule, late: timedelta = timedelta()) -> list[tuple[float, Step]]:
    """All steps of a task without a decision, each taken so late, with the hours since it was asked."""
    taken: list[tuple[float, Step]] = []
    moment = schedule.next_at + late
    while (step := schedule.step(moment)) is not Step.END:
        assert step is not None and len(taken) < 10
        taken.append(((moment - ASKED) / HOUR, step))
        schedule = schedule.reminded(moment) if step is Step.REMIND else schedule.escalated(moment)
        moment = schedule.next_at + late
    return [*taken, ((moment - ASKED) / HOUR, Step.END)]


@pytest.mark.parametrize(
    ("document", "steps"),
    [
        ({}, [(24, Step.END)]),
        ({"reminders": REMINDERS}, [(1, Step.REMIND), (3, Step.REMIND), (24, Step.END)]),
        (
            {"reminders": REMINDERS, "escalation": {"afterReminders": 2, "to": "dan"}},
            [(1, Step.REMIND), (3, Step.REMIND), (5, Step.ESCALATE), (24, Step.END)],
        ),
        (
            {"reminders": REMINDERS, "escalation": {"afterReminders": 1, "to": "dan"}},
            [(1, Step.REMIND), (3, Step.ESCALATE), (5, Step.REMIND), (24, Step.END)],
        ),
        (
            {"reminders": REMINDERS, "escalation": {"afterReminders": 0, "to": "dan"}},
            [(1, Step.ESCALATE), (3, Step.REMIND), (5, Step.REMIND), (24, Step.END)],
        ),
        ({"escalation": {"afterReminders": 0, "to": "dan"}}, [(24, Step.ESCALATE), (48, Step.END)]),
        (
            {"reminders": REMINDERS, "escalation": {"afterReminders": 3, "to": "dan"}},
            [(1, Step.REMIND), (3, Step.REMIND), (24, Step.ESCALATE), (48, Step.END)],
        ),
        ({"reminders": REMINDERS | {"afterSeconds": 90_000}}, [(24, Step.END)]),
    ],
)
def test_the_course_of_a_task_without_a_decision(document: Any, steps: list[tuple[float, Step]]) -> None:
    assert course(asked(**document)) == steps


def test_late_timers_keep_their_distance() -> None:
    assert course(asked(reminders=REMINDERS), late=5 * HOUR) == [(6, Step.REMIND), (13, Step.REMIND), (29, Step.END)]


def test_nothing_is_due_before_its_time() -> None:
    schedule = asked(reminders=REMINDERS)
    assert schedule.step(ASKED + HOUR - timedelta(seconds=1)) is None
    assert schedule.reminded(ASKED + HOUR).step(ASKED + HOUR) is None
