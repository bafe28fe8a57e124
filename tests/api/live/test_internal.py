"""Deliveries that Everhook handles itself, from the publish to the mail: real API, real Temporal, real servers."""

from typing import Any

from everhook.ids import delivery_workflow_id
from testing.api import JSON, created, ok
from testing.receiver import Response
from testing.smtp_server import Mail
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live

pytestmark = ON_STACK

SECRET = "s3cr3t"


async def endpoint(live: Live, channel: str | None = None, **handler: Any) -> str:
    """An internal endpoint of this test's tenant, subscribed to a channel that is created if need be."""
    if channel is not None and not channel.startswith("everhook."):
        await live.api.post("/v1/channels", {"name": channel})
    body = {"mode": "internal", "options": {"handler": handler}, "tenant": live.name, "channel": channel}
    gid: str = created(await live.api.post("/v1/endpoints", body))["endpointGid"]
    return gid


async def publish(live: Live, payload: Any, channel: str | None = None, **body: Any) -> tuple[str, str]:
    """Publish to this test's tenant; returns the message and its one delivery."""
    message = await live.api.publish(payload, channel or live.name, tenant=live.name, **body)
    (delivery,) = message["deliveries"]
    return message["messageGid"], delivery["deliveryGid"]


async def mail_about(live: Live, text: str) -> Mail:
    def arrived() -> Mail:
        found = [mail for mail in live.mails.mails if text in mail.text]
        assert len(found) == 1
        return found[0]

    return await assert_eventually(arrived)


async def history(live: Live, delivery_gid: str) -> bytes:
    found = await live.temporal.get_workflow_handle(delivery_workflow_id(delivery_gid)).fetch_history()
    return b"".join(event.SerializeToString() for event in found.events)


async def test_a_mail_is_sent_retried_and_recorded(live: Live) -> None:
    await endpoint(live, live.name, kind="email", to=["ops@acme.example"], subject="Order {id}", body="{id} {note}")
    live.mails.data.append("451 4.3.0 later")
    message_gid, gid = await publish(live, {"id": live.name, "note": SECRET})
    delivery = await live.wait_for_status(gid, "delivered")
    assert [(each["verdict"], each["error"]) for each in delivery["attempts"]] == [
        ("retry", "mail_deferred"),
        ("delivered", None),
    ]
    mail = await mail_about(live, live.name)
    assert mail.message["Message-ID"] == f"<{gid}@acme.example>"
    receipts = ok(await live.api.get(f"/v1/deliveries/{gid}"))["attempts"]
    assert all(each["receiptGid"] for each in receipts)
    assert SECRET.encode() not in await history(live, gid)
    assert ok(await live.api.get(f"/v1/messages/{message_gid}/wait", timeoutSeconds=5))["outcome"] == "delivered"


async def test_a_rejected_mail_is_a_dead_letter_that_can_be_replayed(live: Live) -> None:
    await endpoint(live, live.name, kind="email", to=["ops@acme.example"])
    live.mails.data.append("550 5.7.1 spam")
    _, gid = await publish(live, {"id": live.name})
    dead = await live.wait_for_status(gid, "dead_lettered")
    assert (dead["deadLetterReason"], dead["lastError"]) == ("rejected", "mail_rejected")
    assert (await live.api.post(f"/v1/dead-letters/{gid}/replay", {"reason": "fixed"})).status_code == 202
    await live.wait_for_status(gid, "delivered")
    await mail_about(live, live.name)


async def test_operational_events_are_mailed_and_a_mail_that_fails_makes_no_event(live: Live) -> None:
    gid = await endpoint(live, "everhook.events", kind="email", to=["ops@acme.example"], subject="{kind}")
    watched = created(await live.api.post("/v1/endpoints", {"url": live.url, "tenant": live.name}))["endpointGid"]
    ok(await live.api.post(f"/v1/endpoints/{watched}/pause"))
    mail = await mail_about(live, watched)
    assert (mail.message["Subject"], mail.to) == ("endpoint.paused", ["ops@acme.example"])

    live.mails.data.append("550 5.7.1 spam")
    ok(await live.api.post(f"/v1/endpoints/{watched}/resume"))

    async def dead() -> JSON:
        letters = ok(await live.api.get("/v1/dead-letters", endpointGid=gid))["data"]
        assert [letter["channel"] for letter in letters] == ["everhook.events"]
        return dict(letters[0])

    letter = await assert_eventually(dead)
    sql = "SELECT * FROM operational_event WHERE kind = 'delivery.dead_lettered' AND delivery_gid = :gid"
    assert await live.api.rows(sql, gid=letter["deliveryGid"]) == []


async def test_a_chat_message_is_posted_and_its_url_is_shown_nowhere(live: Live) -> None:
    url = live.receiver.url_for(f"{live.path}/{SECRET}")
    live.receiver.respond(Response(503, f"Cannot POST {live.path}/{SECRET}".encode()), Response(200, b"ok"))
    await endpoint(live, live.name, kind="chat", url=url, text="Order {id}")
    _, gid = await publish(live, {"id": 7})
    delivery = await live.wait_for_status(gid, "delivered")
    assert [arrival.body for arrival in live.receiver.at(f"{live.path}/{SECRET}")] == [b'{"text":"Order 7"}'] * 2
    assert SECRET not in str(delivery)
    for each in delivery["attempts"]:
        assert SECRET not in (await live.api.get(f"/v1/attempts/{each['attemptGid']}")).text
    assert SECRET.encode() not in await history(live, gid)


async def test_a_reminder_repeats_until_its_subject_is_settled(live: Live) -> None:
    notify = created(await live.api.post("/v1/endpoints", {"url": live.url, "tenant": live.name}))["endpointGid"]
    await live.api.channel(f"{live.name}-open")
    queue = {"mode": "poll", "tenant": live.name, "channel": f"{live.name}-open"}
    consumer = created(await live.api.post("/v1/endpoints", queue))["endpointGid"]
    watched, _ = await publish(live, {"a": 1}, f"{live.name}-open")
    await endpoint(live, live.name, kind="reminder")
    schedule = {"afterSeconds": 0, "everySeconds": 1, "max": 100, "until": watched, "notify": notify}
    _, gid = await publish(live, schedule)
    arrivals = await live.receiver.wait_for(2, path=live.path)
    assert {dict(arrival.headers)["x-webhook-event"] for arrival in arrivals} == {"reminder"}
    (item,) = ok(await live.api.get(f"/v1/endpoints/{consumer}/poll"))["data"]
    ok(await live.api.post(f"/v1/endpoints/{consumer}/acks", {"acks": [{"lease": item["lease"]}]}))
    delivery = await live.wait_for_status(gid, "delivered")
    assert len(delivery["attempts"]) == 1
    assert watched.encode() not in await history(live, gid)


async def test_an_escalation_is_published_and_mailed(live: Live) -> None:
    await live.api.channel(f"{live.name}-open")
    queue = {"mode": "poll", "tenant": live.name, "channel": f"{live.name}-open"}
    created(await live.api.post("/v1/endpoints", queue))
    watched, _ = await publish(live, {"a": 1}, f"{live.name}-open")
    await endpoint(live, f"{live.name}-alarms", kind="email", to=["assignees"], body="late: {order}")
    await endpoint(live, live.name, kind="escalation")
    then = {
        "channel": f"{live.name}-alarms",
        "type": "order.late",
        "payload": {"order": live.name, "assignees": ["ann@acme.example", "group:x"]},
    }
    _, gid = await publish(live, {"watch": watched, "unless": "delivered", "afterSeconds": 1, "then": then})
    mail = await mail_about(live, f"late: {live.name}")
    assert (mail.message["Subject"], mail.to) == ("order.late", ["ann@acme.example"])
    await live.wait_for_status(gid, "delivered")


async def test_a_payload_that_cannot_be_used_is_a_dead_letter_that_says_why(live: Live) -> None:
    await endpoint(live, live.name, kind="reminder")
    _, gid = await publish(live, {"afterSeconds": 5})
    dead = await live.wait_for_status(gid, "dead_lettered")
    (attempt,) = dead["attempts"]
    assert (dead["deadLetterReason"], attempt["error"]) == ("rejected", "invalid_payload")
    assert attempt["errorDetail"] == "until: is the gid of a message (msg_…) or of a task (tsk_…)"
