"""A threshold tells that it was crossed, once each way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everhook.health.alerts import Threshold
from everhook.notifications.events import EventKind

MANY = Threshold(EventKind.DEAD_LETTERS, 100, 80)
FEW = Threshold(EventKind.SUCCESS_RATE, 0.9, 0.95, low=True)


@pytest.mark.parametrize(
    ("threshold", "raised", "value", "turned"),
    [
        (MANY, False, 99, None), (MANY, False, 100, True), (MANY, False, 5000, True),
        (MANY, True, 100, None), (MANY, True, 81, None), (MANY, True, 80, False), (MANY, True, 0, False),
        (FEW, False, 0.91, None), (FEW, False, 0.9, True), (FEW, False, 0.0, True),
        (FEW, True, 0.9, None), (FEW, True, 0.94, None), (FEW, True, 0.95, False), (FEW, True, 1.0, False),
        (FEW, False, None, None), (FEW, True, None, None),
    ],
)  # fmt: skip
def test_it_turns(threshold: Threshold, raised: bool, value: float | None, turned: bool | None) -> None:
    assert threshold.turned(raised, value) is turned


@given(st.lists(st.floats(0, 200)))
def test_it_tells_alternately_and_never_on_the_edge(values: list[float]) -> None:
    raised, told = False, []
    for value in values:
        turned = MANY.turned(raised, value)
        if turned is not None:
            told.append(turned)
            raised = turned
            assert MANY.turned(raised, value) is None
    assert told == [n % 2 == 0 for n in range(len(told))]
