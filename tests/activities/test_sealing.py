"""The sealing pass: all tenants, batch by batch. A damaged log is reported once and does not stop the others."""

import asyncio
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import sealing as module
from activities.sealing import SealingActivities
from everhook.contracts import SealResult
from everhook.receipts.log.sealing_store import seal_batch
from everhook.storage.keyring import DecryptionError, KeyRing, new_master_key
from everhook.storage.tables import OperationalEvent
from tests.stores.factories import KEYRING, Store
from tests.stores.receipt_factory import Log


async def sealed(sealing: SealingActivities) -> SealResult:
    return await ActivityEnvironment().run(sealing.seal_receipts)


async def damage_events(store: Store) -> list[OperationalEvent]:
    return [event for event in await store.events() if event.kind == "receipts.log_damaged"]


async def test_a_pass_seals_what_there_is_of_all_tenants(store: Store) -> None:
    logs = [Log(store.database), Log(store.database, await store.tenant("acme"))]
    await asyncio.gather(logs[0].grow(3), logs[1].grow(2))
    assert await sealed(SealingActivities(store.database, KEYRING)) == SealResult(receipts=5, checkpoints=2)
    assert [(await log.seals())[-1].size for log in logs] == [3, 2]
    assert await sealed(SealingActivities(store.database, KEYRING)) == SealResult()


async def test_a_backlog_is_sealed_in_one_pass_batch_by_batch(store: Store) -> None:
    log = Log(store.database)
    await log.grow(250)
    result = await sealed(SealingActivities(store.database, KEYRING, batch=100))
    assert result == SealResult(receipts=250, checkpoints=3)
    assert [seal.size for seal in await log.seals()] == [100, 200, 250]


async def test_a_damaged_log_is_reported_once_and_skipped_while_the_others_are_sealed(store: Store) -> None:
    damaged, sound = Log(store.database), Log(store.database, await store.tenant("acme"))
    await damaged.grown(2)
    await damaged.change('UPDATE receipt_hash SET "index" = 7 WHERE "index" = 1')
    await asyncio.gather(damaged.grow(1), sound.grow(1))
    sealing = SealingActivities(store.database, KEYRING)

    result = await sealed(sealing)

    assert result == SealResult(receipts=1, checkpoints=1, damaged=(damaged.tenant_gid,))
    assert await damaged.count(f"receipt WHERE seq IS NULL AND tenant_gid = '{damaged.tenant_gid}'") == 1
    assert (await sealed(sealing)).damaged == (damaged.tenant_gid,)
    [event] = await damage_events(store)
    assert (event.tenant_gid, event.data["place"]) == (damaged.tenant_gid, "receipt_hash")

    await damaged.change('UPDATE receipt_hash SET "index" = 1 WHERE "index" = 7')
    assert await sealed(sealing) == SealResult(receipts=1, checkpoints=1)
    await damaged.change('UPDATE receipt_hash SET "index" = 7 WHERE "index" = 1')
    await damaged.grow(1)
    await sealed(sealing)
    assert len(await damage_events(store)) == 2


async def test_a_pass_without_the_master_key_stops_at_the_first_tenant(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [Log(store.database), Log(store.database, await store.tenant("acme"))]
    await asyncio.gather(*(log.grow(1) for log in logs))
    tried: list[str] = []

    async def seal(session: Any, tenant_gid: str, *arguments: Any, **options: Any) -> Any:
        tried.append(tenant_gid)
        return await seal_batch(session, tenant_gid, *arguments, **options)

    monkeypatch.setattr(module, "seal_batch", seal)
    with pytest.raises(DecryptionError):
        await sealed(SealingActivities(store.database, KeyRing([new_master_key()])))
    assert len(tried) == 1
