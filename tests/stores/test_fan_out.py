"""Which routes take a message, and where that is found out."""

import json
import threading
from typing import Any

from everhook.delivery.policy import DeliveryPolicy
from everhook.publishing.fan_out import LOOP_BUDGET, Candidate, match
from everhook.publishing.matching import compile_filter
from everhook.publishing.routing import Audience, Route, Routes

COSTLY = {"$any": [{"a.b.c": number} for number in range(100)]}


class Watched(dict[str, Any]):
    """A payload that knows which thread reads it."""

    def __contains__(self, key: object) -> bool:
        self["thread"] = threading.get_ident()
        return super().__contains__(key)


def route(number: int, conditions: dict[str, Any] | None, events: tuple[str, ...] = ()) -> Route:
    return Route(
        endpoint_gid=f"ep_{number}",
        tenant_gid="ten_1",
        tenant="acme",
        events=events,
        filter=compile_filter(conditions),
        policy=DeliveryPolicy(),
        rate_limit=None,
    )


def candidate(content: Any, routes: list[Route], payload: bytes | None = None) -> Candidate:
    return Candidate(Audience(), "order.created", payload or json.dumps(content).encode(), content, Routes(routes))


async def taken(content: Any, *routes: Route, payload: bytes | None = None) -> list[str]:
    (found,) = await match([candidate(content, list(routes), payload)])
    return [one.endpoint_gid for one in found]


async def test_cheap_filters_are_matched_on_the_event_loop() -> None:
    content = Watched(a=1)

    assert await taken(content, route(1, {"a": 1}), route(2, {"a": 2})) == ["ep_1"]
    assert content["thread"] == threading.get_ident()


async def test_costly_filters_are_matched_in_another_thread() -> None:
    content = Watched(a=1)
    routes = [route(number, COSTLY) for number in range(100)] + [route(100, {"a": 1})]
    assert Routes(routes).cost > LOOP_BUDGET

    assert await taken(content, *routes) == ["ep_100"]
    assert content["thread"] != threading.get_ident()


async def test_many_cheap_messages_are_costly_together() -> None:
    contents = [Watched(a=1) for _ in range(LOOP_BUDGET // 5)]

    await match([candidate(content, [route(1, {"a": 1})]) for content in contents])

    assert {content["thread"] for content in contents}.isdisjoint({threading.get_ident()})


async def test_a_long_payload_that_filters_search_is_costly() -> None:
    content = Watched(ids=list(range(LOOP_BUDGET)))

    assert await taken(content, route(1, {"ids": {"$contains": LOOP_BUDGET - 1}})) == ["ep_1"]
    assert content["thread"] != threading.get_ident()


async def test_an_endpoint_that_takes_a_message_is_not_asked_again() -> None:
    content, first, again = Watched(a=2), route(1, None), route(1, {"a": 2})

    assert candidate(content, [first, again]).taken_by() == [first]
    assert "thread" not in list(content), "no filter was matched"
    assert candidate(content, [route(1, {"a": 1}), again]).taken_by() == [again]


async def test_filters_see_integers_as_they_were_published() -> None:
    payload = b'{"n": 18446744073709551617, "m": 1e400}'
    rounded = {"n": 1.8446744073709552e19, "m": float("inf")}

    assert await taken(rounded, route(1, {"n": 2**64 + 1}), route(2, {"n": 2**64}), payload=payload) == ["ep_1"]


async def test_a_payload_that_is_nested_too_deeply_to_be_read_exactly_is_matched_as_it_was_read() -> None:
    payload = b"[" * 20_000 + b"18446744073709551617" + b"]" * 20_000

    assert await taken({"n": 1}, route(1, {"n": 1}), payload=payload) == ["ep_1"]
