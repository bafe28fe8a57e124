"""AXME's client against an API on PostgreSQL: the statements that differ by database."""

import asyncio

from testing.api import settings_for
from testing.axme import AGENT, served


async def test_intents_are_sent_handed_out_again_and_settled(database_url: str) -> None:
    async with served(settings_for(database_url)) as running:
        sent = await asyncio.gather(*(running.send(AGENT, reply_to=f"{AGENT}-back") for _ in range(3)))
        first = await running.listen(AGENT, 3)
        again = await running.listen(AGENT, 2, since=first[0]["seq"])
        assert {each["intent_id"] for each in again} == {each["intent_id"] for each in first[1:]}
        anew = await running.listen(AGENT, 3)
        assert {each["intent_id"] for each in anew} == set(sent)
        assert [each["attempt"] for each in anew] == [2, 2, 2]
        completed, failed, canceled = sent
        assert (await running.resume(completed, action="complete", n=1))["intent"]["result"] == {"n": 1}
        assert (await running.resume(failed, action="fail", reason="no"))["status"] == "FAILED"
        assert (await running.resolve(canceled, status="CANCELED", reason="no"))["status"] == "CANCELED"
        assert len(await running.listen(f"{AGENT}-back", 3)) == 3
        asked = await running.send(f"{AGENT}-people", human_task={"title": "?"})
        decided = await running.resume(asked, task_result={"outcome": "approved"})
        assert decided["status"] == "COMPLETED"
        assert [event["status"] for event in await running.events(asked)][-2:] == ["WAITING", "COMPLETED"]
