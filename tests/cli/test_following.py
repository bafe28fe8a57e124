"""Waiting for deliveries."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from cli.api_client.client import Api
from cli.command import Session
from cli.following import conclude, wait_for_end
from cli.output import Output


class Reads:
    """Responds to one read after the other; the last one is repeated."""

    def __init__(self, *deliveries: dict[str, Any]) -> None:
        self._deliveries = list(deliveries)

    def call(self, _call: object) -> dict[str, Any]:
        return self._deliveries.pop(0) if len(self._deliveries) > 1 else self._deliveries[0]


def status_after(*deliveries: dict[str, Any], first_attempt: bool) -> str:
    return wait_for_end(cast(Api, Reads(*deliveries)), "dlv_1", 5, first_attempt=first_attempt)["status"]


def test_a_delivery_that_was_read_just_before_its_successful_attempt_is_read_again() -> None:
    early = {"status": "accepted", "attempts": [{"verdict": "delivered"}]}
    late = {"status": "delivered", "attempts": [{"verdict": "delivered"}]}
    assert status_after(early, late, first_attempt=True) == "delivered"


def test_a_failed_attempt_is_the_end_where_the_first_attempt_is_waited_for() -> None:
    failed = {"status": "retrying", "attempts": [{"verdict": "retry"}]}
    delivered = {"status": "delivered", "attempts": [{"verdict": "retry"}, {"verdict": "delivered"}]}
    assert status_after(failed, delivered, first_attempt=True) == "retrying"
    assert status_after(failed, delivered, first_attempt=False) == "delivered"


UNTIL = "2026-01-31T12:00:00Z"
CLOSED = {"state": "closed", "until": None}


@pytest.mark.parametrize(
    ("status", "endpoint", "reason"),
    [
        ("accepted", {}, "its first attempt has not ended"),
        ("available", {}, "no consumer has taken it"),
        ("awaiting_decision", {}, "its task is not decided"),
        ("gated", {}, "the decisions of a gate"),
        ("queued", {}, "the messages before it in its group"),
        ("parked", {"status": "paused", "statusReason": "by ann"}, "its endpoint is paused: by ann"),
        ("parked", {"circuit": {"state": "half_open", "until": UNTIL}}, "its endpoint is half-open until 2026-01-31"),
        ("parked", {"circuit": {"state": "open", "until": None}}, "its endpoint is open\n"),
        ("parked", {}, "is closed again"),
    ],
)
def test_the_reason_for_a_delivery_that_still_waits_is_on_standard_error(
    capsys: pytest.CaptureFixture[str], status: str, endpoint: dict[str, Any], reason: str
) -> None:
    found = {"status": "enabled", "statusReason": "", "circuit": CLOSED, **endpoint}
    session = SimpleNamespace(api=Reads(found), out=Output(as_json=True))
    delivery: Any = {"deliveryGid": "dlv_1", "endpointGid": "ep_1", "status": status, "attempts": []}
    with pytest.raises(typer.Exit):
        conclude(cast(Session, session), [delivery])
    shown = capsys.readouterr()
    assert shown.err.startswith("dlv_1 is not delivered: ") and reason in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("status", ["retrying", "dead_lettered"])
def test_what_the_attempts_show_is_not_repeated(capsys: pytest.CaptureFixture[str], status: str) -> None:
    delivery: Any = {"deliveryGid": "dlv_1", "endpointGid": "ep_1", "status": status, "attempts": [{}]}
    with pytest.raises(typer.Exit):
        conclude(cast(Session, SimpleNamespace(api=Reads(), out=Output(as_json=False))), [delivery])
    assert capsys.readouterr().err == ""
