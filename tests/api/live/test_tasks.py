"""A task with a real Temporal and real workers: its workflow starts at accept, and ends with the decision."""

from everhook.ids import delivery_workflow_id
from testing.api import JSON, created, ok
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live
from tests.api.test_waiting import wait

pytestmark = ON_STACK


async def test_a_workflow_keeps_the_timers_until_the_decision(live: Live) -> None:
    await live.api.channel(live.name)
    reminders = {"afterSeconds": 3600, "everySeconds": 3600, "max": 3}
    options: JSON = {"name": "Managers", "task": {"reminders": reminders}}
    created(await live.api.post("/v1/endpoints", {"mode": "inbox", "channel": live.name, "options": options}))
    message = await live.api.publish({"n": 1}, live.name, task={"title": "Fire Bob?"})
    gid = message["deliveries"][0]["deliveryGid"]
    handle = live.temporal.get_workflow_handle(delivery_workflow_id(gid))

    async def waits() -> None:
        (row,) = await live.api.rows("SELECT due_at, dispatched_at FROM delivery WHERE gid = :gid", gid=gid)
        (task,) = await live.api.rows("SELECT remind_at FROM task WHERE delivery_gid = :gid", gid=gid)
        assert (row.due_at, row.dispatched_at is not None) == (task.remind_at, True)

    await assert_eventually(waits)
    assert ok(await live.api.get(f"/v1/deliveries/{gid}/live"))["waitingFor"] == "a person"
    (task,) = [row for row in ok(await live.api.get("/v1/tasks"))["data"] if row["deliveryGid"] == gid]
    decision = {"outcome": "approved", "comment": "fine", "version": 1}
    ok(await live.api.post(f"/v1/tasks/{task['taskGid']}/decide", decision))
    result = await handle.result()
    assert result["status"] == "delivered"
    assert "Bob" not in (await handle.fetch_history()).to_json()

    found = await wait(live.api, message["messageGid"])
    (delivery,) = found["deliveries"]
    assert (found["outcome"], delivery["outcome"]) == ("delivered", "approved")
    assert delivery["result"] == {"outcome": "approved", "comment": "fine"}

    async def nothing_is_owed() -> None:
        assert await live.api.rows("SELECT 1 FROM pending_history WHERE delivery_gid = :gid", gid=gid) == []

    await assert_eventually(nothing_is_owed)
