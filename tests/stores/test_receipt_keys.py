"""The issuer and its keys at rest: made once, read again, rotated, sealed."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from everhook.receipts import keys_store as receipt_keys
from everhook.receipts.issuer import Issuer
from everhook.receipts.keys import NoReceiptKey, key_at
from everhook.receipts.keys_store import OVERLAP, IssuerCache, load_issuer, rotate_keys
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing, TamperedCiphertext, UnknownMasterKey, new_master_key
from everhook.storage.tables import now
from tests.stores.factories import ISSUER, KEYRING


async def loaded(database: Database, keyring: KeyRing = KEYRING) -> Issuer | None:
    async with database.read_connection() as connection:
        return await load_issuer(connection, keyring)


async def rotated(database: Database) -> Issuer:
    async with database.write_connection() as connection:
        return await rotate_keys(connection, KEYRING, ISSUER, now())


@pytest.mark.both_databases
async def test_processes_that_start_at_once_make_one_first_key(database: Database, other_database: Database) -> None:
    caches = [IssuerCache(each, KEYRING, ISSUER) for each in (database, other_database) * 3]
    issuers = await asyncio.gather(*(cache.get() for cache in caches))
    assert len({issuer.keys[0].kid for issuer in issuers}) == 1
    assert {issuer.name for issuer in issuers} == {ISSUER}
    assert await loaded(database) == issuers[0]


async def test_the_first_key_signs_for_processes_whose_clock_is_slightly_slow(database: Database) -> None:
    issuer = await IssuerCache(database, KEYRING, ISSUER).get()
    issuer.must_sign_at(now() - timedelta(minutes=4))
    with pytest.raises(NoReceiptKey):
        issuer.must_sign_at(now() - timedelta(hours=1))


async def test_senders_read_the_keys_once_in_a_while_and_not_for_each_attempt(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = IssuerCache(database, KEYRING, ISSUER)
    first = await cache.get()
    await rotated(database)
    assert await cache.get() is first
    monkeypatch.setattr(receipt_keys, "CACHED_S", 0.0)
    again = IssuerCache(database, KEYRING, ISSUER)
    await again.get()
    second = await rotated(database)
    assert (await again.get()).keys[0] == second.keys[0]


async def test_a_rotated_key_signs_for_longer_than_processes_cache_the_keys(database: Database) -> None:
    first = (await IssuerCache(database, KEYRING, ISSUER).get()).keys[0]
    moment = now()
    issuer = await rotated(database)
    assert issuer == await loaded(database)
    new, old = issuer.keys
    assert old.kid == first.kid
    assert old.retired_at is not None
    assert old.retired_at - moment >= OVERLAP > timedelta(seconds=receipt_keys.CACHED_S) * 5
    assert key_at(issuer.keys, now()) == new
    assert key_at([first], now() + timedelta(seconds=receipt_keys.CACHED_S)) == first


async def test_a_second_rotation_keeps_all_keys_and_does_not_prolong_the_first(database: Database) -> None:
    await IssuerCache(database, KEYRING, ISSUER).get()
    once = await rotated(database)
    twice = await rotated(database)
    assert [key.kid for key in twice.keys[1:]] == [key.kid for key in once.keys]
    assert twice.keys[2].retired_at == once.keys[1].retired_at


@pytest.mark.both_databases
async def test_the_name_that_receipts_began_with_stays(database: Database) -> None:
    await IssuerCache(database, KEYRING, ISSUER).get()
    assert (await IssuerCache(database, KEYRING, "other.example.com").get()).name == ISSUER
    assert {key.name for key in [await rotated(database)]} == {ISSUER}


@pytest.mark.both_databases
async def test_seeds_are_sealed_each_for_its_own_row(database: Database) -> None:
    issuer = await IssuerCache(database, KEYRING, ISSUER).get()
    issuer = await rotated(database)
    async with database.read_connection() as connection:
        ciphertexts = list((await connection.execute(text("SELECT seed FROM receipt_key"))).scalars())
    assert not any(key.seed.hex() in ciphertext for key in issuer.keys for ciphertext in ciphertexts)
    with pytest.raises(UnknownMasterKey):
        await loaded(database, KeyRing([new_master_key()]))
    async with database.write_connection() as connection:
        await connection.execute(
            text("UPDATE receipt_key SET seed = (SELECT seed FROM receipt_key WHERE kid = :one) WHERE kid = :other"),
            {"one": issuer.keys[0].kid, "other": issuer.keys[1].kid},
        )
    with pytest.raises(TamperedCiphertext):
        await loaded(database)
