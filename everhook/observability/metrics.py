"""What Everhook counts, for Prometheus. No label names a tenant or an endpoint: there may be any number of those.

Counters and histograms are of this process, gauges of the database and so the same in every process: sum the former,
take the `max` of the latter.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from everhook import __version__
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import Verdict
from everhook.health.backlog_store import Standing
from everhook.storage.tables import now

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

MESSAGES_ACCEPTED = Counter(
    "everhook_messages_accepted",
    "Messages answered with 202 and new: no duplicates, and no operational events.",
    registry=REGISTRY,
)
ATTEMPTS = Counter(
    "everhook_attempts", "Requests made to endpoints, by what they came to.", ["verdict"], registry=REGISTRY
)
ATTEMPT_SECONDS = Histogram(
    "everhook_attempt_seconds",
    "How long requests to endpoints took, timeouts and refusals included.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
    registry=REGISTRY,
)
DELIVERY_SECONDS = Histogram(
    "everhook_delivery_seconds",
    "From the acceptance of a delivery to its success, retries, parking and replays included.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 86_400),
    registry=REGISTRY,
)

HISTORY_SKIPPED = Counter(
    "everhook_history_skipped",
    "Delivered deliveries without a workflow in Temporal's history, because it lagged by more than an hour.",
    registry=REGISTRY,
)

for _verdict in (Verdict.DELIVERED, Verdict.RETRY, Verdict.REJECTED):
    ATTEMPTS.labels(_verdict)  # there from the beginning: a rate needs a value before the first

_CIRCUIT_STATES = [*CircuitState, *Hold]


class _Build(Collector):
    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("everhook_build", "Which Everhook this is.", {"version": __version__})


class _Standing(Collector):
    """Gauges as of one look at the database; none, rather than old ones, where it could not be looked at."""

    def __init__(self, standing: Standing | None) -> None:
        self._standing = standing

    def collect(self) -> Iterator[Metric]:
        standing = self._standing
        if standing is None:
            return
        oldest = standing.undispatched.oldest
        age = max(0.0, (now() - oldest).total_seconds()) if oldest is not None else 0.0
        yield _gauge("dead_letters", "Dead letters that wait for an operator.", standing.dead_letter_count)
        yield _gauge("parked", "Deliveries that wait for a circuit, or for a paused endpoint.", standing.parked.count)
        yield _gauge("undispatched", "Accepted deliveries not known to be started.", standing.undispatched.count)
        yield _gauge("overdue", "Deliveries whose next step was due more than a minute ago.", standing.overdue.count)
        yield _gauge("oldest_undispatched_seconds", "How long the oldest of those has waited; 0: none does.", age)
        circuits = GaugeMetricFamily(
            "everhook_circuits", "Endpoints by the state of their circuit, or held.", labels=["state"]
        )
        for state in _CIRCUIT_STATES:
            circuits.add_metric([state.value], standing.circuits.get(state.value, 0))
        yield circuits


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"everhook_{name}", help_, value)


REGISTRY.register(_Build())


def exposition(standing: Standing | None) -> bytes:
    """Everything, in Prometheus' text format."""
    gauges = CollectorRegistry()
    gauges.register(_Standing(standing))
    return generate_latest(REGISTRY) + generate_latest(gauges)
