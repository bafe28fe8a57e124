"""Sealing: unsealed receipts get their index in their tenant's log, and a checkpoint is signed over it.

One transaction for each batch. A log has one writer at a time (`lock`). If there were two, the unique constraints of
receipts, hashes and checkpoints would make the second fail rather than fork the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.notifications.events import EventKind
from everhook.receipts.issuer import Issuer
from everhook.receipts.keys import KeySet, jwks
from everhook.receipts.keys_store import load_issuer
from everhook.receipts.log.checkpoint import Checkpoint, origin_of, sign_checkpoint, verify_checkpoint
from everhook.receipts.log.merkle import BLOCK, EMPTY_ROOT, Block, Frontier, MissingHashes
from everhook.receipts.receipt import receipt_leaf
from everhook.receipts.store import LEAVES, StoredHashes, newest_seal, places_taken
from everhook.receipts.strict_json import InvalidDocument
from everhook.storage.event_outbox import record_event
from everhook.storage.keyring import KeyRing
from everhook.storage.statements import lock, table_of
from everhook.storage.tables import Receipt, ReceiptHash, ReceiptSeal, Tenant

BATCH = 2_000
"""Bounds how long recorders wait on SQLite, which has one writer at a time."""


@dataclass(frozen=True)
class SealedBatch:
    """What one transaction did. `more`: more receipts may be waiting."""

    receipts: int
    size: int
    more: bool


async def tenants_with_unsealed(connection: AsyncConnection) -> list[str]:
    """Tenants with receipts that have no index in the log yet, except those that are being erased.

    A loose index scan: the cost depends on the number of these tenants and not on that of their receipts.
    """
    # The order is that of the index of unsealed receipts: SQLite would look for a minimum in the index of all receipts.
    tenant = col(Receipt.tenant_gid)
    unsealed = select(tenant).where(col(Receipt.seq).is_(None)).order_by(tenant, col(Receipt.gid)).limit(1)
    tenants = select(unsealed.scalar_subquery().label("gid")).cte("tenants", recursive=True)
    following = unsealed.where(tenant > tenants.c.gid).scalar_subquery()
    tenants = tenants.union_all(select(following).where(tenants.c.gid.is_not(None)))
    rows = await connection.execute(
        select(tenants.c.gid)
        .join(Tenant, col(Tenant.gid) == tenants.c.gid)
        .where(col(Tenant.erasing_since).is_(None))
        .order_by(tenants.c.gid)
    )
    return list(rows.scalars())


async def seal_batch(
    session: AsyncSession, tenant_gid: str, keyring: KeyRing, moment: datetime, *, at_most: int
) -> SealedBatch:
    """Seal the oldest receipts without an index. A receipt that is committed late is sealed late.

    Raises InvalidDocument, with the place of the damage, if the stored hashes do not lead to the last checkpoint: no
    checkpoint is signed over a log that was rewritten.
    """
    connection = await session.connection()
    await lock(connection, "receipts", tenant_gid)
    issuer = await load_issuer(connection, keyring)
    if issuer is None:
        raise InvalidDocument("receipt_key", "has no key, and there are receipts")
    frontier = await _checked_frontier(session, tenant_gid, issuer)
    start = frontier.size
    leaves = await _number(session, tenant_gid, start, at_most)
    if not leaves:
        return SealedBatch(0, start, more=False)
    blocks = frontier.extend(leaves)
    await _store_hashes(session, tenant_gid, start, leaves, blocks)
    _sign(session, tenant_gid, issuer, frontier, moment)
    return SealedBatch(len(leaves), frontier.size, more=len(leaves) == at_most)


async def _checked_frontier(session: AsyncSession, tenant_gid: str, issuer: Issuer) -> Frontier:
    """The right edge of the log, verified: everything stored of it ends at the last checkpoint, with its root."""
    seal = await newest_seal(session, tenant_gid)
    size, root = (seal.size, seal.root) if seal is not None else (0, EMPTY_ROOT)
    if seal is not None:
        check_seal(seal, issuer)
    await _check_ends(session, tenant_gid, size)
    try:
        frontier = await Frontier.load(StoredHashes(session, tenant_gid), size)
    except MissingHashes as error:
        raise InvalidDocument("receipt_hash", f"is short of what a log of {size} has: {error}") from error
    if frontier.root() != root:
        raise InvalidDocument("receipt_hash", f"does not lead to the root of checkpoint {size}")
    return frontier


async def _check_ends(session: AsyncSession, tenant_gid: str, size: int) -> None:
    """Verify that receipts end exactly at the last checkpoint, and hashes not after it. Raises InvalidDocument."""
    places = await places_taken(session, tenant_gid)
    if places < size:
        raise InvalidDocument(f"receipt {places}", f"is missing, and all after it: the last checkpoint counts {size}")
    if places > size:
        raise InvalidDocument(
            f"checkpoint {places}", f"is missing: {places} receipts have places, the last checkpoint is {size}"
        )
    if (stray := await _hash_beyond(session, tenant_gid, size)) is not None:
        raise InvalidDocument(
            "receipt_hash", f"has level {stray.level}, index {stray.index}, after the last checkpoint, {size}"
        )


async def _hash_beyond(session: AsyncSession, tenant_gid: str, size: int) -> ReceiptHash | None:
    level, index = col(ReceiptHash.level), col(ReceiptHash.index)
    beyond = [and_(level == each, index >= size // BLOCK**each) for each in range(_LEVELS)]
    rows = await session.execute(
        select(ReceiptHash).where(col(ReceiptHash.tenant_gid) == tenant_gid, or_(*beyond)).limit(1)
    )
    return rows.scalar_one_or_none()


_LEVELS = 4
"""Leaves, and the block levels of a log of up to a trillion receipts."""


def check_seal(seal: ReceiptSeal, issuer: Issuer) -> None:
    """Verify that a stored checkpoint was signed by this issuer, and states what its row says. Raises
    InvalidDocument."""
    place = f"checkpoint {seal.size}"
    found = verify_checkpoint(seal.note, KeySet.from_jwks(jwks(issuer.keys)), place).checkpoint
    stated = (found.origin, found.size, found.root)
    if stated != (origin_of(issuer.name, seal.tenant_gid), seal.size, seal.root):
        raise InvalidDocument(place, f"is a row of another log, size or root than its note, which is of {found.origin}")


async def _number(session: AsyncSession, tenant_gid: str, start: int, at_most: int) -> list[bytes]:
    """Assign the next indexes to receipts and return their leaves. One statement, so that no other writer can
    interfere."""
    waiting = (
        select(col(Receipt.gid), col(Receipt.delivery_gid))
        .where(col(Receipt.tenant_gid) == tenant_gid, col(Receipt.seq).is_(None))
        .order_by(col(Receipt.gid))
        .limit(at_most)
        .cte("waiting")
    )
    nth = func.row_number().over(order_by=waiting.c.gid)
    places = select(waiting.c.gid, waiting.c.delivery_gid, (start - 1 + nth).label("seq")).subquery()
    numbered = await session.execute(
        update(table_of(Receipt))
        .where(
            col(Receipt.gid) == places.c.gid,
            col(Receipt.delivery_gid) == places.c.delivery_gid,
            # Receipts are partitioned by it: with bounds, a hash join reads only the months in question.
            col(Receipt.delivery_gid) >= select(func.min(waiting.c.delivery_gid)).scalar_subquery(),
            col(Receipt.delivery_gid) <= select(func.max(waiting.c.delivery_gid)).scalar_subquery(),
        )
        .values(seq=places.c.seq)
        .returning(col(Receipt.gid), col(Receipt.seq), col(Receipt.jws))
    )
    return [_leaf(row) for row in sorted(numbered, key=lambda row: row.seq)]


def _leaf(row: Any) -> bytes:
    try:
        return receipt_leaf(row.jws)
    except UnicodeEncodeError as error:
        raise InvalidDocument(f"receipt {row.gid}", "is no JWS, which is ASCII") from error


async def _store_hashes(
    session: AsyncSession, tenant_gid: str, start: int, leaves: Sequence[bytes], blocks: Sequence[Block]
) -> None:
    def row(level: int, index: int, hashed: bytes) -> dict[str, Any]:
        return {"tenant_gid": tenant_gid, "level": level, "index": index, "hash": hashed}

    rows = [row(LEAVES, index, leaf) for index, leaf in enumerate(leaves, start)]
    rows += [row(block.level, block.index, block.hash) for block in blocks]
    await session.execute(table_of(ReceiptHash).insert(), rows)


def _sign(session: AsyncSession, tenant_gid: str, issuer: Issuer, frontier: Frontier, moment: datetime) -> None:
    """Sign and store the checkpoint, and record the event that publishes it."""
    head = Checkpoint(origin_of(issuer.name, tenant_gid), frontier.size, frontier.root(), moment)
    note = sign_checkpoint(head, issuer.keys)
    session.add(ReceiptSeal(tenant_gid=tenant_gid, size=head.size, root=head.root, note=note, created_at=moment))
    record_event(session, EventKind.CHECKPOINT, tenant_gid=tenant_gid, data={"size": head.size, "checkpoint": note})
