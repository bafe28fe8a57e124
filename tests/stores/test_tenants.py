"""Tenants: one name each, even if several clients ask at the same time."""

import asyncio

import pytest

from everhook.storage.engine import Database
from everhook.storage.tables import Endpoint
from everhook.tenants import store as tenants
from tests.stores.factories import Store, accepted, publication


async def renamed(database: Database, gid: str, name: str) -> bool:
    async with database.writing() as session:
        tenant = await tenants.find_tenant(session, gid)
        assert tenant is not None
        return await tenants.rename(session, tenant, name)


async def name_of(database: Database, gid: str) -> str | None:
    async with database.reading() as session:
        tenant = await tenants.find_tenant(session, gid)
        return tenant.name if tenant is not None else None


@pytest.mark.both_databases
async def test_one_of_two_concurrent_claims_of_a_name_gets_it(
    database: Database, other_database: Database, store: Store
) -> None:
    gids = [await store.tenant("acme"), await store.tenant("globex")]

    got = await asyncio.gather(renamed(database, gids[0], "initech"), renamed(other_database, gids[1], "initech"))

    assert sorted(got) == [False, True]
    names = {await name_of(database, gid) for gid in gids}
    assert names == ({"initech", "globex"} if got[0] else {"acme", "initech"})


@pytest.mark.both_databases
async def test_a_tenant_cannot_be_renamed_to_the_name_of_another_or_to_a_gid(database: Database, store: Store) -> None:
    gid = await store.tenant("acme")
    await store.tenant("globex")

    assert not await renamed(database, gid, "globex")
    assert not await renamed(database, gid, gid)
    assert await name_of(database, gid) == "acme"
    assert await renamed(database, gid, "acme")


async def test_publishers_and_senders_see_the_new_name(database: Database, store: Store) -> None:
    gid = await store.tenant("acme")
    endpoint = await store.subscribed(gid)
    acceptor = store.acceptor()
    await acceptor.accept(publication(tenant_gid=gid))

    await renamed(database, gid, "acme-inc")

    later = accepted(await acceptor.accept(publication(tenant_gid=gid)))
    assert [new.input.tenant for new in later.new] == ["acme-inc"]
    async with database.reading() as session:
        changed = await session.get(Endpoint, endpoint.gid)
    assert changed is not None and changed.version > endpoint.version
