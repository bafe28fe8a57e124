"""What `everhook dev` prints as things happen: a row of any event has a name in each column."""

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from cli.dev.feed_store import EventNews, News
from cli.dev.terminal import ENDPOINT_WIDTH, TYPE_WIDTH, Terminal
from everhook.notifications.events import EventKind

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
CLOCK_WIDTH = len("12:00:00  ")
DATA: dict[str, Any] = {"state": "raised", "value": 12.0, "threshold": 10, "place": "checkpoint", "damage": "is gone"}


def printed(event: EventNews) -> str:
    output = io.StringIO()
    Terminal(Console(file=output, width=200)).news(News([], [event]))
    return output.getvalue()


def event(kind: str, data: dict[str, Any] = DATA) -> EventNews:
    """An event without a delivery and without an endpoint."""
    return EventNews(kind, NOW, data, delivery_gid=None, event_type=None, url=None, description=None)


@pytest.mark.parametrize("kind", [*(kind for kind in EventKind if kind is not EventKind.CHECKPOINT), "what.is_new"])
def test_an_event_without_a_subject_has_no_blank_column(kind: str) -> None:
    row = printed(event(kind))[CLOCK_WIDTH:]
    assert row[:TYPE_WIDTH].strip() and row[TYPE_WIDTH + 2 :][:ENDPOINT_WIDTH].strip()


def test_a_threshold_shows_the_value_that_crossed_it() -> None:
    assert "raised: 12, the threshold is 10" in printed(event(EventKind.DEAD_LETTERS))
    data = {"alert": "success_rate", "value": 0.4090909090909091, "threshold": 0.9}
    assert "success rate: 0.409, the threshold is 0.9" in printed(event(EventKind.ALERT_RAISED, data))
    data = {"alert": "dead_letters", "value": None, "threshold": 1_200}
    assert "dead letters: unknown, the threshold is 1,200" in printed(event(EventKind.ALERT_CLEARED, data))


def test_a_change_of_health_shows_the_levels_and_the_score() -> None:
    data = {"from": "healthy", "to": "failing", "score": 52, "components": []}
    assert "healthy → failing, score 52" in printed(event(EventKind.HEALTH_CHANGED, data))


def test_checkpoints_which_come_twice_a_minute_are_not_printed() -> None:
    assert printed(event(EventKind.CHECKPOINT)) == ""
