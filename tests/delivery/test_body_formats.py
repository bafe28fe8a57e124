"""Bodies, byte for byte: the payload is embedded as it came."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everhook.delivery.body_formats import BodyFormat, Content, render, timestamp

PUBLISHED = datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)

PAYLOADS = [
    b'{"a":1}',
    b"null",
    b"true",
    b"0",
    b'"text"',
    b"[]",
    b"{}",
    b' {\t"a" :\r\n [ 1 ,2 ]  } \n',
    b'{"b":1,"a":2,"b":3}',
    b'{"escaped":"\\u0041\\u00e9\\/\\ud83d\\ude00"}',
    '{"plain":"é ☃ 😀 \u2028"}'.encode(),
    b'{"big":123456789012345678901234567890,"small":1e-400,"huge":1E+400,"zero":-0,"tail":1.10}',
    b'{"percent":"%b %d %s %%","braces":"{}{0}"}',
    b'{"quote":"\\"}}","nul":"\\u0000"}',
]


def content(**changes: Any) -> Content:
    fields: dict[str, Any] = {
        "message_gid": "msg_01",
        "channel": "orders",
        "event_type": "order.created",
        "payload": b'{"a":1}',
        "published_at": PUBLISHED,
        "attempt": 3,
    }
    return Content(**(fields | changes))


def body(body_format: BodyFormat, **changes: Any) -> bytes:
    return render(body_format, content(**changes))[1]


EXPECTED = {
    BodyFormat.ENVELOPE: (
        b'{"messageGid":"msg_01","channelName":"orders","payload":<payload>,'
        b'"metadata":{"publishedAt":"2026-01-31T12:00:00.123Z","attempt":3}}'
    ),
    BodyFormat.EVENT: b'{"id":"msg_01","type":"order.created","data":<payload>}',
    BodyFormat.RAW: b"<payload>",
    BodyFormat.CLOUDEVENTS: (
        b'{"specversion":"1.0","id":"msg_01","source":"/channels/orders","type":"order.created",'
        b'"time":"2026-01-31T12:00:00.123Z","datacontenttype":"application/json","data":<payload>}'
    ),
}


@pytest.mark.parametrize("body_format", list(BodyFormat))
@pytest.mark.parametrize("payload", PAYLOADS)
def test_each_format_holds_the_payload_byte_for_byte(body_format: BodyFormat, payload: bytes) -> None:
    assert body(body_format, payload=payload) == EXPECTED[body_format].replace(b"<payload>", payload)


PLACES = {
    BodyFormat.ENVELOPE: "payload",
    BodyFormat.EVENT: "data",
    BodyFormat.CLOUDEVENTS: "data",
}


@pytest.mark.parametrize("body_format", list(BodyFormat))
@pytest.mark.parametrize("payload", PAYLOADS)
def test_each_format_is_json_that_says_what_was_published(body_format: BodyFormat, payload: bytes) -> None:
    parsed = json.loads(body(body_format, payload=payload))
    found = parsed[PLACES[body_format]] if body_format in PLACES else parsed
    assert found == json.loads(payload)


@pytest.mark.parametrize(
    ("body_format", "media_type"),
    [
        (BodyFormat.ENVELOPE, "application/json"),
        (BodyFormat.EVENT, "application/json"),
        (BodyFormat.RAW, "application/json"),
        (BodyFormat.CLOUDEVENTS, "application/cloudevents+json"),
    ],
)
def test_each_format_says_its_media_type(body_format: BodyFormat, media_type: str) -> None:
    assert render(body_format, content())[0] == media_type


@given(channel=st.text(min_size=1), event_type=st.text(min_size=1), attempt=st.integers(1, 50))
def test_no_name_breaks_out_of_its_string(channel: str, event_type: str, attempt: int) -> None:
    changes = {"channel": channel, "event_type": event_type, "attempt": attempt}
    envelope = json.loads(body(BodyFormat.ENVELOPE, **changes))
    event = json.loads(body(BodyFormat.EVENT, **changes))
    cloudevent = json.loads(body(BodyFormat.CLOUDEVENTS, **changes))
    assert (envelope["channelName"], envelope["metadata"]["attempt"]) == (channel, attempt)
    assert event["type"] == cloudevent["type"] == event_type
    assert cloudevent["source"] == f"/channels/{channel}"


def test_names_are_written_in_utf_8_and_escaped_only_where_json_must() -> None:
    assert (
        body(BodyFormat.EVENT, event_type='Größe "☃"\n')
        == '{"id":"msg_01","type":"Größe \\"☃\\"\\n","data":{"a":1}}'.encode()
    )


def test_only_the_envelope_changes_from_one_attempt_to_the_next() -> None:
    changed = [f for f in BodyFormat if body(f, attempt=1) != body(f, attempt=2)]
    assert changed == [BodyFormat.ENVELOPE]


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (PUBLISHED, "2026-01-31T12:00:00.123Z"),
        (PUBLISHED.replace(microsecond=0), "2026-01-31T12:00:00.000Z"),
        (PUBLISHED.replace(microsecond=999_999), "2026-01-31T12:00:00.999Z"),
        (PUBLISHED.astimezone(timezone(timedelta(hours=5, minutes=30))), "2026-01-31T12:00:00.123Z"),
        (datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), "2025-12-31T23:30:00.000Z"),
    ],
)
def test_times_are_written_in_utc_with_milliseconds(moment: datetime, text: str) -> None:
    assert timestamp(moment) == text
