"""What the server refuses is logged. No other server runs here: each reports what it has refused."""

from collections import Counter
from typing import Any

import pytest
from structlog.testing import capture_logs

from everhook.serving import limits as http_limits
from everhook.serving.limits import Limits
from testing.waiting import assert_eventually
from tests.limits.wire import serving_app


async def test_refusals_are_logged_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "REPORT_EVERY_S", 0.3)
    with capture_logs() as lines:
        async with serving_app(Limits(connections_per_address=1)) as server:
            held = await server.connect()
            for _ in range(50):
                assert (await server.ask()).status_code == 503
            await held.send(b"no HTTP at all\r\n\r\n")
            assert (await held.response()).status_code == 400
            await assert_eventually(lambda: _assert_reported(lines))

    assert len([line for line in lines if line["log_level"] == "warning"]) <= 2


def _assert_reported(lines: list[Any]) -> None:
    counted: Counter[str] = Counter()
    for line in lines:
        counted.update(line.get("refused", {}))
    assert counted == {"too many connections from one address": 50, "400 Bad Request": 1}
