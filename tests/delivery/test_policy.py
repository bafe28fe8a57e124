"""Schedules, jitter, windows, and how a channel's and an endpoint's policy become one."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everhook.delivery.policy import (
    JITTER_FROM,
    MAX_ATTEMPTS,
    MAX_DELAY,
    MAX_WINDOW,
    PRESETS,
    DeliveryPolicy,
    RetryPlan,
    exponential,
    resolve,
)

ALMOST_ONE = 1 - 2**-53
"""The greatest draw that `random()` gives."""


def seconds(*values: float) -> tuple[timedelta, ...]:
    return tuple(timedelta(seconds=value) for value in values)


def without_jitter(policy: DeliveryPolicy) -> list[timedelta | None]:
    return [policy.next_delay(number, draw=0) for number in range(1, policy.attempts + 1)]


def begins_of_a_round(policy: DeliveryPolicy, draw: float) -> list[timedelta]:
    """When each attempt of a round begins, where attempts take no time and all fail."""
    begins = [timedelta()]
    while (plan := policy.plan(len(begins), begins[-1], draw)) is not None:
        begins.append(begins[-1] + plan.delay)
    return begins


def test_without_a_policy_the_documented_schedule_holds_to_the_second() -> None:
    policy = resolve()
    assert policy.attempts == 6
    assert without_jitter(policy) == [*seconds(1, 30, 300, 1800, 7200), None]
    assert begins_of_a_round(policy, draw=0) == list(seconds(0, 1, 31, 331, 2131, 9331))


def test_a_policy_object_without_arguments_is_the_documented_one() -> None:
    assert DeliveryPolicy() == resolve() == resolve({"preset": "documented"})


def test_the_defaults_are_those_of_the_design() -> None:
    policy = DeliveryPolicy()
    assert (policy.jitter, policy.timeout, policy.max_window) == (0.1, timedelta(seconds=15), timedelta(hours=72))
    assert policy.retry_statuses == ()


@pytest.mark.parametrize(
    ("preset", "attempts", "at_least", "at_most"),
    [
        ("documented", 6, timedelta(seconds=9331), timedelta(seconds=9331)),
        ("patient", 10, timedelta(days=2.5), timedelta(days=3)),
        ("brisk", 6, timedelta(minutes=1), timedelta(minutes=2)),
    ],
)
def test_a_preset_makes_its_number_of_attempts_in_its_time(
    preset: str, attempts: int, at_least: timedelta, at_most: timedelta
) -> None:
    begins = begins_of_a_round(resolve({"preset": preset}), draw=0)
    assert len(begins) == attempts
    assert at_least <= begins[-1] <= at_most


def test_every_preset_is_within_what_a_policy_may_ask_for() -> None:
    assert set(PRESETS) == {"documented", "patient", "brisk"}
    for delays in PRESETS.values():
        assert len(delays) < MAX_ATTEMPTS
        assert all(timedelta() < delay <= MAX_DELAY for delay in delays)
        assert sum(delays, timedelta()) <= MAX_WINDOW


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("draw", [0.0, 0.5, ALMOST_ONE])
def test_no_jitter_pushes_a_presets_last_attempts_out_of_the_window(preset: str, draw: float) -> None:
    policy = resolve({"preset": preset})
    assert len(begins_of_a_round(policy, draw)) == policy.attempts


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("draw", [0.0, 0.5, ALMOST_ONE])
def test_jitter_is_added_to_delays_of_half_a_minute_and_more_only(number: int, draw: float) -> None:
    plain = DeliveryPolicy().delays[number - 1]
    delay = DeliveryPolicy().next_delay(number, draw)
    assert delay == (plain * (1 + 0.1 * draw) if plain >= timedelta(seconds=30) else plain)


def test_the_shortest_delay_with_jitter_is_thirty_seconds() -> None:
    policy = DeliveryPolicy(delays=seconds(29.999, 30), jitter=0.5)
    assert timedelta(seconds=30) == JITTER_FROM
    assert policy.next_delay(1, draw=0.5) == timedelta(seconds=29.999)
    assert policy.next_delay(2, draw=0.5) == timedelta(seconds=37.5)


@given(
    delay=st.timedeltas(min_value=timedelta(0), max_value=MAX_DELAY),
    jitter=st.floats(0, 1),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_jitter_never_shortens_a_delay_and_never_adds_more_than_its_fraction(
    delay: timedelta, jitter: float, draw: float
) -> None:
    waited = DeliveryPolicy(delays=(delay,), jitter=jitter).next_delay(1, draw)
    assert waited is not None
    assert delay <= waited <= delay * (1 + jitter) + timedelta(microseconds=1)


@pytest.mark.parametrize("number", [6, 7, 100])
def test_no_delay_follows_the_last_attempt(number: int) -> None:
    assert DeliveryPolicy().next_delay(number, draw=0) is None
    assert DeliveryPolicy().plan(number, timedelta(), draw=0) is None


def test_a_policy_of_no_delays_makes_one_attempt() -> None:
    policy = resolve({"delaysSeconds": []})
    assert policy.attempts == 1
    assert policy.next_delay(1, draw=0) is None


@pytest.mark.parametrize(
    ("specs", "delays"),
    [
        ([None, None], (1, 30, 300, 1800, 7200)),
        ([{}], (1, 30, 300, 1800, 7200)),
        ([{"preset": "brisk"}], (1, 5, 15, 30, 60)),
        ([{"delaysSeconds": [1, 2.5]}], (1, 2.5)),
        ([{"preset": "brisk"}, None], (1, 5, 15, 30, 60)),
        ([None, {"preset": "brisk"}], (1, 5, 15, 30, 60)),
        ([{"preset": "brisk"}, {"timeoutSeconds": 3}], (1, 5, 15, 30, 60)),
        ([{"preset": "brisk"}, {"delaysSeconds": [7]}], (7,)),
        ([{"delaysSeconds": [7]}, {"preset": "brisk"}], (1, 5, 15, 30, 60)),
        ([{"delaysSeconds": [7]}, {"delaysSeconds": [8, 9]}], (8, 9)),
        ([{"delaysSeconds": [7]}, {"delaysSeconds": []}], ()),
        (
            [
                {"exponential": {"initialSeconds": 9, "factor": 2, "capSeconds": 99, "attempts": 3}},
                {"preset": "documented"},
            ],
            (1, 30, 300, 1800, 7200),
        ),
        (
            [
                {"delaysSeconds": [7]},
                {"exponential": {"initialSeconds": 2, "factor": 3, "capSeconds": 10, "attempts": 4}},
            ],
            (2, 6, 10),
        ),
    ],
)
def test_the_later_schedule_wins_whole(specs: list[dict[str, Any] | None], delays: tuple[float, ...]) -> None:
    assert resolve(*specs).delays == seconds(*delays)


def test_keys_other_than_the_schedule_are_merged_one_by_one() -> None:
    channel = {"preset": "brisk", "jitter": 0.3, "timeoutSeconds": 5, "retryStatuses": [408]}
    endpoint = {"timeoutSeconds": 7.5, "maxWindowSeconds": 60}
    assert resolve(channel, endpoint) == DeliveryPolicy(
        delays=PRESETS["brisk"],
        jitter=0.3,
        timeout=timedelta(seconds=7.5),
        max_window=timedelta(minutes=1),
        retry_statuses=(408,),
    )


def test_an_endpoint_may_take_back_what_its_channel_set() -> None:
    policy = resolve({"jitter": 0.3, "retryStatuses": [408]}, {"jitter": 0, "retryStatuses": []})
    assert (policy.jitter, policy.retry_statuses) == (0, ())


@pytest.mark.parametrize(
    "unreadable",
    [
        {"preset": "of a newer version"},
        {"delaysSeconds": [1, -1]},
        {"timeoutSeconds": -1},
        {"maxWindowSeconds": -1},
        {"jitter": "much"},
        "brisk",
    ],
)
def test_a_policy_that_cannot_be_read_is_left_out_and_reported(unreadable: Any) -> None:
    reports: list[str] = []
    policy = resolve({"jitter": 0.3}, unreadable, on_unreadable=lambda: reports.append("unreadable"))
    assert (policy, reports) == (resolve({"jitter": 0.3}), ["unreadable"])


def test_merging_changes_neither_policy() -> None:
    channel, endpoint = {"preset": "brisk"}, {"delaysSeconds": [1.0]}
    resolve(channel, endpoint)
    assert (channel, endpoint) == ({"preset": "brisk"}, {"delaysSeconds": [1.0]})


@pytest.mark.parametrize(
    ("initial", "factor", "cap", "attempts", "delays"),
    [
        (1, 2, 100, 1, ()),
        (1, 2, 100, 5, (1, 2, 4, 8)),
        (1, 10, 50, 5, (1, 10, 50, 50)),
        (5, 1, 100, 4, (5, 5, 5)),
        (60, 2, 30, 3, (30, 30)),
        (0.5, 1.5, 60, 3, (0.5, 0.75)),
    ],
)
def test_an_exponential_grows_by_its_factor_up_to_its_cap(
    initial: float, factor: float, cap: float, attempts: int, delays: tuple[float, ...]
) -> None:
    found = exponential(initialSeconds=initial, factor=factor, capSeconds=cap, attempts=attempts)
    assert found == seconds(*delays)


def test_the_longest_exponential_there_may_be_does_not_overflow() -> None:
    day = timedelta(days=1)
    delays = exponential(initialSeconds=1, factor=1e6, capSeconds=day.total_seconds(), attempts=MAX_ATTEMPTS)
    assert len(delays) == MAX_ATTEMPTS - 1
    assert max(delays) == day


@pytest.mark.parametrize(
    ("elapsed", "planned"),
    [
        (timedelta(0), RetryPlan(timedelta(seconds=60), timedelta(seconds=100))),
        (timedelta(seconds=40), RetryPlan(timedelta(seconds=60), timedelta(seconds=60))),
        (timedelta(seconds=40.001), None),
        (timedelta(seconds=500), None),
    ],
)
def test_a_retry_is_planned_only_inside_the_window(elapsed: timedelta, planned: RetryPlan | None) -> None:
    policy = DeliveryPolicy(delays=seconds(60), jitter=0, max_window=timedelta(seconds=100))
    assert policy.plan(1, elapsed, draw=0) == planned


def test_a_plan_carries_the_jitter_of_its_draw() -> None:
    plan = DeliveryPolicy(delays=seconds(100)).plan(1, timedelta(), draw=0.5)
    assert plan is not None
    assert plan.delay == timedelta(seconds=105)


@pytest.mark.parametrize(
    ("retry_after", "waited"),
    [
        (None, 60),
        (0, 60),
        (59, 60),
        (61, 61),
        (3600, 3600),
        (7200, 7200),
        (7201, 7200),
        (10**6, 7200),
    ],
)
def test_an_endpoint_that_sends_retry_after_gets_no_request_before_that_time_nor_after_the_window(
    retry_after: float | None, waited: float
) -> None:
    plan = RetryPlan(delay=timedelta(seconds=60), window_left=timedelta(hours=2))
    asked = None if retry_after is None else timedelta(seconds=retry_after)
    assert plan.wait(asked) == timedelta(seconds=waited)
