"""The header `traceparent`, against the rules of W3C Trace Context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everhook.ids import Kind, new_gid, trace_id
from everhook.observability.trace_context import TraceParent, of_message, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (f"00-{TRACE}-{SPAN}-01", TraceParent(TRACE, SPAN, "01")),
        (f"00-{TRACE}-{SPAN}-00", TraceParent(TRACE, SPAN, "00")),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", TraceParent(TRACE, SPAN, "01")),
        (None, None),
        ("", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        (f" 00-{TRACE}-{SPAN}-01", None),
    ],
)
def test_a_valid_header_is_understood_and_no_other(header: str | None, found: TraceParent | None) -> None:
    assert parse(header) == found


@given(st.text())
def test_any_header_can_be_parsed(header: str) -> None:
    parse(header)


def test_a_header_that_was_written_can_be_parsed() -> None:
    child = TraceParent(TRACE, SPAN, "00").child()
    assert parse(str(child)) == child
    assert (child.trace_id, child.flags) == (TRACE, "00")
    assert child.span_id != SPAN


def test_a_message_without_a_trace_gets_its_own() -> None:
    gid = new_gid(Kind.MESSAGE)
    assert of_message(gid, None).trace_id == of_message(gid, "nonsense").trace_id == trace_id(gid)
    assert of_message(gid, f"00-{TRACE}-{SPAN}-00") == TraceParent(TRACE, SPAN, "00")
