"""Sending a message again with a real Temporal, real workers and a receiver."""

from datetime import timedelta

from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities.reconciling import ReconcilingActivities
from everhook.audit.store import Actor
from everhook.circuit.client import CircuitClient
from everhook.contracts import OperatorAction
from everhook.delivery.inputs_store import InputDefaults, load_input
from everhook.delivery.starts import start_delivery
from everhook.ids import delivery_workflow_id
from testing.api import JSON, accepted, ok
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live

pytestmark = ON_STACK


async def subscribed(live: Live) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name, tenant=live.name)


async def rejected(live: Live) -> tuple[JSON, str]:
    """A message, and the gid of its delivery, which is a dead letter."""
    await subscribed(live)
    live.receiver.respond(Response(422), path=live.path)
    message = await live.api.publish({"n": 1}, live.name)
    gid: str = message["deliveries"][0]["deliveryGid"]
    await live.wait_for_status(gid, "dead_lettered")
    return message, gid


async def redeliver(live: Live, message: JSON) -> str:
    path = f"/v1/messages/{message['messageGid']}/redeliver"
    (delivery,) = accepted(await live.api.post(path, {"reason": "they lost it"}))["deliveries"]
    assert delivery["result"] == "round_opened"
    return str(delivery["deliveryGid"])


async def delivered_in(live: Live, gid: str, round_: int) -> JSON:
    async def is_delivered() -> JSON:
        delivery = ok(await live.api.get(f"/v1/deliveries/{gid}"))
        assert (delivery["status"], delivery["round"]) == ("delivered", round_)
        return delivery

    return await assert_eventually(is_delivered)


async def workflow_is_over(live: Live, gid: str) -> None:
    async def is_over() -> None:
        try:
            found = await live.temporal.get_workflow_handle(delivery_workflow_id(gid)).describe()
        except RPCError as error:
            raise AssertionError("it has no workflow yet") from error
        assert found.status is WorkflowExecutionStatus.COMPLETED

    await assert_eventually(is_over)


async def reconcile(live: Live) -> None:
    """One pass now, independently of the schedule."""
    services, settings = live.api.services, live.api.services.settings
    circuits = CircuitClient(live.temporal, settings.circuit_policy)
    defaults, grace = InputDefaults.from_settings(settings), timedelta(minutes=1)
    activities = ReconcilingActivities(live.temporal, services.database, circuits, defaults, overdue_grace=grace)
    await ActivityEnvironment().run(activities.reconcile)


async def test_a_delivered_message_arrives_again_and_says_so(live: Live) -> None:
    await subscribed(live)
    live.receiver.respond(200, path=live.path)
    message = await live.api.publish({"n": 1}, live.name)
    gid = message["deliveries"][0]["deliveryGid"]
    await live.wait_for_status(gid, "delivered")
    await workflow_is_over(live, gid)

    for round_ in (2, 3):
        await redeliver(live, message)
        delivery = await delivered_in(live, gid, round_)
        assert (delivery["resolvedBy"], delivery["resolutionReason"]) == ("environment", "they lost it")
        await workflow_is_over(live, gid)

    arrivals = live.receiver.at(live.path)
    assert [arrival.id for arrival in arrivals] == [message["messageGid"]] * 3
    headers = [dict(arrival.headers).get("x-webhook-round") for arrival in arrivals]
    assert headers == [None, "2", "3"]
    assert [arrival.json()["metadata"].get("round") for arrival in arrivals] == [None, 2, 3]
    assert [(each["round"], each["number"]) for each in delivery["attempts"]] == [(1, 1), (2, 1), (3, 1)]
    found = ok(await live.api.get(f"/v1/messages/{message['messageGid']}/wait", timeoutSeconds=10))
    assert (found["state"], found["outcome"]) == ("settled", "delivered")


async def test_the_workflow_of_a_dead_letter_starts_the_round_once(live: Live) -> None:
    message, gid = await rejected(live)
    await redeliver(live, message)
    await live.receiver.wait_for(2, path=live.path)
    await live.wait_for_status(gid, "dead_lettered")

    # The reconciler repeats the start: the round is open already, and its end must not be taken for a new one.
    async with live.api.database.read_connection() as connection:
        input = await load_input(connection, InputDefaults.from_settings(live.api.services.settings), gid)
    assert input is not None
    await start_delivery(live.temporal, input)
    handle = live.temporal.get_workflow_handle(delivery_workflow_id(gid))
    await handle.signal("replay", OperatorAction(round=2))
    assert (await handle.query("status"))["round"] == 2
    live.receiver.respond(200, path=live.path)
    await redeliver(live, message)
    await delivered_in(live, gid, 3)
    await workflow_is_over(live, gid)
    assert len(live.receiver.at(live.path)) == 3


async def test_a_replay_whose_process_died_after_the_commit_is_started_by_the_reconciler(live: Live) -> None:
    message, gid = await rejected(live)
    services = live.api.services
    async with services.scope_of(None).writing() as session:
        await services.redelivery.redeliver(session, Actor("ann"), message["messageGid"])
    live.receiver.respond(200, path=live.path)
    await live.api.change_rows("UPDATE delivery SET due_at = accepted_at WHERE gid = :gid", gid=gid)
    await reconcile(live)
    await delivered_in(live, gid, 2)
    await workflow_is_over(live, gid)
    assert len(live.receiver.at(live.path)) == 2


async def test_pulled_deliveries_and_tasks_of_closed_workflows_get_a_new_workflow(live: Live) -> None:
    await live.api.channel(live.name)
    body: JSON = {"mode": "inbox", "channel": live.name, "tenant": live.name, "options": {"name": "Managers"}}
    await live.api.post("/v1/endpoints", body)
    poll = (await live.api.post("/v1/endpoints", {"mode": "poll", "channel": live.name})).json()["endpointGid"]
    message = await live.api.publish({"n": 1}, live.name)
    for round_ in (1, 2):
        (item,) = ok(await live.api.get(f"/v1/endpoints/{poll}/poll"))["data"]
        ok(await live.api.post(f"/v1/endpoints/{poll}/acks", {"acks": [{"lease": item["lease"]}]}))
        tasks = ok(await live.api.get("/v1/tasks", state="open"))["data"]
        (task,) = [each for each in tasks if each["messageGid"] == message["messageGid"]]
        decision = {"outcome": "approved", "version": task["version"]}
        ok(await live.api.post(f"/v1/tasks/{task['taskGid']}/decide", decision))
        for each in message["deliveries"]:
            await delivered_in(live, each["deliveryGid"], round_)
            await workflow_is_over(live, each["deliveryGid"])
        if round_ == 1:
            accepted(await live.api.post(f"/v1/messages/{message['messageGid']}/redeliver"))
