"""`GET /v1/endpoints/{gid}/health` and `GET /v1/health/overview`."""

from typing import Any

from everhook.health.endpoint_alerts import AlertLimits
from everhook.health.endpoint_alerts_store import EndpointAlertEvaluator
from everhook.storage.tables import EndpointMinute, EndpointMinuteError, now
from testing.api import JSON, Api, assert_problem, ok


async def minute(api: Api, endpoint: JSON, errors: dict[str, int] | None = None, **counts: Any) -> None:
    """Write the counts of the endpoint for the current minute."""
    gid = endpoint["endpointGid"]
    ((tenant_gid,),) = await api.rows("SELECT tenant_gid FROM endpoint WHERE gid = :gid", gid=gid)
    start = now().replace(second=0, microsecond=0)
    async with api.database.writing() as session:
        session.add(EndpointMinute(endpoint_gid=gid, minute=start, tenant_gid=tenant_gid, **counts))
        for error, count in (errors or {}).items():
            session.add(EndpointMinuteError(endpoint_gid=gid, minute=start, error=error, count=count))


async def test_the_health_of_an_endpoint_is_shown_with_its_reasons(api: Api) -> None:
    endpoint = await api.endpoint()
    await minute(api, endpoint, {"http_503": 10}, delivered=90, retried=10, under_500=100, duration_ms=20_000)
    health = ok(await api.get(f"/v1/endpoints/{endpoint['endpointGid']}/health"))
    assert (health["score"], health["level"], health["status"]) == (88, "degraded", "enabled")
    assert health["parts"][0] == {
        "name": "success_1h",
        "points": health["parts"][0]["points"],
        "outOf": 40,
        "reason": "90 of 100 attempts delivered in the last hour",
    }
    assert health["circuit"] == {"state": "closed", "failures": 0, "failingSince": None, "until": None}
    assert health["total"] == {
        "attempts": 100, "delivered": 90, "retried": 10, "rejected": 0, "successRate": 0.9, "meanMs": 200,
        "latency": {"under100Ms": 0, "under500Ms": 100, "under2000Ms": 0, "slower": 0},
    }  # fmt: skip
    (error,) = health["errors"]
    assert (error["error"], error["count"], error["endpoints"]) == ("http_503", 10, 1)
    assert error["since"] == error["lastSeen"]


async def test_each_window_is_a_chart_that_ends_now(api: Api) -> None:
    endpoint = await api.endpoint()
    await minute(api, endpoint, delivered=1)
    for window, seconds, steps in (("1h", 60, 60), ("24h", 900, 96), ("7d", 7200, 84)):
        health = ok(await api.get(f"/v1/endpoints/{endpoint['endpointGid']}/health", window=window))
        assert (health["window"], health["bucketSeconds"], len(health["series"])) == (window, seconds, steps)
        assert sum(bucket["delivered"] for bucket in health["series"]) == 1
        assert health["series"][0] | {"since": None} == {
            "since": None, "attempts": 0, "delivered": 0, "retried": 0, "rejected": 0, "successRate": None,
            "meanMs": None, "latency": {"under100Ms": 0, "under500Ms": 0, "under2000Ms": 0, "slower": 0},
        }  # fmt: skip


async def test_the_health_of_an_unknown_endpoint_or_window_is_refused(api: Api) -> None:
    endpoint = await api.endpoint()
    path = f"/v1/endpoints/{endpoint['endpointGid']}/health"
    assert_problem(await api.get(path, window="2h"), 422, "window")
    assert (await api.delete(f"/v1/endpoints/{endpoint['endpointGid']}")).status_code == 204
    assert_problem(await api.get(path), 404)


async def test_the_overview_shows_the_worst_first(api: Api) -> None:
    good, bad, _ = [await api.endpoint(tenant=name) for name in ("acme", "globex", "idle")]
    await minute(api, good, delivered=50, under_100=50)
    await minute(api, bad, {"timeout_total": 50}, retried=50)
    overview = ok(await api.get("/v1/health/overview"))
    shown = [(one["tenant"], one["score"], one["level"], one["lastHour"]["attempts"]) for one in overview["endpoints"]]
    assert shown == [("globex", 29, "failing", 50), ("acme", 100, "healthy", 50)]
    assert overview["lastHour"]["successRate"] == 0.5
    assert [(one["error"], one["count"]) for one in overview["errors"]] == [("timeout_total", 50)]
    assert overview["circuits"] == {"closed": 3, "open": 0, "halfOpen": 0, "paused": 0, "disabled": 0}
    assert overview["deadLetters"] == {"total": 0, "byReason": {}}
    nothing = {"count": 0, "oldestAcceptedAt": None}
    assert overview["undispatched"] == overview["overdue"] == overview["parked"] == nothing
    assert len(overview["series"]) == 60


async def test_the_overview_can_be_of_one_tenant_and_short(api: Api) -> None:
    for tenant in ("acme", "acme", "globex"):
        await minute(api, await api.endpoint(tenant=tenant), delivered=1)
    overview = ok(await api.get("/v1/health/overview", tenant="acme", limit=1))
    assert overview["lastHour"]["attempts"] == 2
    assert [one["tenant"] for one in overview["endpoints"]] == ["acme"]
    assert_problem(await api.get("/v1/health/overview", tenant="nobody"), 422, "tenant")
    assert_problem(await api.get("/v1/health/overview", limit=101), 422, "limit")


async def test_the_overview_counts_deliveries_that_wait(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    for n in range(3):
        await api.publish(n)
    overview = ok(await api.get("/v1/health/overview"))
    assert (overview["undispatched"]["count"], overview["acceptedLastMinute"]) == (3, 3)
    assert overview["undispatched"]["oldestAcceptedAt"] <= overview["at"]


async def test_a_tenant_s_key_sees_its_own_endpoints_and_no_others(api: Api) -> None:
    mine, other = [await api.endpoint(tenant=name) for name in ("acme", "globex")]
    await minute(api, mine, delivered=1)
    await minute(api, other, {"refused": 9}, retried=9)
    await api.change_rows("UPDATE circuit SET state = 'open'")
    acme = await api.key(tenant="acme")
    overview = ok(await acme.get("/v1/health/overview"))
    assert [one["endpointGid"] for one in overview["endpoints"]] == [mine["endpointGid"]]
    assert (overview["lastHour"]["attempts"], overview["errors"], overview["circuits"]["open"]) == (1, [], 1)
    assert ok(await acme.get(f"/v1/endpoints/{mine['endpointGid']}/health"))["total"]["delivered"] == 1
    assert_problem(await acme.get(f"/v1/endpoints/{other['endpointGid']}/health"), 404)
    assert_problem(await acme.get("/v1/health/overview", tenant="globex"), 422, "tenant")
    assert ok(await api.get("/v1/health/overview"))["lastHour"]["attempts"] == 10


async def test_raised_alerts_are_part_of_the_health_of_an_endpoint_and_of_the_overview(api: Api) -> None:
    endpoint = await api.endpoint(tenant="acme")
    await minute(api, endpoint, delivered=80, retried=20, under_500=100)
    path = f"/v1/endpoints/{endpoint['endpointGid']}/health"
    assert ok(await api.get(path))["alerts"] == []
    assert await EndpointAlertEvaluator(api.database, AlertLimits()).evaluate() == 2
    [alert] = ok(await api.get(path))["alerts"]
    assert alert == {"alert": "success_rate", "since": alert["since"], "value": 0.8, "threshold": 0.9}
    [worst] = ok(await api.get("/v1/health/overview"))["endpoints"]
    assert worst["alerts"] == [alert]
