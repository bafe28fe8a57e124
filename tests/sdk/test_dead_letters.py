"""Dead letters with the client: a real Temporal, real workers, and consumers that refuse messages."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from everhook_client import AsyncClient, Client, Message, Reject
from everhook_client.models import PublishedMessage
from testing.api import API_KEY
from testing.waiting import assert_eventually
from tests.cli.conftest import ON_LIVE, Live, live, migrated_file
from tests.sdk.conftest import in_thread

__all__ = ["live", "migrated_file"]

pytestmark = ON_LIVE


async def refuse(message: Message) -> None:
    raise Reject("no such order")


async def accept(message: Message) -> dict[str, str]:
    return {"gid": message.gid}


async def dead(client: AsyncClient, channel: str, gid: str, count: int) -> list[PublishedMessage]:
    """Publish messages that become dead letters."""
    sent = [await client.publish(channel, {"n": n}, type="t") for n in range(count)]
    await client.consume(gid, refuse, limit=count)
    for each in sent:
        result = await client.wait_for(each)
        assert (result["outcome"], result["deliveries"][0].get("replayable")) == ("dead_lettered", True)
    return sent


async def endpoint(client: AsyncClient) -> tuple[str, str]:
    """A channel, and an endpoint that is streamed."""
    channel = f"c{uuid4().hex[:12]}"
    await client.channels.create({"name": channel})
    return channel, (await client.endpoints.create({"mode": "stream", "channel": channel}))["endpointGid"]


async def test_dead_letters_are_listed_replayed_and_purged(live: Live) -> None:
    """Each client purges those of an endpoint."""
    async with AsyncClient(live.url, API_KEY) as client:
        channel, gid = await endpoint(client)
        other_channel, other = await endpoint(client)
        await dead(client, other_channel, other, 1)
        first, second, third = await dead(client, channel, gid, 3)
        letters = [each async for each in client.dead_letters.list(endpoint_gid=gid, dead_letter_reason="rejected")]
        assert [each["messageGid"] for each in letters] == [each["messageGid"] for each in (third, second, first)]
        assert (await client.dead_letters.get(letters[2]["deliveryGid"]))["payload"] == {"n": 0}

        await client.dead_letters.replay(letters[2]["deliveryGid"], reason="they fixed it")
        await client.consume(gid, accept, limit=1)
        result = await client.wait_for(first)
        assert result["deliveries"][0].get("result") == {"gid": first["messageGid"]}
        again = await client.messages.redeliver(first["messageGid"], reason="they lost it")
        assert [(each["round"], each["result"]) for each in again["deliveries"]] == [(3, "round_opened")]
        await client.consume(gid, accept, limit=1)
        since = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
        replayed = await client.messages.replay(channel, "failed", since=since, endpoint_gid=gid, dry_run=True)
        assert (replayed["matched"], replayed["batchGid"]) == (2, None)
        assert [each async for each in client.batches.list(channel=channel, state="running")] == []

        counted = await client.dead_letters.replay_all(endpoint_gid=gid, dry_run=True)
        assert (counted["matched"], counted["batchGid"]) == (2, None)
        purged = await client.dead_letters.purge(endpoint_gid=gid, reason="a test")
        with Client(live.url, API_KEY) as blocking:
            others = await in_thread(blocking.dead_letters.purge, endpoint_gid=other, reason="a test")
        batches = {gid: purged["batchGid"], other: others["batchGid"]}

        async def are_done() -> None:
            for purged_of, batch in batches.items():
                assert batch is not None
                assert (await client.dead_letters.batch(batch))["state"] == "completed"
                assert [each async for each in client.dead_letters.list(endpoint_gid=purged_of)] == []

        await assert_eventually(are_done)
        assert (await client.wait_for(second))["outcome"] == "discarded"
