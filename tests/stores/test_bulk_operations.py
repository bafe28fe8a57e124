"""Bulk operations on dead letters as batches, on both databases: what Temporal says is recorded when they end."""

from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.api.enums.v1 import BatchOperationState
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from everhook.audit.store import Actor
from everhook.batches import service
from everhook.batches.service import BatchService
from everhook.contracts import OperatorAction
from everhook.errors import BulkOperationRunning
from everhook.publishing.store import Acceptor
from everhook.redelivery.pages import ReplayPages
from everhook.storage.tables import Batch, BatchKind, BatchState, ReplayMode, now
from everhook.storage.tenant_scope import TenantScope
from testing.api import JSON, Api, accepted, assert_problem, created, ok, running_api, settings_for

RUNNING = BatchOperationState.BATCH_OPERATION_STATE_RUNNING
COMPLETED = BatchOperationState.BATCH_OPERATION_STATE_COMPLETED
ENDED = BatchOperationState.BATCH_OPERATION_STATE_FAILED
"""Temporal's state of a batch that failed, or was stopped."""


class Temporal:
    """Temporal's batch operations: `jobs` by their ids, as state, total, completed and failed. As in Temporal, one that
    was stopped has no counts."""

    namespace, identity = "default", "test"

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[Any, int, int, int]] = {}
        self.error: RPCStatusCode | None = None
        self.workflow_service = self
        self.data_converter = SimpleNamespace(encode=self._encode)

    async def _encode(self, _: Any) -> list[Any]:
        return []

    def _job(self, gid: str) -> tuple[Any, int, int, int]:
        error = self.error if self.error is not None else RPCStatusCode.NOT_FOUND
        if self.error is not None or gid not in self.jobs:
            raise RPCError(error.name, error, b"")
        return self.jobs[gid]

    async def start_batch_operation(self, request: Any, timeout: timedelta) -> None:
        if self.error is not None:
            raise RPCError(self.error.name, self.error, b"")
        self.jobs[request.job_id] = (RUNNING, 0, 0, 0)

    async def describe_batch_operation(self, request: Any, timeout: timedelta) -> Any:
        state, total, completed, failed = self._job(request.job_id)
        return SimpleNamespace(
            state=state,
            total_operation_count=total,
            complete_operation_count=completed,
            failure_operation_count=failed,
            HasField=lambda _: False,
        )

    async def stop_batch_operation(self, request: Any, timeout: timedelta) -> None:
        self._job(request.job_id)
        self.jobs[request.job_id] = (ENDED, 0, 0, 0)


@pytest.fixture
def temporal() -> Temporal:
    return Temporal()


@pytest.fixture
async def api(database_url: str, temporal: Temporal) -> AsyncIterator[Api]:
    async with running_api(settings_for(database_url)) as running:
        running.services.batches._temporal = cast(Client, temporal)
        yield running


def bulk(kind: BatchKind = BatchKind.DEAD_LETTER_REPLAY, **columns: Any) -> Batch:
    return Batch(kind=kind, actor="ann", selection={"channel": ["orders"]}, matched=5, **columns)


async def started(api: Api, batch: Batch, scope: TenantScope | None = None) -> str:
    action = OperatorAction("ann", "they are back")
    scope = scope or TenantScope(api.database)
    await api.services.batches.start_bulk(scope, batch, "query", "replay", action)
    return batch.gid


async def shown(api: Api, gid: str) -> JSON:
    return ok(await api.get(f"/v1/batches/{gid}"))


async def test_a_bulk_operation_is_listed_with_replays_and_followed_to_its_end(api: Api, temporal: Temporal) -> None:
    await api.channel()
    replay = Batch(actor="ann", channel="orders", mode=ReplayMode.ALL, since=now(), until=now(), event_types=["a"])
    async with api.database.writing() as session:
        session.add(replay)
    gid = await started(api, bulk(channel="orders"))
    listed = await api.walk("/v1/batches", channel="orders")
    assert [(each["batchGid"], each["kind"], each["state"]) for each in listed] == [
        (gid, "dead_letter_replay", "running"),
        (replay.gid, "channel_replay", "running"),
    ]
    assert (listed[0]["matched"], listed[0]["selection"], listed[0]["mode"]) == (5, {"channel": ["orders"]}, None)
    temporal.jobs[gid] = (RUNNING, 7, 3, 1)
    found = await shown(api, gid)
    assert (found["total"], found["completed"], found["failed"], found["state"]) == (7, 3, 1, "running")
    assert (await api.rows("SELECT started FROM batch WHERE gid = :g", g=gid))[0].started == 0  # only its end is stored
    temporal.jobs[gid] = (COMPLETED, 7, 6, 1)
    assert await api.walk("/v1/batches", kind="dead_letter_replay", state="running") == []
    del temporal.jobs[gid]  # after the retention of the namespace
    found = await shown(api, gid)
    assert (found["state"], found["total"], found["completed"], found["failed"]) == ("completed", 7, 6, 1)
    assert found["closedAt"] is not None and found["error"] is None
    assert_problem(await api.post(f"/v1/batches/{gid}/cancel"), 409)


@pytest.mark.parametrize(("total", "completed", "failed"), [(2, 2, 0), (0, 0, 0), (2, 1, 1)])
async def test_a_bulk_operation_that_temporal_counted_anew_after_a_crash_has_not_signalled_fewer(
    api: Api, temporal: Temporal, total: int, completed: int, failed: int
) -> None:
    """Temporal finds those that it signalled before its crash no longer."""
    gid = await started(api, bulk())
    temporal.jobs[gid] = (RUNNING, total, 0, 0)
    assert (await shown(api, gid))["total"] == 5
    temporal.jobs[gid] = (COMPLETED, total, completed, failed)
    found = await shown(api, gid)
    assert (found["state"], found["total"], found["completed"], found["failed"]) == ("completed", 5, 5 - failed, failed)


@pytest.mark.parametrize(("age", "state", "error"), [(0, "running", None), (2, "failed", service.UNKNOWN)])
async def test_a_bulk_operation_unknown_to_temporal_has_failed_unless_it_was_just_created(
    api: Api, temporal: Temporal, age: int, state: str, error: str | None
) -> None:
    gid = await started(api, bulk(created_at=now() - timedelta(minutes=age)))
    temporal.jobs.clear()
    found = await shown(api, gid)
    assert (found["state"], found["error"]) == (state, error)


async def test_a_bulk_operation_that_temporal_ended_has_failed(api: Api, temporal: Temporal) -> None:
    gid = await started(api, bulk())
    temporal.jobs[gid] = (ENDED, 0, 0, 0)
    assert [(each["state"], each["error"]) for each in await api.walk("/v1/batches")] == [("failed", service.FAILED)]


async def test_a_cancelled_bulk_operation_is_stopped_and_keeps_its_counts(api: Api, temporal: Temporal) -> None:
    gid = await started(api, bulk(BatchKind.DEAD_LETTER_PURGE))
    temporal.jobs[gid] = (RUNNING, 7, 3, 0)
    found = accepted(await api.post(f"/v1/batches/{gid}/cancel"))
    assert (found["state"], found["total"], found["completed"], found["error"]) == ("cancelled", 7, 3, None)
    assert temporal.jobs[gid][0] == ENDED
    assert accepted(await api.post(f"/v1/batches/{gid}/cancel"))["state"] == "cancelled"
    assert [entry["action"] for entry in await api.walk("/v1/audit", subject=gid)] == ["dead_letters.batch_cancelled"]


async def test_a_cancellation_waits_for_temporal_and_the_reconciler_carries_it_out(
    api: Api, temporal: Temporal
) -> None:
    gid = await started(api, bulk())
    temporal.error = RPCStatusCode.UNAVAILABLE
    assert accepted(await api.post(f"/v1/batches/{gid}/cancel"))["state"] == "running"
    assert [each["state"] for each in await api.walk("/v1/batches")] == ["running"]
    temporal.error = None
    await BatchService(cast(Client, temporal)).follow(api.database)
    assert await api.rows("SELECT state FROM batch") == [("cancelled",)]
    assert temporal.jobs[gid][0] == ENDED


async def test_a_bulk_operation_that_completed_before_its_cancellation_has_completed(
    api: Api, temporal: Temporal
) -> None:
    gid = await started(api, bulk())
    temporal.jobs[gid] = (COMPLETED, 5, 5, 0)
    assert accepted(await api.post(f"/v1/batches/{gid}/cancel"))["state"] == "completed"


@pytest.mark.both_databases
async def test_a_bulk_operation_that_temporal_refuses_is_not_listed_and_one_with_an_unknown_outcome_is(
    api: Api, temporal: Temporal
) -> None:
    temporal.error = RPCStatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(BulkOperationRunning):
        await started(api, bulk())
    assert await api.count("batch") == 0
    temporal.error = RPCStatusCode.DEADLINE_EXCEEDED  # it may have been started
    with pytest.raises(RPCError):
        await started(api, bulk())
    assert await api.count("batch") == 1


@pytest.mark.both_databases
async def test_a_tenant_sees_and_cancels_its_own_and_runs_one_at_a_time(api: Api, temporal: Temporal) -> None:
    acme = created(await api.post("/v1/tenants", {"name": "acme"}))
    created(await api.post("/v1/tenants", {"name": "globex"}))
    theirs, others = await api.key(tenant="acme"), await api.key(tenant="globex")
    publisher = await api.key("publish")
    own = TenantScope(api.database, acme["tenantGid"])
    gid = await started(api, bulk(tenant_gid=acme["tenantGid"]), own)
    of_all = await started(api, bulk())
    with pytest.raises(BulkOperationRunning):
        await started(api, bulk(tenant_gid=acme["tenantGid"]), own)
    assert [each["batchGid"] for each in await theirs.walk("/v1/batches")] == [gid]
    for unauthorized in (others, publisher):
        assert await unauthorized.walk("/v1/batches") == []
        assert_problem(await unauthorized.get(f"/v1/batches/{gid}"), 404)
        assert_problem(await unauthorized.post(f"/v1/batches/{gid}/cancel"), 404)
    assert_problem(await theirs.post(f"/v1/batches/{of_all}/cancel"), 404)
    assert accepted(await theirs.post(f"/v1/batches/{gid}/cancel"))["state"] == "cancelled"
    assert (await started(api, bulk(tenant_gid=acme["tenantGid"]), own)) != gid


async def test_a_key_that_only_publishes_now_sees_no_bulk_operation_that_it_started(
    api: Api, temporal: Temporal
) -> None:
    publisher = await api.key("publish", name="was an admin")
    (key,) = await api.rows("SELECT gid FROM api_key WHERE name = 'was an admin'")
    gid = await started(api, bulk(key_gid=key.gid))
    assert await publisher.walk("/v1/batches") == []
    assert_problem(await publisher.post(f"/v1/batches/{gid}/cancel"), 404)
    assert [each.state for each in await api.services.batches.follow(api.database)] == [BatchState.RUNNING]


async def test_the_workflow_of_replays_leaves_a_bulk_operation_alone(api: Api, temporal: Temporal) -> None:
    """A worker of the version before may have started it."""
    gid = await started(api, bulk())
    services = api.services
    pages = ReplayPages(
        services.database, Acceptor(services.database, services.messages._defaults), services.messages._defaults
    )
    assert await pages.next_pages(gid, 10) == ()
    assert not (await pages.progress(gid)).more
    await pages.cancel(gid, Actor("temporal"))
    assert await api.rows("SELECT state FROM batch") == [("running",)]
