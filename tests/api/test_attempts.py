"""Attempts over HTTP: responses are bounded for any number of replays of a delivery."""

import hashlib
from datetime import timedelta

import pytest

from everhook.contracts import Verdict
from everhook.delivery.body_formats import BodyFormat, Content, render
from everhook.ids import Kind, new_gid
from everhook.storage.tables import Attempt, Message, Receipt, now
from testing.api import Api, assert_problem, ok

ROUNDS, IN_A_ROUND = 60, 3


async def a_delivery(api: Api) -> str:
    await api.channel()
    await api.endpoint(channel="orders")
    gid: str = (await api.publish({"n": 1}))["deliveries"][0]["deliveryGid"]
    return gid


async def replayed(api: Api, gid: str, rounds: int = ROUNDS) -> list[tuple[int, int]]:
    """Write attempts of `rounds` rounds with their receipts; returns their (round, number), in order."""
    positions = [(round_, number) for round_ in range(1, rounds + 1) for number in range(1, IN_A_ROUND + 1)]
    (row,) = await api.rows("SELECT tenant_gid, endpoint_gid FROM delivery WHERE gid = :gid", gid=gid)
    async with api.database.writing() as session:
        for round_, number in positions:
            attempt = Attempt(
                delivery_gid=gid,
                endpoint_gid=row.endpoint_gid,
                round=round_,
                number=number,
                verdict=Verdict.RETRY,
                started_at=now() + timedelta(seconds=round_),
                duration_ms=10,
                status_code=500,
            )
            receipt = Receipt(
                tenant_gid=row.tenant_gid,
                delivery_gid=gid,
                attempt_gid=attempt.gid,
                round=round_,
                number=number,
                jws="e30.e30.e30",
            )
            session.add_all([attempt, receipt])
    return positions


def places(listed: list[dict[str, int]]) -> list[tuple[int, int]]:
    return [(each["round"], each["number"]) for each in listed]


async def test_a_delivery_is_shown_with_its_newest_attempts_and_the_way_to_the_older_ones(api: Api) -> None:
    gid = await a_delivery(api)
    positions = await replayed(api, gid)
    shown = ok(await api.get(f"/v1/deliveries/{gid}"))
    assert places(shown["attempts"]) == positions[-100:]
    assert all(each["receiptGid"] for each in shown["attempts"])
    assert shown["earlierAttempts"] is True
    listed = ok(await api.get(f"/v1/deliveries/{gid}/attempts", limit=500))
    assert places(listed["data"]) == positions[-100:][::-1] and listed["nextCursor"] is not None


async def test_a_delivery_with_few_attempts_is_shown_with_all_of_them(api: Api) -> None:
    gid = await a_delivery(api)
    positions = await replayed(api, gid, rounds=2)
    shown = ok(await api.get(f"/v1/deliveries/{gid}"))
    assert (places(shown["attempts"]), shown["earlierAttempts"]) == (positions, False)


@pytest.mark.parametrize(("what", "order"), [("attempts", -1), ("receipts", 1)])
async def test_attempts_and_receipts_are_listed_page_by_page(api: Api, what: str, order: int) -> None:
    gid = await a_delivery(api)
    positions = await replayed(api, gid)
    walked = await api.walk(f"/v1/deliveries/{gid}/{what}", limit=70)
    assert places(walked) == positions[::order]


@pytest.mark.parametrize("what", ["attempts", "receipts"])
@pytest.mark.parametrize("cursor", ["Li4u", "ZXBfMQ", "MTIzNDU2Nzg5MC4x"], ids=["...", "ep_1", "1234567890.1"])
async def test_a_cursor_of_another_list_is_refused(api: Api, what: str, cursor: str) -> None:
    gid = await a_delivery(api)
    assert_problem(await api.get(f"/v1/deliveries/{gid}/{what}", cursor=cursor), 422, "cursor")


async def test_attempts_of_an_unknown_delivery_are_not_found(api: Api) -> None:
    assert_problem(await api.get("/v1/deliveries/dlv_none/attempts"), 404)


# The body that was sent


async def an_attempt(api: Api, delivery: str, body: bytes) -> str:
    gid = new_gid(Kind.ATTEMPT)
    (row,) = await api.rows("SELECT endpoint_gid FROM delivery WHERE gid = :gid", gid=delivery)
    async with api.database.writing() as session:
        session.add(
            Attempt(
                gid=gid,
                delivery_gid=delivery,
                endpoint_gid=row.endpoint_gid,
                round=1,
                number=3,
                verdict=Verdict.DELIVERED,
                started_at=now(),
                duration_ms=10,
                status_code=200,
                request_sha256=hashlib.sha256(body).hexdigest(),
            )
        )
    return gid


async def body_of(api: Api, delivery: str, body_format: BodyFormat) -> bytes:
    (row,) = await api.rows("SELECT message_gid FROM delivery WHERE gid = :gid", gid=delivery)
    async with api.database.reading() as session:
        message = await session.get_one(Message, row.message_gid)
    assert message.payload is not None
    content = Content(message.gid, message.channel, message.event_type, message.payload, message.published_at, 3)
    return render(body_format, content)[1]


@pytest.mark.parametrize("body_format", BodyFormat)
async def test_the_body_of_an_attempt_is_served_in_the_format_that_it_had_then(
    api: Api, body_format: BodyFormat
) -> None:
    delivery = await a_delivery(api)
    sent = await body_of(api, delivery, body_format)
    attempt = await an_attempt(api, delivery, sent)
    response = await api.get(f"/v1/attempts/{attempt}/body")
    assert (response.status_code, response.content) == (200, sent)
    assert response.headers["content-type"] == "application/octet-stream"


async def test_a_body_that_does_not_match_its_hash_is_not_served(api: Api) -> None:
    delivery = await a_delivery(api)
    attempt = await an_attempt(api, delivery, b"what no format gives")
    problem = assert_problem(await api.get(f"/v1/attempts/{attempt}/body"), 404)
    assert "other bytes" in problem["detail"]


async def test_a_body_is_not_served_after_its_payload_was_erased(api: Api) -> None:
    delivery = await a_delivery(api)
    attempt = await an_attempt(api, delivery, await body_of(api, delivery, BodyFormat.RAW))
    assert_problem(await api.get("/v1/attempts/att_none/body"), 404)
    await api.change_rows("UPDATE message SET payload = NULL")
    problem = assert_problem(await api.get(f"/v1/attempts/{attempt}/body"), 404)
    assert "erased" in problem["detail"]
