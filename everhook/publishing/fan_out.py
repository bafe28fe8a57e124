"""Fan-out: which routes take a message. A long evaluation of filters runs in a thread, so that it does not block the
loop."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from everhook.errors import Unavailable
from everhook.observability.seldom import Seldom
from everhook.publishing.gates import Step
from everhook.publishing.matching import UNREADABLE, ListIndex, has_long_integer, parse_exactly
from everhook.publishing.routing import Audience, Route, Routes

log = structlog.get_logger()
_seldom = Seldom(60)

LOOP_BUDGET = 10_000
"""How many steps of matching run on the event loop, which takes 1 to 3 ms; more steps run in a thread."""


@dataclass(slots=True)  # one for every message: frozen dataclasses take longer to create
class Candidate:
    """A message to match against the routes of its channel."""

    audience: Audience
    event_type: str
    payload: bytes
    content: Any
    routes: Routes
    attributes: Mapping[str, str] | None = None

    @property
    def cost(self) -> int:
        return self.routes.cost + (len(self.payload) // 2 if self.routes.search_lists else 0)

    def taken_by(self) -> list[Route]:
        """The routes that take the message, one for each endpoint, even if several of its subscriptions match."""
        taking: dict[str, Route] = {}
        lists, content = ListIndex(self.attributes), _exact(self.payload, self.content, self.routes.have_filters)
        for route in self.routes:
            try:
                if route.endpoint_gid not in taking and route.takes(self.audience, self.event_type, content, lists):
                    taking[route.endpoint_gid] = route
            except UNREADABLE as error:
                raise _unreadable(
                    error, subscription_gid=route.subscription_gid, endpoint_gid=route.endpoint_gid
                ) from error
        return list(taking.values())


def _unreadable(error: Exception, **owner: str | None) -> Unavailable:
    """The error of a message whose filter cannot be evaluated, so that it is unknown whether the owner takes it. The
    message is not accepted: it is neither lost nor sent to an endpoint that did not ask for it."""
    if (left_out := _seldom.due(tuple(owner.values()))) is not None:
        log.error(
            "a stored filter cannot be evaluated; messages are refused", **owner, error=str(error), left_out=left_out
        )
    return Unavailable(
        "A stored filter that decides about this message cannot be evaluated."
        " Nothing was accepted; the log of Everhook names the filter."
    )


def _exact(payload: bytes, content: Any, has_filters: bool) -> Any:
    """The parsed payload, with exact integers if filters compare them."""
    if has_filters and has_long_integer(payload):
        with suppress(RecursionError):  # nested too deeply for this parser
            return parse_exactly(payload)
    return content


async def match(candidates: Sequence[Candidate]) -> list[list[Route]]:
    """The routes that take each message."""
    if sum(candidate.cost for candidate in candidates) > LOOP_BUDGET:
        return await asyncio.to_thread(lambda: [candidate.taken_by() for candidate in candidates])
    return [candidate.taken_by() for candidate in candidates]


async def match_steps(
    steps: Sequence[Step], payload: bytes, content: Any, attributes: Mapping[str, str] | None = None
) -> frozenset[int]:
    """The indexes of the steps of a gate that are asked about a message."""
    filters = [step.filter for step in steps if step.filter is not None]
    if not filters:
        return frozenset(range(len(steps)))

    def matching() -> frozenset[int]:
        lists, exact = ListIndex(attributes), _exact(payload, content, True)
        found: set[int] = set()
        for index, step in enumerate(steps):
            try:
                if step.matches(exact, lists):
                    found.add(index)
            except UNREADABLE as error:
                raise _unreadable(error, gate_inbox=step.inbox) from error
        return frozenset(found)

    cost = sum(each.cost for each in filters)
    cost += len(payload) // 2 if any(each.searches_lists for each in filters) else 0
    return await asyncio.to_thread(matching) if cost > LOOP_BUDGET else matching()
