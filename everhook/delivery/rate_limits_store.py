"""The rate limits of endpoints."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.storage.tables import Endpoint


async def rate_limits(connection: AsyncConnection, endpoint_gids: Sequence[str]) -> dict[str, float | None]:
    """Requests a second by endpoint gid; None means no limit. Deleted endpoints are left out."""
    rows = await connection.execute(
        select(col(Endpoint.gid), col(Endpoint.rate_limit)).where(
            col(Endpoint.gid).in_(endpoint_gids), col(Endpoint.deleted_at).is_(None)
        )
    )
    return {row.gid: row.rate_limit for row in rows}
