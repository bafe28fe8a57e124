"""One server a module, since it starts in half a second; an engine of its own for each test."""

from collections.abc import AsyncIterator

import pytest_asyncio
from temporalio.testing import WorkflowEnvironment

from tests.workflows.engine import Engine, running_engine, time_skipping_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def env() -> AsyncIterator[WorkflowEnvironment]:
    async with time_skipping_server() as environment:
        yield environment


@pytest_asyncio.fixture(loop_scope="module")
async def engine(env: WorkflowEnvironment) -> AsyncIterator[Engine]:
    async with running_engine(env) as running:
        yield running
