"""From AXME's bodies to the terms of the kernel, and from intents to what AXME's clients read."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import orjson

from api.axme.schemas import HumanTask, IntentBody, TaskResult, decode_task_result
from api.decoding import checked_utf8, decoded
from api.problems import invalid
from api.pulling.acks import MAX_REASON, MAX_RESULT
from everhook.axme.intents import Intent, IntentEvent
from everhook.axme.service import NewIntent
from everhook.delivery.body_formats import timestamp
from everhook.errors import InvalidField, PayloadTooLarge
from everhook.inbox.tasks import parse_spec
from everhook.storage.tables import Endpoint

MIN_TASK_S = 60

_KINDS: Mapping[str, str] = {
    "approval": "approval",
    "review": "review",
    "confirmation": "confirmation",
    "form": "form",
    "assignment": "assignment",
    "clarification": "clarification",
    "manual_action": "manual_action",
    "override": "override",
    "provide_data": "clarification",
    "attach_file": "manual_action",
    "validate_real_world": "confirmation",
    "validate_output": "confirmation",
    "delegation": "assignment",
    "reroute": "assignment",
    "escalate": "override",
}
"""AXME's types of tasks, each with the kind that asks the same."""

_DECLINES = frozenset(
    {"rejected", "denied", "declined", "failed", "changes_requested", "canceled", "cancelled", "refused", "no"}
)
"""The names of outcomes that decline. AXME's outcomes have no `effect`, only names."""

_FIELDS: Mapping[str, str] = {
    "human_task.outcomes": "human_task.allowed_outcomes",
    "human_task.form": "human_task.form_schema",
    "human_task.dueSeconds": "deadline_at",
    "human_task.reminders.afterSeconds": "remind_after_seconds",
    "human_task.reminders.everySeconds": "remind_interval_seconds",
    "human_task.reminders.max": "max_reminders",
    "human_task.escalation.afterReminders": "max_reminders",
    "human_task.escalation.to": "escalate_to",
}
"""Fields of a task, each with the one that AXME's clients send."""


def new_intent(body: IntentBody, idempotency_key: str | None) -> NewIntent:
    """Raises 422 for what cannot be kept."""
    if body.max_delivery_attempts is not None:
        raise invalid("max_delivery_attempts", "is not supported: the agent's endpoint has a policy")
    deadline = body.deadline_at
    return NewIntent(
        intent_type=body.intent_type,
        correlation_id=body.correlation_id,
        to_agent=body.to_agent,
        payload=bytes(body.payload),
        reply_to=body.reply_to,
        deadline_at=deadline,
        task=_task(body, body.human_task) if body.human_task is not None else None,
        idempotency_key=idempotency_key,
    )


def _task(body: IntentBody, asked: HumanTask) -> dict[str, Any]:
    """The task as an inbox takes it."""
    kind = _KINDS.get(asked.task_type)
    if kind is None:
        raise invalid("human_task.task_type", f"is one of {', '.join(_KINDS)}")
    if asked.evidence_required:
        raise invalid("human_task.evidence_required", "is not supported: make it a field of `form_schema`")
    spec: dict[str, Any] = {
        "kind": kind,
        "title": asked.title[:200] if asked.title is not None else None,
        "description": asked.description,
        "assignees": asked.assignees,
        "form": asked.form_schema,
    }
    if asked.allowed_outcomes is not None:
        comment = "required" if asked.required_comment else "optional"
        spec["outcomes"] = [
            {"name": name, "effect": "decline" if name in _DECLINES else "pass", "comment": comment}
            for name in asked.allowed_outcomes
        ]
    if body.deadline_at is not None and body.deadline_at.tzinfo is not None:
        left = round((body.deadline_at - datetime.now(UTC)) / timedelta(seconds=1))
        if left < MIN_TASK_S:
            raise invalid("deadline_at", f"leaves people less than {MIN_TASK_S} s")
        spec["dueSeconds"] = left
    if body.remind_after_seconds is not None:
        spec["reminders"] = {
            "afterSeconds": body.remind_after_seconds,
            "everySeconds": body.remind_interval_seconds or body.remind_after_seconds,
            "max": body.max_reminders or 1,
        }
    if body.escalate_to is not None:
        spec["escalation"] = {"afterReminders": body.max_reminders or 1, "to": body.escalate_to}
    try:
        return parse_spec({name: value for name, value in spec.items() if value is not None}, "human_task").document()
    except InvalidField as error:
        raise invalid(_named_by_axme(error.field), error.message) from error


def _named_by_axme(field: str) -> str:
    """AXME's name of a field of a task."""
    for name, axme in _FIELDS.items():
        if field.startswith(name):
            return axme + field.removeprefix(name)
    return field


def result_of_resume(body: Mapping[str, msgspec.Raw]) -> bytes:
    """What an agent that completes an intent responds: all that it sent but `action`."""
    return checked_result(_without_action(body))


def _without_action(body: Mapping[str, msgspec.Raw]) -> bytes:
    return msgspec.json.encode({name: value for name, value in body.items() if name != "action"})


def checked_result(result: bytes) -> bytes:
    if len(result) > MAX_RESULT:
        raise PayloadTooLarge("result", f"has {len(result)} bytes; at most {MAX_RESULT} are accepted", "too_large")
    return checked_utf8(result, "result")


def reason_of(body: Mapping[str, msgspec.Raw]) -> str:
    """Why an agent fails an intent: its `reason`, or all that it sent but `action`, shortened."""
    reason = text_of(body.get("reason"))
    if reason is None:
        reason = checked_utf8(_without_action(body), "body").decode()
    return reason[:MAX_REASON]


def text_of(raw: msgspec.Raw | None) -> str | None:
    """The text in a member; None if it is absent or no text."""
    value = msgspec.json.decode(raw) if raw is not None else None
    return value if isinstance(value, str) else None


def task_result(raw: msgspec.Raw) -> TaskResult:
    return decoded(decode_task_result, bytes(raw))


def shown_intent(intent: Intent) -> dict[str, Any]:
    """An intent as `GET /v1/intents/{id}` has it."""
    latest, envelope = intent.latest, intent.envelope
    shown: dict[str, Any] = {
        "intent_id": str(intent.id),
        "status": latest.status.value,
        "lifecycle_status": latest.status.value,
        "lifecycle_waiting_reason": latest.waiting_for,
        "created_at": timestamp(intent.history.delivery.accepted_at),
        "updated_at": timestamp(latest.at),
        "intent_type": intent.intent_type,
        "correlation_id": envelope.correlation_id,
        "from_agent": envelope.from_agent,
        "to_agent": envelope.to_agent,
        "payload": orjson.Fragment(envelope.payload) if envelope.payload is not None else None,
    }
    if envelope.reply_to is not None:
        shown["reply_to"] = envelope.reply_to
    if envelope.deadline_at is not None:
        shown["deadline_at"] = timestamp(envelope.deadline_at)
    if "result" in latest.details:
        shown["result"] = orjson.Fragment(latest.details["result"])
    if intent.task_gid is not None:
        shown["task_id"] = intent.task_gid
    return shown


def shown_event(intent_id: str, event: IntentEvent) -> dict[str, Any]:
    details = {name: _shown(name, value) for name, value in event.details.items()}
    shown: dict[str, Any] = {
        "intent_id": intent_id,
        "seq": event.seq,
        "event_type": event.status.event,
        "status": event.status.value,
        "at": timestamp(event.at),
        "details": details,
    }
    return shown | ({"waiting_reason": event.waiting_for} if event.waiting_for is not None else {})


def _shown(name: str, value: Any) -> Any:
    if name == "result":
        return orjson.Fragment(value)
    return timestamp(value) if isinstance(value, datetime) else value


def shown_agent(row: Endpoint) -> dict[str, Any]:
    address = row.description
    return {
        "address": address,
        "service_account_id": row.gid,
        "service_account_name": address.rpartition("/")[2],
        "display_name": None,
        "status": "active",
        "created_at": timestamp(row.created_at),
    }
