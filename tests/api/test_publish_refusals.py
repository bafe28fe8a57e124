"""Bad input to publishing: each is a problem that names the field, and changes nothing."""

import gzip
from collections.abc import AsyncIterator, Iterator

import pytest

from api.messages.publishing import ENVELOPE_ALLOWANCE
from testing.api import API_KEY, ON_SHARED, Api, assert_problem, ok

VALID = b'{"type":"a","payload":1}'
PUBLISH = "/v1/channels/orders/messages"

MALFORMED = [
    b"",
    b" ",
    b"{",
    b"nul",
    b"type=a",
    b"{'type':'a','payload':1}",
    b'{"type":"a","payload":}',
    b'{"type":"a","payload":nul}',
    b'{"type":"a","payload":NaN}',
    b'{"type":"a","payload":Infinity}',
    b'{"type":"a","payload":01}',
    b'{"type":"a","payload":1,}',
    b'{"type":"a","payload":1}x',
    b'{"type":"a","payload":[1,]}',
    b'{"type":"a","payload":"\x00"}',
    b'{"type":"a","payload":"a\nb"}',
    b'\x00{"type":"a","payload":1}',
    b'{"type":"a","payload":1}\x00',
    b'\xef\xbb\xbf{"type":"a","payload":1}',
    b'{"type":"a","payload":"\xff"}',
    b'{"type":"a","payload":"\xed\xa0\x80"}',
    b'{"type":"a","payload":"\xc0\xaf"}',
    b'{"type":"\xff","payload":1}',
    b'{"type":"a","payload":"\\ud800"}',
    b'{"type":"a","payload":"\\udc00\\ud800"}',
    b'{"type":"a","idempotencyKey":"\\ud800","payload":1}',
    b'{"\\ud800":1,"payload":1}',
    b'{"type":"a","payload":' + b"[" * 100_000,
    b'{"type":"a","payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"type":"a","payload":' + b'{"a":' * 30_000 + b"1" + b"}" * 30_000 + b"}",
    VALID.decode().encode("utf-16"),
]

MISSHAPEN: list[tuple[bytes, str]] = [
    (b"[]", "body"),
    (b"1", "body"),
    (b"null", "body"),
    (b"[" * 100_000, "body"),
    (b"{}", "payload"),
    (b'{"type":"a"}', "payload"),
    (b'{"type":"a","payload":1,"paylaod":1}', "paylaod"),
    (b'{"type":"a","payload":1,"idempotency_key":"k"}', "idempotency_key"),
    (b'{"type":"a","payload":1,"a`b":1}', "a`b"),
    (b'{"type":1,"payload":1}', "type"),
    (b'{"type":["a"],"payload":1}', "type"),
    (b'{"type":"","payload":1}', "type"),
    (b'{"type":"a b","payload":1}', "type"),
    (b'{"type":"a\\n","payload":1}', "type"),
    (b'{"type":"a\\r\\nx: y","payload":1}', "type"),
    (b'{"type":".a","payload":1}', "type"),
    (b'{"type":"\xc3\xbc","payload":1}', "type"),
    (b'{"type":"' + b"a" * 129 + b'","payload":1}', "type"),
    (b'{"type":"a","payload":1,"idempotencyKey":5}', "idempotencyKey"),
    (b'{"type":"a","payload":1,"tenant":{}}', "tenant"),
    (b'{"type":"a","payload":1,"tenant":""}', "tenant"),
    (b'{"type":"a","payload":1,"publishedAt":"2026-01-31T12:00:00"}', "publishedAt"),
    (b'{"type":"a","payload":1,"publishedAt":"yesterday"}', "publishedAt"),
    (b'{"type":"a","payload":1,"publishedAt":"2026-02-30T12:00:00Z"}', "publishedAt"),
    (b'{"type":"a","payload":1,"publishedAt":1700000000}', "publishedAt"),
    (b'{"type":"a","payload":1,"publishedAt":"0001-01-01T00:00:00+14:00"}', "publishedAt"),
    (b'{"type":"a","payload":1,"publishedAt":"9999-12-31T23:59:59-14:00"}', "publishedAt"),
]


@ON_SHARED
@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:40]))
async def test_a_body_that_is_not_json_is_a_400(shared: Api, body: bytes) -> None:
    problem = assert_problem(await shared.try_publish(body), 400)

    assert [error["field"] for error in problem["errors"]] in (["body"], ["payload"])
    assert await shared.count("message") == 0


@ON_SHARED
@pytest.mark.parametrize(("body", "field"), MISSHAPEN, ids=lambda value: repr(value[:60]))
async def test_a_wrong_field_is_named(shared: Api, body: bytes, field: str) -> None:
    assert_problem(await shared.try_publish(body), 422, field)
    assert await shared.count("message") == 0


async def test_a_payload_over_the_limit_is_a_413(api: Api) -> None:
    await api.channel()
    size = api.services.settings.max_payload_bytes + 1

    response = await api.try_publish(b'{"type":"a","payload":"' + b"x" * (size - 2) + b'"}')

    problem = assert_problem(response, 413)
    assert problem["errors"][0]["field"] == "payload"
    assert str(size) in problem["detail"]
    assert await api.count("message") == 0


async def test_a_declared_length_over_the_limit_is_refused_unread(api: Api) -> None:
    await api.channel()
    limit = api.services.settings.max_payload_bytes + ENVELOPE_ALLOWANCE

    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    response = await api.http.post(
        "/v1/channels/orders/messages", content=body(), headers={"content-length": str(limit + 1)}
    )

    assert assert_problem(response, 413)["errors"][0]["field"] == "body"


async def test_a_body_without_end_is_refused_as_soon_as_it_is_too_long(api: Api) -> None:
    await api.channel()
    limit = api.services.settings.max_payload_bytes + ENVELOPE_ALLOWANCE
    received = 0

    async def receive() -> dict[str, object]:
        nonlocal received
        received += 4096
        assert received < 10 * 1024 * 1024, "the body is read without a limit"
        return {"type": "http.request", "body": b" " * 4096, "more_body": True}

    status = await _status_for(api, receive)

    assert status == 413
    assert limit < received <= limit + 4096


async def test_a_publisher_that_hangs_up_halfway_published_nothing(api: Api) -> None:
    await api.channel()
    messages: Iterator[dict[str, object]] = iter(
        [{"type": "http.request", "body": VALID[:10], "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, object]:
        return next(messages)

    assert await _status_for(api, receive) == 400
    assert await api.count("message") == 0


@ON_SHARED
@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"\xff", 400), (b'{"name":"a"}x', 400), (b"[" * 100_000, 400), (b"[]", 422)]
)
async def test_bodies_that_are_not_json_are_refused_by_every_operation(shared: Api, body: bytes, status: int) -> None:
    response = await shared.http.post("/v1/channels", content=body, headers={"content-type": "application/json"})

    assert_problem(response, status)
    assert await shared.count("channel") == 3


async def test_the_response_to_a_form_says_that_json_is_expected(api: Api) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}

    problem = assert_problem(await api.http.post("/v1/channels", content=b'{"name":"a"}', headers=headers), 422)

    assert "application/json" in problem["detail"]


async def test_publishing_accepts_json_with_any_content_type(api: Api) -> None:
    await api.channel()

    response = await api.try_publish(VALID, headers={"content-type": "application/x-www-form-urlencoded"})

    assert response.status_code == 202


async def test_a_refusal_leaves_the_key_free(api: Api) -> None:
    await api.channel()
    assert_problem(await api.try_publish(b'{"payload":1,"idempotencyKey":"k"}'), 422, "type")

    assert (await api.publish(1, idempotencyKey="k"))["duplicate"] is False
    assert len(ok(await api.get("/v1/messages"))["data"]) == 1


async def _status_for(api: Api, receive: object) -> int:
    """Speak ASGI by hand: httpx reads a request's body to its end before it sends."""
    statuses: list[int] = []

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(int(str(message["status"])))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PUBLISH,
        "raw_path": PUBLISH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"authorization", f"Bearer {API_KEY}".encode()), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("everhook.test", 80),
    }
    await api.app(scope, receive, send)  # type: ignore[arg-type]
    (status,) = statuses
    return status


FAULTS = [
    (b'{"name": "a",}', "trailing comma is not allowed at line 1, column 13"),
    (b'{"name":\n  "a" "b"}', "at line 2, column 7"),
    (b'{"name": "a"', "unexpected end of data at line 1, column 13"),
    (b"name=a", "not valid JSON"),
    (gzip.compress(b'{"name": "a"}', mtime=0), "compressed with gzip"),
    (b'\xef\xbb\xbf{"name": "a"', "byte order mark"),
    ('{"name": "a"'.encode("utf-16"), "UTF-16"),
    (b'{"name": "\xff"}', "not UTF-8: 0xff at byte 10"),
    (b'{"name": "\xed\xa0\x80", ', "half of a surrogate pair at byte 10"),
    (b'{"payload": 1, "type": "\\ud800"}', "half of a surrogate pair"),
    (b'{"payload":' + b"[" * 100_000, "nested too deeply"),
    (b" ", "is empty"),
]


@ON_SHARED
@pytest.mark.parametrize(("body", "says"), FAULTS, ids=lambda value: repr(value[:30]))
async def test_the_response_to_invalid_json_says_what_is_wrong_and_where(shared: Api, body: bytes, says: str) -> None:
    headers = {"content-type": "application/json"}
    for path in ("/v1/channels", "/v1/channels/orders/messages", "/v1/channels/orders/messages/batch"):
        response = await shared.http.post(path, content=body, headers=headers)
        if response.status_code == 422:  # reported earlier: an unknown field
            continue
        problem = assert_problem(response, 400, "body")
        assert says in problem["detail"], path


@ON_SHARED
@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'"\xff"', "not UTF-8: 0xff at byte 1"),
        (b"[" * 2_000 + b"]" * 2_000, "nested too deeply"),
    ],
    ids=["surrogate", "utf-8", "depth"],
)
async def test_the_response_to_an_invalid_payload_says_what_is_wrong(shared: Api, payload: bytes, says: str) -> None:
    problem = assert_problem(await shared.try_publish(b'{"type":"a","payload":' + payload + b"}"), 400)

    assert says in problem["detail"]
