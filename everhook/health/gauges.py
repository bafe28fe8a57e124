"""Prometheus gauges of the backlog, and the whole exposition of a process."""

from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from everhook.circuit.machine import CircuitState, Hold
from everhook.health.backlog_store import Backlog
from everhook.observability.metrics import REGISTRY
from everhook.storage.tables import now

_CIRCUIT_STATES = [*CircuitState, *Hold]


class _BacklogCollector(Collector):
    """Gauges of one backlog. If it could not be counted there are none, rather than old ones."""

    def __init__(self, backlog: Backlog | None) -> None:
        self._backlog = backlog

    def collect(self) -> Iterator[Metric]:
        backlog = self._backlog
        if backlog is None:
            return
        yield _gauge("dead_letters", "Dead letters that wait for an operator.", backlog.dead_letter_count)
        yield _gauge("parked", "Deliveries that wait for a circuit, or for a paused endpoint.", backlog.parked.count)
        yield _gauge("undispatched", "Accepted deliveries not known to be started.", backlog.undispatched.count)
        yield _gauge("overdue", "Deliveries whose next step was due more than a minute ago.", backlog.overdue.count)
        yield _gauge(
            "oldest_undispatched_seconds",
            "How long the oldest of those has waited; 0: none does.",
            _age(backlog.undispatched.oldest),
        )
        circuits = GaugeMetricFamily(
            "everhook_circuits", "Endpoints by the state of their circuit, or held.", labels=["state"]
        )
        for state in _CIRCUIT_STATES:
            circuits.add_metric([state.value], backlog.circuits.get(state.value, 0))
        yield circuits
        queue = GaugeMetricFamily(
            "everhook_pull_queue",
            "Deliveries in queues, from which consumers pull.",
            labels=["state"],
        )
        for name, count in backlog.pulls.counts.items():
            queue.add_metric([name], count)
        yield queue
        yield _gauge(
            "pull_oldest_seconds",
            "How long the oldest delivery that could be pulled has been queued; 0: there is none.",
            _age(backlog.pulls.oldest),
        )
        yield _gauge("tasks_open", "Tasks of inboxes that wait for a decision.", backlog.tasks.open)
        yield _gauge("tasks_overdue", "Open tasks past their due date: their timers are late.", backlog.tasks.overdue)


def _age(moment: datetime | None) -> float:
    return max(0.0, (now() - moment).total_seconds()) if moment is not None else 0.0


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"everhook_{name}", help_, value)


def exposition(backlog: Backlog | None) -> bytes:
    """All metrics in Prometheus' text format."""
    gauges = CollectorRegistry()
    gauges.register(_BacklogCollector(backlog))
    return generate_latest(REGISTRY) + generate_latest(gauges)
