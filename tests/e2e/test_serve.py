"""`everhook serve` as it is run: with a worker in the same process, and without sending anything."""

import contextlib
import signal
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from testing.processes import Process
from testing.stack import Stack
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = {"delaysSeconds": [0.2], "timeoutSeconds": 5}
EXCEPTIONS = {"EVERHOOK_TEMPORAL_HISTORY": "exceptions"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """With an API and workers that each test replaces."""
    async with Stack(tmp_path_factory.mktemp("serve"), workers=0) as running:
        yield running


@contextlib.asynccontextmanager
async def serving(stack: Stack, *options: str, **env: str) -> AsyncIterator[Process]:
    """`everhook serve` with these options in place of the stack's own API."""
    await stack.api.kill9()
    command = [sys.executable, "-m", "cli", "serve", *options]
    log = stack.directory / f"{'-'.join(('serve', *options, *env.values()))}.log"
    async with Process(command, log=log, env={**stack.env, **env}, forked=True) as process:
        await process.wait_ready(url=f"{stack.url}/readyz")
        yield process
        await process.kill9()


async def workflows(stack: Stack, endpoint: str, condition: str = "") -> int:
    """How many deliveries to an endpoint Temporal shows."""
    client = await stack.temporal.client()
    return (await client.count_workflows(f'WorkflowType="Delivery" AND Endpoint="{endpoint}" {condition}')).count


async def test_one_process_serves_sends_and_works_and_waits_for_temporal_without_holding_back(stack: Stack) -> None:
    """It starts while Temporal is away; healthy endpoints receive at once, failed ones continue when it starts."""
    await stack.temporal.stop()
    async with serving(stack, "--worker") as process:
        publisher = stack.publisher()
        await publisher.create_channel("orders", POLICY)
        well = await publisher.create_endpoint(stack.receiver.url_for("/well"), "orders")
        failing = await publisher.create_endpoint(stack.receiver.url_for("/fails-once"), "orders")
        await stack.receiver.respond(302, 200, path="/fails-once", each_message=True)

        await publisher.publish_many("orders", 5)
        await stack.receiver.wait_for(5, path="/well")
        await stack.receiver.wait_for(5, path="/fails-once")
        await stack.temporal.start()
        await stack.receiver.wait_for(10, path="/fails-once")

        await stack.drained(of=publisher)
        report = await stack.compare(publisher)
        report.assert_nothing_lost()

        async def all_are_shown() -> None:
            assert [await workflows(stack, endpoint.gid) for endpoint in (well, failing)] == [5, 5]

        await assert_eventually(all_are_shown, 30)
        process.send_signal(signal.SIGTERM)
        assert await process.wait(60) in (0, -signal.SIGTERM)


async def test_with_sending_disabled_only_workers_send_requests(stack: Stack) -> None:
    async with serving(stack, "--no-send", **EXCEPTIONS) as process:
        worker = await stack.start_worker(extra_env=EXCEPTIONS)
        publisher = stack.publisher()
        await publisher.create_channel("limited", POLICY)
        endpoint = await publisher.create_endpoint(stack.receiver.url_for("/limited"), "limited")
        await publisher.publish_many("limited", 3)
        await stack.receiver.wait_for(3, path="/limited")
        await stack.drained(of=publisher)
        assert '"attempt"' not in process.output()
        assert worker.output().count('"attempt"') >= 3
        assert await workflows(stack, endpoint.gid) == 3


async def test_in_exceptions_mode_healthy_deliveries_have_no_workflow(stack: Stack) -> None:
    async with serving(stack, **EXCEPTIONS):
        if not stack.workers:
            await stack.start_worker(extra_env=EXCEPTIONS)
        publisher = stack.publisher()
        await publisher.create_channel("exceptions", POLICY)
        healthy = await publisher.create_endpoint(stack.receiver.url_for("/healthy"), "exceptions")
        rejecting = await publisher.create_endpoint(stack.receiver.url_for("/rejects"), "exceptions")
        await stack.receiver.respond(404, path="/rejects")
        await publisher.publish_many("exceptions", 4)
        await stack.drained(of=publisher)

        async def only_dead_letters_are_shown() -> None:
            shown = [await workflows(stack, endpoint.gid) for endpoint in (healthy, rejecting)]
            assert shown == [0, 4]
            assert await workflows(stack, rejecting.gid, 'AND DeliveryStatus="dead_lettered"') == 4

        await assert_eventually(only_dead_letters_are_shown, 30)
        async with stack.engine.connect() as connection:
            rows = await connection.exec_driver_sql("SELECT count(*) FROM pending_history")
            assert rows.scalar_one() == 0
