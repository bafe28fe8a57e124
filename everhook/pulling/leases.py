"""Leases, and the items that consumers are handed out. Pure."""

import hashlib
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from everhook.delivery.body_formats import attributes_json, timestamp
from everhook.delivery.policy import DeliveryPolicy
from everhook.ids import Kind, is_gid

_LEASE = re.compile(r"(dlv_[0-7][0-9a-hjkmnp-tv-z]{25})\.([1-9][0-9]{0,8})\.([1-9][0-9]{0,8})")


MAX_BYTES = 4 * 1024 * 1024
"""Payloads in one batch of items. A single larger one is handed out alone."""


@dataclass(frozen=True)
class Lease:
    """The hand-out of a delivery to one consumer: `<deliveryGid>.<round>.<number>`.

    It is no secret, because the caller is authorised for the endpoint. `number` counts the leases of the round, and
    fences: only the newest lease can be returned or extended.
    """

    delivery_gid: str
    round: int
    number: int

    def __str__(self) -> str:
        return f"{self.delivery_gid}.{self.round}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> "Lease | None":
        """The lease that a text names; None if it names none."""
        found = _LEASE.fullmatch(text)
        return cls(found[1], int(found[2]), int(found[3])) if found is not None else None


@dataclass(frozen=True)
class Content:
    """The message of an item. `payload` is JSON, embedded byte for byte."""

    message_gid: str
    channel: str
    event_type: str
    payload: bytes
    published_at: datetime
    attributes: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Item:
    """A leased delivery. `body` is the JSON as it is sent."""

    lease: Lease
    lease_until: datetime
    body: bytes


@dataclass(frozen=True)
class PulledEndpoint:
    """An endpoint whose deliveries are pulled. `is_limited`: its owner chose `max_in_flight`, which then holds exactly;
    otherwise hand-outs at the same time may exceed it."""

    gid: str
    tenant_gid: str
    tenant: str
    lease: timedelta = timedelta(seconds=60)
    max_in_flight: int = 1_000
    is_limited: bool = False

    @property
    def url(self) -> str:
        """What receipts name in place of a URL."""
        return f"everhook:{self.gid}"


@dataclass(frozen=True)
class Request:
    """What a consumer asks for. `lease` None: the endpoint's. `position`: of the first item in the consumer's
    stream."""

    consumer: str
    limit: int = 10
    lease: timedelta | None = None
    address: str | None = None
    position: int | None = None


def hand_out(
    lease: Lease,
    content: Content,
    request: Request,
    *,
    policy: DeliveryPolicy,
    moment: datetime,
    lasts: timedelta,
    before: int,
) -> tuple[Item, dict[str, Any]]:
    """The item of a new lease, and the columns of its row in the queue. `before`: how many items the same request was
    handed out before it. After the lease the policy's delay follows."""
    lease_until = moment + lasts
    item = Item(lease, lease_until, render_item(lease, lease_until, content))
    delay = policy.next_delay(lease.number, random.random())  # noqa: S311 - jitter
    row = {
        "delivery_gid": lease.delivery_gid,
        "number": lease.number,
        "available_at": lease_until + (delay or timedelta()),
        "leased_at": moment,
        "lease_until": lease_until,
        "consumer": request.consumer,
        "consumer_address": request.address,
        "position": request.position + before if request.position is not None else None,
        "item_sha256": hashlib.sha256(item.body).hexdigest(),
        "is_last": delay is None,
    }
    return item, row


def render_item(lease: Lease, lease_until: datetime, content: Content) -> bytes:
    """The JSON of an item. A carriage return would not survive an event stream; in JSON it can only be whitespace."""
    return (
        b'{"lease":%b,"leaseUntil":%b,"deliveryGid":%b,"messageGid":%b,"channelName":%b,"type":%b,"payload":%b,'
        b'"metadata":{"publishedAt":%b,"round":%d,"attempt":%d%b}}' % (
            _string(str(lease)),
            _string(timestamp(lease_until)),
            _string(lease.delivery_gid),
            _string(content.message_gid),
            _string(content.channel),
            _string(content.event_type),
            content.payload.replace(b"\r", b" "),
            _string(timestamp(content.published_at)),
            lease.round,
            lease.number,
            b',"attributes":%b' % attributes_json(content.attributes) if content.attributes else b"",
        )
    )  # fmt: skip


def _string(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


def stream_consumer(gid: str, name: str) -> str:
    """The consumer that holds the leases of a stream: the id of the stream, and a name for operators."""
    return f"{gid} {name}"


def consumer_name(consumer: str) -> str:
    """The name that operators see."""
    first, _, name = consumer.partition(" ")
    return name if name and is_gid(first, Kind.CONSUMER) else consumer


def is_stream(consumer: str) -> bool:
    return is_gid(consumer.partition(" ")[0], Kind.CONSUMER)


class Held(StrEnum):
    """Why an endpoint hands nothing out."""

    PAUSED = "paused"
    DISABLED = "disabled"
    CIRCUIT_OPEN = "circuit_open"
    MAX_IN_FLIGHT = "max_in_flight"


@dataclass(frozen=True)
class Ack:
    """The delivery is done. `result` is JSON for the sender of the message. `needs_open_round`: after the last attempt
    failed it does not count, as it would until the delivery is a dead letter."""

    lease: str
    result: bytes | None = None
    needs_open_round: bool = False


@dataclass(frozen=True)
class Nack:
    """The delivery failed. It follows the policy's schedule, or comes back later after `retry_after`. With
    `dead_letter` it does not come back. `needs_lease` False: it counts even if the lease is not current, as an ack
    does."""

    lease: str
    reason: str = ""
    retry_after: timedelta | None = None
    dead_letter: bool = False
    needs_lease: bool = True


@dataclass(frozen=True)
class Extend:
    """The lease ends this long from now."""

    lease: str
    by: timedelta


class LeaseStatus(StrEnum):
    """What an ack, a nack or an extension did.

    `LOST`: the lease is not the current one; nothing changed. `CONFLICT`: the delivery is a dead letter or was
    discarded. `UNKNOWN`: this endpoint has no such delivery, or the lease is malformed or was not handed out yet.
    """

    ACKED = "acked"
    NACKED = "nacked"
    EXTENDED = "extended"
    LOST = "lost"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class LeaseResult:
    """`duplicate`: the delivery was acknowledged, or its round had ended, before. `detail` explains a conflict."""

    lease: str
    status: LeaseStatus
    lease_until: datetime | None = None
    duplicate: bool = False
    detail: str | None = None
