"""No caller sees another tenant's things: every operation of the document, with every id that it takes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event
from sqlmodel import SQLModel

from testing.api import ON_SHARED, Api, ok, openapi_document
from tests.api.walking import World, make_world, of_nobody, operations

OPERATIONS = {operation.name: operation for operation in operations(openapi_document())}
PLACES = [(name, place) for name, operation in OPERATIONS.items() for place in operation.places()]
LISTS = [name for name, operation in OPERATIONS.items() if operation.method == "GET" and "{" not in operation.path]
UNANSWERED = {
    "GET /v1/deliveries/{gid}/live": 503,
    "GET /v1/receipts/consistency": 404,
    "GET /v1/receipts/{gid}/bundle": 503,
}
"""What Temporal, which is stopped here, or a checkpoint, which there is none of, would have to answer."""

IN_THE_BACKGROUND = "SELECT circuit.endpoint_gid, endpoint.version"
"""A query for deliveries that wait for Temporal, independent of which client calls meanwhile."""

pytestmark = ON_SHARED


_WATCHED = re.compile(r"^SELECT count\(.*dispatched_at IS NULL.*\sLIMIT", re.DOTALL)
"""What the process asks every few seconds by itself: how much waits to be started."""


class Sides:
    """Two tenants that have the same things, and the key of one of them."""

    def __init__(self, admin: Api, own: World, other: World, api: Api) -> None:
        self.admin, self.own, self.other, self.api = admin, own, other, api
        self.absent = of_nobody("nobody")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sides(shared: Api) -> Sides:
    own, other = await make_world(shared, "ours"), await make_world(shared, "theirs")
    return Sides(shared, own, other, await shared.key("publish", tenant="ours"))


@contextmanager
def statements(api: Api) -> Iterator[list[str]]:
    """What the database is asked meanwhile."""
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


async def test_the_walk_goes_everywhere() -> None:
    assert len(OPERATIONS) >= 40
    assert len(PLACES) >= 39


@pytest.mark.parametrize(("name", "place"), PLACES)
async def test_what_is_anothers_is_answered_as_what_nobody_has(sides: Sides, name: str, place: str) -> None:
    operation = OPERATIONS[name]
    before = await everything(sides.admin)

    answers, asked = [], []
    for world in (sides.other, sides.absent):
        request = operation.request(world, place, own=sides.own)
        with statements(sides.api) as noted:
            response = await request.send(sides.api)
        answers.append((response.status_code, _without_ids(response.text, world), dict(response.headers)))
        asked.append(noted)

    assert answers[0] == answers[1]
    assert asked[0] == asked[1], "the database is asked the same, and so it takes as long"
    if place == "path":
        assert answers[0][0] in (403, 404)
    assert await everything(sides.admin) == before


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.method == "GET"])
async def test_what_is_ones_own_is_there(sides: Sides, name: str) -> None:
    """Else the walk would find everything equal where nothing works."""
    response = await OPERATIONS[name].request(sides.own).send(sides.api)

    is_for_admins = OPERATIONS[name].path.startswith(("/v1/tenants", "/v1/api-keys"))
    assert response.status_code == (403 if is_for_admins else UNANSWERED.get(name, 200)), response.text


@pytest.mark.parametrize("name", LISTS)
async def test_lists_hold_nothing_of_another(sides: Sides, name: str) -> None:
    text = (await OPERATIONS[name].request(sides.own).send(sides.api)).text
    theirs = (
        set(sides.other.ids.values())
        - set(sides.own.ids.values())
        - {sides.other.ids[shared] for shared in ("channel", "event_type")}
    )

    assert [gid for gid in theirs if gid in text] == []
    assert sides.own.ids["endpoint"] in text or "/endpoints" not in name


async def test_what_a_tenant_publishes_is_its_own_and_reaches_nobody_else(sides: Sides) -> None:
    for body in ({}, {"tenant": "ours"}):
        message = await sides.api.publish({"n": 1}, **body)

        assert [d["endpointGid"] for d in message["deliveries"]] == [sides.own.ids["endpoint"]]
        assert ok(await sides.admin.get(f"/v1/messages/{message['messageGid']}"))["tenant"] == "ours"


async def test_of_a_message_to_all_a_tenant_sees_its_own_deliveries(sides: Sides) -> None:
    gid = (await sides.admin.publish({"n": 1}))["messageGid"]

    shown = ok(await sides.api.get(f"/v1/messages/{gid}"))
    assert [delivery["endpointGid"] for delivery in shown["deliveries"]] == [sides.own.ids["endpoint"]]
    assert len(ok(await sides.admin.get(f"/v1/messages/{gid}"))["deliveries"]) == 2


async def test_what_a_tenant_makes_is_its_own(sides: Sides) -> None:
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
