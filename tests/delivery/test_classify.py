"""The specification of what a response means: one row a case."""

import pytest

from everhook.contracts import DeadLetterReason, FailureCode, Verdict
from everhook.delivery.classify import Classification, classify

DELIVERED = Classification(Verdict.DELIVERED, healthy=True)
FAILED = Classification(Verdict.RETRY, healthy=False)
HEALTHY_RETRY = Classification(Verdict.RETRY, healthy=True)
REJECTED = Classification(Verdict.REJECTED, DeadLetterReason.REJECTED, healthy=True)
GONE = Classification(Verdict.REJECTED, DeadLetterReason.REJECTED, healthy=True, gone=True)
BLOCKED = Classification(Verdict.REJECTED, DeadLetterReason.BLOCKED)

LISTED = (408, 425)

TABLE = {
    DELIVERED: [200, 201, 202, 204, 206, 226, 299],
    HEALTHY_RETRY: [100, 101, 103, 199, 300, 301, 302, 303, 304, 307, 308, 399, 429],
    REJECTED: [400, 401, 403, 404, 405, 406, 408, 409, 413, 415, 418, 422, 425, 426, 428, 431, 451, 499],
    GONE: [410],
    FAILED: [500, 501, 502, 503, 504, 505, 507, 508, 511, 520, 599, 600, 999],
}


def rows(table: dict[Classification, list[int]]) -> list[tuple[int, Classification]]:
    return [(status, classification) for classification, statuses in table.items() for status in statuses]


@pytest.mark.parametrize(("status", "classification"), rows(TABLE))
def test_a_status_means_the_same_whenever_it_comes(status: int, classification: Classification) -> None:
    assert classify(status) == classification


@pytest.mark.parametrize("status", LISTED)
def test_a_policy_may_have_more_statuses_retried(status: int) -> None:
    assert classify(status, retry_statuses=LISTED) == HEALTHY_RETRY


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_a_policy_that_lists_others_leaves_a_status_rejected(status: int) -> None:
    assert classify(status, retry_statuses=LISTED) == REJECTED


@pytest.mark.parametrize("status", [200, 410, 500])
def test_no_policy_overrules_success_gone_and_failure(status: int) -> None:
    assert classify(status, retry_statuses=(status,)) == classify(status)


@pytest.mark.parametrize("status", range(400, 500))
def test_a_class_stands_for_all_its_statuses_except_gone(status: int) -> None:
    assert classify(status, retry_statuses=(4,)) == (classify(410) if status == 410 else HEALTHY_RETRY)
    assert classify(status, retry_statuses=(5,)) == classify(status)


NOT_THEIRS = (FailureCode.BLOCKED, FailureCode.UNSENDABLE)


@pytest.mark.parametrize("failure", [code for code in FailureCode if code not in NOT_THEIRS])
def test_no_response_is_a_failure_of_the_endpoint_and_retried(failure: FailureCode) -> None:
    assert classify(None, failure) == FAILED


def test_an_internal_error_is_retried_and_not_charged_to_the_endpoint() -> None:
    assert classify(None, FailureCode.UNSENDABLE) == Classification(Verdict.RETRY, DeadLetterReason.UNSENDABLE)


def test_a_blocked_address_is_dead_lettered_at_once_and_not_charged_to_the_endpoint() -> None:
    assert classify(None, FailureCode.BLOCKED) == BLOCKED


def test_neither_status_nor_failure_is_retried() -> None:
    assert classify(None, None) == FAILED


@pytest.mark.parametrize("retry_statuses", [(), LISTED])
def test_every_status_has_one_of_three_verdicts_and_only_rejections_have_a_reason(
    retry_statuses: tuple[int, ...],
) -> None:
    for status in range(100, 1000):
        classification = classify(status, retry_statuses=retry_statuses)
        assert classification.verdict in (Verdict.DELIVERED, Verdict.RETRY, Verdict.REJECTED)
        assert (classification.reason is not None) == (classification.verdict is Verdict.REJECTED)


def test_only_server_errors_are_charged_to_the_circuit() -> None:
    assert [status for status in range(100, 1000) if not classify(status).healthy] == list(range(500, 1000))
