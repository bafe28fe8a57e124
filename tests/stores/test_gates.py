"""Gates on both databases, through the API."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import event, select, update

from everhook.contracts import DeadLetterReason
from everhook.endpoints import store as endpoints
from everhook.ids import Kind, new_gid_at
from everhook.publishing.gate_progress_store import UPKEEP, Ending, decline_dead_steps, decline_message
from everhook.publishing.schedules import MessageSchedules
from everhook.storage.bulk import Bulk
from everhook.storage.tables import Endpoint, Gate, Message, Task, TaskDecision, now
from everhook.tenants.erasure_store import begin, remove
from everhook.tenants.retention_store import RetentionPeriods, apply_retention
from testing.api import Api, created, ok, running_api, settings_for
from tests.api.gating import ABOVE_1000, APPROVE, REJECT, decide, gate_of, inbox, statuses
from tests.api.test_gates import expired
from tests.stores.factories import Store, publication
from tests.stores.plans import plan_of, reads_whole, recorded

pytestmark = pytest.mark.both_databases


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with running_api(settings_for(database_url)) as running:
        yield running


async def test_two_deciders_of_the_last_step_release_once(api: Api) -> None:
    managers, finance = await inbox(api), await inbox(api, "Finance")
    await api.channel(gates=[{"inbox": managers}, {"inbox": finance, "filter": ABOVE_1000}])
    webhook = (await api.endpoint(channel="orders"))["endpointGid"]
    poll = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["endpointGid"]
    message = await api.publish({"amount": 5000})
    ok(await decide(api, message, APPROVE))
    ann, bo = await api.key("admin", name="ann"), await api.key("admin", name="bo")
    responses = await asyncio.gather(decide(ann, message, APPROVE), decide(bo, message, REJECT))
    assert sorted(each.status_code for each in responses) == [200, 409]
    assert await api.count("attempt") == 2
    if responses[0].status_code == 200:
        assert {"accepted", "available"} <= set((await statuses(api, message)).values())
        (item,) = ok(await api.get(f"/v1/endpoints/{poll}/poll", waitSeconds=0))["data"]
        assert item["payload"] == {"amount": 5000}
    else:
        assert {(await statuses(api, message))[gid] for gid in (webhook, poll)} == {"discarded"}
    (again,) = ok(await api.get("/v1/tasks", inbox=finance))["data"]
    assert again["state"] == "decided"


async def test_the_steps_of_a_scheduled_message_are_among_its_deliveries(api: Api) -> None:
    """Deliveries of a message are looked for at the time at which it was accepted, here three hours ago."""
    await api.channel(gates=[{"inbox": await inbox(api)}])
    store, began = Store(api.database), now() - timedelta(hours=3)
    gid = new_gid_at(Kind.MESSAGE, began)
    later = publication(message_gid=gid, deliver_at=began + timedelta(hours=2))
    await store.acceptor().accept(later)
    async with api.database.write_connection() as connection:
        await connection.execute(update(Message).values(accepted_at=began))
    schedules = MessageSchedules(Mock(), api.database, store.acceptor(), Mock(), lambda _: None)
    assert await schedules.deliver(gid)

    found = (await api.get(f"/v1/messages/{gid}/wait", timeoutSeconds=0)).json()
    assert (found["state"], [each["status"] for each in found["deliveries"]]) == ("pending", ["awaiting_decision"])


async def test_a_decision_waits_for_an_end_of_the_gate_that_is_not_committed(api: Api) -> None:
    await api.channel(gates=[{"inbox": await inbox(api)}])
    await api.endpoint(channel="orders")
    message = await api.publish({})
    async with api.database.writing() as session:
        ending = Ending(DeadLetterReason.PAYLOAD_ERASED, UPKEEP, "erased")
        await decline_message(session, message["messageGid"], ending)
        deciding = asyncio.create_task(decide(api, message, APPROVE))
        await asyncio.wait([deciding], timeout=0.3)
    ok(await deciding)
    webhook = ok(await api.get(f"/v1/deliveries/{message['deliveries'][0]['deliveryGid']}"))
    assert ((await gate_of(api, message))["state"], webhook["status"]) == ("declined", "discarded")


async def test_a_step_that_expires_while_its_inbox_is_deleted_ends_the_gate(api: Api) -> None:
    """The deletion is not committed, so it saw an open task, and no dead letter."""
    managers = await inbox(api)
    await api.channel(gates=[{"inbox": managers}])
    webhook = (await api.endpoint(channel="orders"))["endpointGid"]
    message = await api.publish({})
    async with api.database.writing() as session:
        await endpoints.remove(session, await session.get_one(Endpoint, managers))
        expiring = asyncio.create_task(expired(api, message))
        await asyncio.wait([expiring], timeout=0.3)
    await expiring
    assert (await gate_of(api, message))["reason"] == "endpoint_deleted"
    assert (await statuses(api, message))[webhook] == "discarded"


async def test_the_dead_steps_of_an_inbox_are_found_by_an_index(api: Api) -> None:
    statements = recorded(api.database)
    async with api.database.writing() as session:
        await decline_dead_steps(session, "ep_1", Ending(DeadLetterReason.ENDPOINT_DELETED, UPKEEP, "deleted"))
    ((sql, parameters),) = [each for each in statements.items() if "FROM gate" in each[0]]
    plan = await plan_of(api.database, sql, parameters)
    assert "uq_gate_delivery" in plan and not reads_whole(plan, "delivery"), plan


async def test_the_erasure_of_a_tenant_that_is_asked_ends_the_gate_for_the_others(api: Api) -> None:
    acme = created(await api.post("/v1/tenants", {"name": "acme"}))["tenantGid"]
    managers = await inbox(api, tenant="acme")
    await api.channel(gates=[{"inbox": managers}])
    for tenant in ("acme", "default"):
        await api.endpoint(channel="orders", tenant=tenant)
    message = await api.publish({})  # for all tenants
    async with api.database.writing() as session:
        await begin(session, acme)
    await remove(Bulk(api.database), acme)
    (left,) = ok(await api.get("/v1/deliveries", messageGid=message["messageGid"]))["data"]
    assert (left["status"], left["deadLetterReason"]) == ("discarded", "endpoint_deleted")
    gate = await gate_of(api, message)
    assert gate["state"] == "declined"
    (entry,) = ok(await api.get("/v1/audit", subject=gate["gateGid"]))["data"]
    assert (entry["action"], entry["actor"], entry["detail"]["reason"]) == (
        "gate.declined",
        "everhook",
        "endpoint_deleted",
    )


async def test_the_erasures_of_a_tenant_and_of_a_payload_lock_in_one_order(api: Api) -> None:
    acme = created(await api.post("/v1/tenants", {"name": "acme"}))["tenantGid"]
    await api.channel(gates=[{"inbox": await inbox(api, tenant="acme")}])
    await api.endpoint(channel="orders", tenant="default")
    message = await api.publish({})
    async with api.database.writing() as session:
        await begin(session, acme)
    async with api.database.writing() as session:
        await session.execute(select(Gate).with_for_update())
        erasing = asyncio.create_task(remove(Bulk(api.database), acme))
        await asyncio.wait([erasing], timeout=0.3)
        await decline_message(session, message["messageGid"], Ending(DeadLetterReason.PAYLOAD_ERASED, UPKEEP, "erased"))
    await erasing
    assert (await gate_of(api, message))["reason"] == "payload_erased"


async def test_a_gate_is_deleted_with_its_message(api: Api) -> None:
    await api.channel(gates=[{"inbox": await inbox(api)}])
    message = await api.publish({})
    periods = RetentionPeriods(deliveries=-RetentionPeriods.erasure_grace)  # all that ended is old
    await apply_retention(Bulk(api.database), periods)
    assert await api.count("gate") == 1
    ok(await decide(api, message, APPROVE))
    await apply_retention(Bulk(api.database), periods)
    assert [await Store(api.database).count(table) for table in (Gate, Task, TaskDecision)] == [0, 0, 0]


async def test_a_publish_without_gates_asks_the_database_nothing_about_them(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    await api.publish({})
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        asked.append(statement)

    event.listen(api.database._writer.sync_engine, "before_cursor_execute", note)
    message = await api.publish({})
    assert [each for each in asked if "gate" in each.lower() or "task" in each.lower()] == []
    assert len([each for each in asked if each.startswith("INSERT")]) == 2
    assert await gate_of(api, message) is None
