"""The audit of a log: everything stored of it is read and verified against its checkpoints.

Before sealing, only the edge of the log is checked; a recipient verifies one receipt. The audit verifies everything:
each receipt and its row, each hash, each checkpoint, that none is missing, and that every attempt has a receipt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.ids import Kind, new_gid
from everhook.receipts.issuer import Issuer
from everhook.receipts.keys import KeySet, jwks
from everhook.receipts.keys_store import load_issuer
from everhook.receipts.log.merkle import Block, Frontier
from everhook.receipts.log.sealing_store import check_seal
from everhook.receipts.receipt import receipt_leaf, verify_receipt
from everhook.receipts.store import StoredHashes, archived_size, newest_seal, places_taken
from everhook.receipts.strict_json import InvalidDocument
from everhook.storage.keyring import KeyRing
from everhook.storage.tables import Attempt, Receipt, ReceiptSeal, Tenant

CHUNK = 1_000

Advance = Callable[[int], None]
"""Called after each chunk with the number of items verified."""


def _ignore(_more: int) -> None:
    pass


@dataclass(frozen=True)
class LogAudit:
    """The result for a valid log. `archived` ones of the receipts are in files, and only their hashes were verified.
    `unsealed` receipts wait for the next checkpoint."""

    receipts: int
    checkpoints: int
    unsealed: int
    archived: int = 0


async def tenants_with_receipts(session: AsyncSession) -> list[str]:
    """The tenants with a log, or with receipts that will be in one. Each tenant costs a look into two indexes."""
    has_log = exists().where(col(ReceiptSeal.tenant_gid) == col(Tenant.gid))
    has_unsealed = exists().where(col(Receipt.tenant_gid) == col(Tenant.gid), col(Receipt.seq).is_(None))
    has_sealed = exists().where(col(Receipt.tenant_gid) == col(Tenant.gid), col(Receipt.seq).is_not(None))
    found = await session.execute(
        select(col(Tenant.gid)).where(or_(has_log, has_unsealed, has_sealed)).order_by(col(Tenant.gid))
    )
    return list(found.scalars())


async def audit_log(session: AsyncSession, tenant_gid: str, keyring: KeyRing, advance: Advance = _ignore) -> LogAudit:
    """Verify a whole log. Raises InvalidDocument for the first fault, with its place. Sealing may continue
    meanwhile."""
    begun = new_gid(Kind.RECEIPT)
    places = await places_taken(session, tenant_gid)
    head = await newest_seal(session, tenant_gid)
    size = head.size if head is not None else 0
    if places > size:  # a receipt gets its place in the transaction of the checkpoint, which is read later
        raise InvalidDocument(
            f"checkpoint {places}", f"is missing: {places} receipts have places, the last checkpoint is {size}"
        )
    issuer = await load_issuer(await session.connection(), keyring)
    if issuer is None:
        raise InvalidDocument("receipt_key", "has no key, and there are receipts")
    reader = _LogReader(session, tenant_gid, issuer, advance)
    checkpoints = await reader.check_log(size)
    return LogAudit(size, checkpoints, await reader.check_unsealed(begun), reader.archived)


async def check_attempts(session: AsyncSession, advance: Advance = _ignore) -> int:
    """How many attempts there are, each with a receipt. Raises InvalidDocument for an attempt without one."""
    count, after = 0, ""
    while True:
        page = (
            select(col(Attempt.gid), col(Attempt.delivery_gid), col(Attempt.round), col(Attempt.number))
            .where(col(Attempt.gid) > after)
            .order_by(col(Attempt.gid))
            .limit(CHUNK)
            .subquery()
        )
        natural = and_(
            col(Receipt.delivery_gid) == page.c.delivery_gid,
            col(Receipt.round) == page.c.round,
            col(Receipt.number) == page.c.number,
        )
        rows = await session.execute(
            select(page.c.gid, col(Receipt.gid).label("receipt")).outerjoin(Receipt, natural).order_by(page.c.gid)
        )
        found = rows.all()
        if not found:
            return count
        for row in found:
            if row.receipt is None:
                raise InvalidDocument(f"attempt {row.gid}", "has no receipt: it was removed")
        count, after = count + len(found), found[-1].gid
        advance(len(found))


class _LogReader:
    def __init__(self, session: AsyncSession, tenant_gid: str, issuer: Issuer, advance: Advance) -> None:
        self.archived = 0
        self._session = session
        self._tenant_gid = tenant_gid
        self._issuer = issuer
        self._advance = advance
        self._keys = KeySet.from_jwks(jwks(issuer.keys))
        self._stored = StoredHashes(session, tenant_gid)
        self._frontier = Frontier()

    async def check_log(self, size: int) -> int:
        """Verify the log from checkpoint to checkpoint. Returns how many there are."""
        count = 0
        while self._frontier.size < size:
            for seal in await self._next_seals():
                await self._check_receipts(seal.size)
                check_seal(seal, self._issuer)
                if self._frontier.root() != seal.root:
                    raise InvalidDocument(f"checkpoint {seal.size}", "is not of the receipts that are stored under it")
                count += 1
        return count

    async def _next_seals(self) -> Sequence[ReceiptSeal]:
        rows = await self._session.execute(
            select(ReceiptSeal)
            .where(col(ReceiptSeal.tenant_gid) == self._tenant_gid, col(ReceiptSeal.size) > self._frontier.size)
            .order_by(col(ReceiptSeal.size))
            .limit(CHUNK)
        )
        return rows.scalars().all()

    async def _check_receipts(self, end: int) -> None:
        """Verify receipts and hashes up to a checkpoint."""
        for start in range(self._frontier.size, end, CHUNK):
            stop = min(start + CHUNK, end)
            rows = await self._receipts(start, stop)
            if len(rows) < stop - start:  # archives are recorded before their receipts are deleted, also meanwhile
                self.archived = await archived_size(self._session, self._tenant_gid)
            hashes = await self._stored.leaves(start, stop)
            leaves = [
                self._leaf(rows.get(seq), seq) if seq >= self.archived or seq in rows else _stored(hashes, seq - start)
                for seq in range(start, stop)
            ]
            for seq, leaf in enumerate(leaves, start):
                if seq - start >= len(hashes) or hashes[seq - start] != leaf:
                    raise InvalidDocument(
                        f"receipt {seq}", "is not the one that was sealed here, or its hash was altered"
                    )
            for block in self._frontier.extend(leaves):
                await self._check_block(block)
            self._advance(len(leaves))

    async def _receipts(self, start: int, stop: int) -> dict[int, Receipt]:
        rows = await self._session.execute(
            select(Receipt).where(
                col(Receipt.tenant_gid) == self._tenant_gid, col(Receipt.seq) >= start, col(Receipt.seq) < stop
            )
        )
        return {row.seq: row for row in rows.scalars() if row.seq is not None}

    def _leaf(self, row: Receipt | None, seq: int) -> bytes:
        if row is None:
            raise InvalidDocument(f"receipt {seq}", "is missing, and there is a checkpoint over it")
        self._check_row(row, f"receipt {seq}")
        return receipt_leaf(row.jws)

    def _check_row(self, row: Receipt, place: str) -> None:
        """Verify that the receipt is genuine, unaltered, and that of this row."""
        stated = verify_receipt(row.jws, self._keys, place).receipt
        of_row = (row.gid, row.tenant_gid, row.delivery_gid, row.attempt_gid, row.round, row.number)
        if of_row != (
            stated.gid, stated.tenant, stated.delivery_gid, stated.attempt_gid, stated.round, stated.number
        ):  # fmt: skip
            raise InvalidDocument(place, f"stands in the row of another, {row.gid}")

    async def _check_block(self, block: Block) -> None:
        if list(await self._stored.blocks(block.level, block.index, block.index + 1)) != [block.hash]:
            raise InvalidDocument(f"block {block.index} of level {block.level}", "is missing or was altered")

    async def check_unsealed(self, until: str) -> int:
        """Verify the unsealed receipts created before `until`: a later one may be signed with a key that was not
        loaded."""
        count, after = 0, ""
        while True:
            rows = await self._session.execute(
                select(Receipt)
                .where(
                    col(Receipt.tenant_gid) == self._tenant_gid,
                    col(Receipt.seq).is_(None),
                    col(Receipt.gid) > after,
                    col(Receipt.gid) < until,
                )
                .order_by(col(Receipt.gid))
                .limit(CHUNK)
            )
            found = rows.scalars().all()
            if not found:
                return count
            for row in found:
                self._check_row(row, f"receipt {row.gid}")
            count, after = count + len(found), found[-1].gid
            self._advance(len(found))


def _stored(hashes: Sequence[bytes], index: int) -> bytes:
    """The stored hash of an archived receipt; an empty one, which no receipt has, if it is missing."""
    return hashes[index] if index < len(hashes) else b""
