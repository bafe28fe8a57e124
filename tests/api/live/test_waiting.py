"""Waiting for webhooks: a real receiver, a real Temporal, real workers."""

import asyncio

import pytest

from testing.api import JSON, accepted
from testing.receiver import Response
from tests.api.live.conftest import ON_STACK, Live
from tests.api.test_waiting import events, follow_kinds, wait

pytestmark = ON_STACK

ONCE: JSON = {"delaysSeconds": []}
LIMIT = 16 * 1024


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{ "ok": true }', {"ok": True}),
        (b"thanks", None),
        (b'"%b"' % (b"x" * (LIMIT - 3)), "x" * (LIMIT - 3)),
        (b"1%b" % (b" " * LIMIT), None),
        (b"", None),
    ],
    ids=["json", "text", "as long as may be", "longer", "empty"],
)
async def test_a_sender_gets_the_response_of_a_webhook_if_it_is_json(live: Live, body: bytes, result: object) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(url=live.url, channel=live.name, policy=ONCE)
    live.receiver.respond(Response(200, body), path=live.path)
    gid = (await live.api.publish({"n": 1}, live.name))["messageGid"]
    found = await wait(live.api, gid)
    (delivery,) = found["deliveries"]
    assert (found["outcome"], delivery["mode"], delivery["status"]) == ("delivered", "http", "delivered")
    assert delivery.get("result") == result
    assert ("result" in delivery) == (result is not None)


async def test_a_dead_letter_settles_and_its_replay_is_waited_for(live: Live) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(url=live.url, channel=live.name, policy=ONCE)
    live.receiver.respond(Response(400, b'{"no": 1}'), Response(200, b'{"yes": 1}'), path=live.path)
    gid = (await live.api.publish({"n": 1}, live.name))["messageGid"]
    found = await wait(live.api, gid)
    (delivery,) = found["deliveries"]
    assert (found["state"], found["outcome"]) == ("settled", "dead_lettered")
    assert (delivery["replayable"], "result" in delivery) == (True, False)
    following = asyncio.create_task(follow_kinds(live.api, gid, until="delivery.delivered"))
    accepted(await live.api.post(f"/v1/dead-letters/{delivery['deliveryGid']}/replay", {"reason": "fixed"}))
    await live.wait_for_status(delivery["deliveryGid"], "delivered")
    found = await wait(live.api, gid)
    assert (found["outcome"], found["deliveries"][0]["result"]) == ("delivered", {"yes": 1})
    kinds = [event["kind"] for event in await events(live.api, gid)]
    assert kinds == [
        "message.accepted",
        "delivery.attempted",
        "delivery.dead_lettered",
        "delivery.replayed",
        "delivery.attempted",
        "delivery.delivered",
        "message.settled",
    ]
    assert [kind for kind in await following if kind != "message.settled"] == kinds[:-1]
