"""The publisher retries with the same key, and writes down what it was promised and what it never learnt."""

import json
from itertools import pairwise

import httpx
import pytest

from testing.arrivals import sha256
from testing.ledgers import AckedDelivery
from testing.publisher import Publisher, PublishRefused, sample_payload
from testing.waiting import assert_eventually

ACCEPTED = {
    "messageGid": "msg_1",
    "deliveries": [{"deliveryGid": "dlv_1", "endpointGid": "ep_1", "status": "accepted"}],
}
ENDPOINTS = {"ep_1": "http://127.0.0.1:9/in"}


def publisher(*responses: httpx.Response | Exception, patience: float = 5.0) -> tuple[Publisher, list[httpx.Request]]:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        step = responses[min(len(requests), len(responses)) - 1]
        if isinstance(step, Exception):
            raise step
        return step

    client = httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://api")
    return Publisher(client, endpoints=ENDPOINTS, patience=patience), requests


async def test_retries_with_the_same_key_until_there_is_a_response() -> None:
    subject, requests = publisher(httpx.ConnectError("down"), httpx.Response(503), httpx.Response(202, json=ACCEPTED))
    ack = await subject.publish("orders", b'{"n": 1.0}')
    assert ack is not None
    assert (ack.tries, ack.payload_sha256) == (3, sha256(b'{"n": 1.0}'))
    assert ack.deliveries[0].url == ENDPOINTS["ep_1"]
    assert len({request.headers["idempotency-key"] for request in requests}) == 1
    assert {request.content for request in requests} == {b'{"payload":{"n": 1.0}}'}


async def test_gives_each_message_its_own_key() -> None:
    subject, requests = publisher(httpx.Response(202, json=ACCEPTED))
    await subject.publish_many("orders", 3)
    assert len({request.headers["idempotency-key"] for request in requests}) == 3


async def test_the_publisher_records_publishes_without_a_response() -> None:
    subject, _ = publisher(httpx.Response(503), patience=0.01)
    assert await subject.publish("orders", b"1") is None
    assert [u.payload_sha256 for u in subject.ledger.without_response] == [sha256(b"1")]


async def test_the_publisher_does_not_retry_a_refused_publish() -> None:
    subject, requests = publisher(httpx.Response(404))
    with pytest.raises(PublishRefused, match="404"):
        await subject.publish("orders", b"1")
    assert len(requests) == 1


async def test_a_scheduled_message_is_promised_to_the_endpoint_it_names() -> None:
    scheduled = {"messageGid": "msg_1", "deliverAt": "1970-01-01T00:01:40.500Z", "deliveries": []}
    subject, _ = publisher(httpx.Response(202, json=scheduled))
    ack = await subject.publish("orders", b"1", endpointGid="ep_1", delaySeconds=5, groupKey="g", retry=False)
    assert ack is not None
    assert ack.deliveries == (AckedDelivery("", "ep_1", ENDPOINTS["ep_1"]),)
    assert (ack.not_before, ack.group, ack.retry) == (100.5, "g", False)


async def test_the_messages_of_a_transaction_are_acknowledged_together() -> None:
    subject, requests = publisher(httpx.Response(503), httpx.Response(202, json={"data": [ACCEPTED, ACCEPTED]}))
    acks = await subject.publish_transactional("orders", [b"1.0", b"2"], [{"type": "a"}, {"retry": False}])
    assert [(ack.payload_sha256, ack.retry) for ack in acks] == [(sha256(b"1.0"), True), (sha256(b"2"), False)]
    assert requests[1].content == (
        b'{"messages":[{"channel":"orders","type":"a","payload":1.0},{"channel":"orders","retry":false,"payload":2}]}'
    )


async def test_the_publisher_records_cancelled_messages() -> None:
    subject, _ = publisher(
        httpx.Response(202, json=ACCEPTED),
        httpx.Response(409, json={}),
        httpx.ConnectError("down"),
        httpx.Response(200, json={}),
    )
    ack = await subject.publish("orders", b"1")
    assert ack is not None
    assert not await subject.cancel(ack)
    assert subject.ledger.cancelled == set()
    assert await subject.cancel(ack)
    assert subject.ledger.cancelled == {"msg_1"}


async def test_open_loop_counts_from_when_a_message_was_due() -> None:
    subject, _ = publisher(httpx.Response(202, json=ACCEPTED))
    acks = await subject.publish_many("orders", 5, rate=100, type="order.created")
    gaps = [later.due - earlier.due for earlier, later in pairwise(acks)]
    assert gaps == pytest.approx([0.01] * 4)
    assert all(ack.responded >= ack.due for ack in acks)


def test_sample_payloads_are_json_and_differ() -> None:
    assert json.loads(sample_payload(7))["n"] == 7
    assert sample_payload(1) != sample_payload(2)


async def test_assert_eventually_gives_up_with_the_last_reason() -> None:
    tries = iter(range(1000))

    def never() -> None:
        raise AssertionError(f"try {next(tries)}")

    with pytest.raises(AssertionError, match=r"try [1-9]"):
        await assert_eventually(never, timeout=0.1)
    assert await assert_eventually(lambda: next(tries)) > 0
