"""Use cases of health: the score of one endpoint, and the overview of many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from everhook.endpoints import store as endpoints
from everhook.endpoints.store import EndpointView
from everhook.errors import NotFound
from everhook.health.endpoint_alerts import AlertLimits, AlertName, AppliedLimits, RaisedAlert
from everhook.health.endpoint_alerts_store import raised_alerts
from everhook.health.overview_store import HealthBoard, Overview
from everhook.health.score import AttemptStats, Health, Window
from everhook.health.store import EndpointHealth, endpoint_health, healths, stats_of_endpoints
from everhook.storage.engine import Session
from everhook.storage.tables import CircuitRow, now
from everhook.storage.tenant_scope import TenantScope
from everhook.tenants import store as tenants


@dataclass(frozen=True)
class ScoredView:
    """An endpoint with its health within a window, and its alerts."""

    view: EndpointView
    health: EndpointHealth
    alerts: Mapping[AlertName, RaisedAlert]


@dataclass(frozen=True)
class ListedHealth:
    """The health of an endpoint in a list: its score at this moment, and its statistics since a moment."""

    health: Health
    stats: AttemptStats


class HealthService:
    """One for each process: it shares the board, which reads the figures of the overview every few seconds.

    `alert_defaults` are the limits for alerts of endpoints that set none. They are those of this process: the workers,
    which evaluate alerts, have their own environment."""

    def __init__(self, board: HealthBoard, alert_defaults: AlertLimits) -> None:
        self._board = board
        self._alert_defaults = alert_defaults

    async def endpoint(self, session: Session, gid: str, window: Window) -> ScoredView:
        """Raises NotFound."""
        view = await endpoints.view(session, gid)
        if view is None:
            raise NotFound("endpoint", gid)
        raised = await raised_alerts(session, [gid])
        return ScoredView(view, await endpoint_health(session, view.circuit, window, now()), raised.get(gid, {}))

    async def of_endpoints(
        self, session: Session, circuits: Sequence[CircuitRow], since: datetime
    ) -> Mapping[str, ListedHealth]:
        """The health of the endpoints with these circuits, by gid; statistics since `since`."""
        gids = [circuit.endpoint_gid for circuit in circuits]
        stats = await stats_of_endpoints(session, since, gids)
        scores = await healths(session, circuits, now())
        return {gid: ListedHealth(scores[gid], stats.get(gid, AttemptStats())) for gid in gids}

    async def alert_limits(
        self, session: Session, tenant_gid: str | None, of_endpoint: Mapping[str, Any] | None = None
    ) -> AppliedLimits:
        """The limits for alerts that apply to an endpoint with these settings of its own. Without a tenant: the
        defaults."""
        tenant = await tenants.find_tenant(session, tenant_gid) if tenant_gid is not None else None
        return AppliedLimits.of(self._alert_defaults, tenant.alerts if tenant is not None else None, of_endpoint)

    async def overview(self, scope: TenantScope, tenant: str | None = None) -> Overview:
        """Of one tenant, or of everything that the scope covers. Raises InvalidField for an unknown tenant."""
        if tenant is None:
            return await self._board.overview(scope.tenant_gid)
        async with scope.reading() as session:
            found = await tenants.named_tenant(session, tenant)
        return await self._board.overview(found.gid)
