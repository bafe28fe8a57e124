"""Routing: which endpoints of a channel take a message. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from everhook.contracts import DeliveryMode
from everhook.delivery.policy import DeliveryPolicy
from everhook.event_types.modes import ValidationMode
from everhook.publishing.gates import Step
from everhook.publishing.matching import Filter, ListIndex, matches_type, matching_cost


@dataclass(frozen=True)
class Route:
    """One subscription, with what its deliveries need to know of the endpoint. Without `subscription_gid`: the route of
    messages for the endpoint itself."""

    endpoint_gid: str
    tenant_gid: str
    tenant: str
    events: tuple[str, ...]
    filter: Filter | None
    policy: DeliveryPolicy
    rate_limit: float | None
    mode: DeliveryMode = DeliveryMode.HTTP
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    subscription_gid: str | None = None

    def takes(self, audience: "Audience", event_type: str, payload: Any, lists: ListIndex) -> bool:
        return (
            audience.has(self.endpoint_gid, self.tenant_gid)
            and matches_type(event_type, self.events)
            and (self.filter is None or self.filter.matches(payload, lists))
        )

    @property
    def cost(self) -> int:
        """The maximum number of steps of `takes`."""
        return matching_cost(self.events, self.filter)


class Routes(tuple[Route, ...]):
    """The routes of a channel. `gates`: the steps that its messages pass first. `validation`: what happens to messages
    that do not fit the catalogue of event types."""

    gates: Sequence[Step] = ()
    validation: ValidationMode = ValidationMode.OFF

    @classmethod
    def of(
        cls, routes: Iterable[Route], gates: Sequence[Step], validation: ValidationMode = ValidationMode.OFF
    ) -> "Routes":
        made = cls(routes)
        made.gates = gates
        made.validation = validation
        return made

    @cached_property
    def cost(self) -> int:
        """The maximum number of steps to match a message against all routes."""
        return sum(route.cost for route in self)

    @cached_property
    def have_filters(self) -> bool:
        return any(route.filter is not None for route in self)

    @cached_property
    def search_lists(self) -> bool:
        return any(route.filter is not None and route.filter.searches_lists for route in self)


@dataclass(frozen=True)
class Audience:
    """The endpoints that may take a message: those of some tenants (None: of all), except one endpoint."""

    tenants: frozenset[str] | None = None
    but: str | None = None

    @classmethod
    def of(cls, tenant_gid: str | None) -> "Audience":
        return cls(None if tenant_gid is None else frozenset((tenant_gid,)))

    def has(self, endpoint_gid: str, tenant_gid: str) -> bool:
        return (self.tenants is None or tenant_gid in self.tenants) and endpoint_gid != self.but
