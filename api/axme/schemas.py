"""Bodies of AXME's clients. JSON in them keeps the bytes that were received."""

from datetime import datetime
from typing import Any

import msgspec


class HumanTask(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`notify_email` is accepted and not used: subscribe an endpoint of the mode `internal` to the inbox instead."""

    title: str | None = None
    description: str | None = None
    task_type: str = "approval"
    allowed_outcomes: list[str] | None = None
    required_comment: bool = False
    assignees: list[str] | None = None
    evidence_required: bool = False
    form_schema: dict[str, Any] | None = None
    notify_email: str | None = None


class IntentBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`from_agent` is accepted and not used, as in AXME: the key says who sends."""

    intent_type: str
    correlation_id: str
    to_agent: str
    payload: msgspec.Raw
    from_agent: str | None = None
    reply_to: str | None = None
    deadline_at: datetime | None = None
    remind_after_seconds: int | None = None
    remind_interval_seconds: int | None = None
    max_reminders: int | None = None
    escalate_to: str | None = None
    max_delivery_attempts: int | None = None
    human_task: HumanTask | None = None


class ResolveBody(msgspec.Struct, frozen=True):
    status: str
    result: msgspec.Raw = msgspec.Raw(b"{}")
    error: msgspec.Raw = msgspec.Raw()
    reason: str | None = None


class TaskResult(msgspec.Struct, frozen=True):
    outcome: str
    comment: str | None = None
    data: dict[str, Any] | None = None


decode_intent = msgspec.json.Decoder(IntentBody)
decode_resolve = msgspec.json.Decoder(ResolveBody)
decode_resume = msgspec.json.Decoder(dict[str, msgspec.Raw])
decode_task_result = msgspec.json.Decoder(TaskResult)
