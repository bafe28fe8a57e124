"""Clients that connect at their first call."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from everhook.temporal.client import NotConnected, connect


@pytest_asyncio.fixture
async def silent_address() -> AsyncIterator[str]:
    """A server that accepts connections and never responds."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for writer in writers:
        writer.close()


async def test_the_time_limit_of_a_call_includes_the_connection(silent_address: str) -> None:
    """Calls that wait for the connection of another call have no more time either."""
    client = await connect(lazy=True, target_host=silent_address)
    limit = timedelta(seconds=1)
    began = time.monotonic()
    calls = (client.start_workflow("test", id="test", task_queue="test", rpc_timeout=limit) for _ in range(30))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - began < 15  # one after the other they would take 30 s
    for error in results:
        assert isinstance(error, NotConnected)
    with pytest.raises(NotConnected, match="cannot connect to Temporal: no response within 1 s"):
        await client.start_workflow("test", id="test", task_queue="test", rpc_timeout=limit)
