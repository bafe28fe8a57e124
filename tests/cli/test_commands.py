"""Commands against a real API, Temporal, workers and receiver."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict
from uuid import uuid4

import pytest

from everhook.signing.schemes import new_secret
from everhook_client import models
from testing.api import ok
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.cli.conftest import ON_LIVE, Everhook, Live

pytestmark = ON_LIVE

UNKNOWN = "01m83prhbfe23sdyzab24cmhby"


@pytest.fixture
def path() -> str:
    """A path of the receiver for this test alone."""
    return f"/{uuid4().hex[:12]}"


@pytest.fixture
def channel(path: str) -> str:
    return f"c{path[1:]}"


@pytest.fixture
def at(live: Live, path: str) -> str:
    return live.receiver.url_for(path)


async def create_endpoint_for_receiver(everhook: Everhook, at: str, channel: str, *options: str) -> Any:
    await everhook.ok("channels", "create", channel)
    return await everhook.json("endpoints", "create", at, "--channel", channel, *options)


async def publish(everhook: Everhook, channel: str, payload: str = "{}", *options: str) -> Any:
    return await everhook.json("publish", channel, payload, "--type", "order.created", *options)


async def dead_lettered(everhook: Everhook, live: Live, channel: str, count: int = 1) -> list[str]:
    """Publish messages and wait until they are dead letters; the receiver must refuse. Returns the gids."""
    gids = [(await publish(everhook, channel))["deliveries"][0]["deliveryGid"] for _ in range(count)]
    for gid in gids:
        await everhook("deliveries", "watch", gid)
    return gids


async def test_event_types_are_described_imported_tried_out_and_checked(
    everhook: Everhook, live: Live, channel: str, path: str, at: str, tmp_path: Path
) -> None:
    name, schema, example = f"{channel}.made", tmp_path / "schema.json", tmp_path / "example.json"
    schema.write_text('{"required": ["id"], "properties": {"id": {"type": "integer"}}}')
    example.write_text('{"id": 1}')
    files = ("--schema", str(schema), "--example", str(example))
    made = await everhook.json("event-types", "create", name, "--description", "It was made.\nBy hand.", *files)
    assert (made["example"], made["description"]) == ({"id": 1}, "It was made.\nBy hand.")
    assert name in (await everhook.ok("event-types", "list")).out
    shown = (await everhook.ok("event-types", "show", name)).out
    assert re.search(r"  It was made\. *\n +By hand\.", shown) and "\N{REPLACEMENT CHARACTER}" not in shown
    assert '\nschema\n  {\n    "required": [\n' in shown and '\nexample\n  {\n    "id": 1\n  }\n' in shown
    endpoint = await create_endpoint_for_receiver(everhook, at, channel)
    assert (await everhook.ok("endpoints", "test", endpoint["endpointGid"], "--type", name)).status == 0
    (request,) = await live.receiver.wait_for(1, path=path)
    assert '"id": 1' in request.body.decode()

    document = tmp_path / "openapi.json"
    document.write_text((await everhook.ok("event-types", "export")).out)
    await everhook.ok("event-types", "update", name, "--no-schema", "--no-example", "--deprecated")
    assert f"to change: {name}" in (await everhook.ok("event-types", "import", str(document), "--dry-run")).out
    assert name in (await everhook.json("event-types", "import", str(document)))["changed"]

    changed = await everhook.json("channels", "update", channel, "--validation", "warn", "--retention-days", "7")
    assert (changed["validation"], changed["retentionDays"]) == ("warn", 7)
    warned = await everhook.ok("publish", channel, "{}", "--type", name)
    assert 'does not fit the catalogue: payload: "id" is a required property' in warned.out
    await everhook.ok("channels", "update", channel, "--validation", "reject", "--no-retention")
    await everhook.ok("event-types", "archive", name)
    refused = await everhook("publish", channel, '{"id": 1}', "--type", name)
    assert refused.status == 1 and "is archived" in refused.err
    await everhook.ok("event-types", "restore", name)
    assert await everhook.json("event-types", "delete", name, "--yes") == {"deleted": name}
    assert (await everhook("event-types", "show", name)).status == 1


async def test_tasks_are_listed_shown_commented_on_delegated_and_decided(
    everhook: Everhook, live: Live, channel: str
) -> None:
    await everhook.ok("channels", "create", channel)
    options = ("--name", "Managers", "--assignee", "environment")
    made = await everhook.json("endpoints", "create", "--mode", "inbox", *options, "--channel", channel)
    inbox = made["endpointGid"]
    assert "people decide" in (await everhook("endpoints", "create", "https://a.example/", "--mode", "inbox")).err
    assert f"everhook tasks list --inbox {inbox}" in (await everhook.ok("endpoints", "show", inbox)).out
    await publish(everhook, channel, '{"orderId": 1042}')
    (task,) = await everhook.json("tasks", "list", "--inbox", inbox, "--state", "open", "--assignee", "environment")
    gid = task["taskGid"]
    assert gid in (await everhook.ok("tasks", "list", "--inbox", inbox)).out
    assert "No task matches" in (await everhook.ok("tasks", "list", "--inbox", inbox, "--overdue")).out
    commented = (await everhook.ok("tasks", "comment", gid, "I asked the supplier.")).out
    assert commented == f"{gid}: the comment is recorded\n"
    shown = (await everhook.ok("tasks", "show", gid)).out
    assert '"orderId": 1042' in shown and "I asked the supplier." in shown
    missing = await everhook("tasks", "decide", gid, "rejected", "--yes")
    assert missing.status == 1 and "comment" in missing.err
    unconfirmed = await everhook("tasks", "decide", gid, "approved")
    assert unconfirmed.status == 2 and "--yes" in unconfirmed.err and '"orderId": 1042' in unconfirmed.err
    assert "asks bo" in (await everhook.ok("tasks", "delegate", gid, "bo", "--comment", "on leave")).out
    refused = await everhook("tasks", "decide", gid, "approved", "--version", "1", "--yes")
    assert refused.status == 1 and "has changed since" in refused.err
    await publish(everhook, channel)
    other = (await everhook.json("tasks", "list", "--inbox", inbox, "--limit", "1"))[0]["taskGid"]
    decided = await everhook.json("tasks", "decide", other, "rejected", "--comment", "too expensive", "--yes")
    assert (decided["decidedBy"], decided["outcome"]) == ("environment", "rejected")
    again = await everhook.ok("tasks", "decide", other, "rejected", "--comment", "too expensive", "--yes")
    assert decided["receiptGid"] in again.out


async def test_a_channel_from_creation_to_deletion(everhook: Everhook, channel: str) -> None:
    made = await everhook.json("channels", "create", channel, "--preset", "patient")
    assert made["policy"] == {"preset": "patient"}
    assert channel in [one["name"] for one in await everhook.json("channels", "list", "--limit", "500")]
    changed = await everhook.json("channels", "update", channel, "--policy", '{"delaysSeconds": [1]}')
    assert changed["policy"] == {"delaysSeconds": [1.0]}
    assert (await everhook.json("channels", "update", channel, "--no-policy"))["policy"] is None
    shown = await everhook.ok("channels", "show", channel)
    assert channel in shown.out and "the default" in shown.out
    assert await everhook.json("channels", "delete", channel, "--yes") == {"deleted": channel}
    assert (await everhook("channels", "show", channel)).status == 1


async def test_a_channel_shows_who_has_to_approve_its_messages(everhook: Everhook, live: Live, channel: str) -> None:
    options = ("--mode", "inbox", "--name", "Managers", "--assignee", "ann", "--description", "the board")
    inbox = (await everhook.json("endpoints", "create", *options))["endpointGid"]
    assert re.search(rf"{inbox} .* the board \(inbox\)", (await everhook.ok("endpoints", "list")).out)
    await live.api.channel(channel, gates=[{"inbox": inbox}, {"inbox": inbox, "filter": {"amount": {"$gt": 5}}}])
    shown = (await everhook.ok("channels", "show", channel)).out
    assert re.search(rf'gates  +{inbox} *\n +{inbox}  filter {{"amount": {{"\$gt": 5}}}}', shown)
    listed = (await everhook.ok("channels", "list", "--limit", "500")).out
    assert re.search(rf"{channel}  +the default +2 steps  +off", listed)


async def test_an_endpoint_from_creation_to_deletion(everhook: Everhook, at: str, channel: str, tmp_path: Path) -> None:
    options = ["--event", "order.*", "--rate-limit", "5", "--signature", "standard", "--format", "raw"]
    more = ["--header", "X-Mine: a: b", "--metadata", '{"a": 1}', "--description", "mine", "--preset", "brisk"]
    made = await create_endpoint_for_receiver(everhook, at, channel, *options, *more)
    gid = made["endpointGid"]
    assert made["secret"].startswith("whsec_")
    assert (made["headers"], made["metadata"], made["rateLimit"]) == ({"X-Mine": "a: b"}, {"a": 1}, 5.0)
    assert (made["signatures"], made["format"], made["policy"]) == (["standard"], "raw", {"preset": "brisk"})
    changed = await everhook.json("endpoints", "update", gid, "--no-rate-limit", "--description", "ours", "--no-policy")
    assert (changed["rateLimit"], changed["description"], changed["policy"]) == (None, "ours", None)
    assert changed["format"] == "raw"
    listed = await everhook.ok("endpoints", "list")
    assert gid in listed.out and "ours" in listed.out
    secret = new_secret()
    (tmp_path / "secret").write_text(secret + "\n")
    rotated = await everhook.json("endpoints", "rotate-secret", gid, "--secret-file", "secret", "--grace-seconds", "60")
    assert rotated["secret"] == secret and rotated["previousUntil"] is not None
    await everhook.ok("endpoints", "delete", gid, "--yes")
    assert (await everhook("endpoints", "show", gid)).status == 1


async def test_a_channel_has_gates(everhook: Everhook, channel: str) -> None:
    inbox = (await everhook.json("endpoints", "create", "--mode", "inbox", "--name", "Managers"))["endpointGid"]
    gates = [{"inbox": inbox}]
    made = await everhook.json("channels", "create", channel, "--gates", json.dumps(gates))
    assert [step["inbox"] for step in made["gates"]] == [inbox]
    unchanged = await everhook.json("channels", "update", channel, "--preset", "brisk")
    assert unchanged["gates"] == made["gates"]
    assert not (await everhook.json("channels", "update", channel, "--gates", "[]"))["gates"]
    refused = await everhook("channels", "update", channel, "--gates", json.dumps(gates[0]))
    assert refused.status == 2 and "--gates must be a JSON array" in refused.err


async def test_an_endpoint_has_circuit_settings_limits_and_alerts(everhook: Everhook, at: str, channel: str) -> None:
    await everhook.ok("channels", "create", channel, "--circuit", '{"cooldownSeconds": 45}')
    assert '{"cooldownSeconds": 45.0}' in (await everhook.ok("channels", "show", channel)).out
    options = ("--circuit", '{"failureThreshold": 7}', "--alerts", '{"minAttempts": 9}', "--max-in-flight", "3")
    made = await everhook.json("endpoints", "create", at, "--channel", channel, "--paused", *options)
    gid = made["endpointGid"]
    assert (made["status"], made["maxInFlight"], made["alerts"]) == ("paused", 3, {"minAttempts": 9})
    card = (await everhook.ok("endpoints", "show", gid)).out
    assert '{"failureThreshold": 7}' in card and '{"minAttempts": 9}' in card and "requests at a time" in card
    cleared = ("--no-circuit", "--no-alerts", "--no-max-in-flight")
    shown = await everhook.json("endpoints", "update", gid, *cleared)
    assert (shown["circuit"]["settings"], shown["maxInFlight"], shown["alerts"]) == (None, None, None)
    assert (await everhook.json("channels", "update", channel, "--no-circuit"))["circuit"] is None
    refused = await everhook("endpoints", "update", gid, "--circuit", '{"failureThreshold": 0}')
    assert refused.status == 1 and "circuit.failureThreshold" in refused.err

    await publish(everhook, channel)
    listed = await everhook.json("deliveries", "list", "--subscription", made["subscriptionGid"])
    assert [delivery["subscriptionGid"] for delivery in listed] == [made["subscriptionGid"]]
    assert await everhook.json("dead-letters", "list", "--subscription", made["subscriptionGid"]) == []


async def test_the_url_of_an_endpoint_is_never_used_as_that_of_the_api(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    """The API key is sent to the API's address, and a customer's URL must not become that."""
    gid = (await create_endpoint_for_receiver(everhook, at, channel))["endpointGid"]
    moved = f"{at}/moved"
    changed = await everhook.json("endpoints", "update", gid, "--url", moved)
    assert changed["url"] == moved
    made = await everhook.json("endpoints", "create", "--url", moved)
    assert made["url"] == moved
    for command in (["endpoints", "show", gid], ["endpoints", "create", at], ["status"], ["publish", channel, "{}"]):
        refused = await everhook(*command, "--url", moved)
        assert refused.status == 2 and ("--url" in refused.err or "once" in refused.err)
    assert live.receiver.at(path) == live.receiver.at(f"{path}/moved") == []


async def test_an_endpoint_that_everhook_handles_itself(everhook: Everhook, at: str, tmp_path: Path) -> None:
    file = tmp_path / "handler.json"
    file.write_text(json.dumps({"kind": "chat", "url": at + "/s3cr3t", "text": "{type}"}))
    made = await everhook.json("endpoints", "create", "--mode", "internal", "--handler-file", str(file))
    assert made["options"]["handler"]["text"] == "{type}"
    shown = (await everhook.ok("endpoints", "show", made["endpointGid"])).out
    assert "internal: " in shown and '"kind": "chat"' in shown and "s3cr3t" not in shown
    assert "(internal: chat)" in (await everhook.ok("endpoints", "list", "--limit", "500")).out
    for wrong, said in (
        (["--handler", "[]"], "--handler must be a JSON object"),
        (["--handler", "{}", "--handler-file", str(file)], "not both"),
        (["--handler", "{}", at], "what it does is in --handler"),
    ):
        refused = await everhook("endpoints", "create", "--mode", "internal", *wrong)
        assert (refused.status, said in refused.err) == (2, True), refused.err
    refused = await everhook("endpoints", "create", "--mode", "internal", "--handler", '{"kind": "sms"}')
    assert refused.status == 1 and "options.handler.kind" in refused.err


async def test_credentials_of_an_endpoint_are_read_from_a_file_and_not_printed(
    everhook: Everhook, at: str, tmp_path: Path
) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"type": "basic", "username": "everhook", "password": "s3cr3t"}))
    created = await everhook.ok("endpoints", "create", at, "--auth-file", str(file), "--header", "X-Key: s3cr3t-value")
    assert "basic, username everhook" in created.out and "X-Key" in created.out and "s3cr3t" not in created.out
    made = await everhook.json("endpoints", "create", at, "--auth-file", str(file))
    assert made["auth"] == {"type": "basic", "username": "everhook"}
    gid = made["endpointGid"]
    assert "basic, username everhook" in (await everhook.ok("endpoints", "show", gid)).out
    file.write_text('{"type": "bearer", "token": "s3cr3t s3cr3t"}')
    refused = await everhook("endpoints", "update", gid, "--auth-file", str(file))
    assert refused.status == 1 and "auth.token" in refused.err and "s3cr3t" not in refused.err
    file.write_text('["s3cr3t"]')
    refused = await everhook("endpoints", "update", gid, "--auth-file", str(file))
    assert refused.status == 2 and "--auth-file must be a JSON object" in refused.err and "s3cr3t" not in refused.err
    assert (await everhook.json("endpoints", "update", gid, "--no-auth"))["auth"] is None


async def test_every_command_to_a_circuit_prints_the_new_state(everhook: Everhook, at: str, channel: str) -> None:
    gid = (await create_endpoint_for_receiver(everhook, at, channel))["endpointGid"]
    states = {}
    for name in ("pause", "resume", "disable", "enable", "trip", "reset"):
        endpoint = await everhook.json("endpoints", name, gid)
        states[name] = (endpoint["status"], endpoint["circuit"]["state"])
    assert states == {
        "pause": ("paused", "closed"),
        "resume": ("enabled", "closed"),
        "disable": ("disabled", "closed"),
        "enable": ("enabled", "closed"),
        "trip": ("enabled", "open"),
        "reset": ("enabled", "closed"),
    }


async def test_a_subscription_from_creation_to_deletion(everhook: Everhook, at: str, channel: str) -> None:
    endpoint = await create_endpoint_for_receiver(everhook, at, channel)
    created = await everhook.json(
        "subscriptions", "create", endpoint["endpointGid"], channel, "--event", "a.*", "--filter", '{"n": {"$gt": 1}}'
    )
    gid = created["subscriptionGid"]
    assert (created["events"], created["filter"]) == (["a.*"], {"n": {"$gt": 1}})
    changed = await everhook.json("subscriptions", "update", gid, "--all-events", "--no-filter", "--disable")
    assert (changed["events"], changed["filter"], changed["enabled"]) == ([], None, False)
    listed = await everhook.json("subscriptions", "list", "--endpoint", endpoint["endpointGid"])
    assert {one["subscriptionGid"] for one in listed} == {gid, endpoint["subscriptionGid"]}
    assert "all (disabled)" in (await everhook.ok("subscriptions", "show", gid)).out
    await everhook.ok("subscriptions", "delete", gid, "--yes")
    assert (await everhook("subscriptions", "show", gid)).status == 1


async def test_an_update_without_options_is_a_usage_error(everhook: Everhook) -> None:
    for command in ("channels", "endpoints", "subscriptions"):
        result = await everhook(command, "update", "x")
        assert result.status == 2 and "nothing to change" in result.err


async def test_publishing_and_waiting_shows_every_delivery(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(Response(200, b"thank you"), path=path)
    result = await everhook("publish", channel, '{"n": 1}', "--type", "order.created", "--wait")
    assert result.status == 0
    assert "✓ delivered" in result.out and "│ thank you" in result.out
    assert json.loads(live.receiver.at(path)[0].body)["payload"] == {"n": 1}


async def test_a_message_is_published_for_later_with_metadata_and_cancelled(
    everhook: Everhook, live: Live, at: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    options = ("--metadata", "region=eu", "--metadata", "note=a=b", "--delay", "3600", "--no-retry")
    printed = await everhook.ok("publish", channel, "{}", "--type", "order.created", *options)
    assert "its deliveries are created at 20" in printed.out and "no subscription" not in printed.out
    gid = (await publish(everhook, channel, "{}", *options))["messageGid"]
    shown = ok(await live.api.get(f"/v1/messages/{gid}"))
    assert (shown["metadata"], shown["retry"]) == ({"region": "eu", "note": "a=b"}, False)
    result = await everhook("messages", "cancel", gid)
    assert result.status == 0 and "is cancelled" in result.out
    assert ok(await live.api.get(f"/v1/messages/{gid}"))["cancelledAt"] is not None
    for wrong in (("--metadata", "region"), ("--delay", "1", "--wait")):
        assert (await everhook("publish", channel, "{}", "--type", "a", *wrong)).status == 2


async def test_waiting_for_a_message_that_is_not_delivered_ends_with_status_1(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(400, path=path)
    result = await everhook("publish", channel, "{}", "--type", "a", "--wait", "--json")
    assert result.status == 1
    (delivery,) = result.json["deliveries"]
    assert delivery["deadLetterReason"] == "rejected"


async def test_the_same_idempotency_key_publishes_once(everhook: Everhook, at: str, channel: str) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    first = await publish(everhook, channel, "{}", "--idempotency-key", "k")
    again = await publish(everhook, channel, "{}", "--idempotency-key", "k")
    assert (again["messageGid"], again["duplicate"]) == (first["messageGid"], True)
    other = await everhook("publish", channel, "[]", "--type", "order.created", "--idempotency-key", "k")
    assert other.status == 1 and "(409)" in other.err


async def test_a_payload_is_published_byte_for_byte_from_its_file(
    everhook: Everhook, live: Live, at: str, path: str, channel: str, tmp_path: Path
) -> None:
    payload = b'{"a": 1.50, "a": 1e400, "big": 123456789012345678901234567890, "s": "\xc3\xa9\\u0007"}'
    (tmp_path / "payload.json").write_bytes(payload)
    await create_endpoint_for_receiver(everhook, at, channel, "--format", "raw")
    result = await everhook("publish", channel, "--file", "payload.json", "--type", "a", "--wait")
    assert result.status == 0, result
    assert live.receiver.at(path)[0].body == payload


@pytest.mark.parametrize("payload", ["", "{", '1, "tenant": "x"', "NaN1"])
async def test_a_payload_that_is_not_json_is_refused_by_the_command(everhook: Everhook, payload: str) -> None:
    result = await everhook("publish", "orders", payload)
    assert result.status == 2 and "the payload is not JSON" in result.err


async def test_deliveries_are_listed_by_filters_and_shown_with_their_payload(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    endpoint = await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(503, path=path)
    (delivery,) = (await publish(everhook, channel, '{"n": 7}'))["deliveries"]
    gid = delivery["deliveryGid"]

    async def retrying() -> None:
        listed = await everhook.json("deliveries", "list", "--channel", channel, "--status", "retrying")
        assert [one["deliveryGid"] for one in listed] == [gid]

    await assert_eventually(retrying)
    assert await everhook.json("deliveries", "list", "--endpoint", endpoint["endpointGid"], "--status", "parked") == []
    shown = await everhook.ok("deliveries", "show", gid, "--payload", "--live")
    assert '"n": 7' in shown.out and "503" in shown.out and "waits for" in shown.out
    live.receiver.respond(200, path=path)
    await everhook.ok("deliveries", "attempt-now", gid)
    watched = await everhook("deliveries", "watch", gid, "--json")
    assert watched.status == 0
    assert watched.json_lines[-1]["status"] == "delivered"
    assert (await live.api.delete(f"/v1/messages/{watched.json_lines[-1]['messageGid']}/payload")).status_code == 204
    erased = await everhook.ok("deliveries", "show", gid, "--payload")
    assert re.search(r"^payload *\nerased at 20", erased.out, re.MULTILINE) and "null" not in erased.out


async def test_one_dead_letter_is_shown_replayed_and_discarded(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(Response(400, b"no such order"), path=path)
    (gid,) = await dead_lettered(everhook, live, channel)
    assert gid in (await everhook.ok("dead-letters", "list", "--channel", channel)).out
    shown = await everhook.ok("dead-letters", "show", gid)
    assert "│ no such order" in shown.out and "payload" in shown.out
    live.receiver.respond(200, path=path)
    await everhook.ok("dead-letters", "replay", gid, "--reason", "they are back")

    async def delivered() -> None:
        assert (await everhook.json("deliveries", "show", gid))["status"] == "delivered"

    await assert_eventually(delivered)
    again = await everhook("dead-letters", "replay", gid)
    assert again.status == 1 and "not a dead letter" in again.err


async def test_a_delivered_message_is_sent_again_after_a_confirmation(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(200, path=path)
    message = await live.api.publish({"n": 1}, channel)
    gid = message["messageGid"]
    await live.receiver.wait_for(1, path=path)

    async def delivered() -> None:
        (delivery,) = await everhook.json("deliveries", "list", "--message", gid)
        assert delivery["status"] == "delivered"

    await assert_eventually(delivered)
    assert (await everhook("messages", "redeliver", gid)).status == 2  # standard input is not a terminal
    sent = await everhook.ok("messages", "redeliver", gid, "--reason", "they lost it", "--yes")
    assert "sent again" in sent.out
    await live.receiver.wait_for(2, path=path)


async def test_a_channel_is_replayed_after_a_count_and_followed(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(400, path=path)
    await dead_lettered(everhook, live, channel, 2)
    what = ["replay", "--channel", channel, "--since", "2h", "--mode", "failed"]
    counted = await everhook.json(*what, "--dry-run")
    assert counted == {"matched": 2, "matchedAtLeast": False, "erased": 0, "batchGid": None}
    for option, time in (("--since", "yesterday"), ("--until", "2026-01-31")):
        refused = await everhook(*what, option, time)
        assert refused.status == 2
        assert f"{option}: {time} is neither a time" in refused.err and "90min, 2h or 7d" in refused.err
    unasked = await everhook(*what)
    assert unasked.status == 2 and "2 deliveries match. Send them to all endpoints" in unasked.err
    live.receiver.respond(200, path=path)
    followed = await everhook(*what, "--reason", "they are back", "--follow", "--yes", "--json")
    batch = json.loads(followed.out)
    assert f"following {batch['batchGid']}, which continues without this command" in followed.err
    assert (batch["state"], batch["started"], batch["reason"]) == ("completed", 2, "they are back")
    shown = await everhook.ok("batches", "show", batch["batchGid"])
    assert "completed" in shown.out and "they are back" in shown.out
    assert [each["batchGid"] for each in await everhook.json("batches", "list", "--channel", channel)] == [
        batch["batchGid"]
    ]
    assert batch["batchGid"] in (await everhook.ok("batches", "list", "--channel", channel)).out
    ended = await everhook("batches", "cancel", batch["batchGid"], "--yes")
    assert ended.status == 1 and "has completed" in ended.err


async def test_a_bulk_replay_counts_asks_and_follows_the_batch(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(400, path=path)
    gids = await dead_lettered(everhook, live, channel, 3)
    assert await everhook.json("dead-letters", "replay", "--channel", channel, "--dry-run") == {
        "matched": 3,
        "skipped": 0,
        "batchGid": None,
    }
    unasked = await everhook("dead-letters", "replay", "--channel", channel)
    assert unasked.status == 2
    assert re.search(rf"Replay 3 dead letters \(with channel {channel}\) at {live.url}\?.*--yes", unasked.err)
    live.receiver.respond(200, path=path)
    await _indexed(live, channel, 3)
    batch = await everhook.json(
        "dead-letters", "replay", "--channel", channel, "--dead-letter-reason", "rejected", "--yes"
    )
    assert (batch["state"], batch["total"], batch["failed"]) == ("completed", 3, 0)
    again = await everhook.json("batches", "show", batch["batchGid"], "--follow")
    assert again["state"] == "completed"

    async def all_delivered() -> None:
        listed = await everhook.json("deliveries", "list", "--channel", channel, "--status", "delivered")
        assert {one["deliveryGid"] for one in listed} == set(gids)

    await assert_eventually(all_delivered)


async def _indexed(live: Live, channel: str, count: int) -> None:
    """Temporal's index is updated a moment later."""

    async def found() -> None:
        query = f'Channel = "{channel}" AND DeliveryStatus = "dead_lettered"'
        assert (await live.temporal.count_workflows(query)).count == count

    await assert_eventually(found)


async def test_a_purge_of_some_leaves_the_others(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(400, path=path)
    kept, *given_up = await dead_lettered(everhook, live, channel, 3)
    results = await everhook.json("dead-letters", "purge", *given_up, "--yes", "--reason", "tests")
    assert [result["requested"] for result in results] == ["discard", "discard"]

    async def only_one_left() -> None:
        listed = await everhook.json("dead-letters", "list", "--channel", channel)
        assert [one["deliveryGid"] for one in listed] == [kept]

    await assert_eventually(only_one_left)


@pytest.mark.parametrize("arguments", [[], ["--all", "--channel", "x"], ["dlv_1", "--all"], ["dlv_1", "--type", "x"]])
async def test_dead_letters_have_to_be_selected_in_exactly_one_way(everhook: Everhook, arguments: list[str]) -> None:
    result = await everhook("dead-letters", "purge", *arguments, "--yes")
    assert result.status == 2 and "one of the three" in result.err


async def test_an_endpoint_is_tested_by_a_message_to_that_endpoint_only(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    gid = (await create_endpoint_for_receiver(everhook, at, channel))["endpointGid"]
    live.receiver.respond(Response(500, b"not today"), 200, path=path)
    failed = await everhook("endpoints", "test", gid)
    assert failed.status == 1 and "│ not today" in failed.out
    assert (await everhook.json("endpoints", "test", gid))["status"] == "delivered"

    async def is_parked(reason: str) -> None:
        parked = await everhook("endpoints", "test", gid)
        assert parked.status == 1 and reason in parked.err

    await everhook.ok("endpoints", "trip", gid)  # a process that sends may hear of it a moment later
    await assert_eventually(lambda: is_parked("the circuit of its endpoint is open until 20"))
    await everhook.ok("endpoints", "pause", gid)
    await assert_eventually(lambda: is_parked("its endpoint is paused"))
    pulls = (await everhook.json("endpoints", "create", "--mode", "poll"))["endpointGid"]
    untaken = await everhook("endpoints", "test", pulls, "--wait-seconds", "0")
    assert untaken.status == 1 and f"everhook consume --endpoint {pulls}" in untaken.err


# Health


async def test_health_names_the_endpoints_that_are_unhealthy_and_why(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    gid = (await create_endpoint_for_receiver(everhook, at, channel, "--tenant", channel))["endpointGid"]
    live.receiver.respond(410, path=path)
    await dead_lettered(everhook, live, channel)

    async def is_failing() -> None:  # the score follows the delivery
        one = await everhook.ok("health", gid, "--window", "1h")
        assert "failing" in one.out and "■ disabled" in one.out
        assert "0.0% of 1 attempt" in one.out and re.search(r"failures +·*█", one.out)
        assert "0 of 1 attempts delivered in the last hour" in one.out
        assert re.search(r"http_410 +1 ", one.out)

    await assert_eventually(is_failing)
    assert (await everhook.json("health", gid))["window"] == "24h"

    async def is_worst() -> None:  # the overview is a few seconds old
        message = await everhook.ok("health", "--tenant", channel)
        assert re.search(rf"failing +■ disabled +{gid} ", message.out), message.out
        assert re.search(r"http_410 +1 +1 ", message.out), message.out

    await assert_eventually(is_worst)
    for arguments in ([gid, "--tenant", channel], ["--window", "1h"]):
        assert (await everhook("health", *arguments)).status == 2


async def test_status_of_a_running_stack_reports_what_waits_for_an_operator(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    gid = (await create_endpoint_for_receiver(everhook, at, channel))["endpointGid"]
    live.receiver.respond(400, path=path)
    await dead_lettered(everhook, live, channel)
    await everhook.ok("endpoints", "trip", gid)
    report = await everhook.json("status")
    levels = {finding["name"]: finding["level"] for finding in report["findings"]}
    assert report["ok"] is True
    assert (levels["database"], levels["Temporal"]) == ("ok", "ok")
    assert (levels["dead letters"], levels["endpoints"]) == ("warning", "warning")
    shown = await everhook.ok("status")
    assert "▲ dead letters" in shown.out
    assert "everhook dead-letters list" in shown.out
    await everhook.ok("endpoints", "delete", gid, "--yes")


READY = {"ready": True, "database": "ok", "temporal": "ok"}


@pytest.fixture
def pretend(live: Live) -> Iterator[Callable[[str, int, Any], None]]:
    """Have the receiver respond as an API with a failure would."""
    paths: list[str] = []

    def respond(path: str, status: int, document: Any) -> None:
        paths.append(path)
        live.receiver.respond(Response(status, json.dumps(document).encode()), path=path)

    respond("/version", 200, {"version": "9"})
    yield respond
    for path in paths:
        live.receiver.respond(200, path=path)


async def test_status_with_temporal_down_is_a_failure(plain: Everhook, live: Live, pretend: Any) -> None:
    pretend("/readyz", 200, READY | {"temporal": "down"})
    pretend("/v1/health/overview", 200, overview())
    result = await plain("status", "--api-url", live.receiver.url)
    assert result.status == 1
    assert "✗ Temporal" in result.out and "1 wrong" in result.out


async def test_status_with_the_database_down_makes_no_further_queries(
    plain: Everhook, live: Live, pretend: Any
) -> None:
    pretend("/readyz", 503, READY | {"ready": False, "database": "down"})
    result = await plain("status", "--api-url", live.receiver.url, "--json")
    assert result.status == 1
    assert [finding["name"] for finding in result.json["findings"]][-1] == "Temporal"


async def test_status_reports_what_the_overview_reports(plain: Everhook, live: Live, pretend: Any) -> None:
    pretend("/readyz", 200, READY)
    pretend("/v1/health/overview", 200, overview(successRate=0.5, oldest="2026-01-31T12:00:00Z"))
    result = await plain("status", "--api-url", live.receiver.url, "--json")
    findings = {finding["name"]: finding for finding in result.json["findings"]}
    assert findings["success rate"]["level"] == "warning"
    assert "50.0% of 10 attempts" in findings["success rate"]["detail"]
    assert "http_503 (5)" in findings["success rate"]["detail"]
    assert findings["not yet started"]["level"] == "wrong"
    assert "2 with an open circuit of 3" in findings["endpoints"]["detail"]
    assert findings["dead letters"]["detail"] == "4: 4 exhausted"


@pytest.mark.parametrize(
    ("url", "description", "named"),
    [(None, "queue of acme", " queue of acme"), (None, "", ""), ("http://a", "b", " http://a")],
)
async def test_an_endpoint_without_a_url_is_named_by_its_description(
    plain: Everhook, live: Live, pretend: Any, url: str | None, description: str, named: str
) -> None:
    one = hostile(models.ScoredEndpoint) | {"endpointGid": "ep_1", "url": url, "description": description}
    pretend("/readyz", 200, READY)
    pretend("/v1/health/overview", 200, overview() | {"endpoints": [one]})
    assert f"3: ep_1{named}\n" in (await plain("status", "--api-url", live.receiver.url)).out
    pretend("/v1/health/overview", 200, overview() | {"endpoints": [one], "errors": []})
    assert re.search(rf"^ +1 .* ep_1 .*{named} *$", (await plain("health", "--api-url", live.receiver.url)).out, re.M)


@pytest.mark.parametrize(
    ("attempts", "temporal", "level", "message"),
    [
        (0, "ok", "wrong", "are workers running?"),
        (0, "down", "wrong", "when Temporal is back"),
        (7, "ok", "warning", "more workers"),
    ],
)
async def test_status_reports_overdue_deliveries(
    plain: Everhook, live: Live, pretend: Any, attempts: int, temporal: str, level: str, message: str
) -> None:
    """Without a worker everything else looks healthy: Temporal has accepted the workflows, and no attempt fails."""
    pretend("/readyz", 200, READY | {"temporal": temporal})
    late = {"overdue": {"count": 420, "oldestAcceptedAt": "2026-01-31T12:00:00Z"}}
    minutes = [{"attempts": 50}] * 57 + [{"attempts": attempts}] * 3
    pretend("/v1/health/overview", 200, overview() | late | {"series": minutes})
    result = await plain("status", "--api-url", live.receiver.url, "--json")
    (found,) = (finding for finding in result.json["findings"] if finding["name"] == "overdue")
    assert found["level"] == level and "420 deliveries" in found["detail"] and message in found["fix"]


def overview(successRate: float = 1.0, oldest: str | None = None) -> dict[str, Any]:
    """A response of `GET /v1/health/overview`, with the fields that are read."""
    waiting = {"count": int(oldest is not None), "oldestAcceptedAt": oldest}
    return {
        "lastHour": {"attempts": 10, "successRate": successRate},
        "errors": [{"error": "http_503", "count": 5}],
        "undispatched": waiting,
        "parked": waiting,
        "circuits": {"closed": 1, "open": 2, "halfOpen": 0, "paused": 0, "disabled": 0},
        "endpoints": [],
        "deadLetters": {"total": 4, "byReason": {"exhausted": 4}},
    }


# Failures


async def test_a_problem_names_options_and_fields(everhook: Everhook) -> None:
    one = await everhook("endpoints", "create", "http://10.0.0.1/")
    assert one.status == 1 and one.out == ""
    assert one.err.startswith("everhook: url: ") and one.err.endswith(" (422)\n")
    for option, field, value in (
        ("--rate-limit", "--rate-limit", "0"),
        ("--policy", "--policy.timeoutSeconds", '{"timeoutSeconds": 0}'),
    ):
        one = await everhook("endpoints", "create", "https://example.com", option, value)
        assert one.err.startswith(f"everhook: {field}: ")
    two = await everhook("endpoints", "create", "https://example.com", "--rate-limit", "0", "--signature", "morse")
    assert two.err.splitlines()[0] == "everhook: Invalid request (422)"
    assert [line.split(":")[0] for line in two.err.splitlines()[1:]] == ["  --rate-limit", "  --signature[0]"]


async def test_an_unknown_resource_is_reported(everhook: Everhook) -> None:
    for command in ("endpoints", "subscriptions", "deliveries", "dead-letters"):
        result = await everhook(command, "show", f"dlv_{UNKNOWN}")
        assert result.status == 1 and UNKNOWN in result.err and "(404)" in result.err


async def test_a_gid_that_is_a_path_does_not_reach_another_route(everhook: Everhook) -> None:
    for gid in ("", "..", "../channels", "x/../../channels"):
        result = await everhook("endpoints", "show", gid)
        assert result.status == 2 and "is neither a gid" in result.err
    for gid in ("ep_1?limit=1", "ep_1#b", "ep_1%2fhealth"):
        result = await everhook("endpoints", "show", gid)
        assert result.status == 1 and f"There is no endpoint {gid}." in result.err


async def test_a_refused_key_is_reported_with_its_source(everhook: Everhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERHOOK_API_KEY", "wrong")
    result = await everhook("channels", "list")
    assert result.status == 1 and "the key is from EVERHOOK_API_KEY" in result.err and "wrong" not in result.err
    monkeypatch.delenv("EVERHOOK_API_KEY")
    assert "no key was given" in (await everhook("channels", "list")).err


async def test_an_api_that_is_not_running_is_status_3_and_the_message_says_how_to_start_it(plain: Everhook) -> None:
    result = await plain("channels", "list", "--api-url", "http://127.0.0.1:1")
    assert result.status == 3
    assert "nothing listens at http://127.0.0.1:1 (from --api-url)" in result.err and "`everhook dev`" in result.err


async def test_another_server_at_that_address_is_detected(plain: Everhook, live: Live) -> None:
    live.receiver.respond(Response(404, b"<html>"))
    result = await plain("channels", "list", "--api-url", live.receiver.url)
    live.receiver.respond(200)
    assert result.status == 1 and "but not like Everhook" in result.err


# Text of other parties


HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]x[/] :boom: \x9b1m \u202eevil\r"


async def test_the_response_of_an_endpoint_is_escaped_for_the_terminal(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(Response(400, HOSTILE.encode()), path=path)
    message = json.dumps({"hostile": HOSTILE})
    (delivery,) = (await publish(everhook, channel, message))["deliveries"]
    gid = delivery["deliveryGid"]
    await everhook("deliveries", "watch", gid)
    for arguments in (["deliveries", "show", gid, "--payload"], ["dead-letters", "show", gid]):
        shown = await everhook.ok(*arguments)
        assert_sanitized(shown.out)
        assert "[bold red]x[/] :boom:" in shown.out
        assert (await everhook.ok(*arguments, "--json")).out.isascii()
    document = await everhook.json("dead-letters", "show", gid)
    assert document["payload"] == {"hostile": HOSTILE}
    assert document["attempts"][0]["responseBody"] == HOSTILE


async def test_messages_of_the_api_are_escaped_for_the_terminal(plain: Everhook, live: Live) -> None:
    problem = json.dumps({"title": HOSTILE, "detail": HOSTILE, "errors": [{"field": HOSTILE, "message": HOSTILE}] * 2})
    live.receiver.respond(Response(422, problem.encode(), (("content-type", "application/problem+json"),)))
    result = await plain("channels", "list", "--api-url", live.receiver.url)
    live.receiver.respond(200)
    assert result.status == 1
    assert_sanitized(result.err)


@pytest.mark.parametrize(
    ("path", "shape", "arguments"),
    [
        ("/v1/endpoints/x", models.Endpoint, ["endpoints", "show", "x"]),
        ("/v1/subscriptions/x", models.Subscription, ["subscriptions", "show", "x"]),
        ("/v1/channels/x", models.Channel, ["channels", "show", "x"]),
        ("/v1/deliveries/x", models.DeliveryDetail, ["deliveries", "show", "x"]),
        ("/v1/tasks/x", models.TaskDetail, ["tasks", "show", "x"]),
        ("/v1/dead-letters/x", models.DeadLetterDetail, ["dead-letters", "show", "x"]),
        ("/v1/channels/x/messages", models.PublishedMessage, ["publish", "x", "{}"]),
        ("/v1/batches/x", models.Batch, ["batches", "show", "x"]),
        ("/v1/event-types/x", models.EventType, ["event-types", "show", "x"]),
    ],
)
async def test_every_field_of_a_response_is_escaped_for_the_terminal(
    plain: Everhook, live: Live, pretend: Any, path: str, shape: Any, arguments: list[str]
) -> None:
    pretend(path, 200, hostile(shape))
    result = await plain(*arguments, "--api-url", live.receiver.url)
    assert "[bold red]x[/] :boom:" in result.out
    assert_sanitized(result.out)


def hostile(kind: Any, name: str = "") -> Any:
    """A response of that shape with hostile text in every string. Times stay times: those are parsed."""
    if name.endswith(("At", "Since", "Until", "until")):
        return "2026-01-31T12:00:00Z"
    kind = _of_union(kind)
    if is_typeddict(kind):
        return {field: hostile(of, field) for field, of in get_type_hints(kind).items()}
    if get_origin(kind) is list:
        return [hostile(get_args(kind)[0])]
    if get_origin(kind) is dict:
        return {HOSTILE: HOSTILE}
    return {str: HOSTILE, int: 1, float: 1.0, bool: True, Any: HOSTILE}.get(kind, HOSTILE)


def _of_union(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is UnionType else kind


def assert_sanitized(shown: str) -> None:
    assert [char for char in shown if not char.isprintable() and char != "\n"] == []


async def test_numbers_beyond_a_double_are_shown_as_written_in_json(
    everhook: Everhook, live: Live, at: str, path: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel)
    live.receiver.respond(400, path=path)
    (gid,) = await _publish_and_reject(everhook, channel, '{"n": 1e400, "n": 1.10}')
    assert '"n": 1e400, "n": 1.10' in (await everhook.ok("dead-letters", "show", gid, "--json")).out


async def _publish_and_reject(everhook: Everhook, channel: str, payload: str) -> list[str]:
    gids = [one["deliveryGid"] for one in (await publish(everhook, channel, payload))["deliveries"]]
    for gid in gids:
        await everhook("deliveries", "watch", gid)
    return gids


async def test_an_unknown_batch_is_not_reported_as_running(everhook: Everhook) -> None:
    result = await everhook("batches", "show", "bat_nope", "--follow")
    assert result.status == 1
    assert "(404)" in result.err and "following" not in result.err


async def test_deliveries_are_listed_by_the_url_of_their_endpoint(
    everhook: Everhook, live: Live, at: str, channel: str
) -> None:
    await create_endpoint_for_receiver(everhook, at, channel, "--description", f"the books of {channel}")
    (sent,) = (await publish(everhook, channel))["deliveries"]
    for endpoint in (at, f"the books of {channel}"):
        listed = await everhook.json("deliveries", "list", "--endpoint", endpoint)
        assert [one["deliveryGid"] for one in listed] == [sent["deliveryGid"]]
    several = await everhook("deliveries", "list", "--endpoint", "http://")
    assert several.status == 1 and "several endpoints match" in several.err


async def test_an_unknown_channel_is_reported_with_the_command_that_creates_it(everhook: Everhook, at: str) -> None:
    published = await everhook("publish", "nowhere", "{}", "--type", "a")
    assert published.status == 1 and "`everhook channels create nowhere`" in published.err
    endpoint = await everhook.json("endpoints", "create", at)
    for command in (
        ["endpoints", "create", at, "--channel", "nowhere"],
        ["subscriptions", "create", endpoint["endpointGid"], "nowhere"],
    ):
        refused = await everhook(*command)
        assert refused.status == 1 and "`everhook channels create NAME`" in refused.err


async def test_without_a_key_or_an_api_a_hint_names_other_data_directories(plain: Everhook, live: Live) -> None:
    for url, status in ((live.url, 1), ("http://127.0.0.1:1", 3)):
        result = await plain("channels", "list", "--api-url", url)
        assert result.status == status and "`. DIR/environment`" in result.err


async def test_with_json_a_failure_prints_nothing_to_standard_output(everhook: Everhook) -> None:
    result = await everhook("channels", "show", "nowhere", "--json")
    assert (result.status, result.out) == (1, "")
