"""Which endpoints are fit for the express lane, and at what pace the lane moves."""

from datetime import timedelta

import pytest

from everhook.contracts import FailureCode
from everhook.delivery import fitness
from everhook.delivery.classify import Classification, classify
from everhook.delivery.fitness import UNFIT_FAILURES, EndpointFitness

SLOW = timedelta(milliseconds=500)
QUICK = timedelta(milliseconds=1)
DELIVERED, REJECTED, FAILED = (classify(status) for status in (200, 404, 503))
TIMED_OUT = classify(None, FailureCode.TIMEOUT_TOTAL)


@pytest.fixture
def known() -> EndpointFitness:
    return EndpointFitness(SLOW)


def test_an_unknown_endpoint_is_fit(known: EndpointFitness) -> None:
    assert known.is_fit("ep_1")
    assert known.turn_s("ep_1") == 0


def test_an_endpoint_whose_first_response_is_slow_leaves_the_lane(known: EndpointFitness) -> None:
    known.note("ep_1", SLOW, DELIVERED)
    assert not known.is_fit("ep_1")
    assert known.is_fit("ep_2")


def test_a_quick_endpoint_may_be_slow_once_and_leaves_the_lane_when_it_stays_slow(known: EndpointFitness) -> None:
    known.note("ep_1", QUICK, DELIVERED)
    known.note("ep_1", SLOW * 2, DELIVERED)
    assert known.is_fit("ep_1")
    known.note("ep_1", SLOW * 2, DELIVERED)
    assert not known.is_fit("ep_1")


def test_an_endpoint_that_is_quick_again_comes_back(known: EndpointFitness) -> None:
    known.note("ep_1", SLOW * 2, DELIVERED)
    for _ in range(3):
        known.note("ep_1", QUICK, DELIVERED)
    assert known.is_fit("ep_1")


@pytest.mark.parametrize("failure", [FAILED, TIMED_OUT])
def test_an_endpoint_leaves_the_lane_after_failures_in_a_row_and_comes_back_with_its_first_response(
    known: EndpointFitness, failure: Classification
) -> None:
    for _ in range(UNFIT_FAILURES - 1):
        known.note("ep_1", QUICK, failure)
    assert known.is_fit("ep_1")
    known.note("ep_1", QUICK, failure)
    assert not known.is_fit("ep_1")
    known.note("ep_1", QUICK, REJECTED)
    assert known.is_fit("ep_1")


def test_failures_among_successes_are_not_in_a_row(known: EndpointFitness) -> None:
    for _ in range(10):
        known.note("ep_1", QUICK, FAILED)
        known.note("ep_1", QUICK, FAILED)
        known.note("ep_1", QUICK, DELIVERED)
    assert known.is_fit("ep_1")


@pytest.mark.parametrize("code", [FailureCode.UNSENDABLE, FailureCode.BLOCKED])
def test_errors_that_the_endpoint_did_not_cause_leave_it_fit(known: EndpointFitness, code: FailureCode) -> None:
    for _ in range(10):
        known.note("ep_1", SLOW, classify(None, code))
    assert known.is_fit("ep_1")


def test_the_time_of_a_turn_follows_the_latest_turns(known: EndpointFitness) -> None:
    for _ in range(20):
        known.note_turn("ep_1", 2.0)
    assert known.turn_s("ep_1") == pytest.approx(2.0)
    assert known.is_fit("ep_1")
    for _ in range(20):
        known.note_turn("ep_1", 0.01)
    assert known.turn_s("ep_1") == pytest.approx(0.01, rel=0.5)


def test_the_number_of_known_endpoints_is_bounded_and_the_least_recently_seen_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitness, "MAX_ENDPOINTS", 3)
    known = EndpointFitness(SLOW)
    for gid in ("ep_0", "ep_1", "ep_2", "ep_0", "ep_new"):
        known.note(gid, SLOW, DELIVERED)
    assert [known.is_fit(gid) for gid in ("ep_0", "ep_1", "ep_2", "ep_new")] == [False, True, False, False]
