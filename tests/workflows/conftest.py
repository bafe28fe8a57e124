"""One server a module, since it starts in half a second; each test has its own engine."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from tests.workflows.engine import PATIENCE_S, Engine, TimeSkippingServers, running_engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[TimeSkippingServers]:
    async with TimeSkippingServers() as servers:
        yield servers


@pytest.fixture(autouse=True)
def patient_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call may take as long as a test waits for other things."""
    monkeypatch.setattr("everhook.circuit.client.RPC_TIMEOUT", timedelta(seconds=PATIENCE_S))


@pytest_asyncio.fixture(loop_scope="module")
async def engine(servers: TimeSkippingServers) -> AsyncIterator[Engine]:
    async with running_engine(await servers.ready()) as running:
        yield running
