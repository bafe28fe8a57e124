"""`everhook serve` as it is run: with a worker in the same process, and without sending anything."""

import signal
from pathlib import Path

from testing.stack import Stack
from testing.waiting import assert_eventually

POLICY = {"delaysSeconds": [0.2], "timeoutSeconds": 5}


async def test_one_process_serves_sends_and_works_and_waits_for_temporal_without_holding_back(tmp_path: Path) -> None:
    """It starts while Temporal is away; healthy endpoints receive at once, failed ones continue when it starts."""
    async with Stack(tmp_path, workers=0, serve=["--worker"]) as stack:
        await stack.api.kill9()
        await stack.temporal.stop()
        await stack.start_api()
        publisher = stack.publisher()
        await publisher.create_channel("orders", POLICY)
        await publisher.create_endpoint(stack.receiver.url_for("/well"), "orders")
        await publisher.create_endpoint(stack.receiver.url_for("/fails-once"), "orders")
        await stack.receiver.respond(302, 200, path="/fails-once", each_message=True)

        await publisher.publish_many("orders", 5)
        await stack.receiver.wait_for(5, path="/well")
        await stack.receiver.wait_for(5, path="/fails-once")
        await stack.temporal.start()
        await stack.receiver.wait_for(10, path="/fails-once")

        await stack.drained()
        report = await stack.compare(publisher)
        report.assert_nothing_lost()
        client = await stack.temporal.client()

        async def all_are_shown() -> None:
            assert (await client.count_workflows('WorkflowType="Delivery"')).count == 10

        await assert_eventually(all_are_shown, 30)
        stack.api.send_signal(signal.SIGTERM)
        assert await stack.api.wait(60) in (0, -signal.SIGTERM)


async def test_with_sending_disabled_only_workers_send_requests(tmp_path: Path) -> None:
    async with Stack(tmp_path, serve=["--no-send"], extra_env={"EVERHOOK_TEMPORAL_HISTORY": "exceptions"}) as stack:
        publisher = stack.publisher()
        await publisher.create_channel("orders", POLICY)
        await publisher.create_endpoint(stack.receiver.url_for("/"), "orders")
        await publisher.publish_many("orders", 3)
        await stack.receiver.wait_for(3, path="/")
        await stack.drained()
        assert '"attempt"' not in stack.api.output()
        assert stack.worker.output().count('"attempt"') >= 3
        client = await stack.temporal.client()
        assert (await client.count_workflows('WorkflowType="Delivery"')).count == 3


async def test_in_exceptions_mode_healthy_deliveries_have_no_workflow(tmp_path: Path) -> None:
    async with Stack(tmp_path, extra_env={"EVERHOOK_TEMPORAL_HISTORY": "exceptions"}) as stack:
        publisher = stack.publisher()
        await publisher.create_channel("orders", POLICY)
        await publisher.create_endpoint(stack.receiver.url_for("/well"), "orders")
        rejecting = await publisher.create_endpoint(stack.receiver.url_for("/rejects"), "orders")
        await stack.receiver.respond(404, path="/rejects")
        await publisher.publish_many("orders", 4)
        await stack.drained()
        client = await stack.temporal.client()

        async def only_dead_letters_are_shown() -> None:
            assert (await client.count_workflows('WorkflowType="Delivery"')).count == 4
            query = f'Endpoint="{rejecting.gid}" AND DeliveryStatus="dead_lettered"'
            assert (await client.count_workflows(query)).count == 4

        await assert_eventually(only_dead_letters_are_shown, 30)
        async with stack.engine.connect() as connection:
            rows = await connection.exec_driver_sql("SELECT count(*) FROM pending_history")
            assert rows.scalar_one() == 0
