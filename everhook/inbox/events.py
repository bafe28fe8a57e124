"""The events about tasks, on the channel `everhook.tasks`. They contain neither the payload nor what was written into a
form."""

from collections.abc import Mapping
from typing import Any

from everhook.delivery.body_formats import timestamp
from everhook.ids import Kind, new_gid
from everhook.inbox.tasks import groups_of, people_of, title_of
from everhook.notifications.events import EventKind, is_reserved
from everhook.storage.tables import Task, now


def task_event(
    kind: EventKind, task: Task, *, channel: str, event_type: str, options: Mapping[str, Any], **more: Any
) -> dict[str, Any] | None:
    """The row of an event in the outbox. None for the task of a message of Everhook itself: an inbox that receives
    these events would feed itself. `options` are those of the inbox."""
    if is_reserved(channel):
        return None
    return {
        "gid": new_gid(Kind.EVENT),
        "kind": kind,
        "tenant_gid": task.tenant_gid,
        "endpoint_gid": task.endpoint_gid,
        "delivery_gid": task.delivery_gid,
        "data": {
            "taskGid": task.gid,
            "messageGid": task.message_gid,
            "channelName": channel,
            "type": event_type,
            "title": title_of(task.document),
            "inbox": task.endpoint_gid,
            "inboxName": options.get("name", ""),
            "assignees": task.assignees,
            "people": people_of(task.assignees, groups_of(options)),
            "dueAt": timestamp(task.due_at),
            **more,
        },
        "created_at": now(),
    }
