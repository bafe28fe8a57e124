"""What the response to an attempt means. Pure; the table in `tests/delivery/test_classify.py` is the specification."""

from collections.abc import Container
from dataclasses import dataclass

from everhook.contracts import DeadLetterReason, FailureCode, Verdict

GONE = 410
TOO_MANY_REQUESTS = 429
RETRY_AFTER_STATUSES = frozenset({429, 503})
"""The statuses for which `Retry-After` is honoured: RFC 6585 section 4, RFC 9110 section 15.6.4."""


@dataclass(frozen=True)
class Classification:
    """`reason` is why the delivery is dead-lettered, now or once no attempt is left.

    `healthy` is what is reported to the circuit: True, False, or None if the attempt says nothing about the endpoint.
    `gone` disables the endpoint.
    """

    verdict: Verdict
    reason: DeadLetterReason | None = None
    healthy: bool | None = None
    gone: bool = False


def classify(
    status: int | None,
    failure: FailureCode | None = None,
    *,
    retry_statuses: Container[int] = (),
) -> Classification:
    """Classify one attempt: an HTTP `status`, or a `failure` if there was no response.

    `retry_statuses` are those that the policy adds: statuses, or classes (4 is `4xx`). A 429 is retried with or without
    `Retry-After`.
    """
    if status is None:
        if failure is FailureCode.BLOCKED:
            return Classification(Verdict.REJECTED, DeadLetterReason.BLOCKED)
        if failure is FailureCode.UNSENDABLE:
            return Classification(Verdict.RETRY, DeadLetterReason.UNSENDABLE)
        return Classification(Verdict.RETRY, healthy=False)
    if 200 <= status < 300:
        return Classification(Verdict.DELIVERED, healthy=True)
    if status >= 500:
        return Classification(Verdict.RETRY, healthy=False)
    if status == GONE:
        return Classification(Verdict.REJECTED, DeadLetterReason.REJECTED, healthy=True, gone=True)
    if status < 400 or status == TOO_MANY_REQUESTS or status in retry_statuses or status // 100 in retry_statuses:
        return Classification(Verdict.RETRY, healthy=True)
    return Classification(Verdict.REJECTED, DeadLetterReason.REJECTED, healthy=True)
