"""The exact request on the wire: headers, bodies and signatures, computed here by hand and by another library."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from standardwebhooks import Webhook

from everhook import __version__
from testing.ledgers import Ack
from testing.publisher import CreatedEndpoint, Publisher, sample_payload
from testing.receiver import Arrival, Receiver
from testing.stack import QUICK, Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHANNEL = "orders"
TYPE = "order.created"
PAYLOAD = sample_payload(7)
MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with Stack(tmp_path_factory.mktemp("wire"), extra_env=QUICK) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest_asyncio.fixture(loop_scope="module")
async def publisher(stack: Stack, request: pytest.FixtureRequest) -> Publisher:
    publisher = stack.publisher()
    await publisher.create_channel(request.node.name[:100], {"delaysSeconds": [0.1]})
    return publisher


async def _deliver(
    publisher: Publisher, receiver: Receiver, channel: str, requests: int = 1, **more: Any
) -> tuple[CreatedEndpoint, Ack, list[Arrival]]:
    path = f"/{channel}"
    endpoint = await publisher.create_endpoint(receiver.url_for(path), channel, **more)
    ack = await publisher.publish(channel, PAYLOAD)
    assert ack is not None
    return endpoint, ack, await receiver.wait_for(requests, 30, path=path)


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)[:100]


async def test_the_request_has_exactly_the_documented_headers(
    publisher: Publisher, receiver: Receiver, channel: str
) -> None:
    _, ack, [arrival] = await _deliver(publisher, receiver, channel)
    assert arrival.method == "POST"
    headers = {name.lower(): value for name, value in arrival.headers}
    assert len(headers) == len(arrival.headers), "a header came twice"
    assert headers.keys() == {
        "host", "content-type", "content-length", "accept-encoding", "user-agent", "traceparent",
        "x-webhook-event", "x-idempotency-key", "x-everhook-delivery", "x-everhook-attempt",
        "webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-signature", "x-npayload-signature",
    }  # fmt: skip
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(arrival.body))
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == f"Everhook/{__version__}"
    assert headers["x-webhook-event"] == TYPE
    assert headers["x-everhook-delivery"].startswith("dlv_") and headers["x-everhook-attempt"].startswith("att_")
    assert headers["x-idempotency-key"] == headers["webhook-id"] == ack.message_gid
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", headers["traceparent"])
    assert abs(datetime.now(UTC).timestamp() - int(headers["webhook-timestamp"])) < 30


async def test_three_signatures_cover_the_exact_bytes_of_the_body(
    publisher: Publisher, receiver: Receiver, channel: str
) -> None:
    endpoint, _, [arrival] = await _deliver(publisher, receiver, channel)
    headers = {name.lower(): value for name, value in arrival.headers}
    Webhook(endpoint.secret).verify(arrival.body, headers)
    key = base64.b64decode(endpoint.secret.removeprefix("whsec_"))
    moment = headers["webhook-timestamp"]
    standard = _mac(key, f"{headers['webhook-id']}.{moment}.".encode() + arrival.body)
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(standard).decode()}"
    assert headers["x-webhook-signature"] == f"t={moment},v1={_mac(key, moment.encode() + b'.' + arrival.body).hex()}"
    assert headers["x-npayload-signature"] == f"sha256={_mac(key, arrival.body).hex()}"


async def test_a_retry_has_the_same_id_and_says_which_attempt_it_is(
    publisher: Publisher, receiver: Receiver, channel: str
) -> None:
    receiver.respond(500, 200, path=f"/{channel}")
    _, ack, [first, second] = await _deliver(publisher, receiver, channel, requests=2)
    assert first.id == second.id == ack.message_gid
    assert [arrival.json()["metadata"]["attempt"] for arrival in (first, second)] == [1, 2]
    assert first.payload == second.payload == PAYLOAD


@pytest.mark.parametrize(
    ("format", "media_type", "expected"),
    [
        (
            "envelope",
            "application/json",
            rb'{"messageGid":"%(id)s","channelName":"%(channel)s","payload":%(payload)s,'
            rb'"metadata":{"publishedAt":"%(moment)s","attempt":1}}',
        ),
        ("event", "application/json", rb'{"id":"%(id)s","type":"order.created","data":%(payload)s}'),
        ("raw", "application/json", rb"%(payload)s"),
        (
            "cloudevents",
            "application/cloudevents+json",
            rb'{"specversion":"1.0","id":"%(id)s","source":"/channels/%(channel)s","type":"order.created",'
            rb'"time":"%(moment)s","datacontenttype":"application/json","data":%(payload)s}',
        ),
    ],
)
async def test_each_body_format_embeds_the_payload_byte_for_byte(
    stack: Stack, receiver: Receiver, format: str, media_type: str, expected: bytes
) -> None:
    publisher, name = stack.publisher(), f"format-{format}"
    await publisher.create_channel(name)
    _, ack, [arrival] = await _deliver(publisher, receiver, name, format=format)
    published = re.search(MOMENT.encode(), arrival.body)
    values = {
        b"id": ack.message_gid.encode(),
        b"channel": name.encode(),
        b"payload": PAYLOAD,
        b"moment": published[0] if published else b"",
    }
    assert arrival.body == expected % values
    assert arrival.header("content-type") == media_type


async def test_the_requests_that_arrived_are_recorded(
    stack: Stack, publisher: Publisher, receiver: Receiver, channel: str
) -> None:
    _, ack, [arrival] = await _deliver(publisher, receiver, channel)
    await stack.drained(of=publisher)
    [promised] = ack.deliveries
    delivery = (await stack.client.get(f"/v1/deliveries/{promised.delivery_gid}")).json()
    [attempt] = delivery["attempts"]
    assert attempt["requestSha256"] == hashlib.sha256(arrival.body).hexdigest()
    assert (attempt["statusCode"], attempt["verdict"], delivery["status"]) == (200, "delivered", "delivered")
    message = (await stack.client.get(f"/v1/messages/{ack.message_gid}")).json()
    assert message["payload"] == json.loads(PAYLOAD)


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.new(key, signed, hashlib.sha256).digest()
