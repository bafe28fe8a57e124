"""Use cases of receipts: show them, their checkpoints and keys, and prove that they are in the log."""

import math
import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

from everhook.delivery import attempts_store
from everhook.delivery import store as deliveries
from everhook.delivery.service import attempt_position
from everhook.errors import InvalidField, LogDamaged, NotFound, NotSealed, ReceiptArchived
from everhook.ids import Kind, is_gid, moment_of
from everhook.receipts import bundle as bundles
from everhook.receipts import store as receipts
from everhook.receipts.bundle import Consistency
from everhook.receipts.keys import jwks
from everhook.receipts.keys_store import load_issuer
from everhook.receipts.log.merkle import MissingHashes, consistency_proof, inclusion_proof
from everhook.receipts.store import StoredHashes
from everhook.storage.engine import Database, Session
from everhook.storage.keyring import KeyRing
from everhook.storage.paging import Page
from everhook.storage.tables import DEFAULT_TENANT_GID, Receipt, ReceiptSeal
from everhook.storage.tenant_scope import tenant_bound
from everhook.tenants import store as tenants

MAX_SIZE = 2**63 - 1
NAMED_ARCHIVES = 3
"""So many files are named at most. A tenant has one; only an operator sees those of several tenants."""

SEALING_TAKES_S = 2
"""What a pass of the sealer may take."""

T = TypeVar("T")


class ReceiptService:
    """`seal_every_s`: how often checkpoints are signed."""

    def __init__(self, database: Database, keyring: KeyRing, *, seal_every_s: float) -> None:
        self._database = database
        self._keyring = keyring
        self._seal_every_s = seal_every_s

    async def public_keys(self) -> dict[str, Any]:
        """The public keys of receipts and checkpoints, retired ones included, as a JSON Web Key Set (RFC 7517)."""
        async with self._database.reading() as session:
            return await self.keys(session)

    async def keys(self, session: Session) -> dict[str, Any]:
        """The same. Read after a receipt, they include the key that signed it."""
        issuer = await load_issuer(await session.connection(), self._keyring)
        return jwks(issuer.keys if issuer is not None else ())

    async def of_delivery(self, session: Session, gid: str, *, after: str | None, limit: int) -> Page[Receipt]:
        """One receipt for each attempt that has ended, in the order of the attempts. Raises NotFound, ReceiptArchived
        if they may be in an archive, and InvalidField for a foreign cursor."""
        page = await attempts_store.receipts_in_order(session, gid, after=attempt_position(after), limit=limit)
        if not page.rows and await deliveries.get(session, gid) is None:
            await _refuse_if_archived(session, gid, Kind.DELIVERY)
            raise NotFound("delivery", gid)
        return page

    async def checkpoints(
        self, session: Session, tenant: str | None, *, after: str | None, limit: int
    ) -> Page[ReceiptSeal]:
        """The checkpoints of one tenant's log, newest first. Raises NotFound and InvalidField for a foreign cursor."""
        tenant_gid = await _log_of(session, tenant)
        return await receipts.page_of_seals(session, tenant_gid, before=_size(after), limit=limit)

    async def get(self, session: Session, gid: str) -> Receipt:
        """Raises NotFound, and ReceiptArchived if the receipt may be in an archive."""
        row = await receipts.find(session, gid)
        if row is not None:
            return row
        await _refuse_if_archived(session, gid, Kind.RECEIPT)
        raise NotFound("receipt", gid)

    async def bundle(self, session: Session, gid: str, *, since: int | None = None) -> dict[str, Any]:
        """A receipt with all that it takes to check it offline. With `since`, also a proof that the log was only added
        to since it had that size. Raises NotFound, ReceiptArchived, NotSealed, InvalidField and LogDamaged."""
        row = await self.get(session, gid)
        seal = await receipts.newest_seal(session, row.tenant_gid)
        if row.seq is None or seal is None:
            raise self._not_sealed(gid)
        if since is not None and since > seal.size:
            raise InvalidField("since", f"the log has {seal.size} receipts, which is fewer")
        hashes = StoredHashes(session, row.tenant_gid)
        proof = await _proven(inclusion_proof(hashes, row.seq, seal.size))
        growth = None
        if since is not None:
            growth = Consistency(since, seal.size, await _proven(consistency_proof(hashes, since, seal.size)))
        return bundles.build(row.jws, row.seq, proof, seal.note, await self.keys(session), growth)

    async def consistency(self, session: Session, tenant: str | None, from_size: int, to_size: int) -> dict[str, Any]:
        """Proof that the log of one checkpoint begins with that of another. Raises InvalidField, NotFound and
        LogDamaged."""
        if from_size > to_size:
            raise InvalidField("from", f"is larger than `to`, and a log only grows: {from_size} > {to_size}")
        tenant_gid = await _log_of(session, tenant)
        old, new = [await _checkpoint(session, tenant_gid, size) for size in (from_size, to_size)]
        proof = await _proven(consistency_proof(StoredHashes(session, tenant_gid), old.size, new.size))
        return bundles.build_consistency(old.note, new.note, proof, await self.keys(session))

    def _not_sealed(self, gid: str) -> NotSealed:
        """Schedules run at whole multiples of their interval."""
        wait = math.ceil(self._seal_every_s - time.time() % self._seal_every_s) + SEALING_TAKES_S
        detail = f"{gid} is not under a checkpoint yet. The next is signed in {wait} seconds."
        return NotSealed(detail, timedelta(seconds=wait))


async def _refuse_if_archived(session: Session, gid: str, kind: Kind) -> None:
    """Raise ReceiptArchived if receipts of the time of this id, which is not in the database, were moved to files."""
    if not is_gid(gid, kind):
        return
    files = await receipts.archives_after(session, moment_of(gid), limit=NAMED_ARCHIVES + 1)
    if files:
        more = ", or of another tenant" if len(files) > NAMED_ARCHIVES else ""
        raise ReceiptArchived(
            f"{gid} is not in the database. Receipts of its time were archived to files, which the operators have: "
            f"look first in {' or '.join(files[:NAMED_ARCHIVES])}{more}."
        )


async def _log_of(session: Session, tenant: str | None) -> str:
    """The tenant whose log it is, as far as the session reaches."""
    named = tenant or tenant_bound(session) or DEFAULT_TENANT_GID
    found = await tenants.find_tenant(session, named)
    if found is None:
        raise NotFound("tenant", named)
    return found.gid


async def _checkpoint(session: Session, tenant_gid: str, size: int) -> ReceiptSeal:
    seal = await receipts.seal_at(session, tenant_gid, size)
    if seal is None:
        raise NotFound("checkpoint", f"over {size} receipts in this log")
    return seal


async def _proven(proof: Awaitable[T]) -> T:
    try:
        return await proof
    except MissingHashes as error:
        raise LogDamaged(
            f"This log was damaged, and nothing can be proven from it: {error}. `everhook receipts audit` names the "
            "place."
        ) from error


def _size(key: str | None) -> int | None:
    """The size that a page of checkpoints begins below."""
    if key is not None and not (key.isascii() and key.isdigit() and int(key) <= MAX_SIZE):
        raise InvalidField("cursor", "is not a cursor of this list; send `nextCursor` unchanged")
    return int(key) if key is not None else None
