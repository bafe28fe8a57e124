"""What the tests of limits share."""

import pytest

from everhook.serving import server as http_server


@pytest.fixture(autouse=True)
def sweeping_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines are checked at each tick of the server, and not once a second."""
    monkeypatch.setattr(http_server, "SWEEP_EVERY_TICKS", 1)
