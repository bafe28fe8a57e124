"""Silent name servers of one tenant's endpoints do not delay another tenant, who creates or changes endpoints."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from datetime import timedelta

import pytest

from everhook.egress import EgressClient, EgressRules
from everhook.egress.resolver import CachingResolver
from testing.api import Api, created, ok

ENDPOINTS = 80


@asynccontextmanager
async def silent_names(api: Api) -> AsyncIterator[None]:
    """Names with `silent` in them get no response until the end; all others resolve to this machine."""
    released = threading.Event()

    def lookup(name: str) -> tuple[str, ...]:
        if "silent" in name:
            released.wait(30)
        return ("127.0.0.1",)

    usual = api.services.endpoints
    resolver = CachingResolver(lookup, limit=timedelta(minutes=1))
    egress = EgressClient(EgressRules.from_settings(api.services.settings), resolver=resolver)
    endpoints = copy(usual)
    endpoints._egress = egress
    api.app.state.services = replace(api.services, endpoints=endpoints)
    try:
        yield
    finally:
        released.set()
        api.app.state.services = replace(api.services, endpoints=usual)
        await egress.aclose()


@pytest.mark.parametrize("names_its_tenant_by", ["key", "field"])
async def test_creations_with_silent_name_servers_delay_no_other_tenant(api: Api, names_its_tenant_by: str) -> None:
    by_field = names_its_tenant_by == "field"
    for tenant in ("hostile", "honest"):
        await api.endpoint(tenant=tenant)
    hostile = api if by_field else await api.key(tenant="hostile")
    honest = api if by_field else await api.key(tenant="honest")
    async with silent_names(api), asyncio.timeout(20):
        stuck = [
            asyncio.create_task(
                hostile.post("/v1/endpoints", _body(f"https://a.silent-{n}.test/", "hostile", by_field=by_field))
            )
            for n in range(ENDPOINTS)
        ]
        await asyncio.sleep(0.2)
        made = created(await honest.post("/v1/endpoints", _body("https://b.test/", "honest", by_field=by_field)))
        ok(await honest.patch(f"/v1/endpoints/{made['endpointGid']}", {"url": "https://c.test/"}))
        assert not any(task.done() for task in stuck)
    assert {response.status_code for response in await asyncio.gather(*stuck)} == {201}


def _body(url: str, tenant: str, *, by_field: bool) -> dict[str, str]:
    return {"url": url} | ({"tenant": tenant} if by_field else {})
