"""Filters by endpoint: by gid, or by text that only one endpoint has in its URL or description."""

import pytest

from testing.api import JSON, Api, assert_problem, ok

ENDPOINTS = {
    "https://hooks.acme.example/orders": "Order sync",
    "https://hooks.acme.example/orders/v2": "Order sync, the new one",
    "https://in.globex.example/": "Ledger",
}


LISTS = ["/v1/deliveries", "/v1/dead-letters", "/v1/subscriptions"]


@pytest.fixture
async def gids(api: Api) -> JSON:
    """By URL; each with one delivery, which is a dead letter, and one subscription."""
    await api.channel()
    found = {}
    for n, (url, description) in enumerate(ENDPOINTS.items()):
        tenant = "globex" if "globex" in url else "acme"
        made = await api.endpoint(
            f"http://127.0.0.1:9999/{n}", channel="orders", description=description, tenant=tenant
        )
        await api.change_rows("UPDATE endpoint SET url = :url WHERE gid = :gid", url=url, gid=made["endpointGid"])
        found[url] = made["endpointGid"]
    await api.publish({"n": 1})
    await api.change_rows(
        "UPDATE delivery SET status = 'dead_lettered', reason = 'exhausted', dead_lettered_at = accepted_at"
    )
    return found


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("wanted", "url"),
    [
        ("https://in.globex.example/", "https://in.globex.example/"),
        ("globex", "https://in.globex.example/"),
        ("ledger", "https://in.globex.example/"),
        ("/v2", "https://hooks.acme.example/orders/v2"),
        ("https://hooks.acme.example/orders", "https://hooks.acme.example/orders"),
        ("Order sync", "https://hooks.acme.example/orders"),
    ],
)
async def test_a_url_or_a_name_selects_as_a_gid_does(api: Api, gids: JSON, path: str, wanted: str, url: str) -> None:
    (found,) = ok(await api.get(path, endpointGid=wanted))["data"]
    assert found["endpointGid"] == gids[url]
    assert ok(await api.get(path, endpointGid=gids[url]))["data"] == [found]


@pytest.mark.parametrize("path", LISTS)
async def test_a_filter_value_that_several_endpoints_have_is_refused_with_their_ids(
    api: Api, gids: JSON, path: str
) -> None:
    problem = assert_problem(await api.get(path, endpointGid="acme"), 422, "endpointGid")
    for url in list(ENDPOINTS)[:2]:
        assert gids[url] in problem["errors"][0]["message"]


@pytest.mark.parametrize("path", LISTS)
async def test_a_filter_value_that_no_endpoint_has_is_refused(api: Api, gids: JSON, path: str) -> None:
    for wanted in ("nobody", "%", "_"):
        assert_problem(await api.get(path, endpointGid=wanted), 422, "endpointGid")


async def test_a_tenant_finds_only_its_own_endpoints(api: Api, gids: JSON) -> None:
    theirs = await api.key(tenant="globex")
    assert len(ok(await theirs.get("/v1/deliveries", endpointGid="example"))["data"]) == 1
    assert_problem(await theirs.get("/v1/deliveries", endpointGid="acme"), 422, "endpointGid")


async def test_a_bulk_operation_takes_a_url(api: Api, gids: JSON) -> None:
    response = await api.post("/v1/dead-letters/replay", {"endpointGid": "globex", "dryRun": True})
    assert response.json()["matched"] == 1
