"""Worker deployment versions: a new release takes over workflows of an old one."""

from collections.abc import AsyncIterator

import pytest_asyncio
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from everhook.ids import delivery_workflow_id
from everhook.temporal.client import connect
from testing.stack import QUICK, Process, Stack
from testing.temporal_server import NAMESPACE
from testing.waiting import assert_eventually

DEPLOYMENT = "everhook"


@pytest_asyncio.fixture
async def stack(tmp_path_factory: object) -> AsyncIterator[Stack]:
    directory = tmp_path_factory.mktemp("versions")  # type: ignore[attr-defined]
    async with Stack(directory, workers=0, extra_env=QUICK) as running:
        yield running


async def worker(stack: Stack, client: Client, build_id: str) -> Process:
    """A worker of a version, which is made the current one."""
    env = {"EVERHOOK_WORKER_DEPLOYMENT": DEPLOYMENT, "EVERHOOK_BUILD_ID": build_id}
    process = await stack.start_worker(extra_env=env)
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=NAMESPACE, deployment_name=DEPLOYMENT, build_id=build_id, identity="test"
    )

    async def is_current() -> None:
        try:
            await client.workflow_service.set_worker_deployment_current_version(request)
        except RPCError as error:  # the server has not seen its polls yet
            raise AssertionError(str(error)) from error

    await assert_eventually(is_current, 30)
    return process


async def publish(stack: Stack) -> str:
    response = await stack.client.post("/v1/channels/orders/messages", json={"type": "a.b", "payload": 1})
    gid: str = response.json()["deliveries"][0]["deliveryGid"]
    return gid


async def until(stack: Stack, gid: str, status: str) -> None:
    async def has_it() -> None:
        assert (await stack.client.get(f"/v1/deliveries/{gid}")).json()["status"] == status

    await assert_eventually(has_it, 30, interval=0.1)


async def version_of(client: Client, gid: str) -> str:
    """The version that completed the newest task of a delivery's workflow."""
    described = await client.get_workflow_handle(delivery_workflow_id(gid)).describe()
    return described.raw_description.workflow_execution_info.versioning_info.deployment_version.build_id


async def test_a_delivery_moves_to_the_current_version_and_a_new_one_starts_there(stack: Stack) -> None:
    client = await connect(target_host=stack.temporal.address, namespace=NAMESPACE)
    old = await worker(stack, client, "1")
    publisher = stack.publisher()
    await publisher.create_channel("orders", {"delaysSeconds": [1] * 40})
    await publisher.create_endpoint(stack.receiver.url_for("/orders"), "orders")
    await stack.receiver.respond(503)
    moved = await publish(stack)
    await until(stack, moved, "retrying")

    async def is_of_the_old_one() -> None:
        assert await version_of(client, moved) == "1"

    await assert_eventually(is_of_the_old_one)
    await worker(stack, client, "2")
    await old.terminate()
    new = await publish(stack)
    await until(stack, new, "retrying")
    await stack.receiver.respond(200)
    for gid in (moved, new):
        await until(stack, gid, "delivered")
        assert await version_of(client, gid) == "2"
