"""Receipts, receipt logs, and their verification by a third party."""

import asyncio
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlmodel import col

from everhook.contracts import Verdict
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.ids import Kind, new_gid
from everhook.receipts.bundle import BundleVerification, Consistency, build, verify
from everhook.receipts.issuer import Issuer, ReceiptContext, issue, url_digest
from everhook.receipts.keys import KeySet, jwks
from everhook.receipts.keys_store import IssuerCache
from everhook.receipts.log.merkle import consistency_proof, inclusion_proof
from everhook.receipts.log.sealing_store import SealedBatch, seal_batch
from everhook.receipts.store import StoredHashes, newest_seal
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing
from everhook.storage.tables import DEFAULT_TENANT_GID, Delivery, Receipt, ReceiptSeal, now
from tests.stores.factories import ISSUER, KEYRING, URL, attempt_record

SIGNATURES = "ab" * 32


@dataclass
class Log:
    """A tenant's receipts and their log, in a database."""

    database: Database
    tenant_gid: str = DEFAULT_TENANT_GID
    keyring: KeyRing = KEYRING

    async def issuer(self) -> Issuer:
        return await IssuerCache(self.database, self.keyring, ISSUER).get()

    async def grow(self, count: int = 1, **changes: Any) -> list[str]:
        """Record `count` attempts, each with its receipt. Returns their gids, oldest first."""
        issuer = await self.issuer()
        recorder, attempts = Recorder(self.database), []
        for _ in range(count):
            delivery = Delivery(
                tenant_gid=self.tenant_gid,
                message_gid=new_gid(Kind.MESSAGE),
                endpoint_gid=new_gid(Kind.ENDPOINT),
                channel="orders",
                event_type="order.created",
            )
            fields: dict[str, Any] = {
                "verdict": Verdict.DELIVERED,
                "started_at": now(),
                "status_code": 200,
                "url_sha256": url_digest(URL),
                "request_sha256": "cd" * 32,
                "signatures_sha256": SIGNATURES,
            }
            record = attempt_record(delivery, **(fields | changes))
            attempts.append((record, issue(record, ReceiptContext(self.tenant_gid, delivery.message_gid, URL), issuer)))
        await asyncio.gather(*(recorder.attempt(record, Transcript(receipt=receipt)) for record, receipt in attempts))
        return [receipt.gid for _, receipt in attempts]

    async def seal(self, at_most: int = 1_000) -> SealedBatch:
        async with self.database.writing() as session:
            return await seal_batch(session, self.tenant_gid, self.keyring, now(), at_most=at_most)

    async def grown(self, *sizes: int) -> "Log":
        """A log with a checkpoint at each of these sizes."""
        for size, before in zip(sizes, (0, *sizes), strict=False):
            await self.grow(size - before)
            await self.seal()
        return self

    async def receipts(self) -> list[Receipt]:
        """Those with a place, in their order."""
        async with self.database.reading() as session:
            found = await session.execute(
                select(Receipt)
                .where(col(Receipt.tenant_gid) == self.tenant_gid, col(Receipt.seq).is_not(None))
                .order_by(col(Receipt.seq))
            )
            return list(found.scalars())

    async def unsealed(self) -> int:
        return await self.count("receipt WHERE seq IS NULL")

    async def seals(self) -> list[ReceiptSeal]:
        async with self.database.reading() as session:
            found = await session.execute(
                select(ReceiptSeal)
                .where(col(ReceiptSeal.tenant_gid) == self.tenant_gid)
                .order_by(col(ReceiptSeal.size))
            )
            return list(found.scalars())

    async def keys(self) -> KeySet:
        return KeySet.from_jwks(jwks((await self.issuer()).keys))

    async def bundle(self, seq: int, since: int | None = None) -> dict[str, Any]:
        async with self.database.reading() as session:
            seal = await newest_seal(session, self.tenant_gid)
            rows = await session.execute(
                select(Receipt).where(col(Receipt.tenant_gid) == self.tenant_gid, col(Receipt.seq) == seq)
            )
            row, store = rows.scalar_one(), StoredHashes(session, self.tenant_gid)
            assert seal is not None
            growth = None
            if since is not None:
                growth = Consistency(since, seal.size, await consistency_proof(store, since, seal.size))
            proof = await inclusion_proof(store, seq, seal.size)
        return build(row.jws, seq, proof, seal.note, jwks((await self.issuer()).keys), growth)

    async def verified(
        self, seq: int, held: ReceiptSeal | None = None, keys: KeySet | None = None
    ) -> BundleVerification:
        """What the check says of a receipt's bundle, to one who holds a checkpoint."""
        bundle = await self.bundle(seq, held.size if held is not None else None)
        return verify(bundle, since=held.note if held is not None else None, keys=keys)

    async def change(self, *statements: str, **parameters: Any) -> None:
        """Change rows as anyone with access to the database can."""
        async with self.database.write_connection() as connection:
            for statement in statements:
                done = await connection.execute(text(statement), parameters)
                assert done.rowcount, f"changed nothing: {statement}"

    async def count(self, what: str) -> int:
        async with self.database.read_connection() as connection:
            return int((await connection.execute(text(f"SELECT count(*) FROM {what}"))).scalar_one())
