"""The payloads of reminders and escalations: what is refused, and when reminders are due."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from everhook.ids import Kind, new_gid
from everhook.internal.payloads import InvalidPayload, parse_escalation, parse_reminder

ACCEPTED = datetime(2026, 1, 31, 12, tzinfo=UTC)
REMINDER: dict[str, Any] = {"afterSeconds": 60, "until": new_gid(Kind.MESSAGE), "notify": new_gid(Kind.ENDPOINT)}
ESCALATION: dict[str, Any] = {
    "watch": new_gid(Kind.MESSAGE),
    "unless": "delivered",
    "afterSeconds": 60,
    "then": {"channel": "alarms", "type": "order.late", "payload": {"a": 1}},
}


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (["a"], "the payload"),
        (REMINDER | {"evrySeconds": 3}, "the payload"),
        (without(REMINDER, "afterSeconds"), "at, afterSeconds"),
        (REMINDER | {"at": "2026-02-01T09:00:00Z"}, "at, afterSeconds"),
        (without(REMINDER, "afterSeconds") | {"at": "2026-02-01T09:00:00"}, "at"),
        (without(REMINDER, "afterSeconds") | {"at": 3}, "at"),
        (without(REMINDER, "afterSeconds") | {"at": "9999-12-31T23:59:59Z"}, "the last reminder"),
        (REMINDER | {"afterSeconds": -1}, "afterSeconds"),
        (REMINDER | {"afterSeconds": True}, "afterSeconds"),
        (REMINDER | {"afterSeconds": float("nan")}, "afterSeconds"),
        (REMINDER | {"afterSeconds": 1e300}, "afterSeconds"),
        (REMINDER | {"everySeconds": 0}, "everySeconds"),
        (REMINDER | {"max": 2}, "everySeconds"),
        (REMINDER | {"everySeconds": 60, "max": 0}, "max"),
        (REMINDER | {"everySeconds": 60, "max": 101}, "max"),
        (REMINDER | {"everySeconds": 30_000_000, "max": 5}, "the last reminder"),
        (REMINDER | {"until": "msg_1"}, "until"),
        (without(REMINDER, "until"), "until"),
        (REMINDER | {"notify": REMINDER["until"]}, "notify"),
    ],
)
def test_a_reminder_that_cannot_be_kept_is_refused(content: Any, field: str) -> None:
    with pytest.raises(InvalidPayload, match=f"^{field}"):
        parse_reminder(content, ACCEPTED)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (3, "the payload"),
        (ESCALATION | {"watch": REMINDER["notify"]}, "watch"),
        (ESCALATION | {"unless": "settled"}, "unless"),
        (without(ESCALATION, "afterSeconds"), "afterSeconds"),
        (ESCALATION | {"then": None}, "then"),
        (ESCALATION | {"then": ESCALATION["then"] | {"key": "a"}}, "then"),
        (ESCALATION | {"then": ESCALATION["then"] | {"channel": 3}}, "then.channel"),
        (ESCALATION | {"then": ESCALATION["then"] | {"type": "a\r\nb"}}, "then.type"),
        (ESCALATION | {"then": without(ESCALATION["then"], "payload")}, "then.payload"),
    ],
)
def test_an_escalation_that_cannot_be_made_is_refused(content: Any, field: str) -> None:
    with pytest.raises(InvalidPayload, match=f"^{field}"):
        parse_escalation(content)


def test_the_latest_of_several_missed_reminders_is_due() -> None:
    reminder = parse_reminder(REMINDER | {"everySeconds": 60, "max": 4}, ACCEPTED)
    due = {seconds: reminder.latest_due(ACCEPTED + timedelta(seconds=seconds)) for seconds in (59, 60, 119, 180, 9_999)}
    assert due == {59: None, 60: 0, 119: 0, 180: 2, 9_999: 3}


def test_a_single_reminder_has_a_time() -> None:
    reminder = parse_reminder(without(REMINDER, "afterSeconds") | {"at": "2026-02-01T09:00:00+01:00"}, ACCEPTED)
    assert (reminder.count, reminder.due(0)) == (1, datetime(2026, 2, 1, 8, tzinfo=UTC))
    assert reminder.latest_due(ACCEPTED + timedelta(days=9)) == 0
