"""Walking the OpenAPI document: every operation, with its ids filled in. An unknown field fails the test."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import httpx

from everhook.contracts import Verdict
from everhook.ids import Kind, new_gid
from everhook.lifecycle.service import LifecycleLimits
from everhook.storage.tables import Attempt, Batch, Receipt, ReplayMode, now
from everhook.streaming.service import StreamLimits
from testing.api import JSON, Api, created, ok

KIND_OF_PATH = {
    "api-keys": "key",
    "attempts": "attempt",
    "batches": "batch",
    "channels": "channel",
    "dead-letters": "dead_letter",
    "deliveries": "delivery",
    "endpoints": "endpoint",
    "event-types": "event_type",
    "messages": "message",
    "receipts": "receipt",
    "subscriptions": "subscription",
    "tasks": "task",
    "tenants": "tenant_gid",
}
"""The kind of a gid, or a name, in a path, by the segment before it."""

KIND_OF_FIELD = {
    "endpoint": "endpoint",
    "endpointGid": "endpoint",
    "inbox": "inbox",
    "messageGid": "message",
    "subscriptionGid": "subscription",
    "subject": "endpoint",
    "tenant": "tenant",
}
"""The query parameters and fields of bodies that name resources of tenants."""

NEUTRAL_PARAMETERS = {
    "action", "actor", "consumer", "leaseSeconds", "waitSeconds", "timeoutSeconds", "prefetch", "Last-Event-ID",
    "archived", "channel", "cursor", "from", "Idempotency-Key", "limit", "deadLetterReason", "since", "status",
    "lastStatusCode", "to", "type", "until", "unrouted", "window", "assignee", "overdue", "state", "kind",
}  # fmt: skip
SAMPLES: JSON = {
    "channel": "orders", "from": 1, "payload": {"n": 1}, "policy": None, "to": 1, "type": "order.created",
}  # fmt: skip
"""Values for required fields that have no example in the document."""

PUBLISHING = {
    "/v1/channels/{name}/messages",
    "/v1/channels/{name}/messages/batch",
    "/v1/messages/transactional",
    "/v1/messages/{gid}/cancel",
}
TRYING = {"/v1/subscriptions/test"}
"""Operations that change nothing, although they are POST."""
PULLING = "/v1/endpoints/{gid}/"
RECEIVING = {PULLING + "poll", PULLING + "acks", PULLING + "stream"}
"""Operations of consumers: they change deliveries as receivers do, not as operators do."""
OF_PULLED = RECEIVING | {PULLING + "queue"}
FOLLOWING = "/v1/messages/{gid}/"
WAITING = {FOLLOWING + "wait"}
OF_CHANNELS = {"/v1/channels/{name}/replay"}
REPLAYING = OF_CHANNELS | {FOLLOWING + "redeliver", "/v1/batches/{gid}/cancel"}
"""Operations that a publisher may call, for its own messages."""
OF_SENDERS = WAITING | {FOLLOWING + "events", FOLLOWING + "events/stream", "/v1/batches", "/v1/batches/{gid}"}
"""Operations that a publisher may read, for its own messages."""
SIGNS_OF_IDS = ("gid", "tenant", "endpoint", "delivery")
"""A field of a body with one of these in its name must be in `KIND_OF_FIELD`, or be known not to be an id."""

JWS = "eyJhbGciOiJFZERTQSJ9.e30.AAAA"

_numbers = count(1)


@dataclass(frozen=True)
class World:
    """One tenant with one resource of each kind; or ids of the same form that no tenant has."""

    ids: dict[str, str]

    @property
    def tenant(self) -> str:
        return self.ids["tenant"]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: JSON = field(default_factory=dict)
    body: Any = None

    async def send(self, api: Api) -> httpx.Response:
        content = None if self.body is None else json.dumps(self.body)
        headers = {} if content is None else {"content-type": "application/json"}
        return await api.http.request(self.method, self.path, params=self.query, content=content, headers=headers)


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    spec: JSON
    document: JSON

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_change(self) -> bool:
        return self.method != "GET" and self.path not in PUBLISHING | RECEIVING | TRYING

    def places(self) -> list[str]:
        """Where ids of tenants' objects are: `path`, `query.endpoint`, `body.tenant`. Fails if this is not known."""
        found = ["path"] if "{gid}" in self.path else []
        for parameter in self.spec.get("parameters", []):
            name = parameter["name"]
            if parameter["in"] == "path":
                assert name in ("gid", "name", "command"), f"{self.name}: what is the path parameter {name}?"
            elif name in KIND_OF_FIELD:
                found.append(f"{parameter['in']}.{name}")
            else:
                assert name in NEUTRAL_PARAMETERS, f"{self.name}: what is the parameter {name}?"
        return found + [f"body.{name}" for name in self._fields() if self._is_id(name)]

    def request(self, world: World, place: str = "path", *, own: World | None = None) -> Request:
        """With an id of `world` at `place`, and elsewhere those of `own`."""
        own = own or world
        where, _, name = place.partition(".")
        path = self._path(world if where == "path" else own)
        query = self._required() | ({name: world.ids[KIND_OF_FIELD[name]]} if where == "query" else {})
        body = self._body(own)
        if where == "body":
            body = (body or {}) | {name: world.ids[KIND_OF_FIELD[name]]}
        if self.path.endswith("/batch"):
            body = {"messages": [body]}
        return Request(self.method, path, query, body)

    def _path(self, world: World) -> str:
        parts = self.path.split("/")
        for at, part in enumerate(parts):
            if part in ("{gid}", "{name}"):
                kind = "pulled" if self.path in OF_PULLED else KIND_OF_PATH.get(parts[at - 1])
                assert kind is not None, f"{self.name}: whose gid is it?"
                parts[at] = world.ids["subscribed" if self.path in PUBLISHING | OF_CHANNELS else kind]
            elif part == "{command}":
                (commands,) = (p["schema"]["enum"] for p in self.spec["parameters"] if p["name"] == "command")
                parts[at] = commands[0]
        return "/".join(parts)

    def _required(self) -> JSON:
        """The query parameters that must be there."""
        required = [p["name"] for p in self.spec.get("parameters", []) if p["in"] == "query" and p["required"]]
        unknown = [name for name in required if name not in SAMPLES]
        assert unknown == [], f"{self.name}: what can stand in the parameters {unknown}?"
        return {name: SAMPLES[name] for name in required} | ({"timeoutSeconds": 0} if self.path in WAITING else {})

    def _is_id(self, name: str) -> bool:
        if name in KIND_OF_FIELD:
            return True
        assert not any(sign in name.lower() for sign in SIGNS_OF_IDS), f"{self.name}: what is the field {name}?"
        return False

    def _fields(self) -> JSON:
        fields: JSON = self._schema().get("properties", {})
        return fields

    def _body(self, own: World) -> JSON | None:
        """The fields that must be there; None where there is no body, or it may be left out."""
        if "requestBody" not in self.spec:
            return None
        example = (self._schema().get("examples") or [{}])[0]
        return {name: self._value(name, own, example) for name in {*self._schema().get("required", []), *example}}

    def _value(self, name: str, own: World, example: JSON) -> Any:
        if name in KIND_OF_FIELD:
            return own.ids[KIND_OF_FIELD[name]]
        if name == "name":
            return f"new-{next(_numbers)}"
        if name in example:
            return example[name]
        assert name in SAMPLES, f"{self.name}: what can stand in the field {name}?"
        return SAMPLES[name]

    def _schema(self) -> JSON:
        """The fields of the body; those of one message, where many are published."""
        content = self.spec.get("requestBody", {}).get("content", {}).get("application/json", {})
        schema: JSON = content.get("schema", {})
        for choice in schema.get("anyOf", []):
            schema = choice if "$ref" in choice else schema
        if "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema["properties"]["messages"]["items"] if self.path.endswith("/batch") else schema


def operations(document: JSON) -> Iterator[Operation]:
    """All under `/v1`."""
    for path, methods in document["paths"].items():
        for method, spec in methods.items():
            if path.startswith("/v1/"):
                yield Operation(method.upper(), path, spec, document)


async def make_world(api: Api, tenant: str) -> World:
    """A tenant with an endpoint, a subscription, a delivery under way, a dead letter, a key and a batch."""
    api.services.streams.limits = StreamLimits(lifetime=(0, 0))  # streams end at once
    api.services.lifecycle.limits = LifecycleLimits(lifetime=(0, 0))
    await api.post("/v1/channels", {"name": "orders"})
    described = created(await api.post("/v1/event-types", {"name": f"described-{next(_numbers)}"}))
    quiet = await api.channel(f"quiet-{next(_numbers)}")
    endpoint = await api.endpoint(channel="orders", tenant=tenant)
    gid = ok(await api.get(f"/v1/tenants/{tenant}"))["tenantGid"]
    key = created(await api.post("/v1/api-keys", {"name": tenant, "tenant": tenant}))
    pulled = created(await api.post("/v1/endpoints", {"mode": "poll", "tenant": tenant}))
    asking = await api.channel(f"asking-{next(_numbers)}")
    inbox = created(
        await api.post(
            "/v1/endpoints",
            {"mode": "inbox", "tenant": tenant, "channel": asking["name"], "options": {"name": "Managers"}},
        )
    )
    asked = await api.publish({"n": 1}, asking["name"], tenant=tenant)
    task = (await api.rows("SELECT gid FROM task WHERE message_gid = :m", m=asked["messageGid"]))[0].gid
    messages = [await api.publish({"n": n}, tenant=tenant) for n in range(2)]
    under_way, dead = [message["deliveries"][0]["deliveryGid"] for message in messages]
    died = "status = 'dead_lettered', reason = 'rejected', dead_lettered_at = accepted_at"
    await api.change_rows(f"UPDATE delivery SET {died} WHERE gid = :g", g=dead)
    batch = Batch(
        tenant_gid=gid,
        actor=tenant,
        channel="orders",
        mode=ReplayMode.ALL,
        since=now() - timedelta(hours=1),
        until=now(),
    )
    attempt = Attempt(
        delivery_gid=dead,
        endpoint_gid=endpoint["endpointGid"],
        round=1,
        number=1,
        verdict=Verdict.REJECTED,
        started_at=now(),
        duration_ms=1,
        request_sha256=hashlib.sha256(b'{"n": 1}').hexdigest(),
    )
    receipt = Receipt(tenant_gid=gid, delivery_gid=dead, attempt_gid=attempt.gid, round=1, number=1, jws=JWS)
    await api.change_rows("UPDATE batch SET state = 'completed'")  # only so many may run
    async with api.database.writing() as session:
        session.add_all([attempt, receipt, batch])
    return World(
        {
            "attempt": attempt.gid,
            "batch": batch.gid,
            "channel": quiet["name"],
            "dead_letter": dead,
            "delivery": under_way,
            "endpoint": endpoint["endpointGid"],
            "event_type": described["name"],
            "inbox": inbox["endpointGid"],
            "key": key["keyGid"],
            "message": messages[0]["messageGid"],
            "pulled": pulled["endpointGid"],
            "receipt": receipt.gid,
            "subscribed": "orders",
            "subscription": endpoint["subscriptionGid"],
            "task": task,
            "tenant": tenant,
            "tenant_gid": gid,
        }
    )


def of_no_tenant(tenant: str) -> World:
    """Ids of the same form that no tenant has. Names are as long as those they are compared with."""
    kinds = {
        "attempt": Kind.ATTEMPT,
        "batch": Kind.BATCH,
        "dead_letter": Kind.DELIVERY,
        "delivery": Kind.DELIVERY,
        "endpoint": Kind.ENDPOINT,
        "key": Kind.API_KEY,
        "message": Kind.MESSAGE,
        "pulled": Kind.ENDPOINT,
        "receipt": Kind.RECEIPT,
        "inbox": Kind.ENDPOINT,
        "subscription": Kind.SUBSCRIPTION,
        "task": Kind.TASK,
        "tenant_gid": Kind.TENANT,
    }
    gids = {name: new_gid(kind) for name, kind in kinds.items()}
    return World(gids | {"tenant": tenant, "channel": "quiet-0", "event_type": "described-0", "subscribed": "orders"})
