"""What is published, and what becomes of it when it is accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from everhook.contracts import DeliveryStatus
from everhook.delivery.inputs import NewDelivery
from everhook.event_types.schemas import Fault
from everhook.ids import Kind, new_gid, new_gid_at
from everhook.publishing.gates import Step
from everhook.publishing.routing import Audience
from everhook.publishing.rows import Publisher

NO_FAULTS: Mapping[str, Fault] = {}


@dataclass(frozen=True)
class Publication:
    """A message to be published. `content` is the parsed payload, for filters; `payload` the bytes, for receivers.

    It goes to the endpoints of its tenant, of all tenants if it has none, or to `audience`. `gates` are its own; None:
    those of the channel. `accepted_at`: it was accepted before, and gets further deliveries. `endpoint_gid`: it goes to
    this endpoint alone, regardless of its subscriptions. `single_attempt`: a round of its deliveries is one attempt.
    `deliver_at`: it gets its deliveries at this time. `group_key`: its deliveries are in order with those of the same
    key.
    """

    message_gid: str
    channel: str
    event_type: str
    payload: bytes
    content: Any
    body_sha256: str
    published_at: datetime
    tenant_gid: str | None = None
    idempotency_key: str | None = None
    audience: Audience | None = None
    traceparent: str | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    publisher: Publisher = field(default_factory=lambda: Publisher())
    gates: Sequence[Step] | None = None
    accepted_at: datetime | None = None
    attributes: Mapping[str, str] | None = None
    endpoint_gid: str | None = None
    single_attempt: bool = False
    deliver_at: datetime | None = None
    group_key: str | None = None

    @property
    def reach(self) -> Audience:
        """The endpoints that may take it."""
        return self.audience or Audience.of(self.tenant_gid)

    def new_delivery_gid(self) -> str:
        """All deliveries of a message have gids of the time at which it was accepted: they are looked for there."""
        return new_gid(Kind.DELIVERY) if self.accepted_at is None else new_gid_at(Kind.DELIVERY, self.accepted_at)

    @property
    def key(self) -> tuple[str, str, str] | None:
        """The idempotency key: scope, channel, key."""
        if self.idempotency_key is None:
            return None
        return (self.tenant_gid or "", self.channel, self.idempotency_key)


@dataclass(frozen=True)
class AcceptedDelivery:
    delivery_gid: str
    endpoint_gid: str
    status: DeliveryStatus


@dataclass(frozen=True)
class Accepted:
    """A committed message. `new` are the deliveries whose first attempt is to be made, or whose workflow is to be
    started: none for a duplicate, and none that were parked because their endpoint cannot receive now. `queued` are the
    endpoints whose consumers have to claim a delivery. `deliver_at`: it gets its deliveries at this time. `fault`: it
    does not fit the catalogue of event types."""

    message_gid: str
    channel: str
    event_type: str
    published_at: datetime
    deliveries: tuple[AcceptedDelivery, ...]
    new: tuple[NewDelivery, ...] = ()
    queued: frozenset[str] = frozenset()
    duplicate: bool = False
    deliver_at: datetime | None = None
    fault: Fault | None = None

    @classmethod
    def without_deliveries(cls, publication: Publication) -> "Accepted":
        return cls(
            message_gid=publication.message_gid,
            channel=publication.channel,
            event_type=publication.event_type,
            published_at=publication.published_at,
            deliveries=(),
            deliver_at=publication.deliver_at,
        )


@dataclass(frozen=True)
class UnknownChannel:
    channel: str


@dataclass(frozen=True)
class KeyReused:
    """The idempotency key was used before, with another body. `message_gid` is the message that has the key."""

    message_gid: str


@dataclass(frozen=True)
class Refused:
    """The inbox of a step cannot be asked about the message, or it cannot go to the endpoint that it names, so nothing
    was accepted."""

    field: str
    message: str


@dataclass(frozen=True)
class PayloadRefused:
    """The message does not fit the catalogue of event types, and its channel rejects that: nothing was accepted."""

    fault: Fault


Acceptance = Accepted | UnknownChannel | KeyReused | Refused | PayloadRefused
