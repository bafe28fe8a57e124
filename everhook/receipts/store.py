"""Receipts and their logs: rows, checkpoints, and the hashes that proofs consist of."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.storage.paging import Page
from everhook.storage.tables import Receipt, ReceiptArchive, ReceiptHash, ReceiptSeal

LEAVES = 0
"""The level of leaf hashes."""


class StoredHashes:
    """The `HashStore` of a tenant's log."""

    def __init__(self, connection: AsyncConnection | AsyncSession, tenant_gid: str) -> None:
        self._connection = connection
        self._tenant_gid = tenant_gid

    async def leaves(self, start: int, end: int) -> Sequence[bytes]:
        return await self.blocks(LEAVES, start, end)

    async def blocks(self, level: int, start: int, end: int) -> Sequence[bytes]:
        rows = await self._connection.execute(
            select(col(ReceiptHash.hash))
            .where(
                col(ReceiptHash.tenant_gid) == self._tenant_gid,
                col(ReceiptHash.level) == level,
                col(ReceiptHash.index) >= start,
                col(ReceiptHash.index) < end,
            )
            .order_by(col(ReceiptHash.index))
        )
        return rows.scalars().all()


async def find(session: AsyncSession, gid: str) -> Receipt | None:
    return await session.get(Receipt, gid)


async def newest_seal(session: AsyncSession, tenant_gid: str) -> ReceiptSeal | None:
    rows = await session.execute(
        select(ReceiptSeal)
        .where(col(ReceiptSeal.tenant_gid) == tenant_gid)
        .order_by(col(ReceiptSeal.size).desc())
        .limit(1)
    )
    return rows.scalar_one_or_none()


async def seal_at(session: AsyncSession, tenant_gid: str, size: int) -> ReceiptSeal | None:
    return await session.get(ReceiptSeal, (tenant_gid, size))


async def places_taken(session: AsyncSession, tenant_gid: str) -> int:
    """The length of the log according to the last index that a receipt has or had."""
    last = await session.execute(select(func.max(col(Receipt.seq))).where(col(Receipt.tenant_gid) == tenant_gid))
    seq = last.scalar_one()
    return int(seq) + 1 if seq is not None else await archived_size(session, tenant_gid)


async def archived_size(session: AsyncSession, tenant_gid: str) -> int:
    """How many receipts of a log, counted from the first one, were moved to files."""
    newest = await newest_archive(session, tenant_gid)
    return newest.end if newest is not None else 0


async def newest_archive(session: AsyncSession, tenant_gid: str) -> ReceiptArchive | None:
    rows = await session.execute(
        select(ReceiptArchive)
        .where(col(ReceiptArchive.tenant_gid) == tenant_gid)
        .order_by(col(ReceiptArchive.start).desc())
        .limit(1)
    )
    return rows.scalar_one_or_none()


async def archives_after(session: AsyncSession, moment: datetime, limit: int) -> Sequence[str]:
    """The first file of each log, as far as the session reaches, that ends after a moment: a receipt that was issued
    then is in one of them, or in the next if it was sealed late."""
    first = func.min(col(ReceiptArchive.file))  # the names of a log's files sort by their ranges
    rows = await session.execute(
        select(first)
        .where(col(ReceiptArchive.newest_at) >= moment)
        .group_by(col(ReceiptArchive.tenant_gid))
        .order_by(first)
        .limit(limit)
    )
    return rows.scalars().all()


async def page_of_seals(session: AsyncSession, tenant_gid: str, *, before: int | None, limit: int) -> Page[ReceiptSeal]:
    """One page of the checkpoints of a log, newest first; `before` is a size."""
    statement = select(ReceiptSeal).where(col(ReceiptSeal.tenant_gid) == tenant_gid)
    if before is not None:
        statement = statement.where(col(ReceiptSeal.size) < before)
    rows = (await session.execute(statement.order_by(col(ReceiptSeal.size).desc()).limit(limit + 1))).scalars().all()
    return Page(rows[:limit], str(rows[limit - 1].size) if len(rows) > limit else None)
