"""Waiting for deliveries."""

from typing import Any, cast

from cli.api_client.client import Api
from cli.following import wait_for_end


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
