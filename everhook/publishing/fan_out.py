"""Fan-out: which routes take a message. A long evaluation of filters leaves the event loop to others."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from everhook.publishing.matching import ListIndex, has_long_integer, parse_exactly
from everhook.publishing.routing import Audience, Route, Routes

LOOP_BUDGET = 10_000
"""So many steps of matching are made on the event loop, 1 to 3 ms; what takes more is done in a thread."""


@dataclass(slots=True)  # made for every message: a frozen one takes longer to make
class Candidate:
    """A message to be matched against the routes of its channel."""

    audience: Audience
    event_type: str
    payload: bytes
    content: Any
    routes: Routes

    @property
    def cost(self) -> int:
        return self.routes.cost + (len(self.payload) // 2 if self.routes.search_lists else 0)

    def taken_by(self) -> list[Route]:
        """One route an endpoint, however many of its subscriptions match."""
        taking: dict[str, Route] = {}
        lists, content = ListIndex(), self._content()
        for route in self.routes:
            if route.endpoint_gid not in taking and route.takes(self.audience, self.event_type, content, lists):
                taking[route.endpoint_gid] = route
        return list(taking.values())

    def _content(self) -> Any:
        """With integers as they are, if filters compare them."""
        if self.routes.have_filters and has_long_integer(self.payload):
            with suppress(RecursionError):  # nested more deeply than this parser takes
                return parse_exactly(self.payload)
        return self.content


async def match(candidates: Sequence[Candidate]) -> list[list[Route]]:
    """The routes that take each message."""
    if sum(candidate.cost for candidate in candidates) > LOOP_BUDGET:
        return await asyncio.to_thread(lambda: [candidate.taken_by() for candidate in candidates])
    return [candidate.taken_by() for candidate in candidates]
