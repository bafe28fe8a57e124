"""Tasks as they are shown, and what people send."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from api import patterns
from api.schemas import ApiModel, Integer, check_free_json
from everhook.decisions.service import SubmittedDecision, TaskView
from everhook.inbox.tasks import title_of
from everhook.storage import tables
from everhook.storage.tables import TaskState, now

TASK_GID = "tsk_01m83prhbfe23sdyzab24cmhby"
SUMMARY_EXAMPLE: dict[str, Any] = {
    "taskGid": TASK_GID,
    "deliveryGid": "dlv_01m83prhbfe23sdyzab24cmhbz",
    "messageGid": "msg_01m83prhbfe23sdyzab24cmhby",
    "inbox": "ep_01m83prhbfe23sdyzab24cmhby",
    "title": "Approve order 1042?",
    "state": "open",
    "version": 1,
    "assignees": ["ann@acme.example"],
    "createdAt": "2026-01-31T12:00:00Z",
    "dueAt": "2026-02-03T12:00:00Z",
    "overdue": False,
    "outcome": None,
    "decidedBy": None,
    "decidedAt": None,
}

MAX_COMMENT, MAX_NAME = 2_000, 200
Comment = Annotated[str, StringConstraints(max_length=MAX_COMMENT, pattern=patterns.NO_NUL)]
Assignee = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=patterns.NO_CONTROL)]
Data = Annotated[dict[str, Any], AfterValidator(check_free_json)]


class TaskDecision(ApiModel):
    """A person's decision. `version` is that of the task that was read."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"outcome": "approved", "comment": "Within the budget.", "version": 1}]}
    )

    outcome: Annotated[str, StringConstraints(max_length=64, pattern=patterns.NO_CONTROL)]
    comment: Comment = ""
    data: Data | None = None
    version: Integer = Field(ge=1)

    def submitted(self) -> SubmittedDecision:
        return SubmittedDecision(self.outcome, self.version, self.comment, self.data)


class Delegation(ApiModel):
    """Who decides instead."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "bo@acme.example", "comment": "On leave."}]})

    to: Assignee
    comment: Comment = ""


class TaskComment(ApiModel):
    """A comment, which decides nothing."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"comment": "I asked the supplier."}]})

    comment: Comment


class TaskLinkIn(ApiModel):
    """Whom a link is for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"assignee": "ann@acme.example"}]})

    assignee: Assignee = Field(description="One of those who are asked, or a member of a group that is.")


class TaskLinkOut(ApiModel):
    """A link to the page of one task for one person."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "url": "https://everhook.example.com/t/eyJhbGciOiJIUzI1NiJ9",
                    "expiresAt": "2026-02-03T12:00:00Z",
                }
            ]
        }
    )

    url: str = Field(description="Send it to this person only: its holder decides in the person's name.")
    expires_at: datetime = Field(description="The due date of the task, and 30 days from now at the latest.")


class TaskOut(ApiModel):
    """A task without its content."""

    model_config = ConfigDict(json_schema_extra={"examples": [SUMMARY_EXAMPLE]})

    task_gid: str
    delivery_gid: str
    message_gid: str
    inbox: str = Field(description="The endpoint that asks.")
    title: str
    state: TaskState
    version: int = Field(description="It grows when what is asked, or who is asked, changes.")
    assignees: list[str]
    created_at: datetime
    due_at: datetime
    overdue: bool
    outcome: str | None
    decided_by: str | None
    decided_at: datetime | None

    @classmethod
    def of(cls, row: tables.Task, **more: Any) -> Self:
        """`more` are the further fields of a subclass."""
        return cls(
            task_gid=row.gid,
            delivery_gid=row.delivery_gid,
            message_gid=row.message_gid,
            inbox=row.endpoint_gid,
            title=title_of(row.document),
            state=row.state,
            version=row.version,
            assignees=row.assignees,
            created_at=row.created_at,
            due_at=row.due_at,
            overdue=row.state is TaskState.OPEN and row.due_at <= now(),
            outcome=row.outcome,
            decided_by=row.decided_by,
            decided_at=row.decided_at,
            **more,
        )


class PersonalDecision(ApiModel):
    """One person's decision; a quorum needs several."""

    by: str
    outcome: str
    comment: str | None
    data: dict[str, Any] | None
    at: datetime


class TaskDetail(TaskOut):
    """A task with the payload that it is about."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **SUMMARY_EXAMPLE,
                    "task": {"title": "Approve order 1042?", "kind": "approval", "quorum": 1},
                    "payload": {"orderId": 1042, "amount": 99.5},
                    "comment": None,
                    "data": None,
                    "requestedBy": "shop",
                    "remindersSent": 0,
                    "escalatedAt": None,
                    "escalatedTo": None,
                    "decisions": [],
                    "notes": [],
                    "chain": [SUMMARY_EXAMPLE],
                    "receiptGid": None,
                }
            ]
        }
    )

    task: dict[str, Any] = Field(description="The whole document, as it was when the message was accepted.")
    payload: Any = Field(description="Null once it was erased.")
    comment: str | None
    data: dict[str, Any] | None
    requested_by: str | None = Field(description="The name of the publisher's key.")
    reminders_sent: int
    escalated_at: datetime | None
    escalated_to: str | None = Field(description="The other inbox that asks as well since then.")
    decisions: list[PersonalDecision]
    notes: list[dict[str, Any]] = Field(description="Comments, delegations, reminders and escalations, oldest first.")
    chain: list[TaskOut] = Field(description="All tasks of the message, in their order.")
    receipt_gid: str | None = Field(description="The receipt of the decision.")

    @classmethod
    def of_view(cls, view: TaskView) -> "TaskDetail":
        """Without the payload, which is not to be parsed and written again."""
        task = view.row.task
        return cls.of(
            task,
            task=task.document,
            payload=None,
            comment=task.comment,
            data=task.data,
            requested_by=task.requested_by,
            reminders_sent=task.reminders_sent,
            escalated_at=task.escalated_at,
            escalated_to=task.escalated_to,
            decisions=[
                PersonalDecision(
                    by=each.actor, outcome=each.outcome, comment=each.comment, data=each.data, at=each.decided_at
                )
                for each in view.decisions
            ],
            notes=task.notes,
            chain=[TaskOut.of(each) for each in view.chain],
            receipt_gid=view.receipt_gid,
        )
