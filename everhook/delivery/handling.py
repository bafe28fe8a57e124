"""What handles the deliveries of endpoints of the mode `internal`, as the sender sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from everhook.delivery.classify import Classification
from everhook.egress import Exchange
from everhook.internal.options import Handler


@dataclass(frozen=True)
class Job:
    """A delivery to handle. `step` is the last one that its workflow knows of: see `Postponed`."""

    handler: Handler
    delivery_gid: str
    message_gid: str
    endpoint_gid: str
    tenant_gid: str
    tenant: str
    channel: str
    event_type: str
    payload: bytes
    accepted_at: datetime
    timeout: timedelta
    retry_statuses: tuple[int, ...] = ()
    step: int = 0


@dataclass(frozen=True)
class Postponed:
    """The next step of a delivery is due at a later time. It continues with `step`."""

    until: datetime
    step: int = 0


@dataclass(frozen=True)
class Made:
    """An attempt: what was sent, the exchange, and what it means."""

    headers: Sequence[tuple[str, str]]
    body: bytes
    exchange: Exchange
    classification: Classification


class Handlers(Protocol):
    """The handlers of a process. A handler may be called again with the same job: it must not act twice."""

    async def postponed(self, job: Job) -> Postponed | None:
        """Do what is due before the attempt. None: the attempt is due."""
        ...

    async def make(self, job: Job) -> Made:
        """Make the attempt. Raises LocalError for faults of the installation, and what the database raises."""
        ...
