"""What is done to receipts in the database is caught by the check of a bundle or by the audit, and the place named."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from everhook.receipts.bundle import verify
from everhook.receipts.issuer import Issuer
from everhook.receipts.keys import ReceiptKey
from everhook.receipts.log.audit_store import LogAudit, audit_log, check_attempts
from everhook.receipts.receipt import ReceiptSigner, verify_receipt
from everhook.receipts.strict_json import InvalidDocument
from everhook.storage.engine import Database
from everhook.storage.tables import now
from tests.stores.factories import KEYRING
from tests.stores.receipt_factory import Log

FOREIGN = ReceiptKey.generate(now() - timedelta(days=1))
LOGGED = ("receipt", "receipt_hash", "receipt_seal")


@pytest.fixture
async def log(database: Database) -> AsyncIterator[Log]:
    """Eight receipts, checkpoints over three, six and eight of them, and one that waits."""
    log = await Log(database).grown(3, 6, 8)
    await log.grow(1)
    yield log


async def audited(log: Log) -> LogAudit:
    async with log.database.reading() as session:
        return await audit_log(session, log.tenant_gid, KEYRING)


async def found_by_audit(log: Log) -> str:
    with pytest.raises(InvalidDocument) as caught:
        await audited(log)
    return caught.value.place


async def found_by_check(log: Log, seq: int, held: int | None = None) -> str | None:
    """The place that a third party's check names. `held` is the size of the checkpoint that the third party has."""
    seals = {seal.size: seal for seal in await log.seals()}
    result = await log.verified(seq, seals[held] if held else None)
    return result.wrong.place if result.wrong is not None else None


@pytest.mark.both_databases
async def test_an_untouched_log_holds(log: Log) -> None:
    assert await audited(log) == LogAudit(receipts=8, checkpoints=3, unsealed=1)
    for seq in range(8):
        assert await found_by_check(log, seq, held=3) is None
    async with log.database.reading() as session:
        assert await check_attempts(session) == 9


@pytest.mark.both_databases
async def test_a_log_of_several_blocks_holds_and_a_block_is_missed_or_known_again(database: Database) -> None:
    log = await Log(database).grown(300, 520)
    assert await audited(log) == LogAudit(receipts=520, checkpoints=2, unsealed=0)
    await log.change('UPDATE receipt_hash SET hash = :hash WHERE level = 1 AND "index" = 1', hash=b"\1" * 32)
    assert await found_by_audit(log) == "block 1 of level 1"
    assert await found_by_check(log, 5) == "inclusionProof"
    await log.change('DELETE FROM receipt_hash WHERE level = 1 AND "index" = 1')
    assert await found_by_audit(log) == "block 1 of level 1"


SWAP = (
    "UPDATE receipt SET seq = -1 WHERE seq = 2",
    "UPDATE receipt SET seq = 2 WHERE seq = 4",
    "UPDATE receipt SET seq = 4 WHERE seq = -1",
)
ROLL_OVER = "(SELECT jws FROM receipt WHERE seq = 4)"

# name: statements, what the check of receipt 2's bundle names, what the audit names
TAMPERINGS: dict[str, tuple[tuple[str, ...], str | None, str]] = {
    "a receipt altered": (
        ("UPDATE receipt SET jws = substr(jws, 1, length(jws) - 8) || 'AAAAAAAA' WHERE seq = 2",),
        "receipt.signature",
        "receipt 2.signature",
    ),
    "a receipt replaced by another's": (
        (f"UPDATE receipt SET jws = {ROLL_OVER} WHERE seq = 2",),
        "inclusionProof",
        "receipt 2",
    ),
    "two receipts swapped": (SWAP, "inclusionProof", "receipt 2"),
    "a receipt removed": (("DELETE FROM receipt WHERE seq = 1",), None, "receipt 1"),
    "the newest receipts removed": (("DELETE FROM receipt WHERE seq >= 6",), None, "receipt 6"),
    "a hash removed": (('DELETE FROM receipt_hash WHERE "index" = 6',), "missing", "receipt 6"),
    "a hash altered": (
        ('UPDATE receipt_hash SET hash = (SELECT hash FROM receipt_hash WHERE "index" = 0) WHERE "index" = 6',),
        "inclusionProof",
        "receipt 6",
    ),
    "the newest checkpoint removed": (("DELETE FROM receipt_seal WHERE size = 8",), None, "checkpoint 8"),
    "all checkpoints removed": (("DELETE FROM receipt_seal",), "no checkpoint", "checkpoint 8"),
    "an old checkpoint replaced by a newer one": (
        ("UPDATE receipt_seal SET note = (SELECT note FROM receipt_seal WHERE size = 8) WHERE size = 3",),
        None,
        "checkpoint 3",
    ),
    "a checkpoint's root altered": (
        ("UPDATE receipt_seal SET root = (SELECT root FROM receipt_seal WHERE size = 3) WHERE size = 6",),
        None,
        "checkpoint 6",
    ),
    "a checkpoint's date altered": (
        ("UPDATE receipt_seal SET note = replace(note, 'time 2', 'time 3') WHERE size = 8",),
        "checkpoint.signatures",
        "checkpoint 8.signatures",
    ),
    "a waiting receipt altered": (
        ("UPDATE receipt SET jws = substr(jws, 1, length(jws) - 8) || 'AAAAAAAA' WHERE seq IS NULL",),
        None,
        "receipt rcp_",
    ),
    "a row that points at another delivery": (
        ("UPDATE receipt SET delivery_gid = 'dlv_another' WHERE seq = 2",),
        None,
        "receipt 2",
    ),
}


@pytest.mark.both_databases
@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_detected_and_its_place_is_named(log: Log, name: str) -> None:
    statements, by_check, by_audit = TAMPERINGS[name]
    await log.change(*statements)
    assert (await found_by_audit(log)).startswith(by_audit)
    if by_check in ("missing", "no checkpoint"):
        with pytest.raises((LookupError, AssertionError)):
            await log.bundle(2)
    else:
        assert await found_by_check(log, 2) == by_check


@pytest.mark.both_databases
async def test_an_attempt_whose_receipt_was_removed_before_it_was_sealed_is_missed(log: Log) -> None:
    await log.change("DELETE FROM receipt WHERE seq IS NULL")
    assert (await audited(log)).unsealed == 0
    async with log.database.reading() as session:
        with pytest.raises(InvalidDocument, match="has no receipt"):
            await check_attempts(session)


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_receipt_signed_with_another_key_is_caught(log: Log, sealed: bool) -> None:
    """Inserted before the log was sealed, it is covered by the checkpoint, and still not signed by a known key."""
    where = "seq = 2" if sealed else "seq IS NULL"
    await _sign_again(log, where, await log.issuer(), ReceiptSigner([FOREIGN]))
    if not sealed:
        await log.seal()
    seq = 2 if sealed else 8
    assert await found_by_check(log, seq) == "receipt.header.kid"
    assert await found_by_audit(log) == f"receipt {seq}.header.kid"


@pytest.mark.both_databases
async def test_a_receipt_signed_again_with_our_own_key_does_not_fit_its_place_in_the_log(log: Log) -> None:
    """Even the issuer cannot take back what is under a checkpoint."""
    issuer = await log.issuer()
    await _sign_again(log, "seq = 2", issuer, issuer.signer, outcome="rejected")
    assert await found_by_check(log, 2) == "inclusionProof"
    assert await found_by_audit(log) == "receipt 2"


async def _sign_again(log: Log, where: str, issuer: Issuer, signer: ReceiptSigner, **changes: Any) -> None:
    async with log.database.read_connection() as connection:
        jws = (await connection.execute(text(f"SELECT jws FROM receipt WHERE {where}"))).scalar_one()
    stated = replace(verify_receipt(jws, await log.keys()).receipt, **changes)
    await log.change(f"UPDATE receipt SET jws = :jws WHERE {where}", jws=signer.sign(stated))


# A backup that is put back


async def back_up(log: Log) -> None:
    async with log.database.write_connection() as connection:
        for table in LOGGED:
            await connection.execute(text(f"DROP TABLE IF EXISTS kept_{table}"))
            await connection.execute(text(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}"))


async def restore(log: Log) -> None:
    async with log.database.write_connection() as connection:
        for table in LOGGED:
            await connection.execute(text(f"DELETE FROM {table}"))
            await connection.execute(text(f"INSERT INTO {table} SELECT * FROM kept_{table}"))
            await connection.execute(text(f"DROP TABLE kept_{table}"))


async def test_a_log_that_a_backup_shortened_and_that_forked_is_detected_with_a_kept_checkpoint(log: Log) -> None:
    await back_up(log)
    await log.grow(3)
    await log.seal()
    held = (await log.seals())[-1]
    assert held.size == 12

    await restore(log)
    shorter = await log.verified(2)
    assert shorter.ok and shorter.checkpoint is not None and shorter.checkpoint.size < held.size
    assert (await audited(log)).receipts == 8  # in itself the database is in order: no other check can detect it
    wrong = verify(await log.bundle(2), since=held.note).wrong
    assert wrong is not None and wrong.place == "consistency"  # nothing shows the held one to be of this log

    await log.grow(5)
    await log.seal()
    assert (await log.seals())[-1].size > held.size
    wrong = (await log.verified(2, held)).wrong
    assert wrong is not None
    assert wrong.place == "consistency.proof"
    assert "the log was rewritten" in wrong.text


async def test_a_fork_of_the_same_length_is_caught(log: Log) -> None:
    await back_up(log)
    await log.seal()
    held = (await log.seals())[-1]
    await restore(log)
    await log.change("DELETE FROM receipt WHERE seq IS NULL")
    await log.grow(1)
    await log.seal()
    assert (await log.seals())[-1].size == held.size
    wrong = (await log.verified(2, held)).wrong
    assert wrong is not None
    assert (wrong.place, "the log was rewritten" in wrong.text) == ("checkpoint.root", True)
