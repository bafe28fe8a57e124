"""Formatting of times."""

from datetime import UTC, datetime, timedelta

import pytest

from cli.formatting import seen


@pytest.mark.parametrize(
    ("seconds", "message"),
    [(0, "within a minute"), (59, "within a minute"), (61, "1 min ago"), (200, "3 min ago"), (7_300, "2.0 h ago")],
)
def test_times_with_a_resolution_of_minutes_are_shown_in_minutes(seconds: int, message: str) -> None:
    """A failure 5 seconds ago is in a minute that began up to 59 seconds before."""
    assert seen((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()) == message
