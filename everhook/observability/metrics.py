"""The metrics of Everhook, for Prometheus. No label names a tenant or an endpoint: their number is unbounded.

Counters and histograms are those of this process. Gauges come from the database and are the same in every process: sum
the former, take the `max` of the latter.
"""

from collections.abc import Iterable
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from everhook import __version__
from everhook.contracts import Verdict
from everhook.event_types.modes import FaultKind, ValidationMode

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

MESSAGES_ACCEPTED = Counter(
    "everhook_messages_accepted",
    "Messages accepted with 202, without duplicates and operational events.",
    registry=REGISTRY,
)
VALIDATION_FAILURES = Counter(
    "everhook_validation_failures",
    "Messages that do not fit the catalogue of event types, by what the channel does with them (warn, reject) and why.",
    ["validation", "fault"],
    registry=REGISTRY,
)
ATTEMPTS = Counter("everhook_attempts", "Requests to endpoints, by verdict.", ["verdict"], registry=REGISTRY)
ATTEMPT_SECONDS = Histogram(
    "everhook_attempt_seconds",
    "How long requests to endpoints took, timeouts and refusals included.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
    registry=REGISTRY,
)
DELIVERY_SECONDS = Histogram(
    "everhook_delivery_seconds",
    "From the acceptance of a delivery to its success in its first round, retries and parking included.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 86_400),
    registry=REGISTRY,
)

LEASES_EXPIRED = Counter(
    "everhook_leases_expired",
    "Leases of pulled deliveries that ended without an acknowledgement.",
    registry=REGISTRY,
)

SCHEDULED_REFUSED = Counter(
    "everhook_scheduled_refused",
    "Scheduled messages that were due and not delivered: their gate cannot be asked, or their endpoint was deleted.",
    registry=REGISTRY,
)

STREAMS = Gauge("everhook_streams", "Open streams of pulled deliveries at this process.", registry=REGISTRY)

HISTORY_SKIPPED = Counter(
    "everhook_history_skipped",
    "Delivered deliveries without a workflow in Temporal's history, because it lagged by more than an hour.",
    registry=REGISTRY,
)

for _verdict in (Verdict.DELIVERED, Verdict.RETRY, Verdict.REJECTED):
    ATTEMPTS.labels(_verdict)  # exists from the start: a rate needs a value before the first increment
for _mode, _fault in product((ValidationMode.WARN, ValidationMode.REJECT), FaultKind):
    VALIDATION_FAILURES.labels(_mode, _fault)


class _Build(Collector):
    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("everhook_build", "Which Everhook this is.", {"version": __version__})


REGISTRY.register(_Build())
