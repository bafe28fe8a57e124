"""The kinds of problems that the API reports, each with a `type` that programs can branch on.

`docs/problems.md` lists them, `/problems/{slug}` shows one, and OpenAPI names them. A type never changes its meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from everhook import errors

PATH = "/problems"


@dataclass(frozen=True)
class ProblemType:
    """`slug` ends the URI of the type. `meaning` says what happened, `action` what the caller can do."""

    slug: str
    status: HTTPStatus
    title: str
    meaning: str
    action: str

    @property
    def uri(self) -> str:
        """Relative to the API's address, so that it leads to a page that explains it."""
        return f"{PATH}/{self.slug}"


MALFORMED_REQUEST = ProblemType(
    "malformed-request",
    HTTPStatus.BAD_REQUEST,
    "Malformed request",
    "The body is not JSON in UTF-8, or a header that may be sent once was sent twice.",
    "Correct what `errors` names. The same request fails again.",
)
INVALID_REQUEST = ProblemType(
    "invalid-request",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "Invalid request",
    "A field or a parameter is unknown, is missing, or has a value that is not allowed.",
    "Correct what `errors` names; each has a `code` for programs. The same request fails again.",
)
UNAUTHENTICATED = ProblemType(
    "unauthenticated",
    HTTPStatus.UNAUTHORIZED,
    "Not authenticated",
    "No API key was sent, or one that is unknown, revoked or expired.",
    "Send a valid key as `Authorization: Bearer <key>`.",
)
FORBIDDEN = ProblemType(
    "forbidden",
    HTTPStatus.FORBIDDEN,
    "Forbidden",
    "The API key is valid, and its scopes do not allow this call.",
    "Use a key with one of the scopes that `detail` names.",
)
RESERVED_CHANNEL = ProblemType(
    "reserved-channel",
    HTTPStatus.FORBIDDEN,
    "Reserved channel",
    "Only Everhook itself publishes to channels whose names begin with `everhook.`.",
    "Publish to a channel of your own.",
)
NOT_FOUND = ProblemType(
    "not-found",
    HTTPStatus.NOT_FOUND,
    "Not found",
    "There is no such thing, or it belongs to another tenant.",
    "Check the path and the gid. What was deleted or has passed its retention is gone.",
)
METHOD_NOT_ALLOWED = ProblemType(
    "method-not-allowed",
    HTTPStatus.METHOD_NOT_ALLOWED,
    "Method not allowed",
    "The path exists and has no such method.",
    "Use one of the methods in the header `Allow`.",
)
PAYLOAD_TOO_LARGE = ProblemType(
    "payload-too-large",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "Payload too large",
    "The request, or the payload of a message, has more bytes than are accepted.",
    "Send fewer bytes; `detail` names the limit.",
)
PAYLOAD_DOES_NOT_FIT = ProblemType(
    "payload-does-not-fit",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "Payload does not fit",
    "The channel rejects payloads that do not fit the schema of their event type. Nothing was published.",
    "Correct the payload where `errors` says, or change the schema of the event type.",
)
UNKNOWN_EVENT_TYPE = ProblemType(
    "unknown-event-type",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "Unknown event type",
    "The channel rejects event types that are not in the catalogue, or are archived there. Nothing was published.",
    "Create the event type, restore it, or publish with another one.",
)
CONFLICT = ProblemType(
    "conflict",
    HTTPStatus.CONFLICT,
    "Conflict",
    "The current state does not allow the call.",
    "`detail` says what is in the way.",
)
CHANNEL_EXISTS = ProblemType(
    "channel-exists",
    HTTPStatus.CONFLICT,
    "Channel exists",
    "There is a channel of this name already.",
    "Use it, or change its policy.",
)
CHANNEL_IN_USE = ProblemType(
    "channel-in-use",
    HTTPStatus.CONFLICT,
    "Channel in use",
    "The channel has subscriptions, or it is one of Everhook's own.",
    "Delete the subscriptions first. Everhook's own channels cannot be deleted.",
)
EVENT_TYPE_EXISTS = ProblemType(
    "event-type-exists",
    HTTPStatus.CONFLICT,
    "Event type exists",
    "There is an event type of this name already.",
    "Change it, or choose another name.",
)
TENANT_NAME_TAKEN = ProblemType(
    "tenant-name-taken",
    HTTPStatus.CONFLICT,
    "Tenant name taken",
    "Another tenant has this name, or it looks like a gid.",
    "Choose another name.",
)
TENANT_IN_USE = ProblemType(
    "tenant-in-use",
    HTTPStatus.CONFLICT,
    "Tenant in use",
    "The default tenant cannot be erased.",
    "Delete its endpoints instead.",
)
TOO_MANY_SECRETS = ProblemType(
    "too-many-secrets",
    HTTPStatus.CONFLICT,
    "Too many secrets",
    "The endpoint has the maximum number of signing secrets.",
    "Wait for one to end, or rotate with `gracePeriodSeconds` 0.",
)
QUOTA_EXCEEDED = ProblemType(
    "quota-exceeded",
    HTTPStatus.CONFLICT,
    "Quota exceeded",
    "The maximum number of subscriptions (of a tenant or an endpoint), event types or AXME agents is reached.",
    "Delete some, or raise the setting that `detail` names.",
)
IDEMPOTENCY_KEY_REUSED = ProblemType(
    "idempotency-key-reused",
    HTTPStatus.CONFLICT,
    "Idempotency key reused",
    "The idempotency key was used for another call, or with another body.",
    "Use a new key for each new call.",
)
IDEMPOTENT_CALL_RUNNING = ProblemType(
    "idempotent-call-running",
    HTTPStatus.CONFLICT,
    "Call with this key is running",
    "A call with this idempotency key has not ended yet, or was cut off a moment ago.",
    "Send the same call again after `Retry-After`.",
)
NOT_A_DEAD_LETTER = ProblemType(
    "not-a-dead-letter",
    HTTPStatus.CONFLICT,
    "Not a dead letter",
    "The delivery is not dead-lettered, or not any more.",
    "Nothing: there is nothing to replay or discard.",
)
NO_ATTEMPT_DUE = ProblemType(
    "no-attempt-due",
    HTTPStatus.CONFLICT,
    "No attempt is due",
    "The delivery has ended, so no attempt can be made now.",
    "Replay it, if it is a dead letter.",
)
NOT_PULLED = ProblemType(
    "not-pulled",
    HTTPStatus.CONFLICT,
    "Not pulled",
    "The endpoint receives in another mode, so its deliveries cannot be polled, streamed or acknowledged.",
    "Create an endpoint with the mode `poll` or `stream`.",
)
TOO_MANY_DELIVERIES = ProblemType(
    "too-many-deliveries",
    HTTPStatus.CONFLICT,
    "Too many deliveries",
    "The message has more deliveries than a stream of events follows, or than one call sends again.",
    "List the events, or the deliveries of the message; to send it again, name an endpoint.",
)
GATE_NOT_PASSED = ProblemType(
    "gate-not-passed",
    HTTPStatus.CONFLICT,
    "Gate not passed",
    "The message waits for the decisions of its gate, or was declined there, so it cannot be sent again.",
    "Wait for the decisions. To send a declined message, publish it again as a new message.",
)
NOT_SCHEDULED = ProblemType(
    "not-scheduled",
    HTTPStatus.CONFLICT,
    "Not scheduled",
    "The message does not wait for a time of delivery, so it cannot be cancelled.",
    "Look at its deliveries: what waits for a next attempt can be discarded once it is a dead letter.",
)
NOT_RELEASED = ProblemType(
    "not-released",
    HTTPStatus.CONFLICT,
    "Not released",
    "The message waits for its time of delivery, or was cancelled before it, so there is nothing to send again.",
    "Wait for its `deliverAt`. To send a cancelled message, publish it again as a new message.",
)
RECEIPT_ARCHIVED = ProblemType(
    "receipt-archived",
    HTTPStatus.GONE,
    "Receipt archived",
    "The receipt is not in the database, and receipts of its time were moved to files.",
    "Ask the operators for the file. `everhook receipts extract` takes the bundle of a receipt out of it.",
)
ALREADY_DECIDED = ProblemType(
    "already-decided",
    HTTPStatus.CONFLICT,
    "Already decided",
    "The task is decided, expired or cancelled, or you have decided already.",
    "Nothing: read the task to see the decision.",
)
TASK_CHANGED = ProblemType(
    "task-changed",
    HTTPStatus.CONFLICT,
    "Task changed",
    "What is asked, or who is asked, has changed since you read the task.",
    "Read the task again, and decide with its new `version`.",
)
PAYLOAD_ERASED = ProblemType(
    "payload-erased",
    HTTPStatus.CONFLICT,
    "Payload erased",
    "The payload of the message was erased, so nothing is left to send.",
    "Discard the dead letter.",
)
ENDPOINT_DELETED = ProblemType(
    "endpoint-deleted",
    HTTPStatus.CONFLICT,
    "Endpoint deleted",
    "The endpoint was deleted, so there is nowhere to send to.",
    "Discard the dead letter, or publish the message again for another endpoint.",
)
NOT_CONFIGURED = ProblemType(
    "not-configured",
    HTTPStatus.CONFLICT,
    "Not configured",
    "The installation lacks a setting that this call needs.",
    "Set what `detail` names.",
)
RATE_LIMITED = ProblemType(
    "rate-limited",
    HTTPStatus.TOO_MANY_REQUESTS,
    "Rate limited",
    "The call exceeds the publish rate of this API key, or of the tenant that it publishes for.",
    "Send the same call again after `Retry-After`.",
)
TOO_MANY_STREAMS = ProblemType(
    "too-many-streams",
    HTTPStatus.TOO_MANY_REQUESTS,
    "Too many streams",
    "The endpoint, or the process that took the call, has the maximum number of streams or of waiting calls.",
    "Call again after `Retry-After`. One stream with a larger `prefetch` does the work of several.",
)
BULK_OPERATION_RUNNING = ProblemType(
    "bulk-operation-running",
    HTTPStatus.TOO_MANY_REQUESTS,
    "Bulk operation running",
    "The maximum number of bulk operations is running. Nothing was started.",
    "Send the same call again after `Retry-After`.",
)
TEMPORAL_BUSY = ProblemType(
    "temporal-busy",
    HTTPStatus.TOO_MANY_REQUESTS,
    "Temporal is busy",
    "Temporal takes no more calls at the moment. Nothing was changed.",
    "Send the same call again after `Retry-After`.",
)
BACKLOG_FULL = ProblemType(
    "backlog-full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Backlog full",
    "Too many accepted deliveries wait to be started. Nothing was accepted.",
    "Publish again after `Retry-After`.",
)
UNAVAILABLE = ProblemType(
    "unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Unavailable",
    "The database or Temporal does not respond, or a stored filter cannot be evaluated. Nothing was changed, unless "
    "`detail` says that the call may still take effect.",
    "Send the same call again after `Retry-After`.",
)
INTERNAL_ERROR = ProblemType(
    "internal-error",
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "Internal error",
    "A fault of Everhook. It was logged.",
    "Report it, with the time and what the log says.",
)

ALL = tuple(value for value in vars().values() if isinstance(value, ProblemType))
BY_SLUG: Mapping[str, ProblemType] = {kind.slug: kind for kind in ALL}

OF_ERRORS: Mapping[type[errors.DomainError], ProblemType] = {
    errors.InvalidField: INVALID_REQUEST,
    errors.MalformedPayload: MALFORMED_REQUEST,
    errors.PayloadTooLarge: PAYLOAD_TOO_LARGE,
    errors.PayloadDoesNotFit: PAYLOAD_DOES_NOT_FIT,
    errors.UnknownEventType: UNKNOWN_EVENT_TYPE,
    errors.NotFound: NOT_FOUND,
    errors.BodyUnavailable: NOT_FOUND,
    errors.Forbidden: FORBIDDEN,
    errors.ReservedChannel: RESERVED_CHANNEL,
    errors.Conflict: CONFLICT,
    errors.ChannelExists: CHANNEL_EXISTS,
    errors.ChannelInUse: CHANNEL_IN_USE,
    errors.EventTypeExists: EVENT_TYPE_EXISTS,
    errors.TenantNameTaken: TENANT_NAME_TAKEN,
    errors.TenantInUse: TENANT_IN_USE,
    errors.EndpointDeleted: ENDPOINT_DELETED,
    errors.TooManySecrets: TOO_MANY_SECRETS,
    errors.QuotaExceeded: QUOTA_EXCEEDED,
    errors.IdempotencyKeyReused: IDEMPOTENCY_KEY_REUSED,
    errors.NotADeadLetter: NOT_A_DEAD_LETTER,
    errors.NoAttemptDue: NO_ATTEMPT_DUE,
    errors.NotPulled: NOT_PULLED,
    errors.AlreadyDecided: ALREADY_DECIDED,
    errors.TaskChanged: TASK_CHANGED,
    errors.TooManyDeliveries: TOO_MANY_DELIVERIES,
    errors.GateNotPassed: GATE_NOT_PASSED,
    errors.NotScheduled: NOT_SCHEDULED,
    errors.NotReleased: NOT_RELEASED,
    errors.PayloadErased: PAYLOAD_ERASED,
    errors.LogDamaged: INTERNAL_ERROR,
    errors.ReceiptArchived: RECEIPT_ARCHIVED,
    errors.BulkOperationRunning: BULK_OPERATION_RUNNING,
    errors.RateLimited: RATE_LIMITED,
    errors.TooManyStreams: TOO_MANY_STREAMS,
    errors.BacklogFull: BACKLOG_FULL,
    errors.Unavailable: UNAVAILABLE,
    errors.NotSealed: UNAVAILABLE,
}
"""The problem that each domain error is to an HTTP caller. A test checks that no error is missing."""

OF_STATUSES: Mapping[int, ProblemType] = {
    kind.status: kind
    for kind in (
        MALFORMED_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        PAYLOAD_TOO_LARGE,
        INVALID_REQUEST,
    )
}
"""For errors that the framework raises with a status alone."""


def type_of(error: errors.DomainError) -> ProblemType:
    """The most specific type of an error."""
    return next(OF_ERRORS[kind] for kind in type(error).__mro__ if kind in OF_ERRORS)
