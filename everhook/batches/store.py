"""The rows of replays of channels, and of bulk operations on dead letters."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.audit.store import Actor, record_audit
from everhook.storage.paging import Page, one_of, page_of
from everhook.storage.statements import lock, table_of
from everhook.storage.tables import Batch, BatchKind, BatchState, Channel, now

_BATCH = table_of(Batch).c
_IS_RUNNING = _BATCH.state == BatchState.RUNNING
_IS_RUNNING_REPLAY = and_(_IS_RUNNING, _BATCH.kind == BatchKind.CHANNEL_REPLAY)


async def find(
    session: AsyncSession, gid: str, *, key_gid: str | None = None, for_change: bool = False
) -> Batch | None:
    """`key_gid`: only a replay of a channel that this key started. `for_change` locks it until the transaction
    ends."""
    statement = select(Batch).where(col(Batch.gid) == gid, *_started_by(key_gid))
    found = await session.execute(statement.with_for_update() if for_change else statement)
    return found.scalar_one_or_none()


async def find_replay(session: AsyncSession, gid: str, *, for_change: bool = False) -> Batch | None:
    """A replay of a channel. Workers of an earlier version may have started its workflow for a bulk operation."""
    batch = await find(session, gid, for_change=for_change)
    return batch if batch is not None and batch.kind is BatchKind.CHANNEL_REPLAY else None


async def page(
    session: AsyncSession,
    *,
    kind: tuple[BatchKind, ...] | None,
    channel: tuple[str, ...] | None,
    tenant_gid: tuple[str, ...] | None,
    state: tuple[BatchState, ...] | None,
    key_gid: str | None,
    after: str | None,
    limit: int,
) -> Page[Batch]:
    """Newest first. `key_gid` as in `find`."""
    statement = select(Batch).where(
        *one_of(col(Batch.kind), kind),
        *one_of(col(Batch.channel), channel),
        *one_of(col(Batch.tenant_gid), tenant_gid),
        *one_of(col(Batch.state), state),
        *_started_by(key_gid),
    )
    return await page_of(session, statement, col(Batch.gid), after=after, limit=limit)


def _started_by(key_gid: str | None) -> list[ColumnElement[bool]]:
    if key_gid is None:
        return []
    return [col(Batch.key_gid) == key_gid, col(Batch.kind) == BatchKind.CHANNEL_REPLAY]


async def running_bulk(session: AsyncSession, limit: int) -> list[Batch]:
    """Bulk operations that had not ended when their row was last written, oldest first."""
    is_bulk = (col(Batch.state) == BatchState.RUNNING, col(Batch.kind) != BatchKind.CHANNEL_REPLAY)
    statement = select(Batch).where(*is_bulk).order_by(col(Batch.gid)).limit(limit)
    return list((await session.execute(statement)).scalars())


async def has_running_bulk(session: AsyncSession, tenant_gid: str) -> bool:
    """Whether a bulk operation on the dead letters of a tenant runs. Locked until the transaction ends, so that two
    calls cannot both find none."""
    await lock(await session.connection(), "batches")
    statement = select(col(Batch.gid)).where(
        col(Batch.state) == BatchState.RUNNING,
        col(Batch.kind) != BatchKind.CHANNEL_REPLAY,
        col(Batch.tenant_gid) == tenant_gid,
    )
    return (await session.execute(statement.limit(1))).first() is not None


def end_cancelled(session: AsyncSession, actor: Actor, batch: Batch) -> None:
    """Cancel a replay that is locked and runs."""
    batch.state, batch.ended_at = BatchState.CANCELLED, now()
    session.add(batch)
    record_audit(session, actor, "channel.replay_cancelled", batch.gid, tenant_gid=batch.tenant_gid)


async def remove(session: AsyncSession, gid: str) -> None:
    await session.execute(delete(Batch).where(col(Batch.gid) == gid))


async def channel_exists(session: AsyncSession, name: str) -> bool:
    found = await session.execute(select(col(Channel.name)).where(col(Channel.name) == name))
    return found.scalar_one_or_none() is not None


async def running_for(connection: AsyncConnection, tenant_gid: str | None) -> tuple[int, int]:
    """How many replays run in all, and how many of them keys of a tenant have started. Locked until the transaction
    ends, so that two calls cannot both be the last one that is allowed."""
    await lock(connection, "batches")
    of_tenant = func.count().filter(_BATCH.tenant_gid == tenant_gid, _BATCH.tenant_bound.is_(True))
    row = (await connection.execute(select(func.count(), of_tenant).where(_IS_RUNNING_REPLAY))).one()
    return row[0], row[1]


async def running(connection: AsyncConnection) -> int:
    """How many replays run."""
    return int((await connection.execute(select(func.count()).where(_IS_RUNNING_REPLAY))).scalar_one())


async def stalled(connection: AsyncConnection, before: datetime, limit: int) -> list[str]:
    """Replays that made no progress since a moment."""
    statement = select(_BATCH.gid).where(_IS_RUNNING_REPLAY, _BATCH.updated_at < before).order_by(_BATCH.updated_at)
    return list((await connection.execute(statement.limit(limit))).scalars())


async def touch(connection: AsyncConnection, gids: Collection[str]) -> None:
    """Check these replays again later."""
    await connection.execute(update(Batch).where(col(Batch.gid).in_(sorted(gids))).values(updated_at=now()))
