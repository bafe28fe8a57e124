"""Fan-out: which routes take a message. A long evaluation of filters runs in a thread, so that it does not block the
loop."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from everhook.publishing.gates import Step
from everhook.publishing.matching import ListIndex, has_long_integer, parse_exactly
from everhook.publishing.routing import Audience, Route, Routes

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
            if route.endpoint_gid not in taking and route.takes(self.audience, self.event_type, content, lists):
                taking[route.endpoint_gid] = route
        return list(taking.values())


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
        return frozenset(index for index, step in enumerate(steps) if step.matches(exact, lists))

    cost = sum(each.cost for each in filters)
    cost += len(payload) // 2 if any(each.searches_lists for each in filters) else 0
    return await asyncio.to_thread(matching) if cost > LOOP_BUDGET else matching()
