"""Sealing: every receipt gets a place in its tenant's log, once; what was tampered with is not signed over."""

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from temporalio.testing import ActivityEnvironment

from activities import sealing
from activities.sealing import CONCURRENCY
from everhook.contracts import SealResult
from everhook.receipts.keys import ReceiptKey
from everhook.receipts.log.checkpoint import Checkpoint, origin_of, sign_checkpoint, verify_checkpoint
from everhook.receipts.log.merkle import (
    consistency_proof,
    inclusion_proof,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from everhook.receipts.log.sealing_store import seal_batch, tenants_with_unsealed
from everhook.receipts.receipt import receipt_leaf
from everhook.receipts.store import StoredHashes
from everhook.receipts.strict_json import InvalidDocument, encode_base64
from everhook.storage.engine import Database
from everhook.storage.tables import DEFAULT_TENANT_GID, now
from tests.stores.factories import ISSUER, KEYRING, Store
from tests.stores.plans import plan_of, recorded, without_partitions
from tests.stores.receipt_factory import Log

OTHERS = ReceiptKey.generate(now() - timedelta(days=1))


@pytest.fixture
def log(database: Database) -> Log:
    return Log(database)


@pytest.mark.both_databases
async def test_receipts_get_places_without_a_gap_in_the_order_of_their_ids(log: Log) -> None:
    gids = await log.grow(5)
    sealed = await log.seal()
    assert (sealed.receipts, sealed.size, sealed.more) == (5, 5, False)
    assert [(row.seq, row.gid) for row in await log.receipts()] == list(enumerate(gids))


async def test_a_checkpoint_is_signed_over_the_root_of_the_receipts(log: Log) -> None:
    await log.grown(3, 5)
    leaves = [receipt_leaf(row.jws) for row in await log.receipts()]
    for seal in await log.seals():
        head = verify_checkpoint(seal.note, await log.keys()).checkpoint
        assert (head.origin, head.size) == (f"{ISSUER}/receipts/{DEFAULT_TENANT_GID}", seal.size)
        assert head.root == seal.root == root_of(leaves[: seal.size])
        assert head.time == seal.created_at
    assert [seal.size for seal in await log.seals()] == [3, 5]


async def test_a_receipt_that_was_committed_late_gets_a_late_place(log: Log) -> None:
    gids = await log.grow(4)
    await log.change("UPDATE receipt SET tenant_gid = 'ten_elsewhere' WHERE gid = :gid", gid=gids[1])
    await log.seal()
    await log.change("UPDATE receipt SET tenant_gid = :tenant WHERE gid = :gid", tenant=log.tenant_gid, gid=gids[1])
    await log.grow(1)
    await log.seal()
    assert [row.gid for row in await log.receipts()][:4] == [gids[0], gids[2], gids[3], gids[1]]


async def test_every_receipt_of_a_log_made_in_batches_can_be_proven_in_every_checkpoint(log: Log) -> None:
    await log.grow(600)
    while (await log.seal(at_most=170)).more:
        pass
    leaves = [receipt_leaf(row.jws) for row in await log.receipts()]
    seals = await log.seals()
    assert [seal.size for seal in seals] == [170, 340, 510, 600]
    async with log.database.reading() as session:
        store = StoredHashes(session, log.tenant_gid)
        for seal in seals:
            for seq in (0, 100, 255, 256, 400, 511, seal.size - 1):
                if seq < seal.size:
                    proof = await inclusion_proof(store, seq, seal.size)
                    assert verify_inclusion(leaves[seq], seq, seal.size, proof, seal.root)
        for old, new in pairwise(seals):
            proof = await consistency_proof(store, old.size, new.size)
            assert verify_consistency(old.size, old.root, new.size, new.root, proof)
    assert await log.count("receipt_hash WHERE level = 1") == 2


@pytest.mark.both_databases
async def test_a_log_without_new_receipts_gets_no_new_checkpoint(log: Log) -> None:
    await log.grown(2)
    assert (await log.seal()).receipts == 0
    assert [seal.size for seal in await log.seals()] == [2]


async def test_each_checkpoint_is_reported_as_an_operational_event(log: Log, store: Store) -> None:
    await log.grown(2, 3)
    notes = [seal.note for seal in await log.seals()]
    events = [event for event in await store.events() if event.kind == "receipts.checkpoint"]
    assert [event.data for event in events] == [
        {"size": size, "checkpoint": note} for size, note in zip((2, 3), notes, strict=True)
    ]
    assert {event.tenant_gid for event in events} == {log.tenant_gid}


@pytest.mark.both_databases
async def test_each_tenant_has_its_own_log(log: Log, store: Store) -> None:
    other = Log(log.database, await store.tenant("acme"))
    await asyncio.gather(log.grown(3), other.grown(2))
    for one, size in ((log, 3), (other, 2)):
        assert [row.seq for row in await one.receipts()] == list(range(size))
        assert (await one.verified(1)).ok


async def test_a_tenant_that_is_being_erased_is_left_alone(log: Log, store: Store) -> None:
    other = Log(log.database, await store.tenant("acme"))
    await log.grow(1)
    await other.grow(1)
    await log.change("UPDATE tenant SET erasing_since = created_at WHERE name = 'acme'")
    async with log.database.read_connection() as connection:
        assert await tenants_with_unsealed(connection) == [log.tenant_gid]


@pytest.mark.both_databases
async def test_tenants_with_unsealed_receipts_are_found_without_reading_each_receipt(
    log: Log, store: Store, database: Database
) -> None:
    other = Log(database, await store.tenant("acme"))
    await asyncio.gather(log.grown(300), other.grown(300))  # most receipts are sealed
    await asyncio.gather(log.grow(20), other.grow(20))
    if not database.is_sqlite:  # which has no statistics in production either
        async with database.write_connection() as connection:
            await connection.execute(text("ANALYZE"))
    statements = recorded(database)
    async with database.read_connection() as connection:
        assert await tenants_with_unsealed(connection) == sorted([log.tenant_gid, other.tenant_gid])
    ((sql, parameters),) = [one for one in statements.items() if "receipt" in one[0]]
    plan = await plan_of(database, sql, parameters)
    assert "ix_receipt_unsealed" in plan, plan
    if database.is_sqlite:
        assert "autoindex_receipt" not in plan and "RECURSIVE STEP" in plan, plan
        return
    async with database.read_connection() as connection:
        explained = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}", parameters)
        plan = await without_partitions(connection, "\n".join(str(row[0]) for row in explained))
    steps = [step for step in plan.splitlines() if "on receipt" in step]
    assert steps
    for step in steps:
        read = float(step.partition("(actual rows=")[2].partition(" ")[0])
        assert "ix_receipt_unsealed" in step and read <= 1, plan


@pytest.mark.both_databases
async def test_a_pass_extends_several_logs_at_once_on_postgresql_and_one_on_sqlite(
    database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [Log(database, await store.tenant(f"tenant-{number}")) for number in range(CONCURRENCY + 2)]
    await asyncio.gather(*(log.grow(1) for log in logs))
    under_way: list[str] = []
    most = 0

    async def seal(session: Any, tenant_gid: str, *arguments: Any, **options: Any) -> Any:
        nonlocal most
        under_way.append(tenant_gid)
        most = max(most, len(under_way))
        try:
            await asyncio.sleep(0.05)
            return await seal_batch(session, tenant_gid, *arguments, **options)
        finally:
            under_way.remove(tenant_gid)

    monkeypatch.setattr(sealing, "seal_batch", seal)
    result = await ActivityEnvironment().run(sealing.SealingActivities(database, KEYRING).seal_receipts)
    assert result == SealResult(receipts=len(logs), checkpoints=len(logs))
    assert most == (1 if database.is_sqlite else CONCURRENCY)


@pytest.mark.both_databases
async def test_two_sealers_at_once_make_one_log(log: Log, other_database: Database) -> None:
    await log.grow(120)
    other = Log(other_database)
    await asyncio.gather(*(sealer.seal(at_most=10) for sealer in (log, other) * 6))
    assert [row.seq for row in await log.receipts()] == list(range(120))
    seals = await log.seals()
    assert [seal.size for seal in seals] == list(range(10, 121, 10))
    for seal in seals:
        assert (await log.verified(0, held=seal)).ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE receipt_seal SET size = 2 WHERE size = 1",
        'UPDATE receipt_hash SET "index" = 1 WHERE level = 0 AND "index" = 0',
    ],
)
async def test_the_database_refuses_a_duplicate_checkpoint_and_a_duplicate_hash(log: Log, statement: str) -> None:
    await log.grown(1, 2)
    with pytest.raises(IntegrityError):
        await log.change(statement)


# What was tampered with

SEAL_OF_ANOTHER_KEY = "UPDATE receipt_seal SET note = :note WHERE size = 6"

DAMAGES = {
    "the last receipt removed": ("receipt 5", ["DELETE FROM receipt WHERE seq = 5"]),
    "all receipts removed": ("receipt 0", ["DELETE FROM receipt WHERE seq IS NOT NULL"]),
    "the last checkpoint removed": ("checkpoint 6", ["DELETE FROM receipt_seal WHERE size = 6"]),
    "all checkpoints removed": ("checkpoint 6", ["DELETE FROM receipt_seal"]),
    "checkpoint and receipts removed, hashes left": (
        "receipt_hash",
        ["DELETE FROM receipt_seal WHERE size = 6", "DELETE FROM receipt WHERE seq > 2"],
    ),
    "the last hash removed": ("receipt_hash", ['DELETE FROM receipt_hash WHERE "index" = 5']),
    "a hash of the edge altered": (
        "receipt_hash",
        ['UPDATE receipt_hash SET hash = (SELECT hash FROM receipt_hash WHERE "index" = 1) WHERE "index" = 2'],
    ),
    "a root altered": (
        "checkpoint 6",
        ["UPDATE receipt_seal SET root = (SELECT root FROM receipt_seal WHERE size = 3) WHERE size = 6"],
    ),
    "a note altered": ("checkpoint 6.signatures", ["UPDATE receipt_seal SET note = replace(note, 'time 2', 'time 3')"]),
    "a note signed by another key": ("checkpoint 6.signatures", [SEAL_OF_ANOTHER_KEY]),
    "an older note in a newer row": (
        "checkpoint 6",
        ["UPDATE receipt_seal SET note = (SELECT note FROM receipt_seal WHERE size = 3) WHERE size = 6"],
    ),
    "the keys removed": ("receipt_key", ["DELETE FROM receipt_key"]),
}


@pytest.mark.both_databases
@pytest.mark.parametrize("name", DAMAGES)
async def test_a_log_that_was_tampered_with_is_not_signed_over(log: Log, name: str) -> None:
    place, statements = DAMAGES[name]
    await log.grown(3, 6)
    await log.grow(1)
    forged = sign_checkpoint(Checkpoint(origin_of(ISSUER, log.tenant_gid), 6, b"\1" * 32, now()), [OTHERS])
    for statement in statements:
        await log.change(statement, **({"note": forged} if ":note" in statement else {}))
    before = [seal.note for seal in await log.seals()]

    with pytest.raises(InvalidDocument) as caught:
        await log.seal()

    assert caught.value.place == place
    assert [seal.note for seal in await log.seals()] == before
    assert await log.unsealed() == 1


@pytest.mark.both_databases
async def test_an_invalid_receipt_is_not_sealed(log: Log) -> None:
    [gid] = await log.grow(1)
    await log.change("UPDATE receipt SET jws = 'ü'")
    with pytest.raises(InvalidDocument, match="no JWS") as caught:
        await log.seal()
    assert caught.value.place == f"receipt {gid}"
    assert await log.unsealed() == 1


async def test_a_root_with_a_rewritten_edge_is_refused_without_a_valid_signature(log: Log) -> None:
    """An attacker who rewrites the log consistently still needs our key."""
    await log.grown(2)
    await log.grow(1)
    hashed = receipt_leaf("another.receipt.altogether")
    root = root_of([receipt_leaf((await log.receipts())[0].jws), hashed])
    async with log.database.write_connection() as connection:
        await connection.execute(text('UPDATE receipt_hash SET hash = :hash WHERE "index" = 1'), {"hash": hashed})
        note = (await log.seals())[0].note
        forged = note.replace(encode_base64((await log.seals())[0].root), encode_base64(root))
        await connection.execute(text("UPDATE receipt_seal SET root = :root, note = :n"), {"root": root, "n": forged})
    with pytest.raises(InvalidDocument) as caught:
        await log.seal()
    assert caught.value.place == "checkpoint 2.signatures"
