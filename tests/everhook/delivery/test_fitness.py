"""Who may take the express lane."""

from datetime import timedelta

import pytest
from activities.express import ExpressLane

from activities import express

SLOW = timedelta(milliseconds=500)


def test_a_new_endpoint_is_admitted() -> None:
    assert ExpressLane(1, SLOW).admits("ep_1")


def test_a_busy_endpoint_is_turned_away_until_an_attempt_is_over() -> None:
    lane = ExpressLane(2, SLOW)
    with lane.occupied("ep_1"):
        assert lane.admits("ep_1")
        with lane.occupied("ep_1"):
            assert not lane.admits("ep_1")
            assert lane.admits("ep_2")
        assert lane.admits("ep_1")


def test_an_attempt_that_raises_leaves_the_lane() -> None:
    lane = ExpressLane(1, SLOW)
    with pytest.raises(ValueError, match="bad"), lane.occupied("ep_1"):
        raise ValueError("bad")
    assert lane.admits("ep_1")


def test_a_lane_of_none_admits_nobody() -> None:
    assert not ExpressLane(0, SLOW).admits("ep_1")


def test_an_endpoint_whose_first_answer_is_slow_leaves_the_lane() -> None:
    lane = ExpressLane(1, SLOW)
    lane.note("ep_1", SLOW)
    assert not lane.admits("ep_1")
    assert lane.admits("ep_2")


def test_a_quick_endpoint_may_be_slow_once_and_leaves_the_lane_when_it_stays_slow() -> None:
    lane = ExpressLane(1, SLOW)
    lane.note("ep_1", timedelta())
    lane.note("ep_1", SLOW * 2)
    assert lane.admits("ep_1")
    lane.note("ep_1", SLOW * 2)
    assert not lane.admits("ep_1")


def test_an_endpoint_that_is_quick_again_comes_back() -> None:
    lane = ExpressLane(1, SLOW)
    lane.note("ep_1", SLOW * 2)
    for _ in range(3):
        lane.note("ep_1", timedelta())
    assert lane.admits("ep_1")


def test_what_is_known_of_endpoints_stays_bounded_and_those_not_seen_for_longest_are_forgotten() -> None:
    lane = ExpressLane(1, SLOW)
    for number in range(express.MAX_LATENCIES):
        lane.note(f"ep_{number}", SLOW)
    lane.note("ep_0", SLOW)
    lane.note("ep_new", SLOW)
    assert not lane.admits("ep_0")
    assert lane.admits("ep_1")
