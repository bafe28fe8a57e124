"""What processes report to the circuits of endpoints: failures, and successes that end a streak."""

import asyncio

import pytest

from everhook.circuit.reporter import OutcomeReporter, merge
from everhook.contracts import FailureCode, OutcomeReport
from everhook.delivery.classify import Classification, classify
from testing.waiting import assert_eventually
from tests.activities.desk import FakeCircuits

DELIVERED, FAILED, REJECTED, GONE = (classify(status) for status in (200, 503, 404, 410))
BLOCKED = classify(None, FailureCode.BLOCKED)
UNSENDABLE = classify(None, FailureCode.UNSENDABLE)


@pytest.fixture
def circuits() -> FakeCircuits:
    return FakeCircuits()


@pytest.fixture
def reporter(circuits: FakeCircuits) -> OutcomeReporter:
    return OutcomeReporter(circuits)


async def test_healthy_traffic_reports_nothing(circuits: FakeCircuits, reporter: OutcomeReporter) -> None:
    for classification in [DELIVERED, REJECTED, BLOCKED] * 20:
        reporter.note("ep_1", "acme", classification, in_streak=False)
    await reporter.close()
    assert circuits.tries == 0


async def test_failures_at_the_same_time_are_sent_in_one_report(
    circuits: FakeCircuits, reporter: OutcomeReporter
) -> None:
    for _ in range(7):
        reporter.note("ep_1", "acme", FAILED, in_streak=False)
    reporter.note("ep_2", "acme", FAILED, in_streak=False)
    await reporter.close()
    assert sorted(circuits.reports) == [("ep_1", OutcomeReport(failures=7)), ("ep_2", OutcomeReport(failures=1))]


@pytest.mark.parametrize("classification", [DELIVERED, REJECTED], ids=["delivered", "rejected"])
async def test_a_response_that_ends_a_streak_of_the_circuit_is_reported(
    circuits: FakeCircuits, reporter: OutcomeReporter, classification: Classification
) -> None:
    reporter.note("ep_1", "acme", classification, in_streak=True)
    await reporter.close()
    assert circuits.reports == [("ep_1", OutcomeReport(succeeded=True))]


async def test_a_success_after_a_failure_that_this_process_saw_is_reported_once(
    circuits: FakeCircuits, reporter: OutcomeReporter
) -> None:
    for classification in (FAILED, DELIVERED, DELIVERED, DELIVERED):
        reporter.note("ep_1", "acme", classification, in_streak=False)
    await reporter.close()
    reporter.note("ep_1", "acme", DELIVERED, in_streak=False)
    await reporter.close()
    assert circuits.reports == [("ep_1", OutcomeReport(succeeded=True))]


async def test_failures_after_a_success_are_reported_with_it(circuits: FakeCircuits, reporter: OutcomeReporter) -> None:
    for classification in (FAILED, FAILED, DELIVERED, FAILED, FAILED, FAILED):
        reporter.note("ep_1", "acme", classification, in_streak=False)
    await reporter.close()
    assert circuits.reports == [("ep_1", OutcomeReport(succeeded=True, failures=3))]


@pytest.mark.parametrize("classification", [BLOCKED, UNSENDABLE], ids=["blocked", "unsendable"])
async def test_blocked_addresses_and_internal_errors_are_not_reported(
    circuits: FakeCircuits, reporter: OutcomeReporter, classification: Classification
) -> None:
    reporter.note("ep_1", "acme", classification, in_streak=True)
    await reporter.close()
    assert circuits.tries == 0


async def test_gone_is_reported_for_a_healthy_endpoint_too(circuits: FakeCircuits, reporter: OutcomeReporter) -> None:
    reporter.note("ep_1", "acme", GONE, in_streak=False)
    await reporter.close()
    assert circuits.reports == [("ep_1", OutcomeReport(succeeded=True, gone=True))]


async def test_a_failed_report_is_sent_later_together_with_what_came_since(
    circuits: FakeCircuits, reporter: OutcomeReporter
) -> None:
    circuits.failing = 1
    for _ in range(2):
        reporter.note("ep_1", "acme", FAILED, in_streak=False)
    await assert_eventually(lambda: assert_tries(circuits, 1))
    for _ in range(3):
        reporter.note("ep_1", "acme", FAILED, in_streak=False)
    await assert_eventually(lambda: assert_tries(circuits, 2))
    await reporter.close()
    assert circuits.reports == [("ep_1", OutcomeReport(failures=5))]


async def test_a_worker_can_end_while_temporal_is_away(circuits: FakeCircuits, reporter: OutcomeReporter) -> None:
    circuits.failing = 1_000
    reporter.note("ep_1", "acme", FAILED, in_streak=False)
    async with asyncio.timeout(30):
        await reporter.close()
    assert 1 <= circuits.tries <= 2


def assert_tries(circuits: FakeCircuits, tries: int) -> None:
    assert circuits.tries >= tries


@pytest.mark.parametrize(
    ("older", "newer", "merged"),
    [
        (OutcomeReport(failures=2), OutcomeReport(failures=3), OutcomeReport(failures=5)),
        (OutcomeReport(failures=2), OutcomeReport(succeeded=True), OutcomeReport(succeeded=True)),
        (
            OutcomeReport(succeeded=True, failures=2),
            OutcomeReport(failures=3),
            OutcomeReport(succeeded=True, failures=5),
        ),
        (
            OutcomeReport(failures=9),
            OutcomeReport(succeeded=True, failures=1),
            OutcomeReport(succeeded=True, failures=1),
        ),
        (OutcomeReport(gone=True), OutcomeReport(succeeded=True), OutcomeReport(succeeded=True, gone=True)),
        (OutcomeReport(failures=1), OutcomeReport(gone=True), OutcomeReport(failures=1, gone=True)),
    ],
)
def test_two_reports_make_one(older: OutcomeReport, newer: OutcomeReport, merged: OutcomeReport) -> None:
    assert merge(older, newer) == merged
