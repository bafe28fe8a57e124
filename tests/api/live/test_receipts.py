"""Receipts of deliveries that really took place: they are verified offline, and audited by the commands."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from everhook.receipts.bundle import verify
from everhook.settings import Settings
from testing.api import JSON, MASTER_KEY, ok
from testing.processes import REPOSITORY, clean_environment
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live
from tests.api.test_receipts import keys_of

pytestmark = ON_STACK

OFFLINE = """
import sys
def refuse(event, arguments):
    if event.startswith(("socket.", "sqlite3.", "subprocess.", "os.system")):
        raise RuntimeError(f"not offline: {event}")
sys.addaudithook(refuse)
from cli.main import main
main(sys.argv[1:])
"""


def run(code: str, *arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=env if env is not None else {},
        timeout=60,
        check=False,
    )


def everhook(settings: Settings, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    variables = {"EVERHOOK_DATABASE_URL": settings.database_url, "EVERHOOK_MASTER_KEYS": MASTER_KEY}
    return run(
        "from cli.main import main; main()", *arguments, env=clean_environment({**variables, "EVERHOOK_DEV": "1"})
    )


async def sealed_bundle(live: Live, delivery_gid: str, **params: Any) -> JSON:
    """The bundle of a delivery's last receipt, once the schedule has sealed it. It triggers the schedule."""
    receipt = ok(await live.api.get(f"/v1/deliveries/{delivery_gid}/receipts"))["data"][-1]
    await live.temporal.get_schedule_handle("seal-receipts").trigger()

    async def is_sealed() -> JSON:
        return ok(await live.api.get(f"/v1/receipts/{receipt['receiptGid']}/bundle", **params))

    return await assert_eventually(is_sealed)


async def test_a_delivery_can_be_verified_offline_with_files_only(live: Live, tmp_path: Path) -> None:
    """The receiver's bytes are verified by a process without network, database or environment. It works after the
    payload was erased: receipts hold hashes."""
    live.receiver.respond(500, Response(202, body=b"thanks"), path=live.path)
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name, policy={"delaysSeconds": [0.05]})
    first = (await live.api.publish({"n": 1}, live.name))["deliveries"][0]["deliveryGid"]
    await live.wait_for_status(first, "delivered")
    bundle = await sealed_bundle(live, first)
    checkpoint = tmp_path / "held.txt"
    checkpoint.write_text(bundle["checkpoint"])
    held = int(bundle["checkpoint"].split("\n")[1])
    message = await live.api.publish({"n": 2}, live.name)
    second = message["deliveries"][0]["deliveryGid"]
    await live.wait_for_status(second, "delivered")
    assert (await live.api.delete(f"/v1/messages/{message['messageGid']}/payload")).status_code == 204
    files = _saved(tmp_path, await sealed_bundle(live, second, since=held), bodies(live)[-1])
    (tmp_path / "keys.json").write_text((await live.api.http.get("/.well-known/jwks.json")).text)
    options: list[str | Path] = ["--jwks", tmp_path / "keys.json", "--since-checkpoint", checkpoint]

    done = run(OFFLINE, "receipts", "verify", *files, *options)

    assert (done.returncode, done.stderr) == (0, "")
    assert "attempt 1 of round 1 of delivery " + second in done.stdout
    assert "HTTP 202: delivered" in done.stdout
    for proven in ("receipt:", "checkpoint:", "inclusionProof:", "body:", "held checkpoint: from"):
        assert f"proven      {proven}" in done.stdout

    failed = ok(await live.api.get(f"/v1/deliveries/{first}/receipts"))["data"][0]
    assert failed["statement"]["statusCode"] == 500
    attempts = ok(await live.api.get(f"/v1/deliveries/{first}"))["attempts"]
    assert attempts[0]["receiptGid"] == failed["receiptGid"]
    (tmp_path / "body").write_bytes(bodies(live)[0])
    wrong = run(OFFLINE, "receipts", "verify", *files, *options)
    assert wrong.returncode == 1
    assert "WRONG       body: is not what was sent" in wrong.stdout
    result = json.loads(run(OFFLINE, "receipts", "verify", *files, *options, "--json").stdout)
    assert (result["ok"], result["wrong"]["place"], result["proven"][0]["place"]) == (False, "body", "receipt")


def bodies(live: Live) -> list[bytes]:
    return [arrival.body for arrival in live.receiver.arrivals if arrival.path == live.path]


def _saved(directory: Path, bundle: JSON, body: bytes) -> list[str | Path]:
    (directory / "bundle.json").write_text(json.dumps(bundle))
    (directory / "body").write_bytes(body)
    return [directory / "bundle.json", "--body", directory / "body"]


async def test_the_commands_audit_the_logs_and_rotate_their_keys(live: Live) -> None:
    settings = live.api.services.settings
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name)
    delivery = (await live.api.publish({"n": 1}, live.name))["deliveries"][0]["deliveryGid"]
    await live.wait_for_status(delivery, "delivered")
    bundle = await sealed_bundle(live, delivery)
    done = everhook(settings, "receipts", "audit")
    assert (done.returncode, done.stderr) == (0, "")
    assert "attempts, each with its receipt" in done.stdout

    rotated = everhook(settings, "keys", "rotate-receipts")
    assert (rotated.returncode, rotated.stderr) == (0, "")
    assert "stays published" in rotated.stdout
    kids = [key["kid"] for key in (await live.api.http.get("/.well-known/jwks.json")).json()["keys"]]
    assert rotated.stdout.startswith(f"{kids[0]} signs for")
    assert len(kids) == len(bundle["jwks"]["keys"]) + 1
    assert verify(bundle, keys=await keys_of(live.api)).ok

    await live.api.change_rows("UPDATE receipt SET number = 9 WHERE seq = :seq", seq=bundle["seq"])
    tampered = everhook(settings, "receipts", "audit")
    await live.api.change_rows("UPDATE receipt SET number = 1 WHERE seq = :seq", seq=bundle["seq"])
    assert tampered.returncode == 1
    assert f"receipt {bundle['seq']}: stands in the row of another" in tampered.stdout
    audited = json.loads(everhook(settings, "receipts", "audit", "--json").stdout)
    assert audited["ok"] and audited["attempts"] >= 1
    assert audited["logs"][0]["receipts"] >= 1 and audited["logs"][0]["wrong"] is None
