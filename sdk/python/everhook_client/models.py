"""The JSON of the API as typed dictionaries.

Generated from its OpenAPI document by `make client-models`; do not edit. Times are text in RFC 3339.
"""

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

AlertName: TypeAlias = Literal["success_rate", "dead_letters", "latency"]
"""
What an alert is about.
"""


class AlertSettings(TypedDict):
    """
    When an endpoint raises an alert. What is absent comes from its tenant, and then from the environment; null:
    never. An alert is cleared after a quiet period of `overMinutes`.
    """

    successRateBelow: NotRequired[float | None]
    """
    Fraction of successful attempts within `overMinutes`.
    """
    overMinutes: NotRequired[float | None]
    """
    The time range of rate and response time.
    """
    minAttempts: NotRequired[int | None]
    """
    With fewer attempts (or responses) within `overMinutes`, success rate and latency raise no alert.
    """
    deadLettersAbove: NotRequired[int | None]
    """
    Dead letters of the endpoint that wait.
    """
    latencyAboveMs: NotRequired[float | None]
    """
    Mean response time within `overMinutes`.
    """


class ApiKey(TypedDict):
    """
    A key without the key itself.
    """

    keyGid: str
    name: str
    scopes: list[str]
    tenant: str | None
    state: Literal["active", "expired", "revoked"]
    createdBy: str
    createdAt: str
    expiresAt: str | None
    revokedAt: str | None


class ApiKeyCreated(TypedDict):
    """
    A new key, with the key itself.
    """

    keyGid: str
    name: str
    scopes: list[str]
    tenant: str | None
    state: Literal["active", "expired", "revoked"]
    createdBy: str
    createdAt: str
    expiresAt: str | None
    revokedAt: str | None
    key: str
    """
    Shown this once.
    """


class ApiKeyIn(TypedDict):
    """
    A key with `tenant` reaches that tenant only, and `publish` is the one scope that can be added to it. With a
    scope for one endpoint it reaches that endpoint only.
    """

    name: str
    """
    Who uses the key. The name is recorded with each action.
    """
    scopes: NotRequired[list[str]]
    """
    `admin`, `publish` and `read`. Or `receive:<endpoint gid>`: to poll, stream and acknowledge the deliveries of this endpoint, and nothing else. Or `tasks:<endpoint gid>`: to see and decide the tasks of this inbox, as the person whom `name` names.
    """
    tenant: NotRequired[str | None]
    """
    The tenant's name.
    """
    expiresAt: NotRequired[str | None]


class AuditEntry(TypedDict):
    """
    One action of a key, a person or Everhook.
    """

    auditGid: str
    actor: str
    """
    The name of the key.
    """
    keyGid: str | None
    """
    The key of that name; null for the environment's key and for commands.
    """
    action: str
    subject: str
    """
    The gid or name of what was acted on.
    """
    tenant: str | None
    address: str | None
    """
    Where the call came from.
    """
    detail: dict[str, Any]
    createdAt: str


AuthType: TypeAlias = Literal["bearer", "basic", "header", "oauth2"]
"""
How requests to an endpoint authenticate. `oauth2`: with an access token for client credentials.
"""


BatchKind: TypeAlias = Literal["channel_replay", "dead_letter_replay", "dead_letter_purge"]
"""
`CHANNEL_REPLAY`: a workflow of Everhook opens rounds. The others are bulk operations on dead letters, which
Temporal runs as batch operations.
"""


BatchState: TypeAlias = Literal["running", "completed", "cancelled", "failed"]
"""
`FAILED`: only of bulk operations on dead letters.
"""


BodyFormat: TypeAlias = Literal["envelope", "event", "raw", "cloudevents"]


class BulkOperation(TypedDict):
    """
    A replay or a purge of all dead letters that match.
    """

    matched: int
    skipped: int
    """
    Further dead letters that match, and that a replay leaves alone: their endpoint was deleted.
    """
    batchGid: str | None
    """
    Null for a dry run, and where nothing matched.
    """


class Checkpoint(TypedDict):
    """
    The size of a log and its root, signed.
    """

    size: int
    """
    How many receipts are under it.
    """
    root: str
    checkpoint: str
    """
    A signed note (c2sp.org/tlog-checkpoint): keep it.
    """
    createdAt: str


class CircuitCounts(TypedDict):
    """
    Endpoints by the state of their circuit. One that is paused or disabled counts only as that.
    """

    closed: NotRequired[int]
    open: NotRequired[int]
    halfOpen: NotRequired[int]
    paused: NotRequired[int]
    disabled: NotRequired[int]


class CircuitSettings(TypedDict):
    """
    When the circuit of an endpoint opens and how it closes again. What is absent comes from the channels that the
    endpoint subscribes to, the oldest subscription first, and then from the environment.
    """

    failureThreshold: NotRequired[int]
    """
    Failures in a row that open the circuit.
    """
    cooldownSeconds: NotRequired[float]
    """
    How long it stays open at first; doubles with each relapse.
    """
    cooldownMaxSeconds: NotRequired[float]
    """
    How long it stays open at most.
    """
    disableAfterHours: NotRequired[float]
    """
    An endpoint that fails for this long without a success is disabled.
    """
    releasePerSecond: NotRequired[float]
    """
    Parked deliveries released in the first second after it closes; doubles each second.
    """
    releasePerSecondMax: NotRequired[float]
    """
    Parked deliveries released per second at most.
    """


CircuitState: TypeAlias = Literal["closed", "open", "half_open"]


class ConsistencyBundle(TypedDict):
    """
    Two checkpoints with the proof that the log was only added to between them. Save it as it is.
    """

    type: Literal["everhook.consistency-bundle"]
    version: Literal[1]
    oldCheckpoint: str
    """
    A signed note (c2sp.org/tlog-checkpoint): keep it.
    """
    newCheckpoint: str
    """
    A signed note (c2sp.org/tlog-checkpoint): keep it.
    """
    consistencyProof: list[str]
    """
    Hashes in base64.
    """
    jwks: dict[str, Any]


class Consumer(TypedDict):
    name: str
    address: str | None
    since: str
    """
    When the oldest of its open leases was handed out.
    """
    inFlight: int


class DeadLetterCounts(TypedDict):
    total: int
    """
    Counted up to 100000.
    """
    byReason: dict["DeadLetterReason", int]


DeadLetterReason: TypeAlias = Literal[
    "exhausted",
    "rejected",
    "blocked",
    "circuit_open",
    "endpoint_disabled",
    "endpoint_deleted",
    "payload_erased",
    "unsendable",
    "unclaimed",
    "expired",
    "declined",
]
"""
Why a round ended without delivering.

`UNCLAIMED`: no consumer took it within the window. `EXPIRED`: no person decided in time. `DECLINED`: a person
declined it, so it was discarded; this is no dead letter.
"""


class Decision(TypedDict):
    """
    The reason for a replay or a discard.
    """

    reason: NotRequired[str]
    """
    Recorded with the delivery and in the audit trail.
    """


class Delegation(TypedDict):
    """
    Who decides instead.
    """

    to: str
    comment: NotRequired[str]


DeliveryMode: TypeAlias = Literal["http", "stream", "poll", "inbox", "internal"]
"""
How an endpoint receives. `STREAM` and `POLL` are one queue with leases; they differ only in what is expected.
"""


DeliveryStatus: TypeAlias = Literal[
    "accepted",
    "sending",
    "retrying",
    "parked",
    "available",
    "awaiting_decision",
    "gated",
    "queued",
    "delivered",
    "dead_lettered",
    "discarded",
]
"""
The status of a delivery.

`AVAILABLE`: in the pull queue, leased or not. `AWAITING_DECISION`: a person has to decide. `GATED`: waits for the
decisions of a gate. `QUEUED`: waits for those before it in its group.
"""


class DeliverySummary(TypedDict):
    """
    A delivery, in the response that names its message.
    """

    deliveryGid: str
    endpointGid: str
    status: DeliveryStatus


DependencyState: TypeAlias = Literal["ok", "down"]
"""
Whether a dependency responded to the last check.
"""


class EndpointAuthIn(TypedDict):
    """
    How requests authenticate. `bearer` takes `token`; `basic` takes `username` and `password`; `header` takes `name`
    and `value`; `oauth2` (client credentials) takes `tokenUrl`, `clientId`, `clientSecret`, and optionally `scope` and
    `audience`. Secrets are encrypted, and not shown again.
    """

    type: AuthType
    token: NotRequired[str]
    """
    A secret.
    """
    username: NotRequired[str]
    password: NotRequired[str]
    """
    A secret.
    """
    name: NotRequired[str]
    """
    Of the header.
    """
    value: NotRequired[str]
    """
    Of the header. A secret.
    """
    tokenUrl: NotRequired[str]
    """
    Where access tokens are requested; the rules of `url` hold for it.
    """
    clientId: NotRequired[str]
    clientSecret: NotRequired[str]
    """
    A secret.
    """
    scope: NotRequired[str]
    audience: NotRequired[str]


class EndpointAuth(TypedDict):
    """
    How requests authenticate, without the secret.
    """

    type: AuthType
    username: NotRequired[str]
    name: NotRequired[str]
    tokenUrl: NotRequired[str]
    clientId: NotRequired[str]
    scope: NotRequired[str]
    audience: NotRequired[str]


class EndpointCircuit(TypedDict):
    """
    The circuit of an endpoint, with its own settings.
    """

    state: CircuitState
    failures: int
    """
    Failures in a row.
    """
    failingSince: str | None
    until: str | None
    """
    When the cooldown, or the wait for a probe, ends.
    """
    settings: CircuitSettings | None
    """
    Those that the endpoint sets itself; null: none.
    """


EndpointMode: TypeAlias = Literal["http", "stream", "poll", "inbox", "internal"]
"""
How an endpoint receives: Everhook sends webhooks (`http`), or consumers take deliveries out of a queue. `stream`
and `poll` are one queue; they differ in what the dashboard expects to see. Of `inbox` people decide; `internal`
deliveries are handled by Everhook itself.
"""


EndpointStatus: TypeAlias = Literal["enabled", "paused", "disabled"]
"""
Whether an operator, or Everhook after days of failures, holds back what is sent to an endpoint.
"""


class EventTypeImportIn(TypedDict):
    document: dict[str, Any]
    """
    An OpenAPI document (3.1) with `webhooks`.
    """
    dryRun: NotRequired[bool]
    """
    Report what would change, and change nothing.
    """


class EventTypeImport(TypedDict):
    """
    The names of the event types of a document, by what the import did.
    """

    created: list[str]
    changed: list[str]
    unchanged: list[str]


class EventTypeIn(TypedDict):
    name: str
    description: NotRequired[str]
    schema: NotRequired[dict[str, Any] | bool | None]
    """
    The JSON Schema (2020-12) that payloads fit: an object, `true` or `false`. `format` is not checked.
    """
    example: NotRequired[Any]
    """
    A payload, which fits the schema. Test messages have it.
    """
    deprecated: NotRequired[bool]
    archived: NotRequired[bool]


class EventType(TypedDict):
    name: str
    description: str
    schema: dict[str, Any] | bool | None
    """
    The JSON Schema (2020-12) that payloads fit: an object, `true` or `false`. `format` is not checked.
    """
    example: Any
    deprecated: bool
    archived: bool
    createdAt: str
    updatedAt: str


class EventTypePatch(TypedDict):
    """
    What is absent stays as it is.
    """

    description: NotRequired[str | None]
    schema: NotRequired[dict[str, Any] | bool | None]
    """
    The JSON Schema (2020-12) that payloads fit: an object, `true` or `false`. `format` is not checked. Null: none.
    """
    example: NotRequired[Any]
    """
    Null: none.
    """
    deprecated: NotRequired[bool | None]
    archived: NotRequired[bool | None]
    """
    Whether channels with the validation `reject` refuse it.
    """


class EventTypeSummary(TypedDict):
    """
    An event type without its schema and example.
    """

    name: str
    description: str
    deprecated: bool
    archived: bool
    hasSchema: bool
    createdAt: str
    updatedAt: str


class Exponential(TypedDict):
    """
    Waits that grow by a factor, up to a cap.
    """

    initialSeconds: float
    factor: NotRequired[float]
    capSeconds: float
    attempts: int


class FailedCondition(TypedDict):
    """
    The first condition of a filter that does not hold.
    """

    path: str
    """
    Where it stands in the filter.
    """
    expected: dict[str, Any]
    """
    The operator with its operand.
    """
    found: Any
    """
    The value of the message there; null also if there is none.
    """


class FieldError(TypedDict):
    """
    One field of the request that is wrong.
    """

    field: str
    """
    Where it is in the request.
    """
    code: str
    """
    What is wrong, for programs.
    """
    message: str
    """
    What is wrong, for people.
    """


GateState: TypeAlias = Literal["open", "passed", "declined"]


class GateStep(TypedDict):
    """
    A step of a gate: who has to approve a message before it is sent.
    """

    inbox: str
    """
    The endpoint that asks.
    """
    task: NotRequired[dict[str, Any]]
    """
    What it asks; the `task` of the publish and the defaults of the inbox fill in the rest.
    """
    filter: NotRequired[dict[str, Any]]
    """
    Ask only if the payload matches, as in subscriptions.
    """


class Growth(TypedDict):
    """
    Proof that a log was only added to between two sizes.
    """

    oldSize: int
    newSize: int
    proof: list[str]
    """
    Hashes in base64.
    """


HandlerKind: TypeAlias = Literal["email", "chat", "reminder", "escalation"]
"""
What Everhook does with a delivery itself.
"""


class HandlerOptions(TypedDict):
    """
    What Everhook does with deliveries itself. The kind `email` has `to`, `subject` and `body`; `chat` has `url` and
    `text`; `reminder` and `escalation` take all from the payload.
    """

    kind: HandlerKind
    to: NotRequired[list[str]]
    """
    Mail addresses; `assignees` stands for those of the event.
    """
    subject: NotRequired[str]
    """
    A template: `{path}` is replaced by a value of the payload.
    """
    body: NotRequired[str]
    """
    A template, as `subject`.
    """
    url: NotRequired[str]
    """
    An incoming webhook of Slack, Mattermost or Teams. It is a secret: only its origin is shown.
    """
    text: NotRequired[str]
    """
    A template, as `subject`.
    """


Held: TypeAlias = Literal["paused", "disabled", "circuit_open", "max_in_flight"]
"""
Why an endpoint hands nothing out.
"""


class JsonWebKeySet(TypedDict):
    """
    Public keys (RFC 7517).
    """

    keys: list[dict[str, Any]]


class LatencyBands(TypedDict):
    """
    How many responses took how long.
    """

    under100Ms: int
    under500Ms: int
    under2000Ms: int
    slower: int


LeaseStatus: TypeAlias = Literal["acked", "nacked", "extended", "lost", "conflict", "unknown"]
"""
What an ack, a nack or an extension did.

`LOST`: the lease is not the current one; nothing changed. `CONFLICT`: the delivery is a dead letter or was
discarded. `UNKNOWN`: this endpoint has no such delivery, or the lease is malformed or was not handed out yet.
"""


Level: TypeAlias = Literal["healthy", "degraded", "failing", "idle"]
"""
The score in a word. `IDLE`: no attempts within a day, and nothing is known to be wrong.
"""


LifecycleKind: TypeAlias = Literal[
    "message.accepted",
    "message.gated",
    "message.released",
    "message.declined",
    "message.cancelled",
    "message.settled",
    "delivery.available",
    "delivery.attempted",
    "delivery.delivered",
    "delivery.dead_lettered",
    "delivery.replayed",
    "delivery.discarded",
    "task.opened",
    "task.reminded",
    "task.escalated",
    "task.delegated",
    "task.decided",
    "task.expired",
]


class ApiKeyList(TypedDict):
    data: list[ApiKey]
    nextCursor: str | None


class AuditEntryList(TypedDict):
    data: list[AuditEntry]
    nextCursor: str | None


class CheckpointList(TypedDict):
    data: list[Checkpoint]
    nextCursor: str | None


class EventTypeSummaryList(TypedDict):
    data: list[EventTypeSummary]
    nextCursor: str | None


class LiveDelivery(TypedDict):
    """
    What the delivery's workflow reports.
    """

    status: DeliveryStatus
    round: int
    attempt: int
    waitingFor: str
    """
    `nothing` once it was delivered or discarded.
    """
    nextAttemptAt: str | None
    deadLetterReason: DeadLetterReason | None


class Liveness(TypedDict):
    """
    The process runs and its event loop responds.
    """

    status: NotRequired[Literal["ok"]]


class Message(TypedDict):
    """
    A message without its payload.
    """

    messageGid: str
    channel: str
    type: str
    tenant: str | None
    idempotencyKey: str | None
    publishedAt: str
    acceptedAt: str
    payloadErasedAt: str | None
    metadata: dict[str, str]
    """
    Its attributes.
    """
    endpointGid: str | None
    """
    The endpoint that alone gets it. Null: those that match.
    """
    retry: bool
    """
    False: each delivery has one attempt.
    """
    groupKey: str | None
    """
    Endpoints get the messages with this key in order.
    """
    deliverAt: str | None
    """
    When its deliveries are created, if that is later.
    """
    cancelledAt: str | None
    """
    When it was cancelled, before it had deliveries.
    """
    unrouted: bool
    """
    Whether it was accepted and no endpoint took it.
    """
    validationError: str | None
    """
    Where it does not fit the catalogue of event types, if its channel has the validation `warn`.
    """


OnGroupFailure: TypeAlias = Literal["continue", "block"]
"""
What a dead letter means for the group of its delivery. `BLOCK`: the next ones wait until it is delivered by a
replay, or discarded.
"""


Outcome: TypeAlias = Literal["delivered", "partly", "dead_lettered", "discarded", "declined", "cancelled"]
"""
What became of a message all of whose deliveries are settled. `DECLINED`: a person refused it. `CANCELLED`: its
publisher did, before it had deliveries.
"""


class PersonalDecision(TypedDict):
    """
    One person's decision; a quorum needs several.
    """

    by: str
    outcome: str
    comment: str | None
    data: dict[str, Any] | None
    at: str


PolicyPreset: TypeAlias = Literal["documented", "patient", "brisk"]
"""
A schedule by name.
"""


class PortalLinkIn(TypedDict):
    """
    How long the session that the link opens lasts.
    """

    sessionSeconds: NotRequired[int]
    person: NotRequired[str | None]
    """
    Who visits the portal, to decide tasks in this name. Without it the portal itself decides.
    """


class PortalLink(TypedDict):
    url: str
    """
    Send the tenant's browser there, or open it in a frame. It works once.
    """
    expiresAt: str
    """
    When the link expires if it is not opened.
    """


class Problem(TypedDict):
    """
    The response to every call that fails (`application/problem+json`, RFC 9457).
    """

    type: Literal[
        "/problems/malformed-request",
        "/problems/invalid-request",
        "/problems/unauthenticated",
        "/problems/forbidden",
        "/problems/reserved-channel",
        "/problems/not-found",
        "/problems/method-not-allowed",
        "/problems/payload-too-large",
        "/problems/payload-does-not-fit",
        "/problems/unknown-event-type",
        "/problems/conflict",
        "/problems/channel-exists",
        "/problems/channel-in-use",
        "/problems/event-type-exists",
        "/problems/tenant-name-taken",
        "/problems/tenant-in-use",
        "/problems/too-many-secrets",
        "/problems/quota-exceeded",
        "/problems/idempotency-key-reused",
        "/problems/idempotent-call-running",
        "/problems/not-a-dead-letter",
        "/problems/no-attempt-due",
        "/problems/not-pulled",
        "/problems/too-many-deliveries",
        "/problems/gate-not-passed",
        "/problems/not-scheduled",
        "/problems/not-released",
        "/problems/receipt-archived",
        "/problems/already-decided",
        "/problems/task-changed",
        "/problems/payload-erased",
        "/problems/endpoint-deleted",
        "/problems/not-configured",
        "/problems/rate-limited",
        "/problems/too-many-streams",
        "/problems/bulk-operation-running",
        "/problems/temporal-busy",
        "/problems/backlog-full",
        "/problems/unavailable",
        "/problems/internal-error",
    ]
    """
    What kind of problem it is, for programs.
    """
    title: str
    status: int
    detail: str
    """
    What happened in this case, for people.
    """
    errors: NotRequired[list[FieldError]]


class PublicKey(TypedDict):
    publicKey: str
    expiresAt: str | None
    """
    Null for the current one.
    """


class PublishedMessage(TypedDict):
    """
    A message that was accepted, with one delivery for each matching endpoint.
    """

    messageGid: str
    channel: str
    type: str
    publishedAt: str
    deliverAt: str | None
    """
    When its deliveries are created, if that is later; `deliveries` is empty until then.
    """
    duplicate: bool
    """
    Whether its idempotency key was used before; then nothing new was published.
    """
    deliveries: list[DeliverySummary]
    validationError: NotRequired[str | None]
    """
    Where it does not fit the catalogue of event types; absent if it does, or is not checked.
    """


class PublishedMessages(TypedDict):
    """
    What became of each message of a batch, in their order.
    """

    data: list[PublishedMessage | Problem]
    """
    A problem document stands for a message whose idempotency key was used with another body.
    """


class PulledMetadata(TypedDict):
    publishedAt: str
    round: int
    attempt: int


class Queue(TypedDict):
    """
    The queue of an endpoint. Each number is counted up to 100,000.
    """

    available: int
    """
    Deliveries that can be handed out now.
    """
    waiting: int
    """
    Those that wait for their next attempt.
    """
    leased: int
    oldestSeconds: float | None
    """
    The age of the oldest one; null if the queue is empty.
    """
    consumers: list[Consumer]
    """
    Those that hold leases.
    """


class RaisedAlert(TypedDict):
    """
    An alert of an endpoint that is raised now.
    """

    alert: AlertName
    since: str
    value: float
    """
    When it was raised: a fraction, a number, or milliseconds.
    """
    threshold: float


class Readiness(TypedDict):
    """
    `ready`: can accept messages. That takes the database alone; with Temporal down, deliveries wait.
    """

    ready: bool
    database: DependencyState
    temporal: DependencyState


class Receipt(TypedDict):
    """
    A signed statement about one attempt.
    """

    receiptGid: str
    deliveryGid: str
    attemptGid: str
    round: int
    number: int
    seq: int | None
    """
    Its place in the tenant's log, once it is under a checkpoint.
    """
    receipt: str
    """
    As it was signed: a compact JWS.
    """
    statement: dict[str, Any] | None
    """
    Its claims, to be read. Null where the row was damaged.
    """
    createdAt: str


class ReceiptBundle(TypedDict):
    """
    A receipt with the proof of its place in the log of a checkpoint. Save it as it is.
    """

    type: Literal["everhook.receipt-bundle"]
    version: Literal[1]
    receipt: str
    seq: int
    inclusionProof: list[str]
    """
    Hashes in base64.
    """
    checkpoint: str
    """
    A signed note (c2sp.org/tlog-checkpoint): keep it.
    """
    consistency: NotRequired[Growth | None]
    """
    With `since`.
    """
    jwks: dict[str, Any]


class RecurringError(TypedDict):
    """
    `since`: when the error began to recur without a pause of more than 15 minutes. Errors are counted by the minute:
    both times are starts of minutes.
    """

    error: str
    count: int
    endpoints: int
    """
    How many endpoints had it.
    """
    since: str
    lastSeen: str


class RedeliveryRequest(TypedDict):
    """
    To whom a message is sent again, and why.
    """

    endpointGid: NotRequired[str | None]
    """
    To this endpoint only, also if it does not subscribe to the message.
    """
    reason: NotRequired[str]
    """
    Recorded with the deliveries and in the audit trail.
    """


RedeliveryResult: TypeAlias = Literal["round_opened", "created", "left_open", "endpoint_deleted"]
"""
What a replay of a message did with a delivery.

`ROUND_OPENED`: its next round begins. `CREATED`: the endpoint had no delivery of the message. `LEFT_OPEN`: it is
in progress, so nothing was changed. `ENDPOINT_DELETED`: there is nowhere to send to.
"""


class Replay(TypedDict):
    """
    A replay that was counted, and started unless it is a dry run.
    """

    matched: int
    """
    How many deliveries match, those without a payload included.
    """
    matchedAtLeast: bool
    """
    Whether `matched` and `erased` are lower bounds, because counting all would take long.
    """
    erased: int
    """
    How many of them are skipped, because the payload was erased.
    """
    batchGid: str | None
    """
    Null for a dry run, and where nothing matched.
    """


ReplayMode: TypeAlias = Literal["failed", "missing", "all"]
"""
What of a channel is replayed. `FAILED`: dead letters, and what was discarded. `ALL`: also what was delivered.
`MISSING`: messages that an endpoint subscribes to and never had a delivery of.
"""


class RoundPolicy(TypedDict):
    """
    A policy with its schedule as delays. An attempt that fails is followed by the next after its delay.
    """

    delaysSeconds: list[float]
    """
    Waits after the first, second, … attempt.
    """
    jitter: float
    timeoutSeconds: float
    maxWindowSeconds: float
    retryStatuses: list[int]


ScoreComponentName: TypeAlias = Literal["success_1h", "success_24h", "latency_1h", "latency_24h", "circuit"]
"""
What a part of the score measures, and over which time.
"""


class ScoreComponent(TypedDict):
    """
    A part of the score.
    """

    name: ScoreComponentName
    points: float
    outOf: float
    """
    Less with little evidence, 0 with none.
    """
    reason: str
    """
    For people.
    """


class SecretRotated(TypedDict):
    """
    The new secret of an endpoint.
    """

    endpointGid: str
    secret: str
    """
    Shown this once.
    """
    previousUntil: str | None
    """
    When the last earlier secret ends; null if all have ended.
    """
    publicKeys: list[PublicKey]


class SecretRotation(TypedDict):
    """
    How to rotate the secret of an endpoint.
    """

    secret: NotRequired[str | None]
    """
    Your own: `whsec_` and 24 to 64 bytes in base64; without it one is generated.
    """
    gracePeriodSeconds: NotRequired[int]
    """
    How long earlier secrets go on signing.
    """


class SignalAccepted(TypedDict):
    """
    The signal was sent to the delivery's workflow, which acts as soon as it can.
    """

    deliveryGid: str
    requested: Literal["replay", "discard", "attempt_now"]


SignatureScheme: TypeAlias = Literal["standard", "timestamped", "npayload", "svix"]


StatusClass: TypeAlias = Literal["4xx", "5xx"]
"""
All statuses of a class.
"""


StepState: TypeAlias = Literal["skipped", "waiting", "open", "passed", "declined"]
"""
`SKIPPED`: its filter does not match, or the gate ended before it. `WAITING`: a step before it is open.
"""


class SubscriptionIn(TypedDict):
    endpointGid: str
    channel: str
    events: NotRequired[list[str]]
    """
    Patterns of types; none: every type.
    """
    filter: NotRequired[dict[str, Any] | None]
    includePayload: NotRequired[bool]
    """
    Only on `everhook.events`: the event `delivery.dead_lettered` carries the payload of the dead letter, as `data.payload`.
    """


class Subscription(TypedDict):
    subscriptionGid: str
    endpointGid: str
    channel: str
    events: list[str]
    filter: dict[str, Any] | None
    enabled: bool
    includePayload: bool
    createdAt: str


class SubscriptionPatch(TypedDict):
    """
    Fields that are absent stay as they are.
    """

    events: NotRequired[list[str] | None]
    filter: NotRequired[dict[str, Any] | None]
    enabled: NotRequired[bool | None]
    includePayload: NotRequired[bool | None]
    """
    Only on `everhook.events`: the event `delivery.dead_lettered` carries the payload of the dead letter, as `data.payload`.
    """


class SubscriptionTrialResult(TypedDict):
    """
    Whether the message matches, and what does not.
    """

    matches: bool
    typeMatches: bool
    failed: FailedCondition | None


class TaskComment(TypedDict):
    """
    A comment, which decides nothing.
    """

    comment: str


class TaskDecision(TypedDict):
    """
    A person's decision. `version` is that of the task that was read.
    """

    outcome: str
    comment: NotRequired[str]
    data: NotRequired[dict[str, Any] | None]
    version: int


class TaskLinkIn(TypedDict):
    """
    Whom a link is for.
    """

    assignee: str
    """
    One of those who are asked, or a member of a group that is.
    """


class TaskLink(TypedDict):
    """
    A link to the page of one task for one person.
    """

    url: str
    """
    Send it to this person only: its holder decides in the person's name.
    """
    expiresAt: str
    """
    The due date of the task, and 30 days from now at the latest.
    """


TaskState: TypeAlias = Literal["open", "decided", "expired", "cancelled"]


class TenantIn(TypedDict):
    name: str
    publishRate: NotRequired[str | None]
    """
    How many messages may be published for it at each API process, such as `100/minute`, whichever key publishes them. Null: no limit.
    """


class Tenant(TypedDict):
    tenantGid: str
    name: str
    publishRate: str | None
    """
    How many messages may be published for it at each API process, such as `100/minute`, whichever key publishes them. Null: no limit.
    """
    alerts: dict[str, Any] | None
    """
    Alert settings of its endpoints; null: none.
    """
    createdAt: str


class TenantPatch(TypedDict):
    """
    Fields that are absent stay as they are.
    """

    name: NotRequired[str | None]
    """
    Not null.
    """
    publishRate: NotRequired[str | None]
    """
    How many messages may be published for it at each API process, such as `100/minute`, whichever key publishes them. Null: no limit.
    """
    alerts: NotRequired[AlertSettings | None]
    """
    Of its endpoints. Their own override them key by key.
    """


class TestRequest(TypedDict):
    """
    What to send.
    """

    type: NotRequired[str | None]
    """
    An event type of the catalogue, whose example is sent. Without it: `everhook.test`.
    """


class TestSent(TypedDict):
    """
    A message that went to one endpoint alone.
    """

    messageGid: str
    deliveryGid: str


class Tls(TypedDict):
    ca: str | None
    clientCertificate: str | None


class TransactionalMessages(TypedDict):
    """
    The messages that were accepted in one transaction, in their order.
    """

    data: list[PublishedMessage]


class TriedMessage(TypedDict):
    """
    A message to match.
    """

    type: str
    payload: NotRequired[Any]
    metadata: NotRequired[dict[str, str]]


Until: TypeAlias = Literal["settled", "first"]
"""
`SETTLED`: all deliveries are settled. `FIRST`: one of them is.
"""


ValidationMode: TypeAlias = Literal["off", "warn", "reject"]
"""
What a channel does with messages that do not fit the catalogue of event types.
"""


Verdict: TypeAlias = Literal["delivered", "retry", "rejected", "parked"]
"""
What one attempt means for its delivery.

`PARKED`: no request was made because the circuit does not allow one.
"""


class Version(TypedDict):
    """
    Which version of Everhook this is.
    """

    version: str


class Waiting(TypedDict):
    count: int
    """
    Counted up to 100000.
    """
    oldestAcceptedAt: str | None


Window: TypeAlias = Literal["1h", "24h", "7d"]
"""
How far to look back. `bucket` is the length of a step in charts.
"""


Headers: TypeAlias = dict[str, str | None]


class NewMessage(TypedDict):
    payload: Any
    """
    Any JSON. Its bytes are delivered unchanged.
    """
    type: NotRequired[str]
    """
    Falls back to `payload.event`.
    """
    idempotencyKey: NotRequired[str]
    """
    Or the header `Idempotency-Key`.
    """
    tenant: NotRequired[str]
    """
    Deliver to this tenant's endpoints only.
    """
    publishedAt: NotRequired[str]
    task: NotRequired[dict[str, Any]]
    """
    What inboxes among the endpoints ask people; see docs/approvals.md.
    """
    gates: NotRequired[list[GateStep]]
    """
    Who has to approve it, one after the other, before it is sent; instead of the gates of the channel. `[]`: none.
    """
    metadata: NotRequired[dict[str, str]]
    """
    Attributes of the message, 4 KiB at most: delivered as `metadata.attributes`, and `$metadata.name` in filters.
    """
    endpointGid: NotRequired[str]
    """
    Deliver to this endpoint alone, regardless of its subscriptions.
    """
    retry: NotRequired[bool]
    """
    False: one attempt; if it fails, the delivery is dead-lettered.
    """
    deliverAt: NotRequired[str]
    """
    Deliver at this time, 30 days ahead at most, to the endpoints that match then.
    """
    groupKey: NotRequired[str]
    """
    Each endpoint gets the messages with this key one after the other, in the order of their acceptance.
    """
    delaySeconds: NotRequired[float]
    """
    Or after this time.
    """


class Ack(TypedDict):
    lease: str
    result: NotRequired[Any]
    """
    Any JSON, up to 16 KiB, for the sender of the message.
    """


class Nack(TypedDict):
    lease: str
    reason: NotRequired[str]
    retryAfterSeconds: NotRequired[float]
    """
    Come back no earlier. Without it the policy's schedule applies.
    """
    deadLetter: NotRequired[bool]
    """
    Do not deliver it again: a dead letter.
    """


class Extend(TypedDict):
    lease: str
    seconds: int
    """
    From now.
    """


class Attempt(TypedDict):
    """
    One request to an endpoint, and the response.
    """

    attemptGid: str
    receiptGid: str | None
    """
    Its receipt: `GET /v1/receipts/{gid}`.
    """
    round: int
    number: int
    verdict: Verdict
    startedAt: str
    durationMs: int
    statusCode: int | None
    error: str | None
    errorDetail: str | None
    url: str
    """
    Where it was sent.
    """
    requestHeaders: list[list[str]] | None
    """
    The values of the endpoint's own headers are hidden.
    """
    requestSha256: str
    responseHeaders: list[list[str]] | None
    responseBody: str | None
    """
    Up to 16 KiB, as text; bytes that are not UTF-8 are replaced.
    """
    responseSha256: str | None
    peerAddress: str | None
    nextAttemptAt: str | None


class AttemptStats(TypedDict):
    """
    Attempts by their outcome. After a `retried` failure another attempt follows, after a `rejected` one none.
    """

    attempts: int
    delivered: int
    retried: int
    rejected: int
    successRate: float | None
    """
    Null without attempts.
    """
    meanMs: float | None
    """
    Mean response time; null without responses.
    """
    latency: LatencyBands


class Batch(TypedDict):
    """
    The progress of a replay of a channel, or of a bulk operation on dead letters.
    """

    batchGid: str
    kind: BatchKind
    state: BatchState
    total: int
    """
    The same as `matched`.
    """
    completed: int
    """
    How many of them are done: the sum of `started`, `skipped` and `erased`.
    """
    failed: int
    """
    Dead letters whose workflow could not be reached; 0 for replays of channels.
    """
    startedAt: str | None
    closedAt: str | None
    matched: int
    """
    How many match. Counted at the start; a replay that has completed shows what it found.
    """
    matchedAtLeast: bool
    """
    Whether `matched` is a lower bound.
    """
    started: int
    """
    Deliveries that were started; for bulk operations dead letters whose workflow was signalled. Once such an operation has completed, also those that had ended otherwise before it reached them.
    """
    skipped: int
    """
    Deliveries that were left alone: in progress meanwhile, of a message that did not pass its gate, or to an endpoint that was deleted meanwhile.
    """
    erased: int
    """
    Deliveries whose payload was erased.
    """
    channel: NotRequired[str | None]
    """
    Null for bulk operations that do not name exactly one.
    """
    mode: NotRequired[ReplayMode | None]
    """
    Of replays of channels.
    """
    tenant: NotRequired[str | None]
    """
    The tenant whose deliveries it is limited to.
    """
    endpointGid: NotRequired[str | None]
    """
    The endpoint that it is limited to.
    """
    types: NotRequired[list[str] | None]
    """
    The types that it is limited to; none: every type.
    """
    since: NotRequired[str | None]
    """
    Of the time of acceptance; for bulk operations, as `until`, of that of dead-lettering.
    """
    until: NotRequired[str | None]
    selection: NotRequired[dict[str, Any] | None]
    """
    Of bulk operations: which dead letters, as the request named them.
    """
    reason: NotRequired[str | None]
    actor: NotRequired[str | None]
    error: NotRequired[str | None]
    """
    Why it failed.
    """


class Bucket(TypedDict):
    attempts: int
    delivered: int
    retried: int
    rejected: int
    successRate: float | None
    """
    Null without attempts.
    """
    meanMs: float | None
    """
    Mean response time; null without responses.
    """
    latency: LatencyBands
    since: str


class BulkRequest(TypedDict):
    """
    Which dead letters, and the reason for the decision.
    """

    tenant: NotRequired[str | list[str] | None]
    """
    A list means any of its values.
    """
    channel: NotRequired[str | list[str] | None]
    """
    A list means any of its values.
    """
    endpointGid: NotRequired[str | list[str] | None]
    """
    A list means any of its values.
    """
    type: NotRequired[str | list[str] | None]
    """
    A list means any of its values.
    """
    deadLetterReason: NotRequired[DeadLetterReason | list[DeadLetterReason] | None]
    """
    A list means any of its values.
    """
    lastStatusCode: NotRequired[int | list[int] | None]
    """
    A list means any of its values.
    """
    since: NotRequired[str | None]
    until: NotRequired[str | None]
    """
    Now by default: what is dead-lettered later is left alone.
    """
    reason: NotRequired[str]
    """
    The reason for the decision; recorded with the deliveries.
    """
    dryRun: NotRequired[bool]
    """
    Only count.
    """


class Channel(TypedDict):
    name: str
    policy: dict[str, Any] | None
    circuit: CircuitSettings | None
    """
    Circuit settings of the endpoints that subscribe to it. An endpoint's own override them key by key.
    """
    gates: list[GateStep] | None
    """
    Who has to approve its messages, one after the other, before they are sent. Null also for the key of a tenant.
    """
    validation: ValidationMode
    """
    What happens to messages that do not fit the catalogue of event types: `off` (not checked), `warn` (accepted, flagged and counted) or `reject` (`422`).
    """
    retentionDays: float | None
    """
    How many days the payloads of its messages are kept, instead of EVERHOOK_PAYLOAD_RETENTION_DAYS: fewer or more, but no longer than messages are kept. Null: as long as that setting says.
    """
    createdAt: str


class Circuit(TypedDict):
    state: CircuitState
    failures: int
    """
    Failures in a row.
    """
    failingSince: str | None
    until: str | None
    """
    When the cooldown, or the wait for a probe, ends.
    """


class Delivery(TypedDict):
    """
    One message on its way to one endpoint.
    """

    deliveryGid: str
    messageGid: str
    endpointGid: str
    subscriptionGid: str | None
    """
    The oldest subscription that matched. Null for a message to the endpoint itself, and for deliveries of earlier versions.
    """
    channel: str
    type: str
    status: DeliveryStatus
    round: int
    attemptsMade: int
    """
    In the current round.
    """
    acceptedAt: str
    nextAttemptAt: str | None
    """
    Null unless it waits for its next attempt. One that is pulled can be handed out again then.
    """
    completedAt: str | None
    deadLetteredAt: str | None
    deadLetterReason: DeadLetterReason | None
    lastStatusCode: int | None
    lastError: str | None
    resolvedBy: str | None
    """
    Who asked for the last replay, or for the discard.
    """
    resolutionReason: str | None
    """
    The reason that they gave.
    """


class DeliveryResult(TypedDict):
    """
    What became of one delivery.
    """

    deliveryGid: str
    endpointGid: str
    mode: DeliveryMode
    status: DeliveryStatus
    outcome: NotRequired[str | None]
    """
    What a person decided, such as `approved`. Else absent.
    """
    result: NotRequired[Any]
    """
    What the receiver responded: the `result` of its acknowledgement, the `outcome`, `comment` and `data` of a decision, or the body of its 2xx response if that is JSON of less than 16 KiB. Absent without one.
    """
    replayable: NotRequired[bool]
    """
    True for a dead letter: it may be delivered yet. Else absent.
    """
    completedAt: str | None
    """
    When it was settled. Null before.
    """


class EndpointHealth(TypedDict):
    """
    The health of an endpoint now, and its attempts within a window.
    """

    score: int
    level: Level
    parts: list[ScoreComponent]
    endpointGid: str
    status: EndpointStatus
    circuit: Circuit
    alerts: list[RaisedAlert]
    window: Window
    total: AttemptStats
    """
    Within the window.
    """
    errors: list[RecurringError]
    """
    Within the window, the most frequent first.
    """
    bucketSeconds: int
    series: list[Bucket]
    """
    The window in steps, oldest first; the last step is not over.
    """


class EndpointOptions(TypedDict):
    """
    Options of the mode: the first two of `poll` and `stream`, `handler` of `internal`, `metadataHeaders` of `http`,
    the others of `inbox`.
    """

    leaseSeconds: NotRequired[int]
    """
    How long a consumer has for a delivery; 60 by default.
    """
    maxInFlight: NotRequired[int]
    """
    Open leases at most, of all consumers; 1,000 by default.
    """
    name: NotRequired[str]
    """
    What people see. Required for an inbox.
    """
    task: NotRequired[dict[str, Any]]
    """
    Defaults of the inbox for the fields of its tasks.
    """
    groups: NotRequired[dict[str, list[str]]]
    """
    Who belongs to `group:<name>`, by the names of their keys.
    """
    handler: NotRequired[HandlerOptions]
    """
    Required in the mode `internal`.
    """
    metadataHeaders: NotRequired[bool]
    """
    Mode `http`: send the metadata of messages as headers `x-webhook-meta-<key>`, too.
    """


class Endpoint(TypedDict):
    endpointGid: str
    tenant: str
    mode: EndpointMode
    url: str | None
    """
    Null in modes other than `http`.
    """
    options: EndpointOptions | None
    """
    Null in the mode `http` without any.
    """
    description: str
    status: EndpointStatus
    statusReason: str
    circuit: EndpointCircuit
    policy: dict[str, Any] | None
    alerts: dict[str, Any] | None
    """
    Those that the endpoint sets itself; null: none.
    """
    rateLimit: float | None
    maxInFlight: int | None
    onGroupFailure: OnGroupFailure
    signatures: list[SignatureScheme] | None
    """
    Null in modes other than `http`, in which nothing is signed.
    """
    format: BodyFormat
    headers: dict[str, str | None]
    """
    Values are null, except where a key with the scope `admin` has just created the endpoint.
    """
    metadata: dict[str, Any]
    ed25519: bool
    publicKeys: list[PublicKey]
    """
    For `v1a` signatures, newest first.
    """
    tls: Tls | None
    auth: EndpointAuth | None
    """
    How requests authenticate; its secret is not shown.
    """
    createdAt: str
    updatedAt: str


class GateStepState(TypedDict):
    """
    A step of a gate.
    """

    inbox: str | None
    """
    The endpoint that asks. Null for that of another tenant.
    """
    state: StepState
    taskGid: str | None
    """
    Null before it is asked.
    """


class LeaseResult(TypedDict):
    """
    What one line did.
    """

    lease: str
    status: LeaseStatus
    leaseUntil: NotRequired[str | None]
    """
    After an extension.
    """
    duplicate: NotRequired[bool]
    """
    Whether the delivery was acknowledged before.
    """
    detail: NotRequired[str | None]


class LeaseResults(TypedDict):
    """
    The results, in the order of the lines: acks, nacks, extends.
    """

    data: list[LeaseResult]


class LifecycleEvent(TypedDict):
    """
    Something that happened to a message, or to one of its deliveries.
    """

    id: str
    """
    Always the same for the same event.
    """
    kind: LifecycleKind
    at: str
    messageGid: str
    deliveryGid: str | None
    """
    Null for events of the message.
    """
    endpointGid: str | None
    data: dict[str, Any]
    """
    Depends on the kind, such as `round`, `verdict`, `statusCode`, `reason`.
    """


class AttemptList(TypedDict):
    data: list[Attempt]
    nextCursor: str | None


class BatchList(TypedDict):
    data: list[Batch]
    nextCursor: str | None


class ChannelList(TypedDict):
    data: list[Channel]
    nextCursor: str | None


class DeliveryList(TypedDict):
    data: list[Delivery]
    nextCursor: str | None


class EndpointList(TypedDict):
    data: list[Endpoint]
    nextCursor: str | None


class LifecycleEventList(TypedDict):
    data: list[LifecycleEvent]
    nextCursor: str | None


class MessageList(TypedDict):
    data: list[Message]
    nextCursor: str | None


class ReceiptList(TypedDict):
    data: list[Receipt]
    nextCursor: str | None


class SubscriptionList(TypedDict):
    data: list[Subscription]
    nextCursor: str | None


class TenantList(TypedDict):
    data: list[Tenant]
    nextCursor: str | None


class MessageResult(TypedDict):
    """
    What became of a message.
    """

    messageGid: str
    state: Literal["settled", "pending"]
    """
    `settled`: each delivery is delivered, dead-lettered or discarded.
    """
    outcome: Outcome | None
    """
    Null while the message is pending, and if it went to no endpoint. `partly`: some deliveries are delivered, the others are dead letters or discarded.
    """
    deliveries: list[DeliveryResult]
    """
    Of more than 100, the first 100.
    """
    moreDeliveries: bool
    """
    Whether there are others: `GET /v1/deliveries?messageGid={gid}` lists all of them.
    """


class Policy(TypedDict):
    """
    When a failed attempt is followed by another. At most one of `preset`, `delaysSeconds` and `exponential`.
    """

    preset: NotRequired[PolicyPreset | None]
    delaysSeconds: NotRequired[list[float] | None]
    """
    Waits after the first, second, … attempt.
    """
    exponential: NotRequired[Exponential | None]
    jitter: NotRequired[float | None]
    """
    Fraction added at random to delays of 30 s and more.
    """
    timeoutSeconds: NotRequired[float | None]
    maxWindowSeconds: NotRequired[float | None]
    retryStatuses: NotRequired[list[int | StatusClass] | None]
    """
    Further statuses to retry, such as 408 and "4xx"; 429 and "5xx" always are, 410 never is.
    """


class PulledItem(TypedDict):
    """
    A delivery that was handed out until `leaseUntil`.
    """

    lease: str
    """
    What an acknowledgement names.
    """
    leaseUntil: str
    deliveryGid: str
    messageGid: str
    channelName: str
    type: str
    payload: Any
    metadata: PulledMetadata


class PulledItems(TypedDict):
    """
    What was handed out. `held` says why nothing comes.
    """

    data: list[PulledItem]
    more: bool
    """
    Whether there may be more now.
    """
    held: NotRequired[Held | None]


class RedeliveredDelivery(TypedDict):
    """
    A delivery of a message that is sent again.
    """

    deliveryGid: str
    endpointGid: str
    status: DeliveryStatus
    round: int
    result: RedeliveryResult
    """
    `round_opened`: its next round begins. `created`: the endpoint had no delivery of the message. `left_open`: it is in progress, so nothing was changed. `endpoint_deleted`: there is nowhere to send to.
    """


class RedeliveredMessage(TypedDict):
    """
    What a replay of a message did.
    """

    messageGid: str
    deliveries: list[RedeliveredDelivery]


class ReplayIn(TypedDict):
    """
    Which messages of a channel are sent again, or for the first time, and why. `since` and `until` bound the time of
    acceptance.
    """

    since: str
    until: NotRequired[str | None]
    """
    Now by default.
    """
    mode: ReplayMode
    """
    `failed`: dead letters, and what was discarded. `all`: also what was delivered. `missing`: what the endpoint subscribes to now and never had a delivery of.
    """
    endpointGid: NotRequired[str | None]
    """
    To this endpoint only: its gid, or what it alone has in its URL or description.
    """
    tenant: NotRequired[str | None]
    """
    To the endpoints of this tenant only.
    """
    types: NotRequired[list[str] | None]
    """
    Only messages of these types.
    """
    reason: NotRequired[str]
    """
    Recorded with the deliveries and in the audit trail.
    """
    dryRun: NotRequired[bool]
    """
    Only count.
    """


class Round(TypedDict):
    """
    The attempts from acceptance, or from a replay, to the end of a policy's schedule.
    """

    round: int
    beganAt: str
    policy: RoundPolicy
    """
    As it was when the round began; the round keeps it.
    """


class ScoredEndpoint(TypedDict):
    score: int
    level: Level
    parts: list[ScoreComponent]
    endpointGid: str
    tenant: str
    url: str
    description: str
    status: EndpointStatus
    circuit: Circuit
    alerts: list[RaisedAlert]
    lastHour: AttemptStats


class SubscriptionTrial(TypedDict):
    """
    A subscription that need not exist, and a message.
    """

    events: NotRequired[list[str]]
    filter: NotRequired[dict[str, Any] | None]
    message: TriedMessage


class Task(TypedDict):
    """
    A task without its content.
    """

    taskGid: str
    deliveryGid: str
    messageGid: str
    inbox: str
    """
    The endpoint that asks.
    """
    title: str
    state: TaskState
    version: int
    """
    It grows when what is asked, or who is asked, changes.
    """
    assignees: list[str]
    createdAt: str
    dueAt: str
    overdue: bool
    outcome: str | None
    decidedBy: str | None
    decidedAt: str | None


class Acknowledgements(TypedDict):
    """
    At most 500 lines in all.
    """

    acks: NotRequired[list[Ack]]
    nacks: NotRequired[list[Nack]]
    extends: NotRequired[list[Extend]]


class ChannelIn(TypedDict):
    name: str
    policy: NotRequired[Policy | None]
    circuit: NotRequired[CircuitSettings | None]
    """
    Circuit settings of the endpoints that subscribe to it. An endpoint's own override them key by key.
    """
    gates: NotRequired[list[GateStep] | None]
    """
    Who has to approve its messages, one after the other, before they are sent.
    """
    validation: NotRequired[ValidationMode]
    """
    What happens to messages that do not fit the catalogue of event types: `off` (not checked), `warn` (accepted, flagged and counted) or `reject` (`422`).
    """
    retentionDays: NotRequired[float | None]
    """
    How many days the payloads of its messages are kept, instead of EVERHOOK_PAYLOAD_RETENTION_DAYS: fewer or more, but no longer than messages are kept. Null: as long as that setting says.
    """


class ChannelPatch(TypedDict):
    """
    At least one field is required. A field that is absent keeps its value.
    """

    policy: NotRequired[Policy | None]
    circuit: NotRequired[CircuitSettings | None]
    """
    Circuit settings of the endpoints that subscribe to it. An endpoint's own override them key by key.
    """
    gates: NotRequired[list[GateStep] | None]
    """
    Who has to approve its messages, one after the other, before they are sent.
    """
    validation: NotRequired[ValidationMode | None]
    """
    What happens to messages that do not fit the catalogue of event types: `off` (not checked), `warn` (accepted, flagged and counted) or `reject` (`422`). Not null.
    """
    retentionDays: NotRequired[float | None]
    """
    How many days the payloads of its messages are kept, instead of EVERHOOK_PAYLOAD_RETENTION_DAYS: fewer or more, but no longer than messages are kept. Null: as long as that setting says.
    """


class DeadLetterDetail(TypedDict):
    """
    A dead letter with its payload and its attempts.
    """

    deliveryGid: str
    messageGid: str
    endpointGid: str
    subscriptionGid: str | None
    """
    The oldest subscription that matched. Null for a message to the endpoint itself, and for deliveries of earlier versions.
    """
    channel: str
    type: str
    status: DeliveryStatus
    round: int
    attemptsMade: int
    """
    In the current round.
    """
    acceptedAt: str
    nextAttemptAt: str | None
    """
    Null unless it waits for its next attempt. One that is pulled can be handed out again then.
    """
    completedAt: str | None
    deadLetteredAt: str | None
    deadLetterReason: DeadLetterReason | None
    lastStatusCode: int | None
    lastError: str | None
    resolvedBy: str | None
    """
    Who asked for the last replay, or for the discard.
    """
    resolutionReason: str | None
    """
    The reason that they gave.
    """
    rounds: list[Round]
    """
    The current round, and those of `attempts`; oldest first.
    """
    attempts: list[Attempt]
    """
    Oldest first; of more than 100, the newest 100.
    """
    earlierAttempts: bool
    """
    Whether there are older ones: `GET /v1/deliveries/{gid}/attempts` lists all of them.
    """
    payload: Any
    """
    Null once it was erased; then the dead letter cannot be replayed.
    """
    payloadErasedAt: str | None


class DeliveryDetail(TypedDict):
    """
    A delivery with its attempts.
    """

    deliveryGid: str
    messageGid: str
    endpointGid: str
    subscriptionGid: str | None
    """
    The oldest subscription that matched. Null for a message to the endpoint itself, and for deliveries of earlier versions.
    """
    channel: str
    type: str
    status: DeliveryStatus
    round: int
    attemptsMade: int
    """
    In the current round.
    """
    acceptedAt: str
    nextAttemptAt: str | None
    """
    Null unless it waits for its next attempt. One that is pulled can be handed out again then.
    """
    completedAt: str | None
    deadLetteredAt: str | None
    deadLetterReason: DeadLetterReason | None
    lastStatusCode: int | None
    lastError: str | None
    resolvedBy: str | None
    """
    Who asked for the last replay, or for the discard.
    """
    resolutionReason: str | None
    """
    The reason that they gave.
    """
    rounds: list[Round]
    """
    The current round, and those of `attempts`; oldest first.
    """
    attempts: list[Attempt]
    """
    Oldest first; of more than 100, the newest 100.
    """
    earlierAttempts: bool
    """
    Whether there are older ones: `GET /v1/deliveries/{gid}/attempts` lists all of them.
    """


class EndpointCreated(TypedDict):
    """
    A new endpoint, with its secret.
    """

    endpointGid: str
    tenant: str
    mode: EndpointMode
    url: str | None
    """
    Null in modes other than `http`.
    """
    options: EndpointOptions | None
    """
    Null in the mode `http` without any.
    """
    description: str
    status: EndpointStatus
    statusReason: str
    circuit: EndpointCircuit
    policy: dict[str, Any] | None
    alerts: dict[str, Any] | None
    """
    Those that the endpoint sets itself; null: none.
    """
    rateLimit: float | None
    maxInFlight: int | None
    onGroupFailure: OnGroupFailure
    signatures: list[SignatureScheme] | None
    """
    Null in modes other than `http`, in which nothing is signed.
    """
    format: BodyFormat
    headers: dict[str, str | None]
    """
    Values are null, except where a key with the scope `admin` has just created the endpoint.
    """
    metadata: dict[str, Any]
    ed25519: bool
    publicKeys: list[PublicKey]
    """
    For `v1a` signatures, newest first.
    """
    tls: Tls | None
    auth: EndpointAuth | None
    """
    How requests authenticate; its secret is not shown.
    """
    createdAt: str
    updatedAt: str
    subscriptionGid: str | None
    secret: str | None
    """
    Shown this once. Null in modes other than `http`, in which nothing is signed.
    """


class EndpointIn(TypedDict):
    """
    `channel` and `events` create the first subscription; `events` alone subscribe to the channel `default`.
    """

    url: NotRequired[str | None]
    """
    Required in the mode `http`, and only there.
    """
    description: NotRequired[str]
    policy: NotRequired[Policy | None]
    circuit: NotRequired[CircuitSettings | None]
    alerts: NotRequired[AlertSettings | None]
    rateLimit: NotRequired[float | None]
    """
    Requests a second at most.
    """
    maxInFlight: NotRequired[int | None]
    """
    Requests at a time at most, over all processes.
    """
    signatures: NotRequired[list[SignatureScheme]]
    format: NotRequired[BodyFormat]
    headers: NotRequired[dict[str, str]]
    """
    Added to each request. Their values are encrypted.
    """
    metadata: NotRequired[dict[str, Any]]
    ed25519: NotRequired[bool]
    """
    Sign with Ed25519 too (`v1a`); needs the scheme `standard`.
    """
    tls: NotRequired[Tls | None]
    auth: NotRequired[EndpointAuthIn | None]
    """
    How requests authenticate.
    """
    options: NotRequired[EndpointOptions | None]
    """
    Those of the mode.
    """
    onGroupFailure: NotRequired[OnGroupFailure]
    """
    What a dead letter means for messages with the same `groupKey`: `continue` with the next one, or `block` until it is delivered by a replay, or discarded.
    """
    mode: NotRequired[EndpointMode]
    """
    How the endpoint receives. It cannot be changed later.
    """
    channel: NotRequired[str | None]
    events: NotRequired[list[str] | None]
    tenant: NotRequired[str | None]
    secret: NotRequired[str | None]
    """
    Your own: `whsec_` and 24 to 64 bytes in base64; without it one is generated.
    """
    paused: NotRequired[bool]
    """
    Send nothing to it until it is resumed; its messages are parked.
    """


class EndpointPatch(TypedDict):
    """
    Fields that are absent stay as they are.
    """

    url: NotRequired[str | None]
    description: NotRequired[str | None]
    policy: NotRequired[Policy | None]
    circuit: NotRequired[CircuitSettings | None]
    alerts: NotRequired[AlertSettings | None]
    rateLimit: NotRequired[float | None]
    maxInFlight: NotRequired[int | None]
    signatures: NotRequired[list[SignatureScheme] | None]
    format: NotRequired[BodyFormat | None]
    headers: NotRequired[Headers | None]
    """
    They replace all; one whose value is null keeps the value that it has.
    """
    metadata: NotRequired[dict[str, Any] | None]
    ed25519: NotRequired[bool | None]
    tls: NotRequired[Tls | None]
    auth: NotRequired[EndpointAuthIn | None]
    """
    It replaces what there was; null removes it.
    """
    options: NotRequired[EndpointOptions | None]
    onGroupFailure: NotRequired[OnGroupFailure | None]


class Gate(TypedDict):
    """
    The decisions that the deliveries of a message wait for.
    """

    gateGid: str
    state: GateState
    step: int
    """
    The number of the current step, or of the last one that was asked; from 1.
    """
    steps: list[GateStepState]
    reason: DeadLetterReason | None
    """
    Why the deliveries were discarded.
    """


class TaskList(TypedDict):
    data: list[Task]
    nextCursor: str | None


class MessageDetail(TypedDict):
    """
    A message with its payload and its deliveries.
    """

    messageGid: str
    channel: str
    type: str
    tenant: str | None
    idempotencyKey: str | None
    publishedAt: str
    acceptedAt: str
    payloadErasedAt: str | None
    metadata: dict[str, str]
    """
    Its attributes.
    """
    endpointGid: str | None
    """
    The endpoint that alone gets it. Null: those that match.
    """
    retry: bool
    """
    False: each delivery has one attempt.
    """
    groupKey: str | None
    """
    Endpoints get the messages with this key in order.
    """
    deliverAt: str | None
    """
    When its deliveries are created, if that is later.
    """
    cancelledAt: str | None
    """
    When it was cancelled, before it had deliveries.
    """
    unrouted: bool
    """
    Whether it was accepted and no endpoint took it.
    """
    validationError: str | None
    """
    Where it does not fit the catalogue of event types, if its channel has the validation `warn`.
    """
    payload: Any
    """
    Null once it was erased.
    """
    deliveryCounts: dict[DeliveryStatus, int]
    """
    How many of all its deliveries are in which status.
    """
    deliveries: list[DeliverySummary]
    """
    Newest first; of more than 100, the newest 100.
    """
    moreDeliveries: bool
    """
    Whether there are others: `GET /v1/deliveries?messageGid={gid}` lists all of them.
    """
    gate: Gate | None
    """
    What its deliveries waited or wait for. Null without gates.
    """


class Overview(TypedDict):
    """
    The health of many endpoints at a glance.
    """

    at: str
    """
    When it was computed: a few seconds ago at most.
    """
    acceptedLastMinute: int
    """
    Deliveries.
    """
    lastHour: AttemptStats
    series: list[Bucket]
    """
    The last hour, minute by minute.
    """
    endpoints: list[ScoredEndpoint]
    """
    Worst first, at most 100; idle ones are omitted.
    """
    errors: list[RecurringError]
    """
    Of the last hour, the most frequent first.
    """
    circuits: CircuitCounts
    deadLetters: DeadLetterCounts
    undispatched: Waiting
    """
    Accepted, and not yet known to be started.
    """
    overdue: Waiting
    """
    Their start or next step was due more than a minute ago. If no worker runs, every retry becomes overdue.
    """
    parked: Waiting


class TaskDetail(TypedDict):
    """
    A task with the payload that it is about.
    """

    taskGid: str
    deliveryGid: str
    messageGid: str
    inbox: str
    """
    The endpoint that asks.
    """
    title: str
    state: TaskState
    version: int
    """
    It grows when what is asked, or who is asked, changes.
    """
    assignees: list[str]
    createdAt: str
    dueAt: str
    overdue: bool
    outcome: str | None
    decidedBy: str | None
    decidedAt: str | None
    task: dict[str, Any]
    """
    The whole document, as it was when the message was accepted.
    """
    payload: Any
    """
    Null once it was erased.
    """
    comment: str | None
    data: dict[str, Any] | None
    requestedBy: str | None
    """
    The name of the publisher's key.
    """
    remindersSent: int
    escalatedAt: str | None
    escalatedTo: str | None
    """
    The other inbox that asks as well since then.
    """
    decisions: list[PersonalDecision]
    notes: list[dict[str, Any]]
    """
    Comments, delegations, reminders and escalations, oldest first.
    """
    chain: list[Task]
    """
    All tasks of the message, in their order.
    """
    receiptGid: str | None
    """
    The receipt of the decision.
    """
