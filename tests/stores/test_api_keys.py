"""Whose key it is: the right bytes of a key that is there, alive, and whose tenant is too."""

from datetime import timedelta

import pytest
from sqlalchemy import event, update
from sqlmodel import col

from everhook.ids import Kind, is_gid, new_gid
from everhook.storage.engine import Database
from everhook.storage.tables import ApiKey, Tenant, now
from everhook.tenants import api_keys_store as api_keys
from everhook.tenants.api_keys_store import ApiKeys, Scope
from tests.stores.factories import Store


async def made(
    database: Database, *scopes: Scope, tenant_gid: str | None = None, lasts: timedelta | None = None
) -> tuple[ApiKey, str]:
    async with database.writing() as session:
        return await api_keys.create(
            session,
            "alice",
            scopes or (Scope.READ,),
            tenant_gid=tenant_gid,
            expires_at=now() + lasts if lasts is not None else None,
            created_by="bob",
        )


async def test_a_key_opens_with_its_name_and_scopes(database: Database) -> None:
    row, key = await made(database, Scope.PUBLISH, Scope.READ)

    holder = await ApiKeys(database).holder(key)

    assert holder is not None
    assert (holder.gid, holder.name, holder.tenant_gid) == (row.gid, "alice", None)
    assert holder.scopes == {Scope.PUBLISH, Scope.READ}


async def test_the_holder_of_a_tenants_key_has_its_tenant_and_the_tenant_scope(
    database: Database, store: Store
) -> None:
    tenant = await store.tenant("acme")
    row, key = await made(database, Scope.PUBLISH, tenant_gid=tenant)

    holder = await ApiKeys(database).holder(key)

    assert holder is not None and holder.tenant_gid == tenant
    assert holder.scopes == {Scope.PUBLISH, Scope.TENANT}
    assert api_keys.shown_scopes(row) == ["publish", f"tenant:{tenant}"]


async def test_a_key_begins_with_its_gid_and_its_random_part_is_not_kept(database: Database) -> None:
    row, key = await made(database)

    assert is_gid(key[:29], Kind.API_KEY) and key[:29] == row.gid
    assert len(key) == 29 + 1 + 43
    assert key[30:] not in repr(row.model_dump())


@pytest.mark.both_databases
@pytest.mark.parametrize("change", ["other random", "other gid", "longer", "shorter", "upper", "no random", "nothing"])
async def test_an_altered_key_opens_nothing(database: Database, change: str) -> None:
    row, key = await made(database)
    _, other = await made(database)
    altered = {
        "other random": row.gid + other[29:],
        "other gid": new_gid(Kind.API_KEY) + key[29:],
        "longer": key + "A",
        "shorter": key[:-1],
        "upper": key.upper(),
        "no random": row.gid + "_",
        "nothing": "",
    }[change]

    assert await ApiKeys(database).holder(altered) is None


@pytest.mark.both_databases
async def test_a_revocation_counts_from_its_commit_on_in_every_process(
    database: Database, other_database: Database
) -> None:
    here, there = ApiKeys(database), ApiKeys(other_database)
    row, key = await made(database)
    assert await here.holder(key) is not None and await there.holder(key) is not None

    async with database.writing() as session:
        await api_keys.revoke(session, row)

    assert await here.holder(key) is None and await there.holder(key) is None


async def test_a_key_that_has_expired_opens_nothing(database: Database) -> None:
    _, alive = await made(database, lasts=timedelta(minutes=1))
    _, expired = await made(database, lasts=timedelta(seconds=-1))

    assert await ApiKeys(database).holder(alive) is not None
    assert await ApiKeys(database).holder(expired) is None


async def test_the_keys_of_a_tenant_that_is_being_erased_open_nothing(database: Database, store: Store) -> None:
    tenant = await store.tenant("acme")
    _, key = await made(database, tenant_gid=tenant)
    async with database.writing() as session:
        await session.execute(update(Tenant).where(col(Tenant.gid) == tenant).values(erasing_since=now()))

    assert await ApiKeys(database).holder(key) is None


async def test_an_unknown_id_costs_the_same_query_as_a_wrong_key(database: Database) -> None:
    row, key = await made(database)
    asked: list[str] = []
    event.listen(database._reader.sync_engine, "before_cursor_execute", lambda *a: asked.append(a[2]))

    keys = ApiKeys(database)
    await keys.holder(row.gid + "_" + "A" * 43)
    await keys.holder(new_gid(Kind.API_KEY) + key[29:])

    assert len(asked) == 2 and asked[0] == asked[1]


@pytest.mark.both_databases
async def test_whether_any_key_could_call(database: Database) -> None:
    async def any_key() -> bool:
        async with database.reading() as session:
            return await api_keys.has_usable(session)

    assert not await any_key()
    await made(database, lasts=timedelta(seconds=-1))
    revoked, _ = await made(database)
    async with database.writing() as session:
        await api_keys.revoke(session, revoked)
    assert not await any_key()
    await made(database)
    assert await any_key()


@pytest.mark.parametrize(
    ("name", "scopes", "has_tenant", "field"),
    [
        ("alice", ["read"], False, None),
        ("alice", ["admin", "publish"], False, None),
        ("alice", [], True, None),
        ("alice", ["publish"], True, None),
        ("alice", [], False, "scopes"),
        ("alice", ["admin"], True, "scopes"),
        ("alice", ["read"], True, "scopes"),
        ("alice", ["tenant"], False, "scopes"),
        ("alice", ["root"], False, "scopes"),
        ("", ["read"], False, "name"),
        ("a\nb", ["read"], False, "name"),
        ("a" * 101, ["read"], False, "name"),
    ],
)
def test_the_name_the_scopes_and_the_tenant_of_a_key_are_validated(
    name: str, scopes: list[str], has_tenant: bool, field: str | None
) -> None:
    wrong = api_keys.why_refused(name, scopes, has_tenant=has_tenant)
    assert (wrong[0] if wrong else None) == field
