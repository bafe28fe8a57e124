"""The parts of the API's responses that the commands read. A test compares them with the API's schemas."""

from typing import Any, TypedDict


class Channel(TypedDict):
    name: str
    policy: dict[str, Any] | None
    gates: list[dict[str, Any]] | None
    createdAt: str


class Circuit(TypedDict):
    state: str
    failures: int
    failingSince: str | None
    until: str | None


class PublicKey(TypedDict):
    publicKey: str
    expiresAt: str | None


class Endpoint(TypedDict):
    endpointGid: str
    tenant: str
    mode: str
    options: dict[str, Any] | None
    url: str | None
    description: str
    status: str
    statusReason: str
    circuit: Circuit
    policy: dict[str, Any] | None
    rateLimit: float | None
    signatures: list[str]
    format: str
    headers: dict[str, str]
    metadata: dict[str, Any]
    publicKeys: list[PublicKey]
    createdAt: str


class EndpointCreated(Endpoint):
    subscriptionGid: str | None
    secret: str


class SecretRotated(TypedDict):
    endpointGid: str
    secret: str
    previousUntil: str | None
    publicKeys: list[PublicKey]


class TestSent(TypedDict):
    messageGid: str
    deliveryGid: str


class Subscription(TypedDict):
    subscriptionGid: str
    endpointGid: str
    channel: str
    events: list[str]
    filter: dict[str, Any] | None
    enabled: bool
    createdAt: str


class DeliverySummary(TypedDict):
    deliveryGid: str
    endpointGid: str
    status: str


class Accepted(TypedDict):
    messageGid: str
    channel: str
    type: str
    publishedAt: str
    duplicate: bool
    deliveries: list[DeliverySummary]


class Delivery(TypedDict):
    deliveryGid: str
    messageGid: str
    endpointGid: str
    channel: str
    type: str
    status: str
    round: int
    attemptsMade: int
    acceptedAt: str
    nextAttemptAt: str | None
    completedAt: str | None
    deadLetteredAt: str | None
    deadLetterReason: str | None
    lastStatusCode: int | None
    lastError: str | None
    resolvedBy: str | None
    resolutionReason: str | None


class Attempt(TypedDict):
    attemptGid: str
    round: int
    number: int
    verdict: str
    startedAt: str
    durationMs: int
    statusCode: int | None
    error: str | None
    errorDetail: str | None
    url: str
    peerAddress: str | None
    responseHeaders: list[list[str]] | None
    responseBody: str | None
    nextAttemptAt: str | None


class DeliveryDetail(Delivery):
    attempts: list[Attempt]


class DeadLetterDetail(DeliveryDetail):
    payload: Any


class LiveDelivery(TypedDict):
    status: str
    round: int
    attempt: int
    waitingFor: str
    nextAttemptAt: str | None


class Task(TypedDict):
    taskGid: str
    inbox: str
    title: str
    state: str
    version: int
    assignees: list[str]
    dueAt: str
    overdue: bool
    outcome: str | None
    decidedBy: str | None


class TaskDetail(Task):
    task: dict[str, Any]
    payload: Any
    comment: str | None
    data: dict[str, Any] | None
    requestedBy: str | None
    notes: list[dict[str, Any]]
    receiptGid: str | None


class BulkOperation(TypedDict):
    matched: int
    skipped: int
    batchGid: str | None


class Batch(TypedDict):
    batchGid: str
    state: str
    total: int
    completed: int
    failed: int


class AttemptStats(TypedDict):
    attempts: int
    delivered: int
    successRate: float | None


class ScoreComponent(TypedDict):
    points: float
    outOf: float
    reason: str


class RecurringError(TypedDict):
    error: str
    count: int
    endpoints: int
    since: str
    lastSeen: str


class ScoredEndpoint(TypedDict):
    endpointGid: str
    tenant: str
    url: str
    status: str
    circuit: Circuit
    score: int
    level: str
    parts: list[ScoreComponent]
    lastHour: AttemptStats


class EndpointHealth(TypedDict):
    endpointGid: str
    status: str
    circuit: Circuit
    score: int
    level: str
    parts: list[ScoreComponent]
    window: str
    total: AttemptStats
    errors: list[RecurringError]
    series: list[AttemptStats]


class HealthOverview(TypedDict):
    endpoints: list[ScoredEndpoint]
    errors: list[RecurringError]


class Readiness(TypedDict):
    ready: bool
    database: str
    temporal: str
