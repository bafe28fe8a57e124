"""Tenant isolation: every operation of the document is tried with every id of another tenant."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event
from sqlmodel import SQLModel

from testing.api import ON_SHARED, Api, ok, openapi_document
from tests.api.walking import World, make_world, of_no_tenant, operations

OPERATIONS = {operation.name: operation for operation in operations(openapi_document())}
PLACES = [(name, place) for name, operation in OPERATIONS.items() for place in operation.places()]
LISTS = [name for name, operation in OPERATIONS.items() if operation.method == "GET" and "{" not in operation.path]
REFUSED_HERE = {
    "GET /v1/deliveries/{gid}/live": 503,
    "GET /v1/receipts/consistency": 404,
    "GET /v1/receipts/{gid}/bundle": 503,
}
"""The status of reads that need Temporal, which is stopped here, or a checkpoint, which does not exist yet."""

IN_THE_BACKGROUND = "SELECT circuit.endpoint_gid, endpoint.version"
"""A query for deliveries that wait for Temporal, independent of which client calls meanwhile."""

pytestmark = ON_SHARED


_WATCHED = re.compile(r"^SELECT count\(.*dispatched_at IS NULL.*\sLIMIT", re.DOTALL)
"""A query that the process makes every few seconds by itself: the number of deliveries to be started."""


class Sides:
    """Two tenants with the same resources, and the key of one of them."""

    def __init__(self, admin: Api, own: World, other: World, api: Api) -> None:
        self.admin, self.own, self.other, self.api = admin, own, other, api
        self.absent = of_no_tenant("nobody")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sides(shared: Api) -> Sides:
    own, other = await make_world(shared, "ours"), await make_world(shared, "theirs")
    return Sides(shared, own, other, await shared.key("publish", tenant="ours"))


@contextmanager
def statements(api: Api) -> Iterator[list[str]]:
    """Record the SQL statements meanwhile."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not _WATCHED.search(statement):
            asked.append(statement)

    engines = [api.database._reader.sync_engine, api.database._writer.sync_engine]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)
        asked[:] = [statement for statement in asked if not statement.startswith(IN_THE_BACKGROUND)]


async def everything(api: Api) -> list[Any]:
    return [await api.rows(f"SELECT * FROM {table.name}") for table in SQLModel.metadata.sorted_tables]


async def test_the_walk_covers_every_operation_and_place_of_an_id() -> None:
    assert len(OPERATIONS) >= 40
    assert len(PLACES) >= 39


@pytest.mark.parametrize(("name", "place"), PLACES)
async def test_resources_of_another_tenant_look_like_unknown_ones(sides: Sides, name: str, place: str) -> None:
    operation = OPERATIONS[name]
    before = await everything(sides.admin)

    responses, asked = [], []
    for world in (sides.other, sides.absent):
        request = operation.request(world, place, own=sides.own)
        with statements(sides.api) as noted:
            response = await request.send(sides.api)
        responses.append((response.status_code, _without_ids(response.text, world), dict(response.headers)))
        asked.append(noted)

    assert responses[0] == responses[1]
    assert asked[0] == asked[1], "the database is asked the same, and so it takes as long"
    if place == "path":
        assert responses[0][0] in (403, 404)
    assert await everything(sides.admin) == before


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.method == "GET"])
async def test_a_tenant_can_read_its_own_resources(sides: Sides, name: str) -> None:
    """Guards the walk: if nothing worked, all responses would be equal."""
    response = await OPERATIONS[name].request(sides.own).send(sides.api)

    is_for_admins = OPERATIONS[name].path.startswith(("/v1/tenants", "/v1/api-keys"))
    assert response.status_code == (403 if is_for_admins else REFUSED_HERE.get(name, 200)), response.text


@pytest.mark.parametrize("name", LISTS)
async def test_lists_have_nothing_of_another_tenant(sides: Sides, name: str) -> None:
    text = (await OPERATIONS[name].request(sides.own).send(sides.api)).text
    theirs = (
        set(sides.other.ids.values())
        - set(sides.own.ids.values())
        - {sides.other.ids[shared] for shared in ("channel", "event_type")}
    )

    assert [gid for gid in theirs if gid in text] == []
    assert sides.own.ids["endpoint"] in text or "/endpoints" not in name


async def test_a_message_of_a_tenant_reaches_only_its_own_endpoints(sides: Sides) -> None:
    for body in ({}, {"tenant": "ours"}):
        message = await sides.api.publish({"n": 1}, **body)

        assert [d["endpointGid"] for d in message["deliveries"]] == [sides.own.ids["endpoint"]]
        assert ok(await sides.admin.get(f"/v1/messages/{message['messageGid']}"))["tenant"] == "ours"


async def test_a_tenant_sees_only_its_own_deliveries_of_a_message_to_all(sides: Sides) -> None:
    gid = (await sides.admin.publish({"n": 1}))["messageGid"]

    shown = ok(await sides.api.get(f"/v1/messages/{gid}"))
    assert [delivery["endpointGid"] for delivery in shown["deliveries"]] == [sides.own.ids["endpoint"]]
    assert len(ok(await sides.admin.get(f"/v1/messages/{gid}"))["deliveries"]) == 2


async def test_resources_that_a_tenant_creates_belong_to_it(sides: Sides) -> None:
    endpoint = await sides.api.endpoint(channel="orders")
    assert endpoint["tenant"] == "ours"
    assert (await sides.api.endpoint(tenant="ours"))["tenant"] == "ours"
    body = {"endpointGid": endpoint["endpointGid"], "channel": "orders", "events": ["a"]}
    gid = (await sides.api.post("/v1/subscriptions", body)).json()["subscriptionGid"]
    rows = await sides.admin.rows(
        "SELECT tenant.name FROM subscription s JOIN tenant ON tenant.gid = s.tenant_gid WHERE s.gid = :gid", gid=gid
    )
    assert [row[0] for row in rows] == ["ours"]
    assert (await sides.api.delete(f"/v1/endpoints/{endpoint['endpointGid']}")).status_code == 204


def _without_ids(text: str, world: World) -> str:
    for gid in world.ids.values():
        text = text.replace(gid, "…")
    return text
