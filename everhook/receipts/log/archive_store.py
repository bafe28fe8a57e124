"""Moves old receipts from the database to files. Their hashes and checkpoints stay, so every proof still works.

A file holds a range of one tenant's log that ends at a checkpoint. Receipts are deleted only once their file is
written, on disk, read back and verified, and recorded. Whatever dies in between, the next run continues: a file that is
not recorded is written again, and what is recorded is deleted.

A receipt whose attempt is still in the database stays: people look at both together.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import and_, exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.receipts.archive import ArchiveHeader, file_name, verify_archive, write_archive
from everhook.receipts.keys import KeySet, jwks
from everhook.receipts.keys_store import load_issuer
from everhook.receipts.log.merkle import Frontier
from everhook.receipts.store import StoredHashes, newest_archive, seal_at
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


async def next_range(session: AsyncSession, tenant_gid: str, before: datetime) -> Range | None:
    """The next receipts to archive: all under checkpoints that were signed before a moment, and none with an attempt
    in the database. None if there are none."""
    newest = await newest_archive(session, tenant_gid)
    start = newest.end if newest is not None else 0
    bound = await _first_with_attempt(session, tenant_gid, start, start + PER_FILE)
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


async def _first_with_attempt(session: AsyncSession, tenant_gid: str, start: int, end: int) -> int:
    """The first place from `start` on whose attempt is in the database; `end` if there is none before it."""
    attempt = and_(
        col(Attempt.delivery_gid) == col(Receipt.delivery_gid),
        col(Attempt.round) == col(Receipt.round),
        col(Attempt.number) == col(Receipt.number),
    )
    rows = await session.execute(
        select(col(Receipt.seq))
        .where(
            col(Receipt.tenant_gid) == tenant_gid,
            col(Receipt.seq) >= start,
            col(Receipt.seq) < end,
            exists().where(attempt),
        )
        .order_by(col(Receipt.seq))
        .limit(1)
    )
    found: int | None = rows.scalar()
    return end if found is None else found


async def archive(database: Database, keyring: KeyRing, chosen: Range, directory: Path, advance: Advance) -> None:
    """Write, verify and record the file of a range, then delete its receipts. Raises OSError, and InvalidDocument if
    the log is damaged; then nothing is deleted."""
    path = directory / chosen.tenant_gid / file_name(chosen.start, chosen.end)
    path.parent.mkdir(parents=True, exist_ok=True)
    async with database.reading() as session:
        header, keys = await _header(session, keyring, chosen)
        receipts = [jws async for jws in _receipts(session, chosen, advance)]
    digest = write_archive(path, header, receipts)
    found = verify_archive(path, keys)
    if found.wrong is not None:
        path.unlink()
        raise InvalidDocument(found.wrong.place, found.wrong.text)
    row = ReceiptArchive(
        tenant_gid=chosen.tenant_gid,
        start=chosen.start,
        end=chosen.end,
        file=f"{chosen.tenant_gid}/{path.name}",
        sha256=digest,
        newest_at=chosen.newest_at,
    )
    async with database.writing() as session:
        # As the sealer, so that a log is changed by one at a time.
        await lock(await session.connection(), "receipts", chosen.tenant_gid)
        known = await newest_archive(session, chosen.tenant_gid)
        if known is None or known.end == chosen.start:
            session.add(row)
        elif (known.start, known.end) != (chosen.start, chosen.end):
            path.unlink()  # another run has archived these, and more or less of them in a file of another name
    await delete_archived(database, chosen.tenant_gid)


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


async def _receipts(session: AsyncSession, chosen: Range, advance: Advance) -> AsyncIterator[str]:
    for start in range(chosen.start, chosen.end, CHUNK):
        stop = min(start + CHUNK, chosen.end)
        rows = await session.execute(
            select(col(Receipt.seq), col(Receipt.jws))
            .where(col(Receipt.tenant_gid) == chosen.tenant_gid, col(Receipt.seq) >= start, col(Receipt.seq) < stop)
            .order_by(col(Receipt.seq))
        )
        for expected, row in enumerate(rows, start):
            if row.seq != expected:
                raise InvalidDocument(f"receipt {expected}", "is missing, and there is a checkpoint over it")
            yield row.jws
        advance(stop - start)
