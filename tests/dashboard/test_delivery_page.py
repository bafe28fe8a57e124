"""The page of one delivery: bounded for any response and any number of replays; and the body that was sent."""

import hashlib
import re
from urllib.parse import urlencode

from api.dashboard.code import COLOURED_TOKENS
from everhook.contracts import Verdict
from everhook.delivery.body_formats import BodyFormat, Content, render
from everhook.storage.tables import Attempt, Batch, BatchKind, DeliveryRound, Message, now
from tests.api.test_pulling import acks, poll, pull_endpoint
from tests.dashboard.conftest import Pages

HOSTILE = b'["' * 4_096 + b'\\"' * 4_096


async def a_delivery(pages: Pages) -> str:
    await pages.api.channel()
    await pages.api.endpoint(channel="orders")
    gid: str = (await pages.api.publish({"secret": "payload"}))["deliveries"][0]["deliveryGid"]
    await pages.sign_in()
    return gid


async def attempted(pages: Pages, gid: str, rounds: int, response: bytes = b"ok") -> list[str]:
    """One attempt in each of so many rounds, each with this response; their gids."""
    (row,) = await pages.api.rows("SELECT endpoint_gid, message_gid FROM delivery WHERE gid = :gid", gid=gid)
    async with pages.api.database.writing() as session:
        message = await session.get_one(Message, row.message_gid)
        assert message.payload is not None
        content = Content(message.gid, message.channel, message.event_type, message.payload, message.published_at, 1)
        attempts = [
            Attempt(
                delivery_gid=gid,
                endpoint_gid=row.endpoint_gid,
                round=number,
                number=1,
                verdict=Verdict.RETRY,
                started_at=now(),
                duration_ms=10,
                status_code=500,
                request_sha256=hashlib.sha256(render(BodyFormat.ENVELOPE, content)[1]).hexdigest(),
                response_headers=[["content-type", "application/json"]],
                response_body=response,
                response_size=len(response),
            )
            for number in range(1, rounds + 1)
        ]
        session.add_all(attempts)
    await pages.api.change_rows("UPDATE delivery SET round = :rounds WHERE gid = :gid", rounds=rounds, gid=gid)
    return [attempt.gid for attempt in attempts]


async def test_hostile_responses_make_the_page_neither_slow_nor_huge(pages: Pages) -> None:
    gid = await a_delivery(pages)
    await attempted(pages, gid, 60, HOSTILE)
    page = (await pages.get(f"/deliveries/{gid}")).text
    assert page.count('aria-label="Response body"') == 20
    assert page.count('<span class="str">') + page.count('<span class="num">') <= COLOURED_TOKENS
    assert len(page) < 3_000_000


async def test_older_attempts_are_on_further_pages(pages: Pages) -> None:
    gid = await a_delivery(pages)
    await attempted(pages, gid, 45)
    seen: list[str] = []
    address = f"/deliveries/{gid}"
    while address:
        page = (await pages.get(address)).text
        seen += re.findall(r"<h3 class=.round.>Round (\d+)</h3>", page)
        (address,) = re.findall(r'href="([^"]+)" rel="next"', page) or [""]
    assert seen == [str(number) for number in range(45, 0, -1)]


async def test_the_body_that_was_sent_is_shown_with_its_hash_and_can_be_downloaded(pages: Pages) -> None:
    gid = await a_delivery(pages)
    first, second = await attempted(pages, gid, 2)
    page = (await pages.get(f"/deliveries/{gid}")).text
    body = page.partition('id="body-title"')[2]
    assert "of round 2" in body and "messageGid" in body and "channelName" in body
    (sha256,) = set(re.findall(r"[0-9a-f]{64}", body))
    file = await pages.get(f"/deliveries/{gid}/body?attempt={second}")
    assert hashlib.sha256(file.content).hexdigest() == sha256
    assert "attachment" in file.headers["content-disposition"]
    other = (await pages.get(f"/deliveries/{gid}?attempt={first}")).text
    assert "of round 1" in other.partition('id="body-title"')[2]


async def test_the_body_of_another_delivery_is_not_shown_under_this_one(pages: Pages) -> None:
    gid = await a_delivery(pages)
    other = (await pages.api.publish({"another": "payload"}))["deliveries"][0]["deliveryGid"]
    (theirs,) = await attempted(pages, other, 1)
    assert (await pages.get(f"/deliveries/{gid}/body?attempt={theirs}")).status_code == 404
    assert "another" not in (await pages.get(f"/deliveries/{gid}?attempt={theirs}")).text


async def test_a_body_whose_payload_was_erased_is_gone(pages: Pages) -> None:
    gid = await a_delivery(pages)
    (attempt,) = await attempted(pages, gid, 1)
    await pages.api.change_rows("UPDATE message SET payload = NULL")
    assert "The payload was erased" in (await pages.get(f"/deliveries/{gid}")).text
    assert (await pages.get(f"/deliveries/{gid}/body?attempt={attempt}")).status_code == 404


async def test_each_round_is_shown_with_the_schedule_that_it_began_with(pages: Pages) -> None:
    gid = await a_delivery(pages)
    await attempted(pages, gid, 2)
    await pages.api.patch("/v1/channels/orders", {"policy": {"delaysSeconds": [1, 2]}})
    async with pages.api.database.writing() as session:
        session.add(DeliveryRound(delivery_gid=gid, round=2, began_at=now()))
    await pages.api.patch("/v1/channels/orders", {"policy": {"preset": "patient"}})
    page = (await pages.get(f"/deliveries/{gid}")).text
    assert re.findall(r'aria-label="(\d+ attempts within [^"]+)"', page) == [
        "6 attempts within 2 h 35 min",
        "3 attempts within 3 s",
    ]


async def test_a_dead_letter_is_shown_with_the_schedule_of_a_replay_where_it_is_another(pages: Pages) -> None:
    gid = await a_delivery(pages)
    await pages.api.change_rows("UPDATE delivery SET status = 'dead_lettered'")
    assert "Schedule of a replay" not in (await pages.get(f"/deliveries/{gid}")).text
    await pages.api.patch("/v1/channels/orders", {"policy": {"preset": "brisk"}})
    assert "Schedule of a replay" in (await pages.get(f"/deliveries/{gid}")).text


async def test_a_scheduled_message_is_shown_and_cancelled(pages: Pages) -> None:
    await pages.api.channel()
    await pages.sign_in()
    message = await pages.api.publish(1, delaySeconds=3600, metadata={"region": "eu-<b>"}, retry=False)
    path = f"/messages/{message['messageGid']}"
    page = (await pages.get(path)).text
    assert "No deliveries yet" in page and "Send again" not in page
    assert "eu-&lt;b&gt;" in page and "Deliver at" in page
    await pages.send(f"{path}/cancel")
    page = (await pages.get(path)).text
    assert "was cancelled before its time" in page and "Send again" not in page


async def test_a_delivery_that_is_not_at_rest_says_once_what_it_waits_for_and_follows_it(pages: Pages) -> None:
    gid = await a_delivery(pages)
    at = f"/deliveries/{gid}"
    page = (await pages.get(at)).text
    assert page.count("Its attempt is under way.") == 1 and "data-refresh" in page
    await pages.api.change_rows("UPDATE delivery SET due_at = '2026-01-01 00:00:00.000000'")
    page = (await pages.get(at)).text
    assert page.count("Its attempt is late.") == 1 and "under way" not in page
    await attempted(pages, gid, 1)
    assert (await pages.get(at)).text.count("Its attempt is late.") == 1
    await pages.api.change_rows("UPDATE delivery SET status = 'delivered'")
    assert "data-refresh" not in (await pages.get(at)).text
    assert "data-refresh" in (await pages.get(f"{at}?notice=again")).text, "what was asked for has not begun"


async def test_a_delivery_and_a_message_are_sent_again(pages: Pages) -> None:
    gid = await a_delivery(pages)
    assert "Send again" not in (await pages.get(f"/deliveries/{gid}")).text  # it is in progress
    await pages.api.change_rows("UPDATE delivery SET status = 'delivered' WHERE gid = :gid", gid=gid)
    (row,) = await pages.api.rows("SELECT message_gid FROM delivery WHERE gid = :gid", gid=gid)
    for number, path in enumerate((f"/deliveries/{gid}", f"/messages/{row.message_gid}"), 2):
        assert "Send again" in (await pages.get(path)).text
        sent = await pages.send(f"{path}/send-again", reason="they lost it")
        assert "data-refresh" in (await pages.shown_after(sent)).text
        (now_,) = await pages.api.rows("SELECT status, round, decided_why FROM delivery WHERE gid = :gid", gid=gid)
        assert (now_.status, now_.round, now_.decided_why) == ("accepted", number, "they lost it")
        await pages.api.change_rows("UPDATE delivery SET status = 'discarded' WHERE gid = :gid", gid=gid)


async def test_a_channel_is_replayed_after_a_count_and_its_progress_is_shown(pages: Pages) -> None:
    gid = await a_delivery(pages)
    await pages.api.change_rows("UPDATE delivery SET status = 'dead_lettered' WHERE gid = :gid", gid=gid)
    (row,) = await pages.api.rows("SELECT endpoint_gid, channel FROM delivery WHERE gid = :gid", gid=gid)
    assert "/replay?channel=" in (await pages.get("/channels")).text
    assert f"/replay?endpointGid={row.endpoint_gid}" in (await pages.get(f"/endpoints/{row.endpoint_gid}")).text
    chosen = {"channel": row.channel, "mode": "failed", "endpointGid": row.endpoint_gid, "since": "2026-01-31T12:00"}
    counted = (await pages.get(f"/replay?{urlencode(chosen)}")).text
    assert "<b>1</b> delivery matches" in counted
    refused = await pages.get(f"/replay?{urlencode({**chosen, 'since': ''})}")
    assert (refused.status_code, "is required" in refused.text) == (422, True)
    started = await pages.send("/replay", **chosen, reason="they are back")
    batch = started.headers["location"]
    shown = (await pages.get(batch)).text
    assert "0 of 1 deliveries" in shown and "they are back" in shown and "running" in shown
    await pages.send(f"{batch}/cancel")
    assert "cancelled" in (await pages.get(batch)).text
    assert batch in (await pages.get("/replay")).text


async def test_a_bulk_operation_is_shown_with_replays_and_can_be_cancelled(pages: Pages) -> None:
    await pages.sign_in()
    batch = Batch(
        kind=BatchKind.DEAD_LETTER_PURGE, actor="ann", reason="a test", matched=3,
        selection={"channel": ["orders", "bills"], "since": "2026-01-31T12:00:00+00:00"},
    )  # fmt: skip
    async with pages.api.database.writing() as session:
        session.add(batch)
    assert "Discard of dead letters" in (await pages.get("/replay")).text
    shown = (await pages.get(f"/batches/{batch.gid}")).text
    assert "0 of 3 workflows" in shown and "orders, bills" in shown and "running" in shown
    await pages.send(f"/batches/{batch.gid}/cancel")
    (row,) = await pages.api.rows("SELECT state, cancel_requested_at FROM batch")
    assert row.state == "running" and row.cancel_requested_at is not None  # Temporal is stopped


async def test_a_pulled_delivery_shows_when_it_is_available_again(pages: Pages) -> None:
    api = pages.api
    await api.channel()
    gid = await pull_endpoint(api, policy={"delaysSeconds": [3600]})
    await api.publish({})
    (item,) = await poll(api, gid)
    await pages.sign_in()
    path = f"/deliveries/{item['deliveryGid']}"
    assert "Available again" not in (await pages.get(path)).text
    await acks(api, gid, nacks=[{"lease": item["lease"]}])
    assert "<b>Available again</b>" in (await pages.get(path)).text
