"""Tasks and gates: Temporal, the API or a worker is killed while people decide."""

from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from everhook.ids import delivery_workflow_id
from testing.scene import Scene
from testing.waiting import assert_eventually
from tests.faults.consuming import pulled_endpoint

pytestmark = pytest.mark.asyncio(loop_scope="session")

MESSAGES = 5


async def inbox(scene: Scene, **more: Any) -> str:
    options = {"name": "Managers", "task": {"reminders": {"afterSeconds": 3600, "everySeconds": 3600, "max": 1}}}
    gid: str = (await scene.post("/v1/endpoints", {"mode": "inbox", "options": options, **more}))["endpointGid"]
    return gid


async def publish(scene: Scene, **more: Any) -> Any:
    body = {"type": "order.created", "payload": {"n": 1}, **more}
    return await scene.post(f"/v1/channels/{scene.channel}/messages", body)


async def open_tasks(scene: Scene, inbox: str) -> list[Any]:
    tasks: list[Any] = (await scene.get("/v1/tasks", state="open", inbox=inbox))["data"]
    return tasks


async def approve(scene: Scene, inbox: str) -> list[str]:
    """Approve all open tasks; their deliveries."""
    tasks = await open_tasks(scene, inbox)
    for task in tasks:
        decision = {"outcome": "approved", "version": task["version"]}
        await scene.post(f"/v1/tasks/{task['taskGid']}/decide", decision)
    return [task["deliveryGid"] for task in tasks]


async def have_completed(scene: Scene, deliveries: set[str]) -> None:
    """Wait until the workflows of these deliveries have completed."""
    client = await scene.stack.temporal.client()

    async def all_have() -> None:
        for gid in deliveries:
            try:
                described = await client.get_workflow_handle(delivery_workflow_id(gid)).describe()
            except RPCError as error:
                raise AssertionError(f"{gid} has no workflow") from error
            assert described.status is WorkflowExecutionStatus.COMPLETED, described.status

    await assert_eventually(all_have, 60, interval=0.2)


async def test_deliveries_that_a_decision_released_start_once_even_if_the_api_is_killed(postgres: Scene) -> None:
    """Workflows make the first attempts to an endpoint with a rate limit."""
    webhook = await postgres.endpoint(rateLimit=1000)
    managers = await inbox(postgres)
    for _ in range(MESSAGES):
        await publish(postgres, gates=[{"inbox": managers}])
    await postgres.has_statuses(webhook, gated=MESSAGES)
    postgres.stack.temporal.suspend()
    assert len(await approve(postgres, managers)) == MESSAGES
    await postgres.stack.api.kill9()
    assert postgres.arrivals() == []
    postgres.stack.temporal.resume()
    await postgres.has_statuses(webhook, delivered=MESSAGES)
    assert len(postgres.arrivals()) == MESSAGES
    assert not postgres.stack.api.running


async def test_a_decision_and_an_acknowledgement_are_valid_while_temporal_is_unavailable(sqlite: Scene) -> None:
    """All workflows complete when Temporal is back."""
    webhook = await sqlite.endpoint()
    managers, pulled = await inbox(sqlite), await pulled_endpoint(sqlite, channel=sqlite.channel)
    before = await publish(sqlite, gates=[{"inbox": managers}])
    await sqlite.stack.temporal.kill9()
    during = await publish(sqlite, gates=[{"inbox": managers}])
    asked = await approve(sqlite, managers)
    assert len(asked) == 2
    items = (await sqlite.get(f"/v1/endpoints/{pulled}/poll", waitSeconds=20))["data"]
    while len(items) < 2:
        items += (await sqlite.get(f"/v1/endpoints/{pulled}/poll", waitSeconds=20))["data"]
    acks = [{"lease": item["lease"]} for item in items]
    done = await sqlite.post(f"/v1/endpoints/{pulled}/acks", {"acks": acks})
    assert [line["status"] for line in done["data"]] == ["acked", "acked"]
    assert await open_tasks(sqlite, managers) == []
    await sqlite.stack.temporal.start()
    await sqlite.has_statuses(webhook, delivered=2)
    await have_completed(
        sqlite, {*asked, *(each["deliveryGid"] for message in (before, during) for each in message["deliveries"])}
    )
    assert len(sqlite.arrivals()) == 2


async def test_the_timers_of_tasks_outlive_a_worker(postgres: Scene) -> None:
    """The reminder of one task and the due date of the other are reached while no worker runs."""
    worker = postgres.stack.worker
    await inbox(postgres, channel=postgres.channel)
    await worker.kill9()
    reminded, due = [await publish(postgres) for _ in range(2)]
    for message, column in ((reminded, "remind_at"), (due, "due_at")):
        set_timer = f"UPDATE task SET {column} = now() + interval '3 seconds' WHERE message_gid = :gid"
        await postgres.sql(set_timer, gid=message["messageGid"])
    await postgres.stack.restart_worker()
    client = await postgres.stack.temporal.client()

    async def have_timers() -> None:
        for message in (reminded, due):
            workflow = delivery_workflow_id(message["deliveries"][0]["deliveryGid"])
            try:
                history = await client.get_workflow_handle(workflow).fetch_history()
            except RPCError as error:
                raise AssertionError("it has no workflow") from error
            assert any(event.HasField("timer_started_event_attributes") for event in history.events)

    await assert_eventually(have_timers, 60)
    await worker.kill9()
    await postgres.stack.restart_worker()

    async def has_life(message: Any, *kinds: str) -> None:
        events = (await postgres.get(f"/v1/messages/{message['messageGid']}/events"))["data"]
        assert [event["kind"] for event in events if event["kind"].startswith("task.")] == list(kinds)

    await assert_eventually(lambda: has_life(reminded, "task.opened", "task.reminded"), 60, interval=0.2)
    await assert_eventually(lambda: has_life(due, "task.opened", "task.expired"), 60, interval=0.2)
