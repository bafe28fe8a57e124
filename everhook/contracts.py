"""What crosses Temporal: enumerations and frozen dataclasses, standard library only.

Workflow histories are read by every later version of this code, so the rule is: new fields get defaults,
names never change, and nothing here holds a payload, a secret or a response body.
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
RETENTION_WORKFLOW = "Retention"
ERASE_TENANT_WORKFLOW = "EraseTenant"
SEAL_RECEIPTS_WORKFLOW = "SealReceipts"


class TaskQueue(StrEnum):
    """Where work waits. On `SENDS_LIMITED` the server hands out each endpoint's attempts at about its rate limit."""

    DELIVERIES = "deliveries"
    SENDS = "sends"
    SENDS_LIMITED = "sends-limited"


class Verdict(StrEnum):
    """What one try means for its delivery.

    `PARKED` says that no request was made because the circuit does not allow one.
    """

    DELIVERED = "delivered"
    RETRY = "retry"
    REJECTED = "rejected"
    PARKED = "parked"


class DeliveryStatus(StrEnum):
    ACCEPTED = "accepted"
    SENDING = "sending"
    RETRYING = "retrying"
    PARKED = "parked"
    DELIVERED = "delivered"
    DEAD_LETTERED = "dead_lettered"
    DISCARDED = "discarded"


TERMINAL_STATUSES = frozenset({DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED})


class DeadLetterReason(StrEnum):
    """Why a round ended without a delivery."""

    EXHAUSTED = "exhausted"
    REJECTED = "rejected"
    BLOCKED = "blocked"
    CIRCUIT_OPEN = "circuit_open"
    ENDPOINT_DISABLED = "endpoint_disabled"
    ENDPOINT_DELETED = "endpoint_deleted"
    PAYLOAD_ERASED = "payload_erased"
    UNSENDABLE = "unsendable"


class FailureCode(StrEnum):
    """How a request failed without an HTTP status.

    `BLOCKED` is our policy and `UNSENDABLE` a fault on our side before the first byte. All others are the endpoint's
    doing.
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


@dataclass(frozen=True)
class OpenDeadLetter:
    """A dead letter that waits for an operator, as its workflow is to take it up."""

    reason: DeadLetterReason
    since: datetime
    status_code: int | None = None


@dataclass(frozen=True)
class AttemptInput:
    """One try. `retry` is what follows should it fail (None: this is the round's last attempt). `rate_limit` is the one
    that the workflow knows."""

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
    """An endpoint's rate limit, in requests a second, that differs from the one a workflow knows; None: lifted."""

    per_second: float | None


@dataclass(frozen=True)
class AttemptRecord:
    """An attempt as the database keeps it, less the response body: this may travel through a workflow's history.

    Of the URL, which may hold credentials, and of the signature headers it has the SHA-256: what a receipt needs that
    is issued later, from the database.
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
    """What a try came to. `unrecorded` is set when the database was away: the workflow then has it recorded.

    `reason` says why the delivery is dead-lettered: where it is rejected, where no other attempt follows (None:
    `exhausted`), or where it stays parked for longer than its window (None: an operator's pause, which may last).
    `attempt_gid` and `duration_ms` name the attempt on record; they are None where no request was made.
    `new_rate_limit` is for the next attempt's queue; None: unchanged, or not known.
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
class PreviousAttempt:
    """An attempt that was made before its delivery's workflow started, and what it came to.

    `next_attempt_at` is when the next one is due; None where no other follows.
    """

    outcome: AttemptOutcome
    next_attempt_at: datetime | None = None


@dataclass(frozen=True)
class DeliveryInput:
    """All that `DeliveryWorkflow` needs to know; built from the database, at publish and at every restart alike.

    - `previous`: attempt `attempt` was made already. If it delivered, the workflow completes in its first task.
    - `parked_since`: the delivery was parked without a workflow; the time counts towards the policy's window.
    - `dead_letter`: take up waiting for an operator, for `dead_letter_retention` from the workflow's start.
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

    def attempt_input(self, number: int, retry: RetryPlan | None) -> AttemptInput:
        """Attempt `number` of this round; `retry` is what follows should it fail."""
        return AttemptInput(
            delivery_gid=self.delivery_gid,
            endpoint_gid=self.endpoint_gid,
            round=self.round,
            number=number,
            timeout=self.policy.timeout,
            retry=retry,
            retry_statuses=self.policy.retry_statuses,
            park_check=self.park_check,
            rate_limit=self.rate_limit,
        )

    @property
    def is_delivered(self) -> bool:
        """The attempt before the workflow delivered: nothing is left to do."""
        return self.previous is not None and self.previous.outcome.verdict is Verdict.DELIVERED


@dataclass(frozen=True)
class DeliveryResult:
    """How a delivery ended: `DELIVERED` or `DISCARDED`, after how many rounds and attempts of the last round.

    The last three describe the attempt that delivered; they are None for a discarded delivery.
    """

    status: DeliveryStatus
    round: int
    attempts: int
    attempt_gid: str | None = None
    status_code: int | None = None
    duration_ms: int | None = None


@dataclass(frozen=True)
class DeadLetterInput:
    """`replayable_until` is how long the dead letter stays open, counted by the workflow's clock."""

    delivery_gid: str
    reason: DeadLetterReason
    round: int
    retention: timedelta


@dataclass(frozen=True)
class OperatorAction:
    """Who asked for a replay or a discard, and the reason; the argument of those signals. Read `by` and `because`.

    Every field has a default so that `temporal workflow signal --name replay` works without an input.
    """

    actor: str = ""
    reason: str = ""
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
    """The argument of the signal `release`. With a `dead_letter` reason the delivery is given up instead."""

    dead_letter: DeadLetterReason | None = None


@dataclass(frozen=True)
class RoundInput:
    """Open the round after `round`, because of `note`."""

    delivery_gid: str
    round: int
    note: OperatorAction


@dataclass(frozen=True)
class DiscardInput:
    delivery_gid: str
    note: OperatorAction


@dataclass(frozen=True)
class DeliveryState:
    """Answer to the query `status`: what the workflow itself says."""

    status: DeliveryStatus
    round: int
    attempt: int
    waiting_for: str
    next_attempt_at: datetime | None = None
    dead_letter_reason: DeadLetterReason | None = None


@dataclass(frozen=True)
class EndpointInput:
    """Input of `EndpointWorkflow`. `circuit` is carried across continue-as-new; None means: load it."""

    endpoint_gid: str
    tenant: str
    policy: CircuitPolicy = field(default_factory=CircuitPolicy)
    circuit: Circuit | None = None
    release_rate: float | None = None


@dataclass(frozen=True)
class OutcomeReport:
    """What one process saw of an endpoint since its last report, oldest first: any success, then failures in a row.

    `stranded`: deliveries are parked although the circuit is closed; release them.
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
    """Wake up to `limit` of an endpoint's parked deliveries, oldest first."""

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
    """One pass of the reconciler over part `index` of `parts` of the endpoints."""

    index: int = 0
    parts: int = 1


@dataclass(frozen=True)
class ReconcileResult:
    """What a pass of the reconciler did. `more`: its time was up before all was done."""

    started: int = 0
    restarted: int = 0
    endpoints: int = 0
    history: int = 0
    more: bool = False


@dataclass(frozen=True)
class RetentionResult:
    """How much one pass of retention removed: messages with all that hangs on them, payloads alone, and so on."""

    messages: int = 0
    payloads: int = 0
    idempotency_keys: int = 0
    events: int = 0
    minutes: int = 0
    credentials: int = 0
    policies: int = 0


@dataclass(frozen=True)
class TenantErasure:
    """Input of `EraseTenantWorkflow`. After `settle` whatever was in flight when the tenant was shut is on record."""

    tenant_gid: str
    settle: timedelta = timedelta(minutes=2)


@dataclass(frozen=True)
class SealResult:
    """How many receipts went under how many checkpoints, and whose logs were found damaged and left alone."""

    receipts: int = 0
    checkpoints: int = 0
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class EventsResult:
    """How many operational events were dealt with."""

    published: int = 0
