"""A new master key: every box is sealed anew, in batches that may be interrupted, and opens as before."""

import pytest
from sqlalchemy import update

from everhook.delivery.snapshot_store import DestinationCache
from everhook.egress import TlsExtras
from everhook.endpoints import store as endpoints
from everhook.storage.encryption import (
    ENCRYPTED_COLUMNS,
    ENDPOINT_TLS_KEY,
    RECEIPT_SEED,
    _outdated,
    _reencrypt,
    count_outdated,
    reencrypt,
)
from everhook.storage.keyring import KeyRing, new_master_key
from everhook.storage.tables import DEFAULT_TENANT_GID, Endpoint, ReceiptKeyRow, now
from tests.stores.factories import KEYRING, URL, Store

pytestmark = pytest.mark.both_databases

OLD, NEW = new_master_key(), new_master_key()
OLD_RING, BOTH, NEW_RING = KeyRing([OLD]), KeyRing([NEW, OLD]), KeyRing([NEW])


async def sealed_endpoint(store: Store, keyring: KeyRing) -> Endpoint:
    """With a secret, an Ed25519 key and a TLS key: three boxes."""
    endpoint = Endpoint(tenant_gid=DEFAULT_TENANT_GID, url=URL, signatures=["standard"])
    tls = TlsExtras(certificate="certificate", key="key")
    async with store.database.writing() as session:
        await endpoints.create(session, keyring, endpoint, tls=tls, ed25519=True)
    return endpoint


async def run(store: Store, keyring: KeyRing, at_once: int = 500, batches: int | None = None) -> list[tuple[int, int]]:
    """What each batch did: sealed, and left as it was. Stops after `batches` of them, as if interrupted."""
    done: list[tuple[int, int]] = []
    async for batch in reencrypt(store.database, keyring, at_once=at_once):
        done.append((batch.reencrypted, len(batch.undecrypted)))
        if len(done) == batches:
            break
    return done


async def assert_all_open(store: Store, keyring: KeyRing, *ends: Endpoint) -> None:
    for end in ends:
        target = await DestinationCache(store.database, keyring).get(end.gid, 1)
        assert len(target.live_keys(now())) == len(target.live_ed25519_keys(now())) == 1
        assert target.tls == TlsExtras(certificate="certificate", key="key")


async def test_every_box_is_sealed_by_the_newest_key_and_opens_without_the_old_one(store: Store) -> None:
    ends = [await sealed_endpoint(store, OLD_RING) for _ in range(3)]
    async with store.database.writing() as session:
        session.add(
            ReceiptKeyRow(kid="k", seed=RECEIPT_SEED.encrypt(OLD_RING, "seed", "k"), issuer="us", created_at=now())
        )
    assert await count_outdated(store.database, BOTH) == 10
    assert sum(reencrypted for reencrypted, _ in await run(store, BOTH)) == 10
    assert await count_outdated(store.database, BOTH) == await count_outdated(store.database, NEW_RING) == 0
    await assert_all_open(store, NEW_RING, *ends)
    async with store.database.reading() as session:
        key = await session.get_one(ReceiptKeyRow, "k")
    assert RECEIPT_SEED.decrypt(NEW_RING, key.seed, "k") == "seed"


async def test_batches_are_bounded_and_an_interruption_loses_nothing(store: Store) -> None:
    ends = [await sealed_endpoint(store, OLD_RING) for _ in range(4)]
    assert await run(store, BOTH, at_once=3, batches=1) == [(3, 0)]
    await assert_all_open(store, BOTH, *ends)
    assert await count_outdated(store.database, BOTH) == 9
    assert await run(store, BOTH, at_once=3) == [(3, 0), (2, 0), (3, 0), (1, 0)]
    await assert_all_open(store, NEW_RING, *ends)


async def test_values_encrypted_with_the_current_key_are_not_encrypted_again(store: Store) -> None:
    end = await sealed_endpoint(store, NEW_RING)
    await store.endpoint()  # of another ring's key: outdated
    async with store.database.writing() as session:
        await endpoints.remove(session, await session.get_one(Endpoint, (await store.endpoint()).gid))
    assert await count_outdated(store.database, KeyRing([NEW])) == 1
    assert await run(store, NEW_RING) == [(0, 1)]
    await assert_all_open(store, NEW_RING, end)


async def test_undecryptable_values_are_left_and_counted_and_the_others_are_encrypted_again(store: Store) -> None:
    lost = [await sealed_endpoint(store, KEYRING) for _ in range(2)]
    end = await sealed_endpoint(store, OLD_RING)
    assert sorted(await run(store, BOTH, at_once=2)) == sorted([(0, 2), (0, 2), (2, 0), (0, 2), (1, 0)])
    assert await count_outdated(store.database, BOTH) == 6
    await assert_all_open(store, NEW_RING, end)
    await assert_all_open(store, KEYRING, *lost)


async def test_a_box_replaced_between_reading_and_writing_is_not_overwritten(store: Store) -> None:
    end = await sealed_endpoint(store, OLD_RING)
    async with store.database.write_connection() as connection:
        stale = await _outdated(connection, ENDPOINT_TLS_KEY, BOTH, "", 10)
        replaced = endpoints.tls_columns(OLD_RING, end.gid, TlsExtras(certificate="certificate", key="newer"))
        await connection.execute(update(Endpoint).values(replaced))
        await _reencrypt(connection, ENDPOINT_TLS_KEY, BOTH, stale)
    target = await DestinationCache(store.database, OLD_RING).get(end.gid, 1)
    assert target.tls == TlsExtras(certificate="certificate", key="newer")


def test_every_sealed_column_is_in_the_list() -> None:
    assert {f"{column.value.table.name}.{column.value.name}" for column in ENCRYPTED_COLUMNS} == {
        "endpoint_secret.secret",
        "endpoint.tls_key",
        "endpoint.header_values",
        "endpoint.auth_secret",
        "receipt_key.seed",
        "idempotent_response.response",
    }
