"""The inputs of delivery workflows, built from the database."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Result, Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import (
    AttemptOutcome,
    DeliveryInput,
    DeliveryStatus,
    OpenDeadLetter,
    PreviousAttempt,
    Verdict,
)
from everhook.delivery.limits import queue_limit
from everhook.delivery.policy import DeliveryPolicy, one_attempt, resolve
from everhook.publishing.routing import Route
from everhook.settings import Settings
from everhook.storage.tables import Attempt, Channel, Delivery, Endpoint, Tenant, now


@dataclass(frozen=True)
class InputDefaults:
    """What settings contribute to every input.

    `lane_wait` is how long a delivery may wait in the express lane. `first_attempt_grace` is what a first attempt may
    take beyond its deadline: loading, signing, and a short outage of the database.
    """

    lane_wait: timedelta = timedelta(seconds=10)
    first_attempt_grace: timedelta = timedelta(seconds=10)
    park_check: timedelta = timedelta(minutes=10)
    dead_letter_retention: timedelta = timedelta(days=30)

    @classmethod
    def from_settings(cls, settings: Settings) -> "InputDefaults":
        return cls(
            lane_wait=timedelta(seconds=settings.express_wait_seconds),
            first_attempt_grace=timedelta(seconds=settings.first_attempt_grace_seconds),
            park_check=timedelta(seconds=settings.park_check_seconds),
            dead_letter_retention=timedelta(days=settings.dead_letter_retention_days),
        )

    def first_attempt_bound(self, policy: DeliveryPolicy) -> timedelta:
        """How long after its acceptance the first attempt of a delivery has to be recorded. Until then the reconciler
        leaves the delivery to the process that accepted it."""
        return self.lane_wait + policy.timeout + self.first_attempt_grace


def first_input(
    delivery_gid: str, message_gid: str, channel: str, event_type: str, route: Route, defaults: InputDefaults
) -> DeliveryInput:
    """The input of a delivery that was just accepted."""
    return DeliveryInput(
        delivery_gid=delivery_gid,
        message_gid=message_gid,
        endpoint_gid=route.endpoint_gid,
        tenant=route.tenant,
        channel=channel,
        event_type=event_type,
        policy=route.policy,
        rate_limit=route.rate_limit,
        mode=route.mode,
        park_check=defaults.park_check,
        dead_letter_retention=defaults.dead_letter_retention,
    )


async def load_inputs(
    connection: AsyncConnection,
    defaults: InputDefaults,
    where: Sequence[ColumnElement[bool]],
    limit: int,
    *,
    newest_first: bool = False,
) -> list[DeliveryInput]:
    """Inputs for stored deliveries, oldest first by default, that continue where the rows say the deliveries were.

    Deliveries of a tenant that is being erased are left out: their workflows were terminated and must not be started
    again.
    """
    statement = _INPUTS.where(*where).order_by(col(Delivery.gid).desc() if newest_first else col(Delivery.gid))
    rows: Result[Any] = await connection.execute(statement.limit(limit))
    return [_input(row, defaults) for row in rows]


_INPUTS: Select[*tuple[Any, ...]] = (
    select(
        col(Delivery.gid),
        col(Delivery.message_gid),
        col(Delivery.endpoint_gid),
        col(Delivery.channel),
        col(Delivery.event_type),
        col(Delivery.status),
        col(Delivery.round),
        col(Delivery.attempts),
        col(Delivery.reason),
        col(Delivery.dead_lettered_at),
        col(Delivery.last_status_code),
        col(Delivery.last_error),
        col(Delivery.due_at),
        col(Delivery.parked_at),
        col(Delivery.single_attempt),
        col(Tenant.name).label("tenant"),
        col(Channel.policy).label("channel_policy"),
        col(Endpoint.policy).label("endpoint_policy"),
        col(Endpoint.rate_limit),
        col(Endpoint.max_in_flight),
        col(Endpoint.mode),
    )
    .join(Endpoint, col(Endpoint.gid) == col(Delivery.endpoint_gid))
    .join(Tenant, col(Tenant.gid) == col(Delivery.tenant_gid))
    .outerjoin(Channel, col(Channel.name) == col(Delivery.channel))
    .where(col(Tenant.erasing_since).is_(None))
)
_INPUTS_OF = _INPUTS.where(col(Delivery.gid).in_(bindparam("gids", expanding=True))).order_by(col(Delivery.gid))


async def load_delivered(
    connection: AsyncConnection, defaults: InputDefaults, delivery_gids: Sequence[str]
) -> list[DeliveryInput]:
    """Inputs of history workflows: for delivered deliveries, with the attempt that delivered."""
    inputs = await load_inputs(
        connection,
        defaults,
        [col(Delivery.gid).in_(delivery_gids), col(Delivery.status) == DeliveryStatus.DELIVERED],
        len(delivery_gids),
    )
    attempts = await connection.execute(
        select(col(Attempt.delivery_gid), col(Attempt.gid), col(Attempt.status_code), col(Attempt.duration_ms))
        .where(col(Attempt.delivery_gid).in_(delivery_gids), col(Attempt.verdict) == Verdict.DELIVERED)
        .order_by(col(Attempt.round))  # the last one counts
    )
    outcomes = {
        row[0]: AttemptOutcome(Verdict.DELIVERED, attempt_gid=row[1], status_code=row[2], duration_ms=row[3])
        for row in attempts
    }
    return [
        replace(input, attempt=1, previous=PreviousAttempt(outcome))
        for input in inputs
        if (outcome := outcomes.get(input.delivery_gid)) is not None
    ]


async def load_inputs_of(
    connection: AsyncConnection, defaults: InputDefaults, delivery_gids: Sequence[str]
) -> list[DeliveryInput]:
    """The inputs of these deliveries, oldest first."""
    rows: Result[Any] = await connection.execute(_INPUTS_OF, {"gids": list(delivery_gids)})
    return [_input(row, defaults) for row in rows]


async def load_dead_letters(
    connection: AsyncConnection, defaults: InputDefaults, before: datetime, after: str, limit: int
) -> list[DeliveryInput]:
    """The inputs of dead letters older than a moment, newest gid first. `after` is the last gid read; empty: begin."""
    where = [col(Delivery.status) == DeliveryStatus.DEAD_LETTERED, col(Delivery.dead_lettered_at) < before]
    if after:
        where.append(col(Delivery.gid) < after)
    return await load_inputs(connection, defaults, where, limit, newest_first=True)


async def load_input(connection: AsyncConnection, defaults: InputDefaults, delivery_gid: str) -> DeliveryInput | None:
    inputs = await load_inputs(connection, defaults, [col(Delivery.gid) == delivery_gid], limit=1)
    return inputs[0] if inputs else None


def _input(row: Any, defaults: InputDefaults) -> DeliveryInput:
    policy = resolve(row.channel_policy, row.endpoint_policy)
    return DeliveryInput(
        delivery_gid=row.gid,
        message_gid=row.message_gid,
        endpoint_gid=row.endpoint_gid,
        tenant=row.tenant,
        channel=row.channel,
        event_type=row.event_type,
        policy=one_attempt(policy) if row.single_attempt else policy,
        rate_limit=queue_limit(row.rate_limit, row.max_in_flight),
        mode=row.mode,
        round=row.round,
        attempt=_attempt(row.status, row.attempts),
        previous=_previous(row),
        parked_since=row.parked_at if row.status is DeliveryStatus.PARKED else None,
        dead_letter=_open_dead_letter(row),
        park_check=defaults.park_check,
        dead_letter_retention=_retention_left(row, defaults),
    )


def _previous(row: Any) -> PreviousAttempt | None:
    """A delivery that waits for its next attempt keeps the time of that attempt."""
    if row.status is not DeliveryStatus.RETRYING or not row.attempts:
        return None
    outcome = AttemptOutcome(Verdict.RETRY, status_code=row.last_status_code, error=row.last_error)
    return PreviousAttempt(outcome, row.due_at)


def _open_dead_letter(row: Any) -> OpenDeadLetter | None:
    if row.status is not DeliveryStatus.DEAD_LETTERED:
        return None
    return OpenDeadLetter(row.reason, row.dead_lettered_at, row.last_status_code)


def _retention_left(row: Any, defaults: InputDefaults) -> timedelta:
    """A dead letter whose workflow was lost keeps its date: `due_at` is the end of its retention."""
    if row.status is not DeliveryStatus.DEAD_LETTERED:
        return defaults.dead_letter_retention
    left: timedelta = row.due_at - now()
    return max(left, timedelta())


def _attempt(status: DeliveryStatus, attempts: int) -> int:
    """The attempt to continue with: the one after those that are recorded, with two exceptions.

    - A delivery that waits for its next attempt continues with the last one, as `previous`.
    - If its round is over but it is not dead-lettered yet, the last attempt is requested again: `send_attempt` returns
      what is recorded, and the workflow reaches the same conclusion once more.
    """
    repeats_the_last = status in (DeliveryStatus.RETRYING, DeliveryStatus.SENDING) and attempts > 0
    return attempts if repeats_the_last else attempts + 1
