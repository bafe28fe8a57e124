"""Tasks and gates with the client: Temporal is stopped, for nothing here needs it."""

from typing import Any

import pytest

from everhook_client.errors import Conflict, ConnectionFailed, InvalidRequest, PermissionDenied
from testing.api import ON_SHARED, created
from tests.sdk.conftest import Server, cutting, in_thread

pytestmark = ON_SHARED


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_person_reads_comments_and_decides_and_the_sender_gets_the_decision(server: Server, kind: str) -> None:
    channel, _ = await server.endpoint()
    async with server.async_client() as client:
        gid = (await server.inbox(channel))["endpointGid"]
        sent = await client.publish(channel, {"orderId": 1042}, type="order.created", task={"title": "Approve it?"})
        (open_one,) = [each async for each in client.tasks.list(state="open", inbox=gid)]
        assert (open_one["title"], open_one["messageGid"]) == ("Approve it?", sent["messageGid"])
        assert [each async for each in client.tasks.list(inbox=[gid], overdue=True)] == []
        task = await client.tasks.get(open_one["taskGid"])
        assert task["payload"] == {"orderId": 1042}
        commented = await client.tasks.comment(task["taskGid"], "I asked the supplier.")
        assert [(each["kind"], each["comment"]) for each in commented["notes"]] == [
            ("commented", "I asked the supplier.")
        ]
        decision: Any = {"version": task["version"], "comment": "fine"}
        if kind == "async":
            decided = await client.tasks.decide(task["taskGid"], "approved", **decision)
        else:
            with server.client() as blocking:
                decided = await in_thread(blocking.tasks.decide, task["taskGid"], "approved", **decision)
        assert (decided["state"], decided["outcome"], decided["comment"]) == ("decided", "approved", "fine")
        server.proxy.requests.clear()
        result = await client.wait_for(sent, until="first")
        assert server.proxy.requests == ["GET wait"]
        assert result["state"] == "pending"  # the other endpoint has not taken it yet
        results = [each.get("result") for each in result["deliveries"] if each["endpointGid"] == gid]
        assert results == [{"outcome": "approved", "comment": "fine"}]


async def test_a_decision_whose_response_is_lost_is_repeated_and_a_comment_is_not(server: Server) -> None:
    channel, _ = await server.endpoint()
    async with server.async_client() as client:
        gid = (await server.inbox(channel))["endpointGid"]
        await client.publish(channel, {}, type="t")
        (task,) = [each async for each in client.tasks.list(inbox=gid)]
        server.proxy.fail("/comment", cutting())
        with pytest.raises(ConnectionFailed):
            await client.tasks.comment(task["taskGid"], "once")
        server.proxy.fail("/decide", cutting())
        decided = await client.tasks.decide(task["taskGid"], "approved", version=task["version"])
        assert (decided["state"], len(decided["decisions"]), len(decided["notes"])) == ("decided", 1, 1)
        with pytest.raises(Conflict) as caught:
            await client.tasks.decide(task["taskGid"], "rejected", version=task["version"], comment="no")
        assert caught.value.slug == "already-decided"


async def test_a_task_is_delegated_and_what_was_read_is_what_is_decided(server: Server) -> None:
    channel, _ = await server.endpoint()
    async with server.async_client() as client:
        form = {"type": "object", "properties": {"costCentre": {"type": "string"}}}
        gid = (await server.inbox(channel, assignees=["environment"], form=form))["endpointGid"]
        await client.publish(channel, {}, type="t")
        (task,) = [each async for each in client.tasks.list(inbox=gid)]
        delegated = await client.tasks.delegate(task["taskGid"], "bo", comment="on leave")
        assert delegated["assignees"] == ["bo"]
        with pytest.raises(PermissionDenied):
            await client.tasks.decide(task["taskGid"], "approved", version=delegated["version"])
        key = created(await server.api.post("/v1/api-keys", {"name": "bo", "scopes": [f"tasks:{gid}"]}))["key"]
        async with server.async_client(key) as bo:
            with pytest.raises(Conflict) as caught:
                await bo.tasks.decide(task["taskGid"], "approved", version=task["version"])
            assert caught.value.slug == "task-changed"
            with pytest.raises(InvalidRequest) as invalid:
                await bo.tasks.decide(task["taskGid"], "rejected", version=delegated["version"])
            assert list(invalid.value.errors_by_field) == ["comment"]
            await bo.tasks.decide(
                task["taskGid"], "approved", version=delegated["version"], data={"costCentre": "4711"}
            )
        shown = await client.tasks.get(task["taskGid"])
        assert (shown["decidedBy"], shown["data"]) == ("bo", {"costCentre": "4711"})


async def test_gates_of_a_publish_replace_those_of_its_channel(server: Server) -> None:
    async with server.async_client() as client:
        gid = (await server.inbox())["endpointGid"]
        channel, poll = await server.endpoint(mode="poll")
        await client.channels.update(channel, {"gates": [{"inbox": gid}]})
        gated = await client.publish(channel, {"amount": 5}, type="t")
        free = await client.publish(channel, {"amount": 5}, type="t", gates=[])
        skipped = await client.publish(
            channel, {"amount": 5}, type="t", gates=[{"inbox": gid, "filter": {"amount": {"$gt": 1000}}}]
        )
        statuses = [
            {each["endpointGid"]: each["status"] for each in sent["deliveries"]} for sent in (gated, free, skipped)
        ]
        assert statuses == [{poll: "gated", gid: "awaiting_decision"}, {poll: "available"}, {poll: "available"}]
        (task,) = [each async for each in client.tasks.list(inbox=gid)]
        await client.tasks.decide(task["taskGid"], "approved", version=1)
        gate = (await client.messages.get(gated["messageGid"]))["gate"]
        assert gate is not None and gate["state"] == "passed"
