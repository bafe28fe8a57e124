"""The calls of the API as values: what is sent, and the type of what is received. Pure.

Each operation is one function, which both clients have as a method.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from everhook_client import models
from everhook_client.errors import InvalidName

JSON_TYPE = {"content-type": "application/json"}
MAX_WAIT_S = 55.0

T = TypeVar("T")
Several = str | Sequence[str] | None
"""One value, or several of which any matches."""


class RawJson(bytes):
    """JSON that is sent byte for byte, for instance as a payload."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and the type of the JSON in its response. `is_repeatable`: to repeat it changes nothing more.
    `waits_s`: how long the API may take before it responds, in addition to the usual time."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True
    waits_s: float = 0.0


@dataclass(frozen=True)
class Listing(Generic[T]):
    """A list that is read page by page."""

    path: str
    query: Mapping[str, Any]

    def page(self, cursor: str | None, limit: int | None = None) -> Call[dict[str, Any]]:
        return Call("GET", self.path, {**self.query, "limit": limit, "cursor": cursor})


def path(*parts: str) -> str:
    """`/v1/…` with gids and names. Raises InvalidName for parts that would change the path."""
    for part in parts:
        if not part or part in (".", "..") or "/" in part:
            raise InvalidName(f"{part!r} is neither a gid nor a name")
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


def given(query: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that have a value."""
    return {name: value for name, value in query.items() if value is not None and value != []}


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.title() for other in others)


def _event_type(name: str) -> str:
    """The path of an event type, whose name may have slashes."""
    if not name or name.startswith("/") or set(name.split("/")) & {"", ".", ".."}:
        raise InvalidName(f"{name!r} is no event type")
    return f"{path('event-types')}/{quote(name, safe='')}"


def gid_of(message: str | models.PublishedMessage) -> str:
    return message if isinstance(message, str) else message["messageGid"]


def _get(*parts: str, **query: Any) -> Call[Any]:
    return Call("GET", path(*parts), given(query))


def _post_once(*parts: str, body: Any = None) -> Call[Any]:
    """A call that creates or starts something, with a key so that it can be repeated."""
    content = None if body is None else json.dumps(body).encode()
    headers = {"idempotency-key": uuid.uuid4().hex, **(JSON_TYPE if content is not None else {})}
    return Call("POST", path(*parts), content=content, headers=headers)


def _command(*parts: str) -> Call[Any]:
    """A command that sets a state: to repeat it changes nothing more."""
    return Call("POST", path(*parts))


def _post(*parts: str, body: Any, is_repeatable: bool = True) -> Call[Any]:
    """A call that takes no key."""
    return Call("POST", path(*parts), content=json.dumps(body).encode(), headers=JSON_TYPE, is_repeatable=is_repeatable)


def _patch(*parts: str, body: Any) -> Call[Any]:
    return Call("PATCH", path(*parts), content=json.dumps(body).encode(), headers=JSON_TYPE)


def _delete(*parts: str) -> Call[None]:
    return Call("DELETE", path(*parts), is_repeatable=False)


def _list(*parts: str, **query: Any) -> Listing[Any]:
    return Listing(path(*parts), given({camel(name): value for name, value in query.items()}))


# Messages


def publish(
    channel: str,
    payload: Any,
    *,
    type: str | None = None,
    idempotency_key: str | None = None,
    tenant: str | None = None,
    published_at: str | None = None,
    task: Mapping[str, Any] | None = None,
    gates: Sequence[models.GateStep] | None = None,
    metadata: Mapping[str, str] | None = None,
    endpoint_gid: str | None = None,
    retry: bool = True,
    deliver_at: str | None = None,
    delay_seconds: float | None = None,
    group_key: str | None = None,
) -> Call[models.PublishedMessage]:
    """Publish a message. When it returns, the message and a delivery to each matching endpoint are committed.

    The payload is any JSON. `type` falls back to `event` in the payload. Without `idempotency_key` one is generated, so
    that a repeated request never publishes twice; give your own to be safe across restarts of your program as well.
    `published_at` is a time in RFC 3339. `task` is what inboxes ask people. `gates` are the steps of approval before
    the message is sent, instead of those of the channel; `[]`: none. `metadata` are attributes that receivers get.
    `endpoint_gid`: to this endpoint alone. Without `retry` a delivery has one attempt. `deliver_at` (RFC 3339) or
    `delay_seconds`: deliver it later, by 30 days at most. Endpoints get messages with the same `group_key` in order.
    """
    members = {
        "type": type,
        "idempotencyKey": idempotency_key or uuid.uuid4().hex,
        "tenant": tenant,
        "publishedAt": published_at,
        "task": task,
        "gates": gates,
        "metadata": metadata,
        "endpointGid": endpoint_gid,
        "retry": None if retry else False,
        "deliverAt": deliver_at,
        "delaySeconds": delay_seconds,
        "groupKey": group_key,
    }
    message = {name: value for name, value in members.items() if value is not None} | {"payload": payload}
    return Call("POST", path("channels", channel, "messages"), content=_object(message), headers=JSON_TYPE)


def publish_batch(
    channel: str, messages: Sequence[models.NewMessage], *, idempotency_key: str | None = None
) -> Call[models.PublishedMessages]:
    """Publish up to 500 messages in one transaction. An invalid one refuses all of them.

    Messages have the names of the API: `{"payload": …, "type": …}`. Those without an `idempotencyKey` have one of
    `idempotency_key`, or of a generated key, and their index. `data` of the result has an element for each message: the
    published message, or a problem if its key was used with another body.
    """
    content = b'{"messages": [%b]}' % b", ".join(_object(message) for message in messages)
    headers = {**JSON_TYPE, "idempotency-key": idempotency_key or uuid.uuid4().hex}
    return Call("POST", path("channels", channel, "messages", "batch"), content=content, headers=headers)


def _object(members: Mapping[str, Any]) -> bytes:
    """A JSON object. RawJson stays as it is."""
    written = [
        b"%b: %b"
        % (
            json.dumps(name).encode(),
            value if isinstance(value, RawJson) else json.dumps(value, allow_nan=False).encode(),
        )
        for name, value in members.items()
    ]
    return b"{%b}" % b", ".join(written)


def wait_once(
    message: str | models.PublishedMessage, timeout: float, until: models.Until
) -> Call[models.MessageResult]:
    """Wait for a message in one request, up to 55 s."""
    seconds = max(0.0, min(timeout, MAX_WAIT_S))
    query = {"timeoutSeconds": round(seconds, 3), "until": until}
    return Call("GET", path("messages", gid_of(message), "wait"), query, waits_s=seconds)


def has_waited(response: models.MessageResult, until: models.Until) -> bool:
    """Whether what was waited for has happened."""
    if response["state"] == "settled" or until == "settled":
        return response["state"] == "settled"
    # Of many deliveries a response has the first ones only: the API knows whether one of the others is settled.
    return response["moreDeliveries"] or any(each["completedAt"] is not None for each in response["deliveries"])


def list_messages(
    *, channel: Several = None, type: Several = None, tenant: Several = None, since: str | None = None,
    until: str | None = None, unrouted: bool = False,
) -> Listing[models.Message]:  # fmt: skip
    """Messages without their payloads, newest first. `since` and `until` bound the time of acceptance. `unrouted`: only
    those that no endpoint took."""
    return _list(
        "messages", channel=channel, type=type, tenant=tenant, since=since, until=until, unrouted=unrouted or None
    )


def get_message(gid: str) -> Call[models.MessageDetail]:
    """A message with its payload, and its newest deliveries."""
    return _get("messages", gid)


def redeliver_message(
    gid: str, *, endpoint_gid: str | None = None, reason: str = ""
) -> Call[models.RedeliveredMessage]:
    """Send a message again after its deliveries have ended: to all its endpoints and those that match, or to one."""
    return _post_once("messages", gid, "redeliver", body=given({"endpointGid": endpoint_gid, "reason": reason}))


def replay_channel(
    channel: str, mode: models.ReplayMode, *, since: str, until: str | None = None, endpoint_gid: str | None = None,
    tenant: str | None = None, types: Sequence[str] | None = None, reason: str = "", dry_run: bool = False,
) -> Call[models.Replay]:  # fmt: skip
    """Send the messages of a time range again: those that failed, all, or those that an endpoint never had. `dry_run`
    only counts them; otherwise `get_batch` shows the progress."""
    members = {"mode": mode, "since": since, "until": until, "endpointGid": endpoint_gid, "tenant": tenant}
    body = given({**members, "types": types, "reason": reason, "dryRun": dry_run})
    return _post_once("channels", channel, "replay", body=body)


def cancel_message(gid: str) -> Call[models.MessageDetail]:
    """Cancel a message that waits for its `deliver_at`."""
    return Call("POST", path("messages", gid, "cancel"))


def list_message_events(gid: str) -> Listing[models.LifecycleEvent]:
    """What happened to a message, delivery by delivery."""
    return _list("messages", gid, "events")


# Tasks


def list_tasks(
    *, state: models.TaskState | Sequence[models.TaskState] | None = None, inbox: Several = None,
    assignee: str | None = None, overdue: bool = False,
) -> Listing[models.Task]:  # fmt: skip
    """What inboxes ask people, newest first. `assignee` is named among those who are asked. `overdue`: only open tasks
    that are past their due date."""
    return _list("tasks", state=state, inbox=inbox, assignee=assignee, overdue=overdue or None)


def get_task(gid: str) -> Call[models.TaskDetail]:
    """A task with the payload that it is about, its decisions, and all tasks of its message."""
    return _get("tasks", gid)


def decide_task(
    gid: str, outcome: str, *, version: int, comment: str = "", data: Mapping[str, Any] | None = None
) -> Call[models.TaskDetail]:
    """Decide a task in the name of the key, finally. `version` is that of the task that was read: if it has changed
    since then, nothing is decided. `data` is what the form asks for. The same decision again changes nothing."""
    body = given({"outcome": outcome, "version": version, "comment": comment, "data": data})
    return _post("tasks", gid, "decide", body=body)


def delegate_task(gid: str, to: str, *, comment: str = "") -> Call[models.TaskDetail]:
    """Have someone else decide instead. The other assignees are still asked; if the task has no assignees, only `to` is
    asked from then on."""
    return _post("tasks", gid, "delegate", body={"to": to, "comment": comment}, is_repeatable=False)


def comment_on_task(gid: str, comment: str) -> Call[models.TaskDetail]:
    """Add a comment, which decides nothing."""
    return _post("tasks", gid, "comment", body={"comment": comment}, is_repeatable=False)


def create_task_link(gid: str, assignee: str) -> Call[models.TaskLink]:
    """Create a link to a page on which one person can decide one task without signing in. Its holder decides in the
    person's name."""
    return _post("tasks", gid, "links", body={"assignee": assignee})


# Channels


def list_channels() -> Listing[models.Channel]:
    """Channels, by name."""
    return _list("channels")


def create_channel(channel: models.ChannelIn) -> Call[models.Channel]:
    """Create a channel, so that messages can be published to it."""
    return _post_once("channels", body=channel)


def get_channel(name: str) -> Call[models.Channel]:
    """A channel with its policy."""
    return _get("channels", name)


def update_channel(name: str, changes: models.ChannelPatch) -> Call[models.Channel]:
    """Change the fields that are given."""
    return _patch("channels", name, body=changes)


def delete_channel(name: str) -> Call[None]:
    """Delete a channel without subscriptions."""
    return _delete("channels", name)


# Event types


def list_event_types(*, archived: bool | None = None) -> Listing[models.EventTypeSummary]:
    """The catalogue by name, without schemas and examples."""
    return _list("event-types", archived=None if archived is None else str(archived).lower())


def create_event_type(event_type: models.EventTypeIn) -> Call[models.EventType]:
    """Add an event type to the catalogue."""
    return _post_once("event-types", body=event_type)


def get_event_type(name: str) -> Call[models.EventType]:
    """An event type with its schema and example."""
    return Call("GET", _event_type(name))


def update_event_type(name: str, changes: models.EventTypePatch) -> Call[models.EventType]:
    """Change the fields that are given."""
    return Call("PATCH", _event_type(name), content=json.dumps(changes).encode(), headers=JSON_TYPE)


def delete_event_type(name: str) -> Call[None]:
    """Delete an event type from the catalogue."""
    return Call("DELETE", _event_type(name), is_repeatable=False)


def import_event_types(document: Mapping[str, Any], *, dry_run: bool = False) -> Call[models.EventTypeImport]:
    """Create and change the event types that an OpenAPI document describes under `webhooks`."""
    return _post("event-types", "import", body={"document": document, "dryRun": dry_run})


def export_event_types() -> Call[dict[str, Any]]:
    """The event types that are not archived, as an OpenAPI document."""
    return _get("event-types", "openapi.json")


# Endpoints


def list_endpoints(*, tenant: Several = None) -> Listing[models.Endpoint]:
    """Endpoints, newest first."""
    return _list("endpoints", tenant=tenant)


def create_endpoint(endpoint: models.EndpointIn) -> Call[models.EndpointCreated]:
    """Create an endpoint and, with `channel` or `events`, its first subscription. Its secret is shown this once."""
    return _post_once("endpoints", body=endpoint)


def get_endpoint(gid: str) -> Call[models.Endpoint]:
    """An endpoint with the state of its circuit."""
    return _get("endpoints", gid)


def update_endpoint(gid: str, changes: models.EndpointPatch) -> Call[models.Endpoint]:
    """Change the fields that are given."""
    return _patch("endpoints", gid, body=changes)


def delete_endpoint(gid: str) -> Call[None]:
    """Delete an endpoint and its subscriptions. Its open deliveries become dead letters."""
    return _delete("endpoints", gid)


def pause_endpoint(gid: str) -> Call[models.Endpoint]:
    """Send nothing until it is resumed. Its messages are parked, not dropped."""
    return _command("endpoints", gid, "pause")


def resume_endpoint(gid: str) -> Call[models.Endpoint]:
    """End the pause."""
    return _command("endpoints", gid, "resume")


def enable_endpoint(gid: str) -> Call[models.Endpoint]:
    """Enable an endpoint that was disabled."""
    return _command("endpoints", gid, "enable")


def disable_endpoint(gid: str) -> Call[models.Endpoint]:
    """Send nothing until it is enabled."""
    return _command("endpoints", gid, "disable")


def trip_circuit(gid: str) -> Call[models.Endpoint]:
    """Open the circuit by hand. After its cooldown the endpoint is probed as usual."""
    return _command("endpoints", gid, "circuit", "trip")


def reset_circuit(gid: str) -> Call[models.Endpoint]:
    """Close the circuit by hand. Parked deliveries are released gradually."""
    return _command("endpoints", gid, "circuit", "reset")


def rotate_secret(gid: str, rotation: models.SecretRotation | None = None) -> Call[models.SecretRotated]:
    """Give an endpoint a new secret, shown this once. Earlier ones go on signing for the grace period."""
    return _post_once("endpoints", gid, "secret", "rotate", body=rotation or {})


def test_endpoint(gid: str, *, type: str | None = None) -> Call[models.TestSent]:
    """Send a test message to this endpoint only: the example of an event type, or one of type `everhook.test`."""
    return _post_once("endpoints", gid, "test", body=None if type is None else {"type": type})


def get_endpoint_health(gid: str, *, window: models.Window | None = None) -> Call[models.EndpointHealth]:
    """How well an endpoint works: its score with the reasons, and its errors."""
    return _get("endpoints", gid, "health", window=window)


def get_queue(gid: str) -> Call[models.Queue]:
    """How many deliveries wait for consumers of an endpoint, and which consumers hold leases."""
    return _get("endpoints", gid, "queue")


# Subscriptions


def list_subscriptions(*, endpoint_gid: Several = None, channel: Several = None) -> Listing[models.Subscription]:
    """Subscriptions, newest first."""
    return _list("subscriptions", endpoint_gid=endpoint_gid, channel=channel)


def create_subscription(subscription: models.SubscriptionIn) -> Call[models.Subscription]:
    """Subscribe an endpoint to messages of a channel."""
    return _post_once("subscriptions", body=subscription)


def get_subscription(gid: str) -> Call[models.Subscription]:
    """A subscription with its filter."""
    return _get("subscriptions", gid)


def update_subscription(gid: str, changes: models.SubscriptionPatch) -> Call[models.Subscription]:
    """Change the fields that are given."""
    return _patch("subscriptions", gid, body=changes)


def delete_subscription(gid: str) -> Call[None]:
    """Delete a subscription. Deliveries that it caused continue."""
    return _delete("subscriptions", gid)


# Deliveries


def list_deliveries(
    *, status: Several = None, endpoint_gid: Several = None, subscription_gid: Several = None,
    message_gid: Several = None, channel: Several = None, type: Several = None, tenant: Several = None,
    since: str | None = None, until: str | None = None,
) -> Listing[models.Delivery]:  # fmt: skip
    """Deliveries, newest first. `since` and `until` bound the time of acceptance."""
    return _list(
        "deliveries", status=status, endpoint_gid=endpoint_gid, subscription_gid=subscription_gid,
        message_gid=message_gid, channel=channel, type=type, tenant=tenant, since=since, until=until,
    )  # fmt: skip


def get_delivery(gid: str) -> Call[models.DeliveryDetail]:
    """A delivery with its attempts."""
    return _get("deliveries", gid)


def get_live_delivery(gid: str) -> Call[models.LiveDelivery]:
    """What the workflow of a delivery waits for."""
    return _get("deliveries", gid, "live")


def attempt_now(gid: str) -> Call[models.SignalAccepted]:
    """Make the next attempt now. An open circuit still parks the delivery."""
    return _command("deliveries", gid, "attempt-now")


# Dead letters


class DeadLetterFilter(TypedDict, total=False):
    """Which dead letters: parts are combined with AND, a list matches any of its values. `since` and `until` bound the
    time of dead-lettering."""

    tenant: Several
    channel: Several
    endpoint_gid: Several
    type: Several
    dead_letter_reason: Several
    last_status_code: int | Sequence[int] | None
    since: str | None
    until: str | None


def list_dead_letters(
    *, subscription_gid: Several = None, **filter: Unpack[DeadLetterFilter]
) -> Listing[models.Delivery]:
    """Dead letters, newest message first."""
    return _list("dead-letters", subscription_gid=subscription_gid, **filter)


def get_dead_letter(gid: str) -> Call[models.DeadLetterDetail]:
    """A dead letter with its payload and its attempts."""
    return _get("dead-letters", gid)


def replay(gid: str, *, reason: str = "") -> Call[models.SignalAccepted]:
    """Start a new round of attempts for one dead letter."""
    return _post_once("dead-letters", gid, "replay", body={"reason": reason})


def discard(gid: str, *, reason: str = "") -> Call[models.SignalAccepted]:
    """Discard one dead letter permanently."""
    return _post_once("dead-letters", gid, "discard", body={"reason": reason})


def replay_all(
    *, reason: str = "", dry_run: bool = False, **filter: Unpack[DeadLetterFilter]
) -> Call[models.BulkOperation]:
    """Replay all dead letters that match. `dry_run` only counts them."""
    return _bulk("replay", reason, dry_run, filter)


def purge(*, reason: str = "", dry_run: bool = False, **filter: Unpack[DeadLetterFilter]) -> Call[models.BulkOperation]:
    """Discard all dead letters that match, permanently. `dry_run` only counts them."""
    return _bulk("purge", reason, dry_run, filter)


def _bulk(name: str, reason: str, dry_run: bool, filter: DeadLetterFilter) -> Call[models.BulkOperation]:
    parts: Mapping[str, Any] = {**filter}
    body = {camel(part): value for part, value in given(parts).items()}
    return _post_once("dead-letters", name, body={**body, "reason": reason, "dryRun": dry_run})


# Batches


def list_batches(
    *, kind: models.BatchKind | Sequence[models.BatchKind] | None = None, channel: Several = None,
    tenant: Several = None, state: models.BatchState | Sequence[models.BatchState] | None = None,
) -> Listing[models.Batch]:  # fmt: skip
    """Replays of channels and bulk operations on dead letters, newest first."""
    return _list("batches", kind=kind, channel=channel, tenant=tenant, state=state)


def get_batch(gid: str) -> Call[models.Batch]:
    """The progress of a replay or a purge."""
    return _get("batches", gid)


def cancel_batch(gid: str) -> Call[models.Batch]:
    """End a replay of a channel, or a bulk operation on dead letters. What it has started goes on."""
    return _command("batches", gid, "cancel")


# Everhook itself


def list_audit_entries(
    *, actor: Several = None, action: Several = None, subject: Several = None, tenant: Several = None,
    since: str | None = None, until: str | None = None,
) -> Listing[models.AuditEntry]:  # fmt: skip
    """Who did what, newest first. `subject` is the gid of what was changed."""
    return _list("audit", actor=actor, action=action, subject=subject, tenant=tenant, since=since, until=until)


def get_health_overview(*, tenant: str | None = None, limit: int | None = None) -> Call[models.Overview]:
    """The endpoints that work worst, recurring errors, and what waits."""
    return _get("health", "overview", tenant=tenant, limit=limit)


def get_readiness() -> Call[models.Readiness]:
    """Whether the API can accept messages. If not, it responds with 503."""
    return Call("GET", "/readyz")


def get_version() -> Call[models.Version]:
    """The version of Everhook."""
    return Call("GET", "/version")
