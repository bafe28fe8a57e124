"""Gates in the database, as messages are accepted with them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import DeliveryInput, DeliveryMode
from everhook.delivery.inputs_store import InputDefaults
from everhook.delivery.policy import DeliveryPolicy
from everhook.publishing.routing import Route
from everhook.publishing.rows import Publisher, asked_row, new_task, opened_events
from everhook.storage.statements import insert_into, table_of
from everhook.storage.tables import Endpoint, Gate, Tenant


async def inboxes(connection: AsyncConnection, gids: Collection[str], *, deleted: bool = False) -> dict[str, Route]:
    """Those of these endpoints that are inboxes and exist, as routes; with `deleted`, those that were deleted. They
    cannot be deleted before the transaction ends: a task that is opened is seen by the deletion, which ends it."""
    if not gids:
        return {}
    statement = (
        select(col(Endpoint.gid), col(Endpoint.tenant_gid), col(Tenant.name).label("tenant"), col(Endpoint.options))
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .where(
            col(Endpoint.gid).in_(sorted(gids)),
            col(Endpoint.mode) == DeliveryMode.INBOX,
            col(Endpoint.deleted_at).is_not(None) if deleted else col(Endpoint.deleted_at).is_(None),
            col(Tenant.erasing_since).is_(None),
        )
        .order_by(col(Endpoint.gid))
        .with_for_update(read=True, of=table_of(Endpoint))
    )
    return {
        row.gid: Route(
            row.gid, row.tenant_gid, row.tenant, (), None, DeliveryPolicy(), None, DeliveryMode.INBOX, row.options
        )
        for row in await connection.execute(statement)
    }


@dataclass(frozen=True)
class Asking:
    """A step that is opened: the input of its workflow, and its rows."""

    input: DeliveryInput
    delivery: dict[str, Any]
    task: dict[str, Any]
    events: list[dict[str, Any]]


def asking(
    delivery: DeliveryInput,
    inbox: Route,
    task: Mapping[str, Any],
    publisher: Publisher,
    defaults: InputDefaults,
    moment: datetime,
    accepted_at: datetime,
) -> Asking:
    """Ask an inbox about a message, which was accepted at some time before."""
    row = new_task(delivery, inbox, task, publisher, moment)
    bound = defaults.first_attempt_bound(delivery.policy)
    delivery_row = asked_row(delivery, inbox.tenant_gid, moment, moment + bound)
    events = opened_events(row, delivery, inbox.options)
    return Asking(delivery, delivery_row | {"accepted_at": accepted_at}, row, events)


async def insert_gates(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(insert_into(Gate), list(rows))
