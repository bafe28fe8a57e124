"""Dead letters and their deliveries where Temporal, workers and a receiver really run."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from temporalio.api.batch.v1 import BatchOperationSignal
from temporalio.api.common.v1 import Payloads, WorkflowExecution
from temporalio.api.enums.v1 import BatchOperationState
from temporalio.api.workflowservice.v1 import DescribeBatchOperationRequest, StartBatchOperationRequest
from temporalio.client import Client

from everhook import __version__
from everhook.contracts import DELIVERY_WORKFLOW, OperatorAction
from everhook.dead_letters import visibility
from everhook.ids import delivery_workflow_id
from everhook.storage.tables import Batch, BatchKind
from everhook.temporal.search_attributes import DEAD_LETTERED_AT
from testing.api import JSON, Api, accepted, assert_problem, created, ok
from testing.receiver import Response
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live

pytestmark = ON_STACK

MANY = 1_000
"""Workflows: as many as Temporal takes by name for one batch operation."""


async def refused(live: Live) -> str:
    """A dead letter with its own channel, endpoint and tenant, all named after the test. Returns its gid."""
    await live.api.channel(live.name)
    live.receiver.respond(Response(422, b"no \xff such order", (("x-why", "unknown"),)), path=live.path)
    await live.api.endpoint(live.url, channel=live.name, tenant=live.name)
    return await live.dead_letter(live.name)


async def test_a_rejected_delivery_is_shown_with_the_response_of_the_endpoint(live: Live) -> None:
    gid = await refused(live)

    letter = ok(await live.api.get(f"/v1/dead-letters/{gid}"))

    assert (letter["status"], letter["deadLetterReason"], letter["lastStatusCode"]) == (
        "dead_lettered",
        "rejected",
        422,
    )
    assert letter["payload"] == {"secret": "payload"}
    (attempt,) = letter["attempts"]
    assert (attempt["round"], attempt["number"], attempt["verdict"]) == (1, 1, "rejected")
    assert (attempt["statusCode"], attempt["responseBody"]) == (422, "no \ufffd such order")
    assert ["x-why", "unknown"] in attempt["responseHeaders"]
    assert attempt["durationMs"] >= 0
    assert datetime.fromisoformat(attempt["startedAt"]) <= datetime.now(UTC)
    listed = await live.api.walk("/v1/dead-letters", tenant=live.name)
    assert [item["deliveryGid"] for item in listed] == [gid]
    delivery = ok(await live.api.get(f"/v1/deliveries/{gid}"))
    assert delivery == {key: value for key, value in letter.items() if not key.startswith("payload")}


async def test_temporal_and_the_database_have_one_time_of_a_dead_letter(live: Live) -> None:
    """Bulk replays count in the database and choose in Temporal."""
    gid = await refused(live)
    await visible(live, gid)
    workflow = await live.temporal.get_workflow_handle(delivery_workflow_id(gid)).describe()
    letter = ok(await live.api.get(f"/v1/dead-letters/{gid}"))
    known = workflow.typed_search_attributes[DEAD_LETTERED_AT]
    assert known == datetime.fromisoformat(letter["deadLetteredAt"])


@pytest.mark.parametrize("payload", [b'{"a":"\\u0000","a":1e400}', b'{ "n" : 123456789012345678901234567890 }'])
async def test_a_payload_arrives_byte_for_byte_as_published(live: Live, payload: bytes) -> None:
    await live.api.channel(live.name)
    await live.api.endpoint(live.url, channel=live.name)
    live.receiver.respond(200, path=live.path)

    message = accepted(await live.api.try_publish(b'{"type":"a","payload":' + payload + b"}", live.name))

    (arrival,) = await live.receiver.wait_for(1, path=live.path)
    assert arrival.payload == payload
    assert arrival.id == message["messageGid"]
    await live.wait_for_status(message["deliveries"][0]["deliveryGid"], "delivered")


async def test_a_replay_opens_a_round_keeps_the_old_attempts_and_can_be_repeated(live: Live) -> None:
    gid = await refused(live)

    body = accepted(await live.api.post(f"/v1/dead-letters/{gid}/replay", {"reason": "they said try again"}))
    assert body == {"deliveryGid": gid, "requested": "replay"}
    await live.receiver.wait_for(2, path=live.path)

    async def is_dead_again() -> JSON:
        delivery = ok(await live.api.get(f"/v1/deliveries/{gid}"))
        assert (delivery["status"], delivery["round"]) == ("dead_lettered", 2)
        return delivery

    again = await assert_eventually(is_dead_again)
    assert (again["resolvedBy"], again["resolutionReason"]) == ("environment", "they said try again")

    live.receiver.respond(200, path=live.path)
    accepted(await live.api.post(f"/v1/dead-letters/{gid}/replay"))
    delivery = await live.wait_for_status(gid, "delivered")
    rounds = [(attempt["round"], attempt["number"], attempt["statusCode"]) for attempt in delivery["attempts"]]
    assert rounds == [(1, 1, 422), (2, 1, 422), (3, 1, 200)]
    assert_problem(await live.api.post(f"/v1/dead-letters/{gid}/replay"), 409)
    assert_problem(await live.api.get(f"/v1/dead-letters/{gid}"), 404)


async def test_a_replay_with_a_key_is_carried_out_once(live: Live) -> None:
    gid = await refused(live)

    async def replay() -> JSON:
        return accepted(await live.api.http.post(f"/v1/dead-letters/{gid}/replay", headers={"idempotency-key": gid}))

    async def is_dead_again() -> None:
        delivery = ok(await live.api.get(f"/v1/deliveries/{gid}"))
        assert (delivery["status"], delivery["round"]) == ("dead_lettered", 2)

    first = await replay()
    await assert_eventually(is_dead_again)

    assert await replay() == first
    entries = await live.api.walk("/v1/audit", subject=gid)
    assert [entry["action"] for entry in entries] == ["dead_letter.replayed"]


async def test_a_replay_works_where_temporal_has_lost_the_workflow(live: Live) -> None:
    gid = await refused(live)
    await live.temporal.get_workflow_handle(f"delivery/{gid}").terminate()
    live.receiver.respond(200, path=live.path)

    accepted(await live.api.post(f"/v1/dead-letters/{gid}/replay"))

    assert (await live.wait_for_status(gid, "delivered"))["round"] == 2


async def test_a_discarded_dead_letter_is_final_and_says_who_discarded_it_and_why(live: Live) -> None:
    gid = await refused(live)

    response = await live.api.post(f"/v1/dead-letters/{gid}/discard", {"reason": "obsolete"})

    assert accepted(response) == {"deliveryGid": gid, "requested": "discard"}
    delivery = await live.wait_for_status(gid, "discarded")
    assert (delivery["resolvedBy"], delivery["resolutionReason"]) == ("environment", "obsolete")
    assert delivery["completedAt"] is not None
    assert_problem(await live.api.post(f"/v1/dead-letters/{gid}/discard"), 409)
    assert len(live.receiver.at(live.path)) == 1


async def test_the_live_state_of_a_delivery_says_what_its_workflow_waits_for(live: Live) -> None:
    gid = await refused(live)

    async def waits() -> JSON:
        state = ok(await live.api.get(f"/v1/deliveries/{gid}/live"))
        assert state["waitingFor"] == "an operator"
        return state

    assert await assert_eventually(waits) == {
        "status": "dead_lettered",
        "round": 1,
        "attempt": 1,
        "waitingFor": "an operator",
        "nextAttemptAt": None,
        "deadLetterReason": "rejected",
    }


async def test_the_next_attempt_is_made_at_once_when_asked_for(live: Live) -> None:
    await live.api.channel(live.name, policy={"delaysSeconds": [3600]})
    await live.api.endpoint(live.url, channel=live.name)
    live.receiver.respond(503, 200, path=live.path)
    gid = (await live.api.publish(1, live.name))["deliveries"][0]["deliveryGid"]
    waiting = await live.wait_for_status(gid, "retrying")
    assert waiting["nextAttemptAt"] is not None
    assert waiting["attempts"][0]["nextAttemptAt"] == waiting["nextAttemptAt"]

    async def rests() -> None:
        assert ok(await live.api.get(f"/v1/deliveries/{gid}/live"))["nextAttemptAt"] is not None

    await assert_eventually(rests)

    body = accepted(await live.api.post(f"/v1/deliveries/{gid}/attempt-now"))

    assert body == {"deliveryGid": gid, "requested": "attempt_now"}
    delivery = await live.wait_for_status(gid, "delivered")
    assert [attempt["statusCode"] for attempt in delivery["attempts"]] == [503, 200]
    assert delivery["attemptsMade"] == 2


SELECTIONS: dict[str, Callable[[JSON, Live], JSON]] = {
    "tenant": lambda letter, live: {"tenant": live.name},
    "channel": lambda letter, live: {"channel": letter["channel"]},
    "endpointGid": lambda letter, live: {"endpointGid": letter["endpointGid"]},
    "type": lambda letter, live: {"type": letter["type"]},
    "deadLetterReason": lambda letter, live: {"deadLetterReason": letter["deadLetterReason"]},
    "lastStatusCode": lambda letter, live: {"lastStatusCode": letter["lastStatusCode"]},
    "since": lambda letter, live: {"since": letter["attempts"][0]["startedAt"]},
    "until": lambda letter, live: {"until": letter["attempts"][0]["startedAt"]},
}


@pytest.mark.parametrize("part", SELECTIONS)
async def test_a_bulk_replay_replays_exactly_what_its_filter_selects(live: Live, part: str) -> None:
    """An earlier dead letter of the same tenant differs in every field of a filter."""
    bystander = Live(live.api, live.receiver, live.temporal)
    tenant = bystander.name if part == "tenant" else live.name
    other = await exhausted(bystander, tenant)
    gid = await refused(live)
    await visible(live, gid, other)
    letter = ok(await live.api.get(f"/v1/dead-letters/{gid}"))
    selection = {"tenant": live.name, **SELECTIONS[part](letter, live)}
    chosen, spared = (bystander, live) if part == "until" else (live, bystander)

    assert await bulk(live, "replay", {**selection, "dryRun": True}) == {"matched": 1, "skipped": 0, "batchGid": None}
    body = await bulk(live, "replay", {**selection, "reason": "fixed"})

    assert body["matched"] == 1
    done = await completed(live, body["batchGid"])
    assert (done["total"], done["completed"], done["failed"]) == (1, 1, 0)
    await live.receiver.wait_for(2, path=chosen.path)
    assert len(live.receiver.at(spared.path)) == 1


async def exhausted(live: Live, tenant: str) -> str:
    """A dead letter that shares nothing with those of `refused`, except possibly the tenant."""
    await live.api.channel(live.name, policy={"delaysSeconds": []})
    live.receiver.respond(503, path=live.path)
    await live.api.endpoint(live.url, channel=live.name, tenant=tenant)
    return await live.dead_letter(live.name, type="other.type")


async def test_a_bulk_purge_reports_its_progress_until_completed(live: Live) -> None:
    gids = [await refused(live)]
    gids += [await live.dead_letter(live.name) for _ in range(4)]
    await visible(live, *gids)

    body = await bulk(live, "purge", {"channel": live.name, "reason": "obsolete"})

    assert body["matched"] == 5
    done = await completed(live, body["batchGid"])
    assert (done["batchGid"], done["total"], done["completed"]) == (body["batchGid"], 5, 5)
    assert done["startedAt"] <= done["closedAt"]
    for gid in gids:
        delivery = await live.wait_for_status(gid, "discarded")
        assert (delivery["resolvedBy"], delivery["resolutionReason"]) == ("environment", "obsolete")
    assert await bulk(live, "purge", {"channel": live.name}) == {"matched": 0, "skipped": 0, "batchGid": None}


async def test_what_is_dead_lettered_after_the_request_is_not_discarded(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`matched` does not count it. Temporal may look for dead letters much later than they were counted."""
    seen = await refused(live)
    await visible(live, seen)
    unseen: list[str] = []
    until_indexed = visibility.until_indexed

    async def late(client: Client, query: str, matched: int) -> bool:
        if not unseen:
            unseen.append(await live.dead_letter(live.name))
            await visible(live, *unseen)
        return await until_indexed(client, query, matched)

    monkeypatch.setattr(visibility, "until_indexed", late)
    body = await bulk(live, "purge", {"channel": live.name, "reason": "obsolete"})

    assert body["matched"] == 1
    assert (await completed(live, body["batchGid"]))["total"] == 1
    await live.wait_for_status(seen, "discarded")
    assert [ok(await live.api.get(f"/v1/deliveries/{gid}"))["status"] for gid in unseen] == ["dead_lettered"]


async def test_a_bulk_replay_matches_any_of_several_values_and_skips_deleted_endpoints(live: Live) -> None:
    own, other, gone = (
        await refused(live),
        await refused(second := another(live)),
        await refused(third := another(live)),
    )
    await visible(live, own, other, gone)
    endpoint = ok(await live.api.get(f"/v1/dead-letters/{gone}"))["endpointGid"]
    assert (await live.api.delete(f"/v1/endpoints/{endpoint}")).status_code == 204

    selection = {
        "channel": [live.name, second.name, third.name],
        "deadLetterReason": ["rejected", "exhausted"],
        "lastStatusCode": [422, 503],
    }
    body = await bulk(live, "replay", {**selection, "reason": "they are back"})

    assert (body["matched"], body["skipped"]) == (2, 1)
    assert (await completed(live, body["batchGid"]))["total"] == 2
    await live.receiver.wait_for(2, path=second.path)
    shown = ok(await live.api.get(f"/v1/deliveries/{gone}"))
    assert (shown["status"], shown["round"]) == ("dead_lettered", 1)


async def test_a_bulk_replay_with_a_tenants_key_replays_its_own_dead_letters_only(live: Live) -> None:
    own, other = await refused(live), await refused(neighbour := another(live))
    await visible(live, own, other)
    theirs = await live.api.key(tenant=live.name, name="our operator")
    neighbours = await live.api.key(tenant=neighbour.name)

    body = await bulk(live, "replay", {"reason": "all of mine"}, theirs)

    assert body["matched"] == 1
    assert (await completed(live, body["batchGid"], theirs))["total"] == 1
    assert_problem(await neighbours.get(f"/v1/batches/{body['batchGid']}"), 404)
    await live.receiver.wait_for(2, path=live.path)
    assert ok(await live.api.get(f"/v1/deliveries/{own}"))["resolvedBy"] == "our operator"
    assert len(live.receiver.at(neighbour.path)) == 1
    (entry,) = await theirs.walk("/v1/audit", subject=body["batchGid"])
    assert (entry["actor"], entry["action"]) == ("our operator", "dead_letters.replayed")
    assert entry["detail"] == {"reason": "all of mine", "matched": 1}


async def test_a_new_tenant_has_no_access_to_dead_letters_of_an_earlier_tenant_of_its_name(live: Live) -> None:
    gid = await refused(live)
    await visible(live, gid)
    ok(await live.api.patch(f"/v1/tenants/{live.name}", {"name": f"{live.name}-now"}))
    newcomer = another(live)
    await live.api.channel(newcomer.name)
    newcomer.receiver.respond(422, path=newcomer.path)
    await live.api.endpoint(newcomer.url, channel=newcomer.name, tenant=live.name)
    await visible(live, await newcomer.dead_letter(newcomer.name))

    for tenant, matched in ((live.name, 1), (f"{live.name}-now", 1)):
        assert ok(await live.api.get(f"/v1/deliveries/{gid}"))["status"] == "dead_lettered"
        body = await bulk(live, "purge", {"tenant": tenant})
        assert body["matched"] == (await completed(live, body["batchGid"]))["total"] == matched
    await live.wait_for_status(gid, "discarded")


async def test_the_audit_log_records_what_was_carried_out(live: Live) -> None:
    gid = await refused(live)
    alice = await live.api.key("admin", name="alice")

    accepted(await alice.post(f"/v1/dead-letters/{gid}/replay", {"reason": "they said so"}))

    (entry,) = await live.api.walk("/v1/audit", subject=gid)
    assert (entry["actor"], entry["action"], entry["tenant"]) == ("alice", "dead_letter.replayed", live.name)
    assert entry["detail"] == {"reason": "they said so"}


async def test_a_running_bulk_operation_is_listed_and_stopped(live: Live) -> None:
    """A batch operation that takes a while: it signals workflows that do not exist."""
    batch = Batch(kind=BatchKind.DEAD_LETTER_PURGE, actor="alice", selection={}, matched=MANY)
    async with live.api.database.writing() as session:
        session.add(batch)
    payloads = await live.temporal.data_converter.encode([OperatorAction("alice", "")])

    async def start() -> None:
        await live.temporal.workflow_service.start_batch_operation(
            StartBatchOperationRequest(
                namespace=live.temporal.namespace,
                executions=[WorkflowExecution(workflow_id=f"delivery/{live.name}-{n}") for n in range(MANY)],
                job_id=batch.gid,
                reason="a test",
                signal_operation=BatchOperationSignal(signal="discard", input=Payloads(payloads=payloads)),
            )
        )

    await assert_eventually(start)
    assert batch.gid in [each["batchGid"] for each in await live.api.walk("/v1/batches", state="running")]

    ended = accepted(await live.api.post(f"/v1/batches/{batch.gid}/cancel"))

    assert (ended["state"], ended["error"]) == ("cancelled", None)
    assert ended["completed"] + ended["failed"] < ended["total"] == MANY
    described = await live.temporal.workflow_service.describe_batch_operation(
        DescribeBatchOperationRequest(namespace=live.temporal.namespace, job_id=batch.gid)
    )
    assert described.state == BatchOperationState.BATCH_OPERATION_STATE_FAILED


async def test_operational_events_have_the_payload_and_temporal_does_not(live: Live) -> None:
    """To a webhook, and by a consumer; the body of the webhook is rendered again from what is stored."""
    webhook = (await live.api.endpoint(live.receiver.url_for(f"{live.path}/ops")))["endpointGid"]
    pulled = created(await live.api.post("/v1/endpoints", {"mode": "poll"}))["endpointGid"]
    for endpoint in (webhook, pulled):
        wanted = {"channel": "everhook.events", "events": ["delivery.dead_lettered"], "filter": {"tenant": live.name}}
        created(await live.api.post("/v1/subscriptions", {"endpointGid": endpoint, "includePayload": True, **wanted}))
    live.receiver.respond(503, 200, path=f"{live.path}/ops")  # the second attempt has a workflow

    gid = await refused(live)

    (_, arrival) = await live.receiver.wait_for(2, path=f"{live.path}/ops", timeout=20)
    event = json.loads(arrival.body)["payload"]
    assert (event["deliveryGid"], event["data"]["payload"]) == (gid, {"secret": "payload"})
    (delivery,) = await live.api.walk("/v1/deliveries", endpointGid=webhook)
    shown = await live.wait_for_status(delivery["deliveryGid"], "delivered")
    response = await live.api.get(f"/v1/attempts/{shown['attempts'][1]['attemptGid']}/body")
    assert response.content == arrival.body
    handle = live.temporal.get_workflow_handle(delivery_workflow_id(delivery["deliveryGid"]))
    history = (await handle.fetch_history()).to_json()
    assert "secret" not in history
    assert f'"buildId": "{__version__}"' in history, "workers carry the version of the product"
    (item,) = ok(await live.api.get(f"/v1/endpoints/{pulled}/poll", waitSeconds=10))["data"]
    assert item["payload"]["data"]["payload"] == {"secret": "payload"}


async def test_the_api_is_ready_with_all_of_its_servers_up(live: Live) -> None:
    assert ok(await live.api.get("/readyz")) == {"ready": True, "database": "ok", "temporal": "ok"}


def another(live: Live) -> Live:
    """The same stack under another name."""
    return Live(live.api, live.receiver, live.temporal)


async def bulk(live: Live, operation: str, body: JSON, caller: Api | None = None) -> JSON:
    """Temporal runs one batch at a time: `429` until the one before is over."""

    async def started() -> JSON:
        response = await (caller or live.api).post(f"/v1/dead-letters/{operation}", body)
        assert response.status_code != 429
        return ok(response) if response.json()["batchGid"] is None else accepted(response)

    return await assert_eventually(started)


async def visible(live: Live, *gids: str) -> None:
    """Wait until Temporal's visibility store, which lags, shows these as dead letters."""
    ids = " OR ".join(f'WorkflowId = "delivery/{gid}"' for gid in gids)
    query = f'WorkflowType = "{DELIVERY_WORKFLOW}" AND DeliveryStatus = "dead_lettered" AND ({ids})'

    async def all_are() -> None:
        assert (await live.temporal.count_workflows(query)).count == len(gids)

    await assert_eventually(all_are)


async def completed(live: Live, batch_gid: str, caller: Api | None = None) -> JSON:
    async def is_over() -> JSON:
        progress = ok(await (caller or live.api).get(f"/v1/batches/{batch_gid}"))
        assert progress["state"] == "completed"
        return progress

    return await assert_eventually(is_over)
