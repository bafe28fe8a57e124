"""When an open task is reminded of, escalated, and due. Pure.

The times are those of the task's row, and each step sets the next one. So a step that was late, because Temporal or the
workers were down, delays those after it: people never get several reminders at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self


class Step(StrEnum):
    REMIND = "remind"
    ESCALATE = "escalate"
    END = "end"


@dataclass(frozen=True)
class Schedule:
    """`remind_at`: when the next reminder is due, or the escalation if it comes first. None: nothing comes before
    `due_at`."""

    document: Mapping[str, Any]
    due_at: datetime
    remind_at: datetime | None = None
    reminders_sent: int = 0
    is_escalated: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any], asked_at: datetime) -> Self:
        """That of a task which is asked now."""
        reminders = document.get("reminders")
        remind_at = asked_at + timedelta(seconds=reminders["afterSeconds"]) if reminders else None
        return cls(document, asked_at + timedelta(seconds=document["dueSeconds"]), remind_at)

    @property
    def reminders(self) -> int:
        """How many reminders are sent at most."""
        return int((self.document.get("reminders") or {}).get("max", 0))

    @property
    def next_at(self) -> datetime:
        return min(self.remind_at, self.due_at) if self.remind_at is not None else self.due_at

    def step(self, moment: datetime) -> Step | None:
        """The step that is due; None before its time. Of several, the first."""
        if self.due_at <= moment:
            return Step.ESCALATE if self._may_escalate else Step.END
        if self.remind_at is None or self.remind_at > moment:
            return None
        return Step.ESCALATE if self._escalates_next else Step.REMIND

    def reminded(self, moment: datetime) -> "Schedule":
        """After a reminder."""
        return replace(self, reminders_sent=self.reminders_sent + 1)._after(moment)

    def escalated(self, moment: datetime) -> "Schedule":
        """After the escalation. At the due date it gives everyone the same time again, once."""
        due_at = self.due_at
        if due_at <= moment:
            due_at = moment + timedelta(seconds=self.document["dueSeconds"])
        return replace(self, is_escalated=True, due_at=due_at)._after(moment)

    def _after(self, moment: datetime) -> "Schedule":
        has_more = self.reminders_sent < self.reminders or self._escalates_next
        every = (self.document.get("reminders") or {}).get("everySeconds")
        return replace(self, remind_at=moment + timedelta(seconds=every) if has_more and every else None)

    @property
    def _may_escalate(self) -> bool:
        return not self.is_escalated and self.document.get("escalation") is not None

    @property
    def _escalates_next(self) -> bool:
        return self._may_escalate and self.reminders_sent >= self.document["escalation"]["afterReminders"]
