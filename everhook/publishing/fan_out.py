"""Fan-out: which routes take a message. A long evaluation of filters runs in a thread, so that it does not block the
loop."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

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

    @property
    def cost(self) -> int:
        return self.routes.cost + (len(self.payload) // 2 if self.routes.search_lists else 0)

    def taken_by(self) -> list[Route]:
        """The routes that take the message, one for each endpoint, even if several of its subscriptions match."""
        taking: dict[str, Route] = {}
        lists, content = ListIndex(), self._content()
        for route in self.routes:
            if route.endpoint_gid not in taking and route.takes(self.audience, self.event_type, content, lists):
                taking[route.endpoint_gid] = route
        return list(taking.values())

    def _content(self) -> Any:
        """The parsed payload, with exact integers if filters compare them."""
        if self.routes.have_filters and has_long_integer(self.payload):
            with suppress(RecursionError):  # nested too deeply for this parser
                return parse_exactly(self.payload)
        return self.content


async def match(candidates: Sequence[Candidate]) -> list[list[Route]]:
    """The routes that take each message."""
    if sum(candidate.cost for candidate in candidates) > LOOP_BUDGET:
        return await asyncio.to_thread(lambda: [candidate.taken_by() for candidate in candidates])
    return [candidate.taken_by() for candidate in candidates]
