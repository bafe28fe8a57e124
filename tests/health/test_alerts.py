"""A threshold reports that it was crossed, once in each direction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everhook.health.alerts import AlertRule
from everhook.notifications.events import EventKind

MANY = AlertRule(EventKind.DEAD_LETTERS, 100, 80)
FEW = AlertRule(EventKind.SUCCESS_RATE, 0.9, 0.95, low=True)


@pytest.mark.parametrize(
    ("threshold", "raised", "value", "transition"),
    [
        (MANY, False, 99, None), (MANY, False, 100, True), (MANY, False, 5000, True),
        (MANY, True, 100, None), (MANY, True, 81, None), (MANY, True, 80, False), (MANY, True, 0, False),
        (FEW, False, 0.91, None), (FEW, False, 0.9, True), (FEW, False, 0.0, True),
        (FEW, True, 0.9, None), (FEW, True, 0.94, None), (FEW, True, 0.95, False), (FEW, True, 1.0, False),
        (FEW, False, None, None), (FEW, True, None, None),
    ],
)  # fmt: skip
def test_a_threshold_reports_a_crossing_in_either_direction(
    threshold: AlertRule, raised: bool, value: float | None, transition: bool | None
) -> None:
    assert threshold.transition(raised, value) is transition


@given(st.lists(st.floats(0, 200)))
def test_an_alert_is_raised_and_cleared_alternately(values: list[float]) -> None:
    raised, transitions = False, []
    for value in values:
        transition = MANY.transition(raised, value)
        if transition is not None:
            transitions.append(transition)
            raised = transition
            assert MANY.transition(raised, value) is None
    assert transitions == [n % 2 == 0 for n in range(len(transitions))]
