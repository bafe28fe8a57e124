"""Gates with a real Temporal, real workers and a receiver."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from activities.reconciling import ReconcilingActivities
from cli.main import run as cli
from everhook.circuit.client import CircuitClient
from everhook.delivery.inputs_store import InputDefaults
from everhook.receipts.bundle import verify
from testing.api import JSON, ok
from testing.waiting import assert_eventually
from tests.api.gating import ABOVE_1000, APPROVE, decide, inbox, statuses
from tests.api.live.conftest import ON_STACK, Live

pytestmark = ON_STACK


async def sealed(live: Live, receipt_gid: str) -> JSON:
    await live.temporal.get_schedule_handle("seal-receipts").trigger()

    async def is_sealed() -> JSON:
        return ok(await live.api.get(f"/v1/receipts/{receipt_gid}/bundle"))

    return await assert_eventually(is_sealed)


async def test_a_manager_then_finance_then_the_webhook_with_three_receipts_that_verify(
    live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    managers, finance = await inbox(live.api), await inbox(live.api, "Finance")
    await live.api.channel(live.name, gates=[{"inbox": managers}, {"inbox": finance, "filter": ABOVE_1000}])
    await live.api.endpoint(live.url, channel=live.name)
    message = await live.api.publish({"amount": 5000}, live.name)
    webhook = message["deliveries"][0]["deliveryGid"]
    ok(await decide(live.api, message, APPROVE))
    ok(await decide(live.api, message, APPROVE))
    await live.wait_for_status(webhook, "delivered")
    assert len(live.receiver.at(live.path)) == 1
    deliveries = ok(await live.api.get("/v1/deliveries", messageGid=message["messageGid"]))["data"]
    for each in deliveries:
        (receipt,) = ok(await live.api.get(f"/v1/deliveries/{each['deliveryGid']}/receipts"))["data"]
        bundle = await sealed(live, receipt["receiptGid"])
        found = verify(bundle)
        assert found.wrong is None and found.receipt is not None
        file = tmp_path / "bundle.json"
        file.write_text(json.dumps(bundle))
        assert cli(["receipts", "verify", str(file)]) == 0
        words = " ".join(capsys.readouterr().out.split())
        says = "environment (identified by: key) decided the task tsk_" in words
        assert says == ("that the person decided" in words) == (each["deliveryGid"] != webhook)
    assert len(deliveries) == 3


async def test_the_reconciler_starts_deliveries_that_were_released_and_not_dispatched(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    managers = await inbox(live.api)
    await live.api.channel(live.name, gates=[{"inbox": managers}])
    webhook = (await live.api.endpoint(live.url, channel=live.name))["endpointGid"]
    message = await live.api.publish({}, live.name)
    monkeypatch.setattr(live.api.services.tasks._dispatcher, "dispatch", lambda _: None)
    ok(await decide(live.api, message, APPROVE))
    assert (await statuses(live.api, message))[webhook] == "accepted"
    gid = message["deliveries"][0]["deliveryGid"]
    await live.api.change_rows("UPDATE delivery SET due_at = '2026-01-01 00:00:00.000000' WHERE gid = :gid", gid=gid)
    circuits = CircuitClient(live.temporal, live.api.services.settings.circuit_policy)
    reconciling = ReconcilingActivities(
        live.temporal, live.api.database, circuits, InputDefaults(), overdue_grace=timedelta(minutes=3)
    )
    await ActivityEnvironment().run(reconciling.reconcile)
    await live.wait_for_status(gid, "delivered")
    assert len(live.receiver.at(live.path)) == 1
