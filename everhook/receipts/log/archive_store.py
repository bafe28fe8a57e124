"""Moves old receipts from the database to files. Their hashes and checkpoints stay, so every proof still works.

A file holds a range of one tenant's log that ends at a checkpoint. It is written under a temporary name, read back and
verified, gets its name and is recorded. Only then are its receipts deleted. If the process dies in between, the next
run continues: a file that is not recorded is written again, and what is recorded is deleted.

A receipt whose attempt is still in the database stays: people look at both together.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from errno import EEXIST
from pathlib import Path

from sqlalchemy import and_, exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.receipts.archive import (
    ArchiveHeader,
    digest,
    file_name,
    have_same_receipts,
    rename_on_disk,
    verify_archive,
    write_archive,
)
from everhook.receipts.keys import KeySet, jwks
from everhook.receipts.keys_store import load_issuer
from everhook.receipts.log.merkle import Frontier
from everhook.receipts.receipt import receipt_leaf
from everhook.receipts.store import StoredHashes, archived_size, newest_archive, seal_at
from everhook.receipts.strict_json import InvalidDocument
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing
from everhook.storage.statements import lock
from everhook.storage.tables import Attempt, Receipt, ReceiptArchive, ReceiptSeal

PER_FILE = 100_000
"""Receipts in one file, about 100 MB before compression, which are held in memory while it is written."""

CHUNK = 1_000

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Range:
    """Receipts of one log that can be archived now: from `start` to before `end`, where a checkpoint was signed at
    `newest_at`."""

    tenant_gid: str
    start: int
    end: int
    newest_at: datetime


@dataclass(frozen=True)
class HeldBack:
    """The first receipt that is old enough, and stays because its attempt is in the database. All later ones stay
    too."""

    tenant_gid: str
    seq: int
    delivery_gid: str


async def next_range(
    session: AsyncSession, tenant_gid: str, before: datetime, start: int | None = None
) -> Range | None:
    """The next receipts to archive: all under checkpoints that were signed before a moment, and none with an attempt
    in the database. None if there are none. `start`: from this place on, rather than after the last archive."""
    if start is None:
        start = await archived_size(session, tenant_gid)
    first = await _first_with_attempt(session, tenant_gid, start)
    bound = first.seq if first is not None else start + PER_FILE
    rows = await session.execute(
        select(col(ReceiptSeal.size), col(ReceiptSeal.created_at))
        .where(
            col(ReceiptSeal.tenant_gid) == tenant_gid,
            col(ReceiptSeal.size) > start,
            col(ReceiptSeal.size) <= bound,
            col(ReceiptSeal.created_at) < before,
        )
        .order_by(col(ReceiptSeal.size).desc())
        .limit(1)
    )
    row = rows.one_or_none()
    return Range(tenant_gid, start, row.size, row.created_at) if row is not None else None


async def held_back(session: AsyncSession, tenant_gid: str, before: datetime, start: int) -> HeldBack | None:
    """What ends the last range, if it is a receipt of an attempt that is in the database, and not the date."""
    first = await _first_with_attempt(session, tenant_gid, start)
    if first is None:
        return None
    rows = await session.execute(
        select(col(ReceiptSeal.created_at))
        .where(col(ReceiptSeal.tenant_gid) == tenant_gid, col(ReceiptSeal.size) > first.seq)
        .order_by(col(ReceiptSeal.size))
        .limit(1)
    )
    signed_at = rows.scalar_one_or_none()
    return first if signed_at is not None and signed_at < before else None


async def _first_with_attempt(session: AsyncSession, tenant_gid: str, start: int) -> HeldBack | None:
    """The first receipt whose attempt is in the database, among as many from `start` on as one file holds."""
    attempt = and_(
        col(Attempt.delivery_gid) == col(Receipt.delivery_gid),
        col(Attempt.round) == col(Receipt.round),
        col(Attempt.number) == col(Receipt.number),
    )
    rows = await session.execute(
        select(col(Receipt.seq), col(Receipt.delivery_gid))
        .where(
            col(Receipt.tenant_gid) == tenant_gid,
            col(Receipt.seq) >= start,
            col(Receipt.seq) < start + PER_FILE,
            exists().where(attempt),
        )
        .order_by(col(Receipt.seq))
        .limit(1)
    )
    row = rows.one_or_none()
    return HeldBack(tenant_gid, row.seq, row.delivery_gid) if row is not None else None


async def archive(database: Database, keyring: KeyRing, chosen: Range, directory: Path, advance: Advance) -> bool:
    """Write, verify and record the file of a range, then delete its receipts. False: another run was faster.

    Raises OSError, also if another file has this name, and InvalidDocument if the log is damaged; then nothing is
    deleted.
    """
    path = directory / chosen.tenant_gid / file_name(chosen.start, chosen.end)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        await _write(database, keyring, chosen, partial, advance)
        if path.exists():
            _must_be_the_same(path, partial)
        recorded = await _record(database, chosen, partial, path)
    except InvalidDocument:
        async with database.reading() as session:
            if await archived_size(session, chosen.tenant_gid) <= chosen.start:
                raise
        recorded = False  # the receipts were deleted while this run read them
    finally:
        partial.unlink(missing_ok=True)
    await delete_archived(database, chosen.tenant_gid)
    return recorded


async def _write(database: Database, keyring: KeyRing, chosen: Range, path: Path, advance: Advance) -> None:
    """Write the file of a range, and verify it as it is on disk."""
    async with database.reading() as session:
        header, keys = await _header(session, keyring, chosen)
        receipts = [jws async for jws in _receipts(session, chosen)]
    write_archive(path, header, receipts)
    found = verify_archive(path, keys, advance)
    if found.wrong is not None:
        raise InvalidDocument(found.wrong.place, found.wrong.text)


def _must_be_the_same(path: Path, written: Path) -> None:
    """Raise FileExistsError unless a run that died left this file. Another one may be the only copy of its receipts:
    those that a database lost when it was restored from a backup."""
    if not have_same_receipts(path, written):
        raise FileExistsError(EEXIST, "it exists already, and has other receipts; move it elsewhere", str(path))


async def _record(database: Database, chosen: Range, partial: Path, path: Path) -> bool:
    """Give the file its name and record it, unless another run has archived these receipts.

    Under the lock of the sealer, so that a log is changed by one at a time. A file with its name is never removed: it
    may be recorded, and its receipts deleted.
    """
    async with database.writing() as session:
        await lock(await session.connection(), "receipts", chosen.tenant_gid)
        if await archived_size(session, chosen.tenant_gid) != chosen.start:
            return False
        row = ReceiptArchive(
            tenant_gid=chosen.tenant_gid,
            start=chosen.start,
            end=chosen.end,
            file=f"{chosen.tenant_gid}/{path.name}",
            sha256=digest(partial),
            newest_at=chosen.newest_at,
        )
        rename_on_disk(partial, path)
        session.add(row)
    return True


async def delete_archived(database: Database, tenant_gid: str) -> None:
    """Delete the receipts of a log that are in recorded archives; after a run that died, too."""
    async with database.reading() as session:
        newest = await newest_archive(session, tenant_gid)
    if newest is None:
        return
    bulk = Bulk(database, rows=CHUNK)
    await bulk.delete(
        Receipt, col(Receipt.tenant_gid) == tenant_gid, col(Receipt.seq).is_not(None), col(Receipt.seq) < newest.end
    )


async def _header(session: AsyncSession, keyring: KeyRing, chosen: Range) -> tuple[ArchiveHeader, KeySet]:
    issuer = await load_issuer(await session.connection(), keyring)
    seal = await seal_at(session, chosen.tenant_gid, chosen.end)
    before = await seal_at(session, chosen.tenant_gid, chosen.start) if chosen.start else None
    if issuer is None or seal is None or (before is None and chosen.start):
        raise InvalidDocument(f"checkpoint {chosen.end}", "is missing, or the one before it, or there is no key")
    frontier = await Frontier.load(StoredHashes(session, chosen.tenant_gid), chosen.start)
    public = jwks(issuer.keys)
    header = ArchiveHeader(
        start=chosen.start,
        end=chosen.end,
        peaks=tuple(frontier.peaks()),
        checkpoint=seal.note,
        previous=before.note if before is not None else None,
        jwks=public,
    )
    return header, KeySet.from_jwks(public)


async def _receipts(session: AsyncSession, chosen: Range) -> AsyncIterator[str]:
    """The receipts of a range, each compared with its hash, which stays when the receipt is deleted."""
    stored = StoredHashes(session, chosen.tenant_gid)
    for start in range(chosen.start, chosen.end, CHUNK):
        stop = min(start + CHUNK, chosen.end)
        hashes = await stored.leaves(start, stop)
        rows = await session.execute(
            select(col(Receipt.seq), col(Receipt.jws)).where(
                col(Receipt.tenant_gid) == chosen.tenant_gid, col(Receipt.seq) >= start, col(Receipt.seq) < stop
            )
        )
        found = {row.seq: row.jws for row in rows}
        for seq in range(start, stop):
            if seq not in found:
                raise InvalidDocument(f"receipt {seq}", "is missing, and there is a checkpoint over it")
            if seq - start >= len(hashes) or receipt_leaf(found[seq]) != hashes[seq - start]:
                raise InvalidDocument(f"receipt {seq}", "is not the one that was sealed here, or its hash was altered")
            yield found[seq]
