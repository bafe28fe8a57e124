"""The rows of new deliveries, and of what belongs to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from everhook.contracts import DeliveryInput, DeliveryStatus
from everhook.ids import Kind, new_gid
from everhook.inbox.events import task_event
from everhook.inbox.schedule import Schedule
from everhook.inbox.tasks import defaults_of, filled
from everhook.notifications.events import EventKind
from everhook.publishing.routing import Route
from everhook.storage.tables import Task, TaskState


@dataclass(frozen=True)
class Publisher:
    """The key that a message was published with: its gid and its name. Both are None for what Everhook publishes, and
    the key of the environment has no gid."""

    key_gid: str | None = None
    name: str | None = None


def new_task(
    delivery: DeliveryInput, route: Route, given: Mapping[str, Any], publisher: Publisher, moment: datetime
) -> dict[str, Any]:
    """The row of the task of a delivery to an inbox."""
    title = f"{route.options.get('name', 'Inbox')}: {delivery.event_type}"
    document = filled(given, defaults_of(route.options), title)
    schedule = Schedule.of(document, moment)
    return {
        "gid": new_gid(Kind.TASK),
        "tenant_gid": route.tenant_gid,
        "delivery_gid": delivery.delivery_gid,
        "message_gid": delivery.message_gid,
        "endpoint_gid": route.endpoint_gid,
        "document": document,
        "assignees": document["assignees"],
        "requested_by": publisher.name,
        "requester_key_gid": publisher.key_gid,
        "state": TaskState.OPEN,
        "version": 1,
        "created_at": moment,
        "due_at": schedule.due_at,
        "reminders_sent": 0,
        "remind_at": schedule.remind_at,
        "notes": [],
    }


def opened_events(task: Mapping[str, Any], delivery: DeliveryInput, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the outbox for a new task: one, or none on a channel of Everhook itself."""
    event = task_event(
        EventKind.TASK_OPENED, Task(**task), channel=delivery.channel, event_type=delivery.event_type, options=options
    )
    return [event] if event is not None else []


def delivery_row(
    delivery: DeliveryInput,
    tenant_gid: str,
    moment: datetime,
    *,
    due_at: datetime,
    parked: bool,
    subscription_gid: str | None = None,
) -> dict[str, Any]:
    return {
        "gid": delivery.delivery_gid,
        "tenant_gid": tenant_gid,
        "message_gid": delivery.message_gid,
        "endpoint_gid": delivery.endpoint_gid,
        "channel": delivery.channel,
        "event_type": delivery.event_type,
        "subscription_gid": subscription_gid,
        "status": DeliveryStatus.PARKED if parked else DeliveryStatus.ACCEPTED,
        "round": delivery.round,
        "attempts": 0,
        "accepted_at": moment,
        "due_at": due_at,
        "dispatched_at": None,
        "parked_at": moment if parked else None,
        "single_attempt": None,
        "group_key": None,
    }


def pulled_row(
    delivery: DeliveryInput, tenant_gid: str, moment: datetime, subscription_gid: str | None
) -> dict[str, Any]:
    """The row of a pulled delivery. It counts as dispatched, because it waits for a consumer and for no workflow."""
    due_at = moment + delivery.policy.max_window
    row = delivery_row(delivery, tenant_gid, moment, due_at=due_at, parked=False, subscription_gid=subscription_gid)
    return row | {"status": DeliveryStatus.AVAILABLE, "dispatched_at": moment}


def asked_row(
    delivery: DeliveryInput,
    tenant_gid: str,
    moment: datetime,
    due_at: datetime,
    subscription_gid: str | None = None,
) -> dict[str, Any]:
    """The row of a delivery to an inbox. Its workflow is started after the commit; if it was not by `due_at`, the
    reconciler starts it."""
    row = delivery_row(delivery, tenant_gid, moment, due_at=due_at, parked=False, subscription_gid=subscription_gid)
    return row | {"status": DeliveryStatus.AWAITING_DECISION}


def gated_row(
    delivery: DeliveryInput, tenant_gid: str, moment: datetime, subscription_gid: str | None
) -> dict[str, Any]:
    """The row of a delivery that waits for a gate. It counts as dispatched and nothing of it is due, because it waits
    for people and for no workflow."""
    row = delivery_row(delivery, tenant_gid, moment, due_at=moment, parked=False, subscription_gid=subscription_gid)
    return row | {"status": DeliveryStatus.GATED, "due_at": None, "dispatched_at": moment}


def queued_row(
    delivery: DeliveryInput, tenant_gid: str, moment: datetime, subscription_gid: str | None
) -> dict[str, Any]:
    """The row of a delivery that waits for those before it in its group. It counts as dispatched and nothing of it is
    due, because the transaction that settles the one before frees it."""
    row = delivery_row(delivery, tenant_gid, moment, due_at=moment, parked=False, subscription_gid=subscription_gid)
    return row | {"status": DeliveryStatus.QUEUED, "due_at": None, "dispatched_at": moment}
