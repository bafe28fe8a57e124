"""Parsing of consumers: event streams in any pieces, pages of items byte for byte, and messages nested too deeply."""

import json

import pytest

from everhook_client.event_stream import Event, EventParser
from everhook_client.messages import Message, Unreadable, items_in, read_message

STREAM = (
    b'retry: 3120\nevent: hello\ndata: {"consumer":"con_1"}\n\n'
    b": keep-alive\n\n"
    b'id: con_1.1\nevent: message\ndata: {"a":\ndata: "\xe2\x80\xa8\xc2\x85"}\n\n'
    b"event: no data\n\nevent:bye\ndata:x\n\nevent: cut\ndata: lost"
)
EVENTS = [
    Event("hello", b'{"consumer":"con_1"}', retry_s=3.12),
    Event("message", b'{"a":\n"\xe2\x80\xa8\xc2\x85"}', "con_1.1"),
    Event("bye", b"x"),
]


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_events_are_parsed_from_pieces_of_any_size_with_any_line_end(size: int, line_end: bytes) -> None:
    stream, parser = STREAM.replace(b"\n", line_end), EventParser()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [event for piece in pieces for event in parser.feed(piece)] == EVENTS


@pytest.mark.parametrize(
    "items",
    [
        [],
        [b'{"lease": "a"}'],
        [b'{"a":[1,{"b":"}]"}],"price":1.10}', b'{"a": "\\"{[", "a": 1e400}', b"{}"],
    ],
)
@pytest.mark.parametrize("spaced", [False, True])
def test_items_of_a_page_are_the_exact_bytes(items: list[bytes], spaced: bool) -> None:
    page = b'{"data":[' + (b" , " if spaced else b",").join(items) + b'],"more":true,"held":"x"}'
    if spaced:
        page = page.replace(b'"data":[', b' "data" : [ ')
    assert json.loads(page)["more"] is True
    assert list(items_in(page)) == items
    assert list(items_in(b"null")) == []


def test_a_message_that_is_nested_too_deeply_is_named_by_its_lease() -> None:
    found = read_message(b'{"lease":"dlv_1.1.1","payload":' + b"[" * 5_000 + b"]" * 5_000 + b"}")
    assert isinstance(found, Unreadable) and found.lease == "dlv_1.1.1" and "RecursionError" in found.reason
    with pytest.raises(ValueError, match="Expecting"):
        read_message(b"nothing")
    assert isinstance(read_message(b'{"lease":"dlv_1.1.1"}', "con_1.1"), Message)
