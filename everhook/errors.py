"""Errors that the callers of the kernel catch.

    Exception
    ├── ConfigurationError          a setting, or what surrounds the process, cannot be used
    └── DomainError                 a call cannot be carried out, for a reason that its caller can act on
        ├── InvalidField            a field has a value that is not allowed here
        │   ├── MalformedPayload    the payload cannot be parsed
        │   ├── PayloadTooLarge     the payload has more bytes than are accepted
        │   ├── PayloadDoesNotFit   the payload does not fit the schema of its event type
        │   └── UnknownEventType    the event type is not in the catalogue, or archived
        ├── NotFound                there is no such thing, or it is another tenant's
        │   └── BodyUnavailable     the body of an attempt cannot be rendered again
        ├── Forbidden
        │   └── ReservedChannel     the channel is Everhook's own
        ├── Conflict                the state of things does not allow it
        │   ├── ChannelExists, ChannelInUse, EventTypeExists
        │   ├── EndpointDeleted, TooManySecrets
        │   ├── QuotaExceeded
        │   ├── IdempotencyKeyReused
        │   ├── AlreadyDecided, TaskChanged
        │   ├── NotADeadLetter, NoAttemptDue, PayloadErased, NotPulled,
        │   │   TooManyDeliveries, GateNotPassed, NotScheduled, NotReleased
        │   └── TenantNameTaken, TenantInUse
        ├── ReceiptArchived             it was moved to a file, which is not here
        ├── LogDamaged              a log of receipts lacks hashes, so nothing can be proven from it
        └── TryLater                the same call may succeed in a while
            ├── BulkOperationRunning
            ├── RateLimited
            ├── TooManyStreams
            ├── BacklogFull
            └── Unavailable         the database, Temporal, or name resolution does not respond
                └── NotSealed       the receipt is not under a checkpoint yet

`api/problem_types.py` maps each DomainError to the problem that HTTP callers get. Errors of single packages
(`EndpointFailure`, `DecryptionError`, `InvalidDocument`, …) are defined where they are raised.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


class ConfigurationError(Exception):
    """A setting, or what surrounds the process (a port, a package), cannot be used. The text names the setting and
    says what to do. The command line prints it as one line and exits with status 2."""


class DomainError(Exception):
    """A call cannot be carried out. The text is one or two sentences for people and holds no secret."""


class InvalidField(DomainError):
    """A field has a value that is not allowed here. `field` is its path in the request: `policy.delaysSeconds[2]`.
    `others`: further fields that are wrong."""

    others: Sequence["InvalidField"] = ()

    def __init__(self, field: str, message: str, code: str = "invalid") -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.code = code


class MalformedPayload(InvalidField):
    """The payload is not JSON that can be parsed here, such as one that is nested too deeply."""


class PayloadTooLarge(InvalidField):
    """The payload has more bytes than are accepted."""


class PayloadDoesNotFit(InvalidField):
    """The channel rejects payloads that do not fit the schema of their event type."""


class UnknownEventType(InvalidField):
    """The channel rejects event types that are not in the catalogue, or are archived there."""


class NotFound(DomainError):
    """There is no such thing, or it belongs to another tenant: callers cannot distinguish the two."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"There is no {kind} {name}.")
        self.kind = kind
        self.name = name


class BodyUnavailable(NotFound):
    """The body of an attempt's request cannot be rendered again."""

    def __init__(self, attempt_gid: str, reason: str) -> None:
        DomainError.__init__(self, f"The body of {attempt_gid} is not available: {reason}.")
        self.kind = "body"
        self.name = attempt_gid


class Forbidden(DomainError):
    """The caller is known, and may not do this."""


class ReservedChannel(Forbidden):
    """Only Everhook publishes to this channel: its subscribers must be able to trust what they receive."""


class Conflict(DomainError):
    """The state of things does not allow it."""


class ChannelExists(Conflict):
    """There is a channel of this name."""


class ChannelInUse(Conflict):
    """The channel has subscriptions, or Everhook itself needs it."""


class EventTypeExists(Conflict):
    """There is an event type of this name."""


class EndpointDeleted(Conflict):
    """There is nowhere to send to."""


class TooManySecrets(Conflict):
    """The endpoint has the maximum number of signing secrets."""


class QuotaExceeded(Conflict):
    """The maximum number of these, in a tenant, at an endpoint or in the catalogue, is reached."""


class IdempotencyKeyReused(Conflict):
    """The key was used for another call."""


class NotADeadLetter(Conflict):
    """The delivery is not dead-lettered, so there is nothing to replay or discard."""


class NotPulled(Conflict):
    """The deliveries of an endpoint cannot be pulled, because it receives in another mode."""


class AlreadyDecided(Conflict):
    """The task is not open, or this person has decided."""


class TaskChanged(Conflict):
    """What the person read is not what is asked now."""


class TooManyDeliveries(Conflict):
    """A message has too many deliveries to stream their events, or to send them again in one call."""


class GateNotPassed(Conflict):
    """The message waits for its gate, or was declined there."""


class NotScheduled(Conflict):
    """The message does not wait for a time of delivery."""


class NotReleased(Conflict):
    """The message waits for its time of delivery, or was cancelled before it."""


class NoAttemptDue(Conflict):
    """The delivery waits for no attempt that could be made now."""


class PayloadErased(Conflict):
    """There is nothing left to send."""


class TenantNameTaken(Conflict):
    """Another tenant has this name, or it reads like a gid."""


class TenantInUse(Conflict):
    """The default tenant owns what names no tenant: it cannot be erased."""


class ReceiptArchived(DomainError):
    """A receipt was moved from the database to a file, or there never was one with this gid."""


class LogDamaged(DomainError):
    """A log of receipts lacks hashes, so nothing can be proven from it. `everhook receipts audit` finds the place."""


class TryLater(DomainError):
    """Nothing was changed; the same call may succeed after `retry_after`."""

    retry_after = timedelta(seconds=5)

    def __init__(self, detail: str, retry_after: timedelta | None = None) -> None:
        super().__init__(detail)
        if retry_after is not None:
            self.retry_after = retry_after


class BulkOperationRunning(TryLater):
    """The maximum number of bulk operations is running."""

    retry_after = timedelta(seconds=10)


@dataclass(frozen=True)
class Quota:
    """What a caller may still publish under one policy: `remaining` of `amount` messages in `window_s` seconds, of
    which more are granted in `reset_s` seconds."""

    policy: str
    amount: int
    window_s: int
    remaining: int
    reset_s: int


class RateLimited(TryLater):
    """The call exceeds the publish rate of the key, or of the tenant that it publishes for."""

    def __init__(self, detail: str, quota: Quota) -> None:
        super().__init__(detail, timedelta(seconds=max(1, quota.reset_s)))
        self.quota = quota


class TooManyStreams(TryLater):
    """The endpoint, or the process, has the maximum number of streams or of waiting calls."""


class BacklogFull(TryLater):
    """Too many accepted deliveries wait to be started."""

    retry_after = timedelta(seconds=30)


class Unavailable(TryLater):
    """Something that the call needs does not respond."""


class NotSealed(Unavailable):
    """The receipt is not under a checkpoint yet. `retry_after` is when it will be."""
