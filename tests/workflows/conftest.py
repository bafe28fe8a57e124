"""One server a module, since it starts in half a second; an engine of its own for each test."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.workflows.engine import Engine, TimeSkippingServers, running_engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[TimeSkippingServers]:
    async with TimeSkippingServers() as servers:
        yield servers


@pytest_asyncio.fixture(loop_scope="module")
async def engine(servers: TimeSkippingServers) -> AsyncIterator[Engine]:
    async with running_engine(await servers.ready()) as running:
        yield running
