"""What crosses Temporal: enumerations and frozen dataclasses; only the standard library.

Every later version of this code reads the histories of workflows, so new fields get defaults, names never change, and
nothing here holds a payload, a secret or a response body.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from everhook.circuit.machine import Circuit, CircuitPolicy
from everhook.delivery.policy import DeliveryPolicy, RetryPlan

DELIVERY_WORKFLOW = "Delivery"
ENDPOINT_WORKFLOW = "Endpoint"
RECONCILE_WORKFLOW = "Reconcile"
EVENTS_WORKFLOW = "Events"
RECONCILE_LOOP_WORKFLOW = "ReconcileLoop"
EVENTS_LOOP_WORKFLOW = "EventsLoop"
RETENTION_WORKFLOW = "Retention"
ERASE_TENANT_WORKFLOW = "EraseTenant"
SEAL_RECEIPTS_WORKFLOW = "SealReceipts"
REPLAY_WORKFLOW = "Replay"
SCHEDULED_MESSAGE_WORKFLOW = "ScheduledMessage"


LOOP_LENGTH = timedelta(minutes=5)
"""How long one workflow makes passes of the reconciler, or of events, one after the other. A workflow for each pass
would leave 23,000 closed ones a day."""


REPLAY_PRIORITY = 4
"""The priority of replays, below Temporal's default of 3, so that they do not delay first rounds."""


class TaskQueue(StrEnum):
    """The task queues. On `SENDS_LIMITED` the server dispatches each endpoint's attempts at about its rate limit."""

    DELIVERIES = "deliveries"
    SENDS = "sends"
    SENDS_LIMITED = "sends-limited"


class DeliveryMode(StrEnum):
    """How an endpoint receives. `STREAM` and `POLL` are one queue with leases; they differ only in what is expected."""

    HTTP = "http"
    STREAM = "stream"
    POLL = "poll"
    INBOX = "inbox"
    INTERNAL = "internal"

    @property
    def is_pulled(self) -> bool:
        """Whether receivers fetch their deliveries from the pull queue."""
        return self in (DeliveryMode.STREAM, DeliveryMode.POLL)

    @property
    def is_signed(self) -> bool:
        """Whether deliveries are requests that are signed with the endpoint's secret."""
        return self is DeliveryMode.HTTP


class Verdict(StrEnum):
    """What one attempt means for its delivery.

    `PARKED`: no request was made because the circuit does not allow one.
    """

    DELIVERED = "delivered"
    RETRY = "retry"
    REJECTED = "rejected"
    PARKED = "parked"


class DeliveryStatus(StrEnum):
    """The status of a delivery.

    `AVAILABLE`: in the pull queue, leased or not. `AWAITING_DECISION`: a person has to decide. `GATED`: waits for the
    decisions of a gate. `QUEUED`: waits for those before it in its group.
    """

    ACCEPTED = "accepted"
    SENDING = "sending"
    RETRYING = "retrying"
    PARKED = "parked"
    AVAILABLE = "available"
    AWAITING_DECISION = "awaiting_decision"
    GATED = "gated"
    QUEUED = "queued"
    DELIVERED = "delivered"
    DEAD_LETTERED = "dead_lettered"
    DISCARDED = "discarded"


TERMINAL_STATUSES = frozenset({DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED})


class DeadLetterReason(StrEnum):
    """Why a round ended without delivering.

    `UNCLAIMED`: no consumer took it within the window. `EXPIRED`: no person decided in time. `DECLINED`: a person
    declined it, so it was discarded; this is no dead letter.
    """

    EXHAUSTED = "exhausted"
    REJECTED = "rejected"
    BLOCKED = "blocked"
    CIRCUIT_OPEN = "circuit_open"
    ENDPOINT_DISABLED = "endpoint_disabled"
    ENDPOINT_DELETED = "endpoint_deleted"
    PAYLOAD_ERASED = "payload_erased"
    UNSENDABLE = "unsendable"
    UNCLAIMED = "unclaimed"
    EXPIRED = "expired"
    DECLINED = "declined"


class FailureCode(StrEnum):
    """How an attempt failed without an HTTP status.

    `BLOCKED` is a refusal by policy, and `UNSENDABLE` a local error before the first byte. All others are failures of
    the endpoint. `NACKED` and `LEASE_EXPIRED`: a consumer returned a pulled delivery, or let its lease expire.
    `MAIL_DEFERRED` and `MAIL_REJECTED`: the SMTP server refused a mail for now, or for good. `INVALID_PAYLOAD`: a
    handler of Everhook itself cannot act on the payload. `AUTH`: the endpoint's token endpoint issued no access token.
    """

    DNS = "dns"
    REFUSED = "refused"
    RESET = "reset"
    UNREACHABLE = "unreachable"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_TOTAL = "timeout_total"
    TLS = "tls"
    PROTOCOL = "protocol"
    BLOCKED = "blocked"
    UNSENDABLE = "unsendable"
    NACKED = "nacked"
    LEASE_EXPIRED = "lease_expired"
    MAIL_DEFERRED = "mail_deferred"
    MAIL_REJECTED = "mail_rejected"
    INVALID_PAYLOAD = "invalid_payload"
    AUTH = "auth"


@dataclass(frozen=True)
class OpenDeadLetter:
    """A dead letter that waits for an operator, for its workflow to continue with."""

    reason: DeadLetterReason
    since: datetime
    status_code: int | None = None


@dataclass(frozen=True)
class AttemptInput:
    """The input of one attempt. `retry` is what follows if it fails (None: this is the round's last attempt).
    `park_check`: if the delivery is parked, its workflow checks again within this time. `rate_limit` is the one that
    the workflow knows."""

    delivery_gid: str
    endpoint_gid: str
    round: int
    number: int
    timeout: timedelta
    retry: RetryPlan | None
    retry_statuses: tuple[int, ...] = ()
    park_check: timedelta = timedelta(minutes=10)
    rate_limit: float | None = None


@dataclass(frozen=True)
class NewRateLimit:
    """An endpoint's rate limit, in requests per second, that differs from the one that a workflow knows; None: no
    limit."""

    per_second: float | None


@dataclass(frozen=True)
class AttemptRecord:
    """An attempt as stored in the database, without the response body, because it may travel through a workflow's
    history.

    For receipts that are issued later it has the SHA-256 of the URL, which may hold credentials, and of the signature
    headers.
    """

    attempt_gid: str
    delivery_gid: str
    endpoint_gid: str
    round: int
    number: int
    verdict: Verdict
    started_at: datetime
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    request_sha256: str = ""
    response_sha256: str | None = None
    response_size: int | None = None
    peer_address: str | None = None
    connection_reused: bool = False
    redialed: bool = False
    next_attempt_at: datetime | None = None
    url_sha256: str = ""
    signatures_sha256: str = ""


@dataclass(frozen=True)
class AttemptOutcome:
    """The outcome of an attempt. `unrecorded` is set if the database was unavailable: the workflow then has it
    recorded.

    `reason` says why the delivery is dead-lettered: if it is rejected, if no other attempt follows (None: `exhausted`),
    or if it is parked for longer than its window (None: an operator's pause, which may last long). `attempt_gid` and
    `duration_ms` are those of the recorded attempt; None if no request was made. `new_rate_limit` is for the next
    attempt's queue; None: unchanged or unknown.
    """

    verdict: Verdict
    reason: DeadLetterReason | None = None
    status_code: int | None = None
    error: str | None = None
    retry_after: timedelta | None = None
    unrecorded: AttemptRecord | None = None
    attempt_gid: str | None = field(default=None, compare=False)
    duration_ms: int | None = field(default=None, compare=False)
    new_rate_limit: NewRateLimit | None = field(default=None, compare=False)

    @property
    def response(self) -> str:
        """The endpoint's response in a word, for people: `HTTP 503`, `timeout_total`."""
        return f"HTTP {self.status_code}" if self.status_code is not None else self.error or self.verdict.value


@dataclass(frozen=True)
class HandlerInput:
    """The input of `run_handler`: an attempt that Everhook handles itself. `step`: where the delivery continues, as the
    last result says."""

    attempt: AttemptInput
    step: int = 0


@dataclass(frozen=True)
class HandlerResult:
    """The result of `run_handler`: the outcome of the attempt. None if it is not due yet: the delivery continues with
    `step` at `due_at`."""

    outcome: AttemptOutcome | None = None
    due_at: datetime | None = None
    step: int = 0


@dataclass(frozen=True)
class PreviousAttempt:
    """An attempt that was made before the workflow of its delivery started, with its outcome.

    `next_attempt_at` is when the next one is due; None if there is none.
    """

    outcome: AttemptOutcome
    next_attempt_at: datetime | None = None


@dataclass(frozen=True)
class ParkedRound:
    """The round of a parked delivery, passed on by continue-as-new. `check` is the interval of its next check, `last`
    the outcome of its last attempt."""

    began: datetime
    check: timedelta
    last: AttemptOutcome | None = None


@dataclass(frozen=True)
class DeliveryInput:
    """The input of `DeliveryWorkflow`; built from the database at publish and at every restart.

    - `previous`: attempt `attempt` was made already. If it delivered, the workflow completes in its first task.
    - `parked_since`: the delivery was parked before this run; this time counts towards the policy's window.
    - `dead_letter`: wait for an operator, for `dead_letter_retention` from the start of the workflow.
    - `park_check`: the interval of the first check of a parked delivery. It doubles with each check.
    - `parked_round`: the round continues from an earlier run.
    - `mode`: how the endpoint receives.
    """

    delivery_gid: str
    message_gid: str
    endpoint_gid: str
    tenant: str
    channel: str
    event_type: str
    policy: DeliveryPolicy = field(default_factory=DeliveryPolicy)
    rate_limit: float | None = None
    round: int = 1
    attempt: int = 1
    previous: PreviousAttempt | None = None
    parked_since: datetime | None = None
    dead_letter: OpenDeadLetter | None = None
    park_check: timedelta = timedelta(minutes=10)
    dead_letter_retention: timedelta = timedelta(days=30)
    parked_round: ParkedRound | None = None
    mode: DeliveryMode = DeliveryMode.HTTP

    def attempt_input(self, number: int, retry: RetryPlan | None, park_check: timedelta | None = None) -> AttemptInput:
        """The input of attempt `number` of this round. `retry` is what follows if it fails, `park_check` the interval
        after which the workflow checks again if it is parked."""
        return AttemptInput(
            delivery_gid=self.delivery_gid,
            endpoint_gid=self.endpoint_gid,
            round=self.round,
            number=number,
            timeout=self.policy.timeout,
            retry=retry,
            retry_statuses=self.policy.retry_statuses,
            park_check=self.park_check if park_check is None else park_check,
            rate_limit=self.rate_limit,
        )

    @property
    def status_at_start(self) -> DeliveryStatus:
        """The status that a workflow with this input is found by when it starts."""
        if self.is_delivered:
            return DeliveryStatus.DELIVERED
        if self.mode is DeliveryMode.INBOX:
            return DeliveryStatus.AWAITING_DECISION
        return DeliveryStatus.AVAILABLE if self.mode.is_pulled else DeliveryStatus.SENDING

    @property
    def is_delivered(self) -> bool:
        """Whether the attempt before the workflow delivered: then nothing is left to do."""
        return self.previous is not None and self.previous.outcome.verdict is Verdict.DELIVERED


@dataclass(frozen=True)
class DeliveryResult:
    """How a delivery ended: `DELIVERED` or `DISCARDED`, after this many rounds, and attempts of the last round.

    The last three fields describe the attempt that delivered; they are None for a discarded delivery.
    """

    status: DeliveryStatus
    round: int
    attempts: int
    attempt_gid: str | None = None
    status_code: int | None = None
    duration_ms: int | None = None


@dataclass(frozen=True)
class DeadLetterInput:
    """The input of `dead_letter`. `retention` is how long the dead letter stays open, by the workflow's clock."""

    delivery_gid: str
    reason: DeadLetterReason
    round: int
    retention: timedelta


@dataclass(frozen=True)
class PullCheck:
    """The input of `check_pulled` and `check_task`. `retention` is for a dead letter that results from it, by the
    workflow's clock. `give_up`: dead-letter the delivery for this reason, unless it is over."""

    delivery_gid: str
    round: int
    retention: timedelta
    give_up: DeadLetterReason | None = None

    def gives_up(self, round_: int) -> DeadLetterReason | None:
        """Why to dead-letter the delivery in this round. A check that runs again may find one that was opened since."""
        return self.give_up if round_ == self.round else None


@dataclass(frozen=True)
class TaskProgress:
    """What the Temporal UI shows of an open task: the name of its inbox, how many assignees it has, and how often they
    were reminded. Not its title, which may be confidential."""

    inbox: str
    assignees: int
    due_at: datetime
    reminders_sent: int = 0
    reminders: int = 0
    escalated: bool = False


@dataclass(frozen=True)
class PulledState:
    """The result of `check_pulled` and `check_task`: what became of a delivery that consumers pull, or that a person
    decides.

    `attempts` are those of the round, `last` is the outcome of the last one. While the delivery is `AVAILABLE` or
    `AWAITING_DECISION`, `check_at` is when there is something to do. `task` is the open task of a delivery to an inbox,
    `outcome` the name of the outcome of one that was decided. `dead_lettered_at` is that of the database.
    """

    status: DeliveryStatus
    attempts: int = 0
    reason: DeadLetterReason | None = None
    check_at: datetime | None = None
    last: AttemptOutcome | None = None
    task: TaskProgress | None = None
    outcome: str | None = None
    dead_lettered_at: datetime | None = None


@dataclass(frozen=True)
class OperatorAction:
    """Who asked for a replay or a discard, and the reason; the argument of those signals. Read `by` and `because`.

    `round`: the database opened this round already, and the workflow has to take it up; 0: the workflow opens one.
    `before`: a discard that is for dead letters from before this time only.
    Every field has a default so that `temporal workflow signal --name replay` works without an input.
    """

    actor: str = ""
    reason: str = ""
    round: int = 0
    before: datetime | None = None
    # In inputs that earlier versions recorded:
    who: str = ""
    why: str = ""

    @property
    def by(self) -> str:
        return self.actor or self.who or "temporal"

    @property
    def because(self) -> str:
        return self.reason or self.why


@dataclass(frozen=True)
class ReleaseInput:
    """The argument of the signal `release`. With a `dead_letter` reason the delivery is dead-lettered instead."""

    dead_letter: DeadLetterReason | None = None


@dataclass(frozen=True)
class RoundInput:
    """The input of `open_round`: open the round after `round`. `note` says who replays it and why."""

    delivery_gid: str
    round: int
    note: OperatorAction


@dataclass(frozen=True)
class DiscardInput:
    """The input of `discard`. `round`: only if it is still in this round; 0: in any."""

    delivery_gid: str
    note: OperatorAction
    round: int = 0


@dataclass(frozen=True)
class DeliveryState:
    """The result of the query `status`: the state as the workflow knows it."""

    status: DeliveryStatus
    round: int
    attempt: int
    waiting_for: str
    next_attempt_at: datetime | None = None
    dead_letter_reason: DeadLetterReason | None = None


@dataclass(frozen=True)
class ScheduledMessageInput:
    """The input of `ScheduledMessageWorkflow` and of `deliver_scheduled`."""

    message_gid: str


@dataclass(frozen=True)
class EndpointInput:
    """The input of `EndpointWorkflow`. `circuit` is passed on by continue-as-new; None: load it."""

    endpoint_gid: str
    tenant: str
    policy: CircuitPolicy = field(default_factory=CircuitPolicy)
    circuit: Circuit | None = None
    release_rate: float | None = None


@dataclass(frozen=True)
class EndpointCircuit:
    """The result of `load_endpoint`: the circuit as last projected, and the policy that applies to it now."""

    circuit: Circuit
    policy: CircuitPolicy


@dataclass(frozen=True)
class OutcomeReport:
    """What one process saw of an endpoint since its last report: any success, then failures in a row.

    `stranded`: deliveries are parked although the circuit is closed, and have to be released.
    """

    succeeded: bool = False
    failures: int = 0
    gone: bool = False
    stranded: bool = False


@dataclass(frozen=True)
class CircuitProjection:
    endpoint_gid: str
    circuit: Circuit


@dataclass(frozen=True)
class ReleaseParkedInput:
    """The input of `release_parked`: release up to `limit` of an endpoint's parked deliveries, oldest first."""

    endpoint_gid: str
    limit: int
    dead_letter: DeadLetterReason | None = None


@dataclass(frozen=True)
class ReleaseResult:
    """How many deliveries were released, and whether others are still parked."""

    released: int
    remaining: bool


@dataclass(frozen=True)
class ReconcileShare:
    """The input of `reconcile`: a pass over part `index` of `parts` of the endpoints."""

    index: int = 0
    parts: int = 1


@dataclass(frozen=True)
class ReconcileResult:
    """What a pass of the reconciler did. `more`: it ran out of time before everything was done. `every`: how long after
    it the next one is due."""

    started: int = 0
    restarted: int = 0
    endpoints: int = 0
    history: int = 0
    more: bool = False
    guarded: int = 0
    every: timedelta = timedelta(seconds=15)

    def plus(self, other: "ReconcileResult") -> "ReconcileResult":
        """Both together, of which the other is the later one."""
        return ReconcileResult(
            started=self.started + other.started,
            restarted=self.restarted + other.restarted,
            endpoints=self.endpoints + other.endpoints,
            history=self.history + other.history,
            guarded=self.guarded + other.guarded,
            more=other.more,
            every=other.every,
        )


@dataclass(frozen=True)
class RetentionResult:
    """How much one pass of retention deleted: messages with everything that belongs to them, payloads alone, and so
    on."""

    messages: int = 0
    payloads: int = 0
    idempotency_keys: int = 0
    events: int = 0
    minutes: int = 0
    credentials: int = 0
    policies: int = 0


@dataclass(frozen=True)
class TenantErasure:
    """The input of `EraseTenantWorkflow`. After `settle`, everything that was in flight when the tenant was shut is
    recorded."""

    tenant_gid: str
    settle: timedelta = timedelta(minutes=2)


@dataclass(frozen=True)
class ReplayInput:
    """The input of `ReplayWorkflow`, and of its activities. The row of the batch has all else, its position too."""

    batch_gid: str


@dataclass(frozen=True)
class ReplayProgress:
    """How far a replay is: the gid up to which everything is done, and how many deliveries were started, were left
    alone, or have no payload any more. `more`: it has not ended."""

    more: bool
    position: str = ""
    started: int = 0
    skipped: int = 0
    erased: int = 0


@dataclass(frozen=True)
class SealResult:
    """How many receipts were sealed under how many checkpoints, and the tenants whose damaged logs were skipped."""

    receipts: int = 0
    checkpoints: int = 0
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class EventsResult:
    """How many operational events were processed. `every`: how long after the pass the next one is due."""

    published: int = 0
    every: timedelta = timedelta(seconds=5)
