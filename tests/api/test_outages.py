"""Responses of the API while the database or Temporal is away: no 202 without a commit, no 500 without details."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from unittest.mock import AsyncMock

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from api import problems
from everhook.observability.logging import _QUIET as QUIET
from everhook.settings import Settings
from testing.api import API_KEY, UNKNOWN_SUFFIX, Api, assert_problem, ok, running_api, settings_for, sqlite_url
from testing.processes import refusing_port
from testing.waiting import assert_eventually

SECRET_PAYLOAD = "card-4111111111111111"

DIE = "UPDATE delivery SET status = 'dead_lettered', reason = 'rejected', dead_lettered_at = accepted_at"


def closed_postgres(_directory: Path) -> Settings:
    return settings_for(f"postgresql://everhook:hunter2-hunter2@127.0.0.1:{refusing_port()}/everhook")


def directory_for_a_file(directory: Path) -> Settings:
    return settings_for(sqlite_url(directory))


@pytest.mark.parametrize("settings_of", [closed_postgres, directory_for_a_file])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/channels/orders/messages"),
        ("GET", "/v1/messages"),
        ("GET", f"/v1/deliveries/dlv_{UNKNOWN_SUFFIX}"),
        ("POST", f"/v1/dead-letters/dlv_{UNKNOWN_SUFFIX}/replay"),
        ("DELETE", f"/v1/endpoints/ep_{UNKNOWN_SUFFIX}"),
    ],
)
async def test_without_the_database_the_response_is_503_with_retry_after(
    settings_of: Callable[[Path], Settings], tmp_path: Path, method: str, path: str
) -> None:
    async with running_api(settings_of(tmp_path)) as api:
        content = b'{"type":"a","payload":1}' if path.endswith("/messages") else None
        response = await api.http.request(method, path, content=content)

    problem = assert_problem(response, 503)
    assert int(response.headers["retry-after"]) > 0
    assert "database" in problem["detail"]


@pytest.mark.parametrize("settings_of", [closed_postgres, directory_for_a_file])
async def test_a_batch_without_the_database_is_503(settings_of: Callable[[Path], Settings], tmp_path: Path) -> None:
    async with running_api(settings_of(tmp_path)) as api:
        response = await api.try_batch([{"type": "a", "payload": 1}])

    assert_problem(response, 503)
    assert int(response.headers["retry-after"]) > 0


async def test_a_message_that_could_not_be_committed_is_published_by_a_retry(api: Api) -> None:
    await api.channel()
    await api.change_rows("ALTER TABLE delivery RENAME TO delivery_away")
    await api.change_rows("ALTER TABLE message RENAME TO message_away")
    body = {"type": "a", "payload": 1, "idempotencyKey": "k"}

    assert_problem(await api.try_publish(body), 503)
    await api.change_rows("ALTER TABLE message_away RENAME TO message")
    await api.change_rows("ALTER TABLE delivery_away RENAME TO delivery")

    assert (await api.publish(1, type="a", idempotencyKey="k"))["duplicate"] is False


async def test_readiness_says_that_the_database_is_down(tmp_path: Path) -> None:
    async with running_api(directory_for_a_file(tmp_path)) as api:
        response = await api.get("/readyz")
        assert response.status_code == 503
        assert response.json() == {"ready": False, "database": "down", "temporal": "down"}
        assert ok(await api.get("/livez")) == {"status": "ok"}


async def test_concurrent_readiness_requests_share_one_check(api: Api) -> None:
    looks = 0
    ping = api.database.ping

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await ping()

    api.database.ping = counted  # type: ignore[method-assign]
    await asyncio.gather(*(api.get("/readyz") for _ in range(100)))

    assert looks == 1


async def test_publishing_is_refused_while_too_many_deliveries_wait_to_be_started(settings: Settings) -> None:
    async with running_api(settings) as api:
        await api.channel()
        await api.endpoint(channel="orders")
        await api.publish(1)

    async with running_api(settings.model_copy(update={"undispatched_limit": 1})) as full:

        async def is_refused() -> None:
            for response in [
                await full.try_publish({"type": "a", "payload": 1}),
                await full.try_batch([{"type": "a", "payload": 1}]),
            ]:
                assert_problem(response, 503)
                assert int(response.headers["retry-after"]) > 0

        await assert_eventually(is_refused)
        before = await full.count("message")
        await is_refused()
        assert await full.count("message") == before
        assert len(await full.walk("/v1/messages")) == before


async def test_publishing_is_accepted_below_the_limit(settings: Settings) -> None:
    async with running_api(settings.model_copy(update={"undispatched_limit": 2})) as api:
        await api.channel()
        await api.endpoint(channel="orders")

        assert (await api.publish(1))["deliveries"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/deliveries/{delivery}/live"),
        ("POST", "/v1/deliveries/{delivery}/attempt-now"),
        ("POST", "/v1/dead-letters/{dead}/replay"),
        ("POST", "/v1/dead-letters/{dead}/discard"),
        ("POST", "/v1/dead-letters/replay"),
        ("POST", "/v1/dead-letters/purge"),
        *(("POST", f"/v1/endpoints/{{endpoint}}/{c}") for c in ("pause", "resume", "enable", "disable")),
        *(("POST", f"/v1/endpoints/{{endpoint}}/circuit/{c}") for c in ("trip", "reset")),
    ],
)
async def test_commands_with_temporal_stopped_are_503_and_change_nothing(api: Api, method: str, path: str) -> None:
    await api.channel()
    endpoint = await api.endpoint(channel="orders")
    delivery, dead = [(await api.publish(n))["deliveries"][0]["deliveryGid"] for n in range(2)]
    await api.change_rows(f"{DIE} WHERE gid = :g", g=dead)
    await api.change_rows("UPDATE delivery SET status = 'retrying', attempts = 1 WHERE gid = :g", g=delivery)
    before = [await api.rows(f"SELECT * FROM {table}") for table in ("delivery", "circuit", "batch")]
    body = "{}" if path.endswith(("letters/replay", "letters/purge")) else None

    response = await api.http.request(
        method,
        path.format(delivery=delivery, dead=dead, endpoint=endpoint["endpointGid"]),
        content=body,
        headers={"content-type": "application/json"},
    )

    problem = assert_problem(response, 503)
    assert int(response.headers["retry-after"]) > 0
    assert problem["detail"].startswith("Temporal does not respond")
    assert [await api.rows(f"SELECT * FROM {table}") for table in ("delivery", "circuit", "batch")] == before


async def test_with_temporal_stopped_dry_runs_and_lists_work(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await api.publish({"n": 1}))["deliveries"][0]["deliveryGid"]
    await api.change_rows(DIE)

    response = await api.post("/v1/dead-letters/replay", {"dryRun": True})
    assert response.json() == {"matched": 1, "skipped": 0, "batchGid": None}
    assert [letter["deliveryGid"] for letter in await api.walk("/v1/dead-letters")] == [gid]
    assert ok(await api.get(f"/v1/dead-letters/{gid}"))["payload"] == {"n": 1}


async def test_readiness_with_temporal_stopped_is_ready_and_says_so(api: Api) -> None:
    assert ok(await api.get("/readyz")) == {"ready": True, "database": "ok", "temporal": "down"}


def log_all_that_the_product_may(caplog: pytest.LogCaptureFixture) -> None:
    """Debug, as far as `everhook.observability.logging` lets libraries log: aiosqlite would log every parameter."""
    caplog.set_level(logging.DEBUG)
    for name, level in QUIET.items():
        caplog.set_level(level, logger=name)


async def test_no_secret_and_no_payload_is_logged_when_publishing_fails(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    log_all_that_the_product_may(caplog)
    await api.channel()
    secret = (await api.endpoint(channel="orders"))["secret"]
    body = {"type": "a", "payload": {"card": SECRET_PAYLOAD}, "idempotencyKey": "key-of-mine"}

    with capture_logs() as lines:
        await api.try_publish(body)
        await api.try_publish(f'{{"type":"a","payload":"{SECRET_PAYLOAD}",}}'.encode())
        await api.try_publish({**body, "surplus": SECRET_PAYLOAD})
        await api.post("/v1/channels", {"name": "x", "policy": SECRET_PAYLOAD})
        await api.change_rows("ALTER TABLE message RENAME TO message_away")
        assert_problem(await api.try_publish(body), 503)

    logged = str(lines) + caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "the database is away" in logged
    assert "INSERT INTO" not in logged, "the reason is logged, and not the statement"
    for kept in (SECRET_PAYLOAD, secret, secret.removeprefix("whsec_"), API_KEY, "key-of-mine"):
        assert kept not in logged


async def test_the_password_of_the_database_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_all_that_the_product_may(caplog)
    with capture_logs() as lines:
        async with running_api(closed_postgres(tmp_path)) as api:
            assert_problem(await api.try_publish({"type": "a", "payload": 1}), 503)

    assert "the database is away" in str(lines)
    assert "hunter2" not in str(lines) + caplog.text


async def test_a_busy_temporal_is_a_429_and_a_silent_worker_a_503() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/busy")
    async def busy() -> None:
        raise RPCError("too many", RPCStatusCode.RESOURCE_EXHAUSTED, b"")

    @app.get("/silent")
    async def silent() -> None:
        raise WorkflowUpdateRPCTimeoutOrCancelledError()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
        responses = {path: await http.get(path) for path in ("/busy", "/silent")}

    for path, status in (("/busy", 429), ("/silent", 503)):
        assert_problem(responses[path], status)
        assert int(responses[path].headers["retry-after"]) > 0


async def test_a_delivery_cannot_be_asked_while_temporal_is_busy(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await api.publish())["deliveries"][0]["deliveryGid"]
    busy = AsyncMock(side_effect=RPCError("too many", RPCStatusCode.RESOURCE_EXHAUSTED, b""))
    monkeypatch.setattr("everhook.delivery.service.delivery_state", busy)

    problem = assert_problem(await api.get(f"/v1/deliveries/{gid}/live"), 429)

    assert problem["type"] == "/problems/temporal-busy"


async def test_a_bug_is_a_500_without_details() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/bug")
    async def bug() -> None:
        raise KeyError(SECRET_PAYLOAD)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    with capture_logs() as lines:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            response = await http.get("/bug")

    assert SECRET_PAYLOAD not in str(assert_problem(response, 500))
    assert response.headers["connection"] == "close"
    assert [line["event"] for line in lines] == ["unhandled error"]
