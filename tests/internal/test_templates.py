"""Templates: what a path names, and what a hostile payload cannot do."""

import time
from typing import Any

import pytest

from everhook.internal.templates import render

CONTENT = {"order": {"id": 17, "total": 9.5, "items": ["a", "b"], "paid": True, "note": None}, "type": "x", "0": "zero"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Order {order.id}: {order.total}", "Order 17: 9.5"),
        ("{order.items.1}{order.items.2}{order.items.-1}", "b"),
        ("{order.paid}{order.note}{order.none}{none}", "true"),
        ("{order.items}", '[\n  "a",\n  "b"\n]'),
        ("{type} {messageGid} {0}", "x msg_1 zero"),
        ("{} {{order.id}} { order.id } {order.id", "{} {17} { order.id } {order.id"),
        ("{order.__class__}{order.id.real}{order.items.append}", ""),
    ],
)
def test_a_path_names_a_value_of_the_payload(template: str, expected: str) -> None:
    assert render(template, CONTENT, {"type": "order.created", "messageGid": "msg_1"}, at_most=100) == expected


@pytest.mark.parametrize("content", [None, 3, "text", [], [1]])
def test_a_given_name_is_used_where_the_payload_lacks_it(content: Any) -> None:
    assert render("{type}", content, {"type": "order.created"}, at_most=100) == "order.created"


def test_substituted_values_are_not_substituted_again() -> None:
    assert render("{a}", {"a": "{b}", "b": "secret"}, {}, at_most=100) == "{b}"


def test_values_are_escaped_and_the_template_is_not() -> None:
    assert render("<b>{a}", {"a": "<i>"}, {}, at_most=100, escape=lambda text: text.replace("<", "&lt;")) == "<b>&lt;i>"


def test_a_text_is_cut() -> None:
    assert render("{a}{a}", {"a": "é" * 60}, {}, at_most=100) == "é" * 99 + "…"


def test_a_lone_surrogate_is_no_text() -> None:
    assert render("{a}", {"a": "\ud800"}, {}, at_most=100) == "?"


def test_a_large_value_that_is_named_often_costs_little() -> None:
    content = {"a": [{"b": index} for index in range(20_000)]}

    def cost(names: int) -> float:
        began = time.process_time()
        assert len(render("{a}" * names, content, {}, at_most=100_000)) == 100_000
        return time.process_time() - began

    once = min(cost(1) for _ in range(3))
    assert cost(3_000) < 30 * once
