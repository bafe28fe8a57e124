"""Receipts over HTTP: a third party can verify what the API returns."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.main import run as cli
from everhook.ids import Kind, first_gid_at
from everhook.receipts.bundle import verify
from everhook.receipts.keys import KeySet
from everhook.receipts.keys_store import rotate_keys
from everhook.settings import Settings
from everhook.storage.keyring import KeyRing
from everhook.storage.tables import now
from everhook.tenants import api_keys_store as api_keys
from everhook.tenants import store as tenants
from everhook.tenants.api_keys_store import Scope
from testing.api import MASTER_KEY, Api, assert_problem, ok
from tests.stores.factories import ISSUER
from tests.stores.receipt_factory import Log

UNKNOWN = "rcp_01m83prhbfe23sdyzab24cmhby"


@pytest.fixture
def log(api: Api) -> Log:
    return Log(api.database, keyring=KeyRing.from_settings(api.services.settings))


async def keys_of(api: Api) -> KeySet:
    return KeySet.from_jwks((await api.http.get("/.well-known/jwks.json")).json())


async def tenant_of(api: Api, name: str) -> str:
    async with api.database.writing() as session:
        tenant = await tenants.ensure_tenant(session, name)
    assert tenant is not None
    return tenant.gid


async def test_the_receipts_of_a_delivery_are_listed_as_signed_and_in_words(api: Api, log: Log) -> None:
    [gid] = await log.grow(1, error=None)
    one = ok(await api.get(f"/v1/receipts/{gid}"))
    assert (one["receiptGid"], one["seq"]) == (gid, None)
    assert one["statement"]["receiptGid"] == gid
    assert one["statement"]["outcome"] == "delivered"
    await log.seal()
    listed = ok(await api.get(f"/v1/deliveries/{one['deliveryGid']}/receipts"))
    assert listed == {"data": [one | {"seq": 0}], "nextCursor": None}


async def test_a_delivery_without_attempts_has_no_receipts_and_an_unknown_one_is_not_found(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    delivery = (await api.publish({"a": 1}))["deliveries"][0]["deliveryGid"]
    assert ok(await api.get(f"/v1/deliveries/{delivery}/receipts"))["data"] == []
    for path in ("/v1/deliveries/dlv_none/receipts", f"/v1/receipts/{UNKNOWN}", f"/v1/receipts/{UNKNOWN}/bundle"):
        assert_problem(await api.get(path), 404)


async def test_a_bundle_verifies_with_the_published_keys(api: Api, log: Log) -> None:
    await log.grown(3, 7)
    [old, new] = await log.seals()
    for row in await log.receipts():
        bundle = ok(await api.get(f"/v1/receipts/{row.gid}/bundle", since=3))
        result = verify(bundle, since=old.note, keys=await keys_of(api))
        assert result.ok, result.wrong
        assert result.checkpoint is not None and result.checkpoint.root == new.root
        assert result.receipt is not None and result.receipt.gid == row.gid
    assert "consistency" not in ok(await api.get(f"/v1/receipts/{row.gid}/bundle"))


async def test_the_bundle_of_an_unsealed_receipt_is_a_503_with_retry_after(api: Api, log: Log) -> None:
    await log.grown(1)
    [gid] = await log.grow(1)
    response = await api.get(f"/v1/receipts/{gid}/bundle")
    assert_problem(response, 503)
    assert 0 < int(response.headers["retry-after"]) <= api.services.settings.seal_receipts_every_seconds + 3


async def test_consistency_from_a_size_that_the_log_never_had_is_refused(api: Api, log: Log) -> None:
    await log.grown(2)
    gid = (await log.receipts())[0].gid
    assert_problem(await api.get(f"/v1/receipts/{gid}/bundle", since=3), 422, "since")
    for size in ("-1", "x", str(2**63)):
        assert_problem(await api.get(f"/v1/receipts/{gid}/bundle", since=size), 422, "since")
    assert "consistency" in ok(await api.get(f"/v1/receipts/{gid}/bundle", since=0))


async def test_checkpoints_are_listed_newest_first_and_in_pages(api: Api, log: Log) -> None:
    await log.grown(1, 2, 4, 5, 6)
    listed = await api.walk("/v1/receipts/checkpoints", limit=2)
    assert [each["size"] for each in listed] == [6, 5, 4, 2, 1]
    assert [each["checkpoint"] for each in listed] == [seal.note for seal in reversed(await log.seals())]
    assert_problem(await api.get("/v1/receipts/checkpoints", cursor="Li4u"), 422, "cursor")
    assert_problem(await api.get("/v1/receipts/checkpoints", cursor="MTI-"), 422, "cursor")


async def test_each_log_has_its_own_checkpoints(api: Api, log: Log) -> None:
    await log.grown(1)
    acme = await Log(api.database, await tenant_of(api, "acme"), KeyRing.from_settings(api.services.settings)).grown(2)
    for named in ("acme", acme.tenant_gid):
        [checkpoint] = ok(await api.get("/v1/receipts/checkpoints", tenant=named))["data"]
        assert checkpoint["size"] == 2
        assert checkpoint["checkpoint"].startswith(f"{ISSUER}/receipts/{acme.tenant_gid}\n")
    assert_problem(await api.get("/v1/receipts/checkpoints", tenant="nobody"), 404)


async def test_any_two_checkpoints_have_a_consistency_proof(api: Api, log: Log) -> None:
    await log.grown(1, 5, 9)
    for old, new in ((1, 5), (1, 9), (5, 9), (9, 9)):
        bundle = ok(await api.get("/v1/receipts/consistency", **{"from": old, "to": new}))
        assert verify(bundle, keys=await keys_of(api)).ok


async def test_consistency_is_between_checkpoints_in_ascending_order(api: Api, log: Log) -> None:
    await log.grown(1, 5)
    assert_problem(await api.get("/v1/receipts/consistency", **{"from": 5, "to": 1}), 422, "from")
    assert_problem(await api.get("/v1/receipts/consistency", **{"from": 1, "to": 4}), 404)
    assert_problem(await api.get("/v1/receipts/consistency", **{"from": 1, "to": 5, "tenant": "nobody"}), 404)


async def test_a_log_that_lost_hashes_reports_it_instead_of_a_proof(api: Api, log: Log) -> None:
    await log.grown(4)
    gid = (await log.receipts())[0].gid
    await log.change('DELETE FROM receipt_hash WHERE "index" = 2')
    problem = assert_problem(await api.get(f"/v1/receipts/{gid}/bundle"), 500)
    assert "damaged" in problem["detail"]


async def test_the_public_keys_are_served_without_a_key_cacheable_and_with_retired_ones(api: Api, log: Log) -> None:
    api.http.headers.pop("authorization")
    assert (await api.http.get("/.well-known/jwks.json")).json() == {"keys": []}
    await log.grown(1)
    async with api.database.write_connection() as connection:
        issuer = await rotate_keys(connection, KeyRing.from_settings(api.services.settings), ISSUER, now())
    response = await api.http.get("/.well-known/jwks.json")
    assert response.headers["content-type"] == "application/jwk-set+json"
    assert response.headers["cache-control"] == "public, max-age=60"
    assert [key["kid"] for key in response.json()["keys"]] == [key.kid for key in issuer.keys]
    assert ["exp" in key for key in response.json()["keys"]] == [False, True]
    assert not any("d" in key for key in response.json()["keys"])
    assert_problem(await api.get("/v1/receipts/checkpoints"), 401)


async def test_a_tenants_key_can_read_only_its_own_log(api: Api, log: Log) -> None:
    await log.grown(1, 2)
    acme = await Log(api.database, await tenant_of(api, "acme"), KeyRing.from_settings(api.services.settings)).grown(3)
    others, own = (await log.receipts())[0], (await acme.receipts())[0]
    await _as_tenant(api, acme.tenant_gid)
    assert [each["size"] for each in ok(await api.get("/v1/receipts/checkpoints"))["data"]] == [3]
    assert verify(ok(await api.get(f"/v1/receipts/{own.gid}/bundle"))).ok
    for path in (
        f"/v1/receipts/{others.gid}",
        f"/v1/receipts/{others.gid}/bundle",
        f"/v1/deliveries/{others.delivery_gid}/receipts",
        f"/v1/receipts/checkpoints?tenant={log.tenant_gid}",
        f"/v1/receipts/consistency?from=1&to=2&tenant={log.tenant_gid}",
    ):
        assert_problem(await api.http.get(path), 404)


async def _as_tenant(api: Api, tenant_gid: str) -> None:
    async with api.database.writing() as session:
        _, key = await api_keys.create(session, "acme", [Scope.TENANT], tenant_gid=tenant_gid, created_by="test")
    api.http.headers["authorization"] = f"Bearer {key}"


async def test_archived_receipts_are_in_the_file_and_no_longer_in_the_api(
    api: Api,
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVERHOOK_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("EVERHOOK_MASTER_KEYS", MASTER_KEY)
    monkeypatch.setenv("EVERHOOK_DEV", "1")

    async def receipts(*arguments: str | Path) -> tuple[int, str]:
        """Run the command in this process; its status and output."""
        status = await asyncio.to_thread(cli, ["receipts", *map(str, arguments)])
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    log = Log(api.database, keyring=KeyRing.from_settings(settings))
    await log.grown(2, 5)
    gid, delivery_gid = (await log.receipts())[1].gid, (await log.receipts())[0].delivery_gid
    before = [datetime.now(UTC) + timedelta(days=days) for days in (1, 0)]
    tomorrow, today = (["archive", "--to", str(tmp_path), "--before", f"{day:%Y-%m-%d}"] for day in before)
    status, shown = await receipts(*tomorrow)
    assert (status, "lies in the future" in shown) == (2, True)
    await api.change_rows("UPDATE receipt_seal SET created_at = :past", past="2026-01-01 00:00:00.000000")
    status, shown = await receipts(*today)
    assert "receipt 0 and all later ones stay" in shown and shown.endswith(f"0 receipts moved to {tmp_path}\n")
    status, shown = await receipts(*today, "--json")
    assert json.loads(shown)["heldBack"] == [{"tenantGid": log.tenant_gid, "seq": 0, "deliveryGid": delivery_gid}]
    await api.change_rows("DELETE FROM attempt")
    assert await receipts(*today, "--dry-run") == (0, "5 receipts would be moved\n")
    assert await receipts(*today) == (0, f"5 receipts moved to {tmp_path}\n")
    await api.change_rows("UPDATE receipt_archive SET newest_at = :now", now=f"{before[1]:%Y-%m-%d %H:%M:%S.%f}")
    assert "000000000000-000000000005" in assert_problem(await api.get(f"/v1/receipts/{gid}"), 410)["detail"]
    assert_problem(await api.get(f"/v1/deliveries/{delivery_gid}/receipts"), 410)
    assert_problem(await api.get(f"/v1/receipts/{gid}/bundle"), 410)
    assert_problem(await api.get(f"/v1/receipts/{first_gid_at(Kind.RECEIPT, before[0])}"), 404)
    file = tmp_path / log.tenant_gid / "000000000000-000000000005.receipts.gz"
    assert (await receipts("verify", file))[0] == 0
    status, bundle = await receipts("extract", file, gid)
    assert verify(json.loads(bundle)).ok
    assert (await receipts("audit"))[0] == 0
