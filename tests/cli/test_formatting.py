"""Formatting of times and counts."""

from datetime import UTC, datetime, timedelta

import pytest

from cli.formatting import counted, seen


@pytest.mark.parametrize(
    ("seconds", "message"),
    [(0, "within a minute"), (59, "within a minute"), (61, "1 min ago"), (200, "3 min ago"), (7_300, "2 h ago")],
)
def test_times_with_a_resolution_of_minutes_are_shown_in_minutes(seconds: int, message: str) -> None:
    """A failure 5 seconds ago is in a minute that began up to 59 seconds before."""
    assert seen((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()) == message


@pytest.mark.parametrize(("count", "shown"), [(0, "0 deliveries"), (1, "1 delivery"), (1_200, "1,200 deliveries")])
def test_a_count_has_its_noun_in_the_right_number(count: int, shown: str) -> None:
    assert counted(count, "delivery", "deliveries") == shown
