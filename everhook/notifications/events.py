"""Operational events: what operators should hear of, as messages on a channel of our own."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from everhook.delivery.body_formats import timestamp

RESERVED = "everhook."
"""Channels whose names begin so are ours: nobody else makes, publishes to or deletes them."""

EVENTS_CHANNEL = "everhook.events"


def is_reserved(channel: str) -> bool:
    return channel.startswith(RESERVED)


class EventKind(StrEnum):
    """The type of an event's message, for subscriptions to choose by."""

    CIRCUIT_OPENED = "endpoint.circuit_opened"
    CIRCUIT_CLOSED = "endpoint.circuit_closed"
    ENDPOINT_PAUSED = "endpoint.paused"
    ENDPOINT_RESUMED = "endpoint.resumed"
    ENDPOINT_DISABLED = "endpoint.disabled"
    ENDPOINT_ENABLED = "endpoint.enabled"
    DEAD_LETTERED = "delivery.dead_lettered"
    DEAD_LETTERS = "dead_letters.threshold"
    SUCCESS_RATE = "health.success_rate_low"
    UNDISPATCHED = "dispatch.oldest_undispatched"
    CHECKPOINT = "receipts.checkpoint"
    LOG_DAMAGED = "receipts.log_damaged"


CIRCUIT_KINDS = frozenset({EventKind.CIRCUIT_OPENED, EventKind.CIRCUIT_CLOSED})


@dataclass(frozen=True)
class Event:
    """An event as it is told. `tenant_gid` is whom it concerns; None: the publisher alone."""

    gid: str
    kind: str
    tenant_gid: str | None
    tenant: str | None
    endpoint_gid: str | None
    delivery_gid: str | None
    data: Mapping[str, Any]
    created_at: datetime

    @property
    def is_of_endpoint(self) -> bool:
        return self.kind.startswith("endpoint.")

    @property
    def is_orphaned(self) -> bool:
        """Its tenant is being erased, or gone."""
        return self.tenant_gid is not None and self.tenant is None

    @property
    def is_relapse(self) -> bool:
        """A circuit opened again at its probe. That is kept for its history, and told to nobody a second time."""
        return self.kind == EventKind.CIRCUIT_OPENED and self.data.get("openings", 1) > 1

    def payload(self) -> dict[str, Any]:
        """What subscribers get."""
        return {
            "eventGid": self.gid,
            "kind": self.kind,
            "occurredAt": timestamp(self.created_at),
            "tenant": self.tenant,
            "endpointGid": self.endpoint_gid,
            "deliveryGid": self.delivery_gid,
            "data": dict(self.data),
        }
