"""Operational events for operators, published as messages on a channel of Everhook itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from everhook.delivery.body_formats import timestamp

RESERVED = "everhook."
"""The prefix of Everhook's own channels: callers cannot create, delete or publish to them."""

EVENTS_CHANNEL = "everhook.events"
TASKS_CHANNEL = "everhook.tasks"


def is_reserved(channel: str) -> bool:
    return channel.startswith(RESERVED)


class EventKind(StrEnum):
    """The kind of an event, which is the type of its message: subscriptions can filter by it."""

    CIRCUIT_OPENED = "endpoint.circuit_opened"
    CIRCUIT_CLOSED = "endpoint.circuit_closed"
    ENDPOINT_PAUSED = "endpoint.paused"
    ENDPOINT_RESUMED = "endpoint.resumed"
    ENDPOINT_DISABLED = "endpoint.disabled"
    ENDPOINT_ENABLED = "endpoint.enabled"
    UNCLAIMED = "endpoint.unclaimed"
    HEALTH_CHANGED = "endpoint.health_changed"
    ALERT_RAISED = "endpoint.alert_raised"
    ALERT_CLEARED = "endpoint.alert_cleared"
    DEAD_LETTERED = "delivery.dead_lettered"
    DEAD_LETTERS = "dead_letters.threshold"
    SUCCESS_RATE = "health.success_rate_low"
    UNDISPATCHED = "dispatch.oldest_undispatched"
    CHECKPOINT = "receipts.checkpoint"
    LOG_DAMAGED = "receipts.log_damaged"
    TASK_OPENED = "task.opened"
    TASK_REMINDED = "task.reminded"
    TASK_ESCALATED = "task.escalated"
    TASK_DELEGATED = "task.delegated"
    TASK_DECIDED = "task.decided"
    TASK_EXPIRED = "task.expired"


RECURRING_KINDS = frozenset(
    {
        EventKind.CIRCUIT_OPENED,
        EventKind.CIRCUIT_CLOSED,
        EventKind.HEALTH_CHANGED,
        EventKind.ALERT_RAISED,
        EventKind.ALERT_CLEARED,
    }
)
"""Kinds of events that deliveries to an endpoint can cause again and again."""


@dataclass(frozen=True)
class Event:
    """An event. `tenant_gid` is the tenant that it concerns; None: it concerns the publisher only."""

    gid: str
    kind: str
    tenant_gid: str | None
    tenant: str | None
    endpoint_gid: str | None
    delivery_gid: str | None
    data: Mapping[str, Any]
    created_at: datetime

    @property
    def channel(self) -> str:
        """The channel that it is published on."""
        return TASKS_CHANNEL if self.kind.startswith("task.") else EVENTS_CHANNEL

    @property
    def is_of_endpoint(self) -> bool:
        return self.kind.startswith("endpoint.")

    @property
    def is_orphaned(self) -> bool:
        """Whether its tenant is being erased, or was erased."""
        return self.tenant_gid is not None and self.tenant is None

    @property
    def is_relapse(self) -> bool:
        """Whether a circuit opened again after a failed probe. Such an event is stored but not published."""
        return self.kind == EventKind.CIRCUIT_OPENED and self.data.get("openings", 1) > 1

    def payload(self) -> dict[str, Any]:
        """The payload of the event's message."""
        return {
            "eventGid": self.gid,
            "kind": self.kind,
            "occurredAt": timestamp(self.created_at),
            "tenant": self.tenant,
            "endpointGid": self.endpoint_gid,
            "deliveryGid": self.delivery_gid,
            "data": dict(self.data),
        }
