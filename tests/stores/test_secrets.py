"""Rotation of an endpoint's secrets: what signs from when, until when, and what becomes of the rest."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select
from sqlmodel import col

from everhook.delivery.snapshot_store import Destination, DestinationCache
from everhook.endpoints import store as endpoints
from everhook.errors import TooManySecrets
from everhook.signing import secrets_store as secrets
from everhook.signing.schemes import SecretKind, ed25519_key, new_secret, public_key, secret_key
from everhook.signing.secrets_store import MAX_LIVE, EndpointPublicKey
from everhook.storage.encryption import ENDPOINT_SECRET
from everhook.storage.keyring import KeyRing, new_master_key
from everhook.storage.tables import Endpoint, EndpointSecret, now
from tests.stores.factories import KEYRING, Store

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NO_TIME = timedelta()


async def rotate(
    store: Store, end: Endpoint, secret: str, grace: timedelta, keyring: KeyRing = KEYRING
) -> datetime | None:
    """As the API does it."""
    async with store.database.writing() as session:
        view = await endpoints.view(session, end.gid, for_change=True)
        assert view is not None
        until = await secrets.rotate(session, keyring, end.gid, secret, grace)
        await endpoints.change(session, view.endpoint, {})
    return until


async def switch_ed25519(store: Store, end: Endpoint, *, on: bool) -> None:
    async with store.database.writing() as session:
        await secrets.set_ed25519(session, KEYRING, end.gid, on=on)


async def destination(store: Store, end: Endpoint, keyring: KeyRing = KEYRING) -> Destination:
    async with store.database.reading() as session:
        version = (await session.get_one(Endpoint, end.gid)).version
    return await DestinationCache(store.database, keyring).get(end.gid, version)


async def rows(store: Store, end: Endpoint) -> Sequence[EndpointSecret]:
    """Newest first."""
    async with store.database.reading() as session:
        found = await session.execute(
            select(EndpointSecret)
            .where(col(EndpointSecret.endpoint_gid) == end.gid)
            .order_by(col(EndpointSecret.gid).desc())
        )
    return found.scalars().all()


async def public_keys(store: Store, end: Endpoint) -> list[EndpointPublicKey]:
    async with store.database.reading() as session:
        return (await secrets.public_keys(session, [end.gid])).get(end.gid, [])


async def test_the_new_secret_signs_at_once_and_the_old_one_until_the_grace_is_over(store: Store) -> None:
    end = await store.endpoint()
    (old,) = (await destination(store, end)).live_keys(now())
    secret = new_secret()
    before = now()
    until = await rotate(store, end, secret, DAY)
    assert until is not None and before + DAY <= until <= now() + DAY
    rotated = await destination(store, end)
    assert rotated.live_keys(now()) == [secret_key(secret), old]
    assert rotated.live_keys(until - timedelta(microseconds=1)) == [secret_key(secret), old]
    assert rotated.live_keys(until) == [secret_key(secret)]


async def test_senders_notice_a_rotation_by_the_version(store: Store) -> None:
    end = await store.endpoint()
    destinations = DestinationCache(store.database, KEYRING)
    known = await destinations.get(end.gid, 1)
    await rotate(store, end, new_secret(), DAY)
    assert len((await destinations.get(end.gid, 2)).live_keys(now())) == 2
    assert len(known.live_keys(now())) == 1


async def test_without_grace_the_old_secret_is_gone_at_once(store: Store) -> None:
    end = await store.endpoint()
    secret = new_secret()
    assert await rotate(store, end, secret, NO_TIME) is None
    assert (await destination(store, end)).live_keys(now()) == [secret_key(secret)]
    assert len(await rows(store, end)) == 1


async def test_a_second_rotation_may_bring_ends_forward_but_never_put_them_off(store: Store) -> None:
    end = await store.endpoint()
    await rotate(store, end, new_secret(), HOUR)
    (_, oldest) = await rows(store, end)
    await rotate(store, end, new_secret(), DAY)
    newest, middle, same = await rows(store, end)
    assert newest.expires_at is None
    assert middle.expires_at is not None and middle.expires_at > now() + HOUR
    assert same.expires_at == oldest.expires_at
    await rotate(store, end, new_secret(), timedelta(minutes=1))
    assert {row.expires_at is None or row.expires_at < now() + HOUR for row in await rows(store, end)} == {True}


async def test_a_secret_given_again_takes_the_place_of_its_older_self(store: Store) -> None:
    end = await store.endpoint()
    (first,) = (await destination(store, end)).live_keys(now())
    mine = new_secret()
    for _ in range(3):
        await rotate(store, end, mine, DAY)
    assert (await destination(store, end)).live_keys(now()) == [secret_key(mine), first]
    await rotate(store, end, new_secret(), DAY)
    await rotate(store, end, mine, DAY)
    live = await destination(store, end)
    assert live.live_keys(now())[0] == secret_key(mine) and len(live.live_keys(now())) == 3
    assert live.live_keys(now() + DAY) == [secret_key(mine)]


@pytest.mark.both_databases
async def test_ten_secrets_may_be_live_and_no_more(store: Store) -> None:
    end = await store.endpoint()
    for _ in range(MAX_LIVE - 1):
        await rotate(store, end, new_secret(), DAY)
    before = [row.gid for row in await rows(store, end)]
    assert len((await destination(store, end)).live_keys(now())) == 10
    with pytest.raises(TooManySecrets):
        await rotate(store, end, new_secret(), DAY)
    assert [(row.gid, row.expires_at is None) for row in await rows(store, end)] == [
        (gid, number == 0) for number, gid in enumerate(before)
    ]
    await rotate(store, end, new_secret(), NO_TIME)
    assert len(await rows(store, end)) == 1


async def test_expired_secrets_are_deleted_and_do_not_count_for_the_limit(store: Store) -> None:
    end = await store.endpoint()
    async with store.database.writing() as session:
        for _ in range(MAX_LIVE):
            session.add(secrets.encrypted_secret(KEYRING, end.gid, new_secret(), expires_at=now() - HOUR))
    await rotate(store, end, new_secret(), DAY)
    assert len(await rows(store, end)) == 2


@pytest.mark.both_databases
async def test_rotations_at_the_same_time_are_each_seen(store: Store) -> None:
    end = await store.endpoint()
    given = [new_secret() for _ in range(4)]
    await asyncio.gather(*(rotate(store, end, secret, DAY) for secret in given))
    rotated = await destination(store, end)
    async with store.database.reading() as session:
        assert (await session.get_one(Endpoint, end.gid)).version == 5
    assert {secret_key(secret) for secret in given} < set(rotated.live_keys(now()))
    assert len(rotated.live_keys(now() + DAY)) == 1


async def test_ed25519_is_rotated_along_where_it_is_on(store: Store) -> None:
    end = await store.endpoint()
    assert (await destination(store, end)).live_ed25519_keys(now()) == []
    await switch_ed25519(store, end, on=True)
    (first,) = await public_keys(store, end)
    await rotate(store, end, new_secret(), DAY)
    second, same = await public_keys(store, end)
    assert (second.expires_at, same.public_key) == (None, first.public_key)
    assert second.public_key != first.public_key and same.expires_at is not None
    rotated = await destination(store, end)
    assert len(rotated.live_ed25519_keys(now())) == len(rotated.live_keys(now())) == 2
    assert len(rotated.live_ed25519_keys(now() + DAY)) == 1


async def test_the_public_key_is_that_of_the_sealed_one(store: Store) -> None:
    end = await store.endpoint()
    await switch_ed25519(store, end, on=True)
    row = next(row for row in await rows(store, end) if row.kind is SecretKind.ED25519)
    private_key = ENDPOINT_SECRET.decrypt(KEYRING, row.secret, row.gid)
    assert row.public_key == public_key(private_key)
    (key,) = (await destination(store, end)).live_ed25519_keys(now())
    assert key.private_bytes_raw() == ed25519_key(private_key).private_bytes_raw()


@pytest.mark.both_databases
async def test_switching_ed25519_on_twice_changes_nothing_and_off_ends_every_key(store: Store) -> None:
    end, other = await store.endpoint(), await store.endpoint()
    for one in (end, other, end):
        await switch_ed25519(store, one, on=True)
    before = await public_keys(store, end)
    assert len(before) == 1
    await rotate(store, end, new_secret(), DAY)
    await switch_ed25519(store, end, on=False)
    assert await public_keys(store, end) == []
    assert len(await public_keys(store, other)) == 1
    assert len((await destination(store, end)).live_keys(now())) == 2


async def test_a_rotation_without_grace_is_the_way_out_when_the_master_key_is_lost(store: Store) -> None:
    end = await store.endpoint()
    ring, secret = KeyRing([new_master_key()]), new_secret()
    assert (await destination(store, end, ring)).fault is not None
    await rotate(store, end, secret, NO_TIME, ring)
    assert (await destination(store, end, ring)).live_keys(now()) == [secret_key(secret)]


async def test_no_secret_is_in_the_database_or_in_what_is_shown_of_it(store: Store) -> None:
    end = await store.endpoint()
    secret = new_secret()
    await rotate(store, end, secret, DAY)
    known = await destination(store, end)
    shown = repr(await rows(store, end)) + repr(known) + repr(known.keys)
    assert secret.removeprefix("whsec_")[:20] not in shown
    assert repr(secret_key(secret)) not in shown
