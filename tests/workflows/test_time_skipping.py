"""The server that skips time, and what replaces it when it skips no more."""

from temporalio.api.testservice.v1 import LockTimeSkippingRequest

from tests.workflows.engine import TimeSkippingServers


async def test_a_server_that_skips_no_time_is_replaced() -> None:
    async with TimeSkippingServers() as servers:
        first = await servers.ready()
        assert await servers.ready() is first
        # As a workflow that is terminated in the middle of a task leaves it.
        await first.client.test_service.lock_time_skipping(LockTimeSkippingRequest())
        assert await servers.ready() is not first
