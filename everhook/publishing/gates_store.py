"""Gates in the database, as messages are accepted with them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import DeliveryInput, DeliveryMode
from everhook.delivery.policy import DeliveryPolicy
from everhook.publishing.routing import Route
from everhook.publishing.rows import Publisher, asked_row, new_task
from everhook.storage.statements import table_of
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
    """Rows of a step that is opened."""

    delivery: dict[str, Any]
    task: dict[str, Any]


def asking(
    delivery: DeliveryInput,
    inbox: Route,
    task: Mapping[str, Any],
    publisher: Publisher,
    moment: datetime,
    accepted_at: datetime,
) -> Asking:
    """Ask an inbox about a message, which was accepted at some time before."""
    row = new_task(delivery, inbox, task, publisher, moment)
    delivery_row = asked_row(delivery, inbox.tenant_gid, moment, row["due_at"])
    return Asking(delivery_row | {"accepted_at": accepted_at}, row)


async def insert_gates(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(insert(table_of(Gate)), list(rows))
