"""What is not exactly what a call takes is refused, in words that help: types, parameters, cursors, JSON."""

import gzip
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlmodel import SQLModel
from starlette.requests import Request

from api import patterns, schemas
from api.dependencies import PageRequest, _list_tag
from api.main import create_app
from api.routers import api_keys, tenants
from everhook.settings import Settings
from everhook.storage import tables  # noqa: F401 - the models
from tests.api.driving import JSON, ON_SHARED, UNKNOWN_SUFFIX, Api, accepted, assert_problem, created, ok
from tests.api.test_lists import kill
from tests.api.walking import operations

DOCUMENT = create_app(Settings(dev=True)).openapi()
OPERATIONS = {operation.name: operation for operation in operations(DOCUMENT)}
QUERIES = {
    name: [parameter for parameter in operation.spec.get("parameters", []) if parameter["in"] == "query"]
    for name, operation in OPERATIONS.items()
}
LISTS = [name for name, parameters in QUERIES.items() if any(each["name"] == "cursor" for each in parameters)]
BODIES = [
    model
    for module in (schemas, api_keys, tenants)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, BaseModel) and model.__name__.endswith(("In", "Patch", "Settings"))
] + [schemas.Policy, schemas.Exponential, schemas.SecretRotation, schemas.BulkRequest, schemas.Decision]
BENT: dict[str, list[Any]] = {
    "integer": [True, "5", 5.5, "5.0"],
    "number": [True, "5", "1e3"],
    "boolean": [1, 0, "true", "yes", "off"],
    "string": [1, True, 1.5],
    "date-time": [1_700_000_000, -1, True, "1700000000", "-1", "2026-01-31", "yesterday", "20260131T120000Z"],
}


def leaves(schema: Any, document: JSON) -> Iterator[JSON]:
    """The schemas of scalars that a schema is made of."""
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        yield from leaves(document[schema["$ref"].rpartition("/")[2]], document)
        return
    for part in (*schema.get("anyOf", []), schema.get("items")):
        yield from leaves(part, document)
    if schema.get("type") in ("integer", "number", "boolean", "string"):
        yield schema


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """A field, and one of the types that it takes."""
    schema = model.model_json_schema()
    for name, field in schema.get("properties", {}).items():
        for leaf in leaves(field, schema.get("$defs", {})):
            if "enum" not in leaf and "const" not in leaf:
                yield name, "date-time" if leaf.get("format") == "date-time" else str(leaf["type"])


FIELDS = sorted({(model.__name__, name, kind) for model in BODIES for name, kind in fields_of(model)})
MODELS = {model.__name__: model for model in BODIES}


@pytest.mark.parametrize(("model", "field", "kind"), FIELDS)
def test_no_type_is_bent_into_another(model: str, field: str, kind: str) -> None:
    """The value alone and as the one item of a list: whichever the field takes must refuse it."""
    alias = {f.alias or name: f for name, f in MODELS[model].model_fields.items()}
    adapter: TypeAdapter[Any] = TypeAdapter(alias[field].rebuild_annotation())
    for value in BENT[kind]:
        for written in (value, [value]):
            with pytest.raises(ValidationError):
                adapter.validate_python(written)


def test_the_walk_over_types_meets_them_all() -> None:
    assert {kind for _, _, kind in FIELDS} == set(BENT)
    assert ("EndpointIn", "rateLimit", "number") in FIELDS
    assert ("Policy", "delaysSeconds", "number") in FIELDS


@ON_SHARED
@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/channels", {"name": "a", "policy": {"delaysSeconds": [True]}}, "policy.delaysSeconds[0]"),
        ("/v1/channels", {"name": "a", "policy": {"timeoutSeconds": "5"}}, "policy.timeoutSeconds"),
        ("/v1/endpoints", {"url": "https://example.com/", "rateLimit": True}, "rateLimit"),
        ("/v1/endpoints/ep_1/secret/rotate", {"gracePeriodSeconds": "60"}, "gracePeriodSeconds"),
        ("/v1/api-keys", {"name": "a", "scopes": ["read"], "expiresAt": 4102444800}, "expiresAt"),
        ("/v1/dead-letters/replay", {"statusCode": "503"}, "statusCode"),
        ("/v1/dead-letters/replay", {"dryRun": 1}, "dryRun"),
    ],
)
async def test_a_bent_type_is_named(shared: Api, path: str, body: JSON, named: str) -> None:
    assert_problem(await shared.post(path, body), 422, named)


@pytest.mark.parametrize("name", [name for name, parameters in QUERIES.items() if parameters])
def test_numbers_from_outside_are_bounded(name: str) -> None:
    """A number beyond 64 bits is an error of the database's, and not the caller's 422."""
    for parameter in QUERIES[name]:
        for leaf in leaves(parameter["schema"], DOCUMENT["components"]["schemas"]):
            if leaf["type"] in ("integer", "number"):
                assert leaf["maximum"] < 2**63 and leaf["minimum"] >= -(2**63), parameter["name"]


@pytest.mark.parametrize("model", BODIES)
def test_numbers_in_bodies_are_bounded(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    for name, field in schema.get("properties", {}).items():
        for leaf in leaves(field, schema.get("$defs", {})):
            if leaf["type"] in ("integer", "number"):
                assert leaf["maximum"] < 2**63, name
                assert "minimum" in leaf or "exclusiveMinimum" in leaf, name


SMALL = {
    "attempt.duration_ms", "attempt.number", "attempt.response_size", "attempt.round", "attempt.status_code",
    "delivery.attempts", "delivery.last_status_code", "delivery.round", "idempotent_response.status_code",
    "receipt.number", "receipt.round", "receipt_hash.level", "subscription.cost",
}  # fmt: skip
"""Columns that no traffic makes outgrow 32 bits: what one attempt or one delivery is, and what has a limit."""


def test_what_grows_with_traffic_has_64_bits() -> None:
    narrow = {
        f"{table.name}.{column.name}"
        for table in SQLModel.metadata.sorted_tables
        for column in table.columns
        if column.type.python_type is int and type(column.type).__name__ != "BigInteger"
    }
    assert narrow == SMALL


@ON_SHARED
@pytest.mark.parametrize(
    "value", [str(2**31), str(2**63 - 1), str(2**63), "9" * 30, "-1", "1_0", "1.0", "+1", " 1", "\u0661"]
)
async def test_no_number_in_a_query_is_more_than_the_database_takes(shared: Api, value: str) -> None:
    for path, name in (
        ("/v1/receipts/consistency?to=1&from=", "from"),
        ("/v1/receipts/consistency?from=1&to=", "to"),
        (f"/v1/receipts/rcp_{UNKNOWN_SUFFIX}/bundle?since=", "since"),
        ("/v1/endpoints?limit=", "limit"),
        ("/v1/health/overview?limit=", "limit"),
        ("/v1/dead-letters?statusCode=", "statusCode"),
    ):
        response = await shared.http.get(path + quote(value))
        assert response.status_code in (404, 422), response.text
        if not value.isascii() or not value.isdigit():
            assert_problem(response, 422, name)


@ON_SHARED
@pytest.mark.parametrize("key", ["9" * 30, str(2**63), "-1", "a"])
async def test_a_cursor_of_checkpoints_is_a_size(shared: Api, key: str) -> None:
    """Anyone who reads the code can make a cursor."""
    scope = {"type": "http", "path": "/v1/receipts/checkpoints", "query_string": b"", "headers": [], "scheme": "http",
             "server": ("everhook.test", 80), "root_path": ""}  # fmt: skip
    page = PageRequest(1, None, _list_tag(Request(scope)))

    assert_problem(await shared.get("/v1/receipts/checkpoints", cursor=page.next_cursor(key)), 422, "cursor")
    assert ok(await shared.get("/v1/receipts/checkpoints", cursor=page.next_cursor("7")))["data"] == []


@ON_SHARED
@pytest.mark.parametrize("name", OPERATIONS)
async def test_no_operation_ignores_a_parameter_that_it_does_not_know(shared: Api, name: str) -> None:
    operation = OPERATIONS[name]
    path = operation.path.replace("{gid}", "x").replace("{name}", "x").replace("{command}", "pause")

    response = await shared.http.request(operation.method, path, params={"stauts": "parked"})

    problem = assert_problem(response, 422, "stauts")
    if any(parameter["name"] == "status" for parameter in QUERIES[name]):
        assert "did you mean status?" in problem["detail"]


@ON_SHARED
@pytest.mark.parametrize("name", LISTS)
async def test_a_parameter_that_has_one_value_is_given_once(shared: Api, name: str) -> None:
    path = OPERATIONS[name].path
    for parameter in QUERIES[name]:
        several = "array" in json.dumps(parameter["schema"])
        if not several:
            response = await shared.http.get(f"{path}?{parameter['name']}=1&{parameter['name']}=2")
            assert_problem(response, 422, parameter["name"])


@ON_SHARED
async def test_a_filter_has_no_more_than_twenty_values(shared: Api) -> None:
    response = await shared.http.get("/v1/messages?" + "&".join(f"channel=c{number}" for number in range(21)))

    assert_problem(response, 422, "channel")


async def test_several_values_of_a_filter_mean_any_of_them(api: Api) -> None:
    for name in ("a", "b", "c"):
        await api.channel(name)
        await api.endpoint(channel=name, tenant=f"of-{name}")
    deliveries = {}
    for name, reason, status in (("a", "rejected", 422), ("b", "exhausted", 503), ("c", "circuit_open", 500)):
        deliveries[name] = (await api.publish(name, name, type=f"type.{name}"))["deliveries"][0]
        await kill(api, deliveries[name]["deliveryGid"], reason, status)
    of = {name: delivery["endpointGid"] for name, delivery in deliveries.items()}

    async def found(path: str, **params: Any) -> set[str]:
        rows = await api.walk(f"/v1/{path}", limit=1, **params)
        names = {gid: name for name, gid in of.items()}
        return {names[row["endpointGid"]] if "endpointGid" in row else row["channelName"] for row in rows}

    for path, params in [
        ("deliveries", {"status": ["dead_lettered", "parked"], "channel": ["a", "b"]}),
        ("deliveries", {"endpoint": [of["a"], of["b"]]}),
        ("deliveries", {"type": ["type.a", "type.b"], "tenant": ["of-a", "of-b", "of-c"]}),
        ("deliveries", {"tenant": ["of-a", "of-b", "nobody"]}),
        ("dead-letters", {"reason": ["rejected", "exhausted"]}),
        ("dead-letters", {"statusCode": [422, 503]}),
        ("dead-letters", {"endpoint": [of["a"], of["b"]], "tenant": ["of-a", "of-b"]}),
        ("dead-letters", {"channel": ["a", "b"], "type": ["type.a", "type.b"]}),
        ("messages", {"channel": ["a", "b"]}),
        ("messages", {"type": ["type.a", "type.b"]}),
        ("subscriptions", {"channel": ["a", "b"]}),
        ("subscriptions", {"endpoint": [of["a"], of["b"]]}),
        ("endpoints", {"tenant": ["of-a", "of-b"]}),
    ]:
        assert await found(path, **params) == {"a", "b"}, (path, params)
    assert await found("deliveries", status=["parked", "retrying"]) == set()
    actions = {entry["action"] for entry in await api.walk("/v1/audit", action=["channel.created", "endpoint.created"])}
    assert actions == {"channel.created", "endpoint.created"}


async def test_a_cursor_belongs_to_its_list_and_its_filters(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    for number in range(3):
        await api.publish(number)
    cursor = ok(await api.get("/v1/deliveries", limit=1, status="accepted"))["nextCursor"]

    assert len(ok(await api.get("/v1/deliveries", limit=2, status="accepted", cursor=cursor))["data"]) == 2
    for path, params in [
        ("deliveries", {}),
        ("deliveries", {"status": "parked"}),
        ("deliveries", {"status": "accepted", "channel": "orders"}),
        ("messages", {}),
        ("endpoints", {}),
    ]:
        problem = assert_problem(await api.get(f"/v1/{path}", cursor=cursor, **params), 422, "cursor")
        assert "another list" in problem["detail"]


@ON_SHARED
@pytest.mark.parametrize("value", ["-1", "1700000000", "1e9", "2026-01-31", "20260131T120000Z", "now", ""])
async def test_a_time_is_written_as_one(shared: Api, value: str) -> None:
    problem = assert_problem(await shared.get("/v1/messages", since=value), 422, "since")

    assert "2026-01-31T12:00:00Z" in problem["detail"]


@ON_SHARED
async def test_a_plus_that_became_a_space_gets_a_hint(shared: Api) -> None:
    response = await shared.http.get("/v1/messages?since=2026-01-31T12:00:00+05:30")

    assert "%2B" in assert_problem(response, 422, "since")["detail"]
    ok(await shared.http.get("/v1/messages?since=2026-01-31T12:00:00%2B05:30"))


FAULTS = [
    (b'{"name": "a",}', "trailing comma is not allowed at line 1, column 13"),
    (b'{"name":\n  "a" "b"}', "at line 2, column 7"),
    (b'{"name": "a"', "unexpected end of data at line 1, column 13"),
    (b"name=a", "not valid JSON"),
    (gzip.compress(b'{"name": "a"}'), "compressed with gzip"),
    (b'\xef\xbb\xbf{"name": "a"', "byte order mark"),
    ('{"name": "a"'.encode("utf-16"), "UTF-16"),
    (b'{"name": "\xff"}', "not UTF-8: 0xff at byte 10"),
    (b'{"name": "\xed\xa0\x80", ', "half of a surrogate pair at byte 10"),
    (b'{"payload": 1, "type": "\\ud800"}', "half of a surrogate pair"),
    (b'{"payload":' + b"[" * 100_000, "nested too deeply"),
    (b" ", "is empty"),
]


@ON_SHARED
@pytest.mark.parametrize(("body", "says"), FAULTS, ids=lambda value: repr(value[:30]))
async def test_a_body_that_is_no_json_is_told_what_is_wrong_and_where(shared: Api, body: bytes, says: str) -> None:
    headers = {"content-type": "application/json"}
    for path in ("/v1/channels", "/v1/channels/orders/messages", "/v1/channels/orders/messages/batch"):
        response = await shared.http.post(path, content=body, headers=headers)
        if response.status_code == 422:  # what can be said sooner: a field that is not known
            continue
        problem = assert_problem(response, 400, "body")
        assert says in problem["detail"], path


@ON_SHARED
@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'"\xff"', "not UTF-8: 0xff at byte 1"),
        (b"[" * 2_000 + b"]" * 2_000, "nested too deeply"),
    ],
    ids=["surrogate", "utf-8", "depth"],
)
async def test_a_payload_that_is_no_json_is_told_what_is_wrong(shared: Api, payload: bytes, says: str) -> None:
    problem = assert_problem(await shared.try_publish(b'{"type":"a","payload":' + payload + b"}"), 400)

    assert says in problem["detail"]


def test_every_pattern_has_words() -> None:
    def used(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str):
                yield node["pattern"]
            for part in node.values():
                yield from used(part)
        elif isinstance(node, list):
            for part in node:
                yield from used(part)

    assert set(used(DOCUMENT)) == set(patterns.WORDS)


@ON_SHARED
@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/channels", {"name": "a b"}, "name"),
        ("/v1/subscriptions", {"endpointGid": "ep_x", "channel": "orders", "events": ["or der"]}, "events[0]"),
        ("/v1/subscriptions", {"endpointGid": "\x00", "channel": "orders"}, "endpointGid"),
        ("/v1/dead-letters/replay", {"type": "or der"}, "type"),
        ("/v1/dead-letters/replay", {"why": "\x00"}, "why"),
    ],
)
async def test_nobody_is_shown_a_regular_expression(shared: Api, path: str, body: JSON, named: str) -> None:
    problem = assert_problem(await shared.post(path, body), 422, named)

    assert not set("^\\[]$") & set(problem["errors"][0]["message"]), problem["detail"]


@ON_SHARED
async def test_no_key_and_a_wrong_one_are_told_apart(shared: Api) -> None:
    none = assert_problem(await shared.http.get("/v1/channels", headers={"authorization": ""}), 401)
    wrong = assert_problem(await shared.presenting("ek_wrong").get("/v1/channels"), 401)

    assert "No API key was given" in none["detail"]
    assert "This API key is not valid" in wrong["detail"]


@ON_SHARED
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/channels"), ("GET", "/deliveries/dlv_1"), ("POST", "/endpoints")]
)
async def test_a_call_without_the_version_is_told_so(shared: Api, method: str, path: str) -> None:
    problem = assert_problem(await shared.http.request(method, path), 404)
    assert f"/v1{path}" in problem["detail"]

    page = await shared.http.get("/channels", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["location"].partition("?")[0]) == (303, "/sign-in")


@pytest.mark.parametrize("status", ["delivered", "discarded"])
async def test_what_is_over_waits_for_nothing_and_no_workflow_is_asked(api: Api, status: str) -> None:
    """Temporal is stopped here."""
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await api.publish())["deliveries"][0]["deliveryGid"]
    await api.change_rows("UPDATE delivery SET status = :status, attempts = 2", status=status)

    live = ok(await api.get(f"/v1/deliveries/{gid}/live"))

    assert (live["status"], live["waitingFor"], live["nextAttemptAt"]) == (status, "nothing", None)
    assert (live["round"], live["attempt"]) == (1, 2)


async def test_a_dead_letter_of_a_deleted_endpoint_is_not_replayed(api: Api) -> None:
    await api.channel()
    endpoint = (await api.endpoint(channel="orders"))["endpointGid"]
    gid = (await api.publish())["deliveries"][0]["deliveryGid"]
    await kill(api, gid)
    assert (await api.delete(f"/v1/endpoints/{endpoint}")).status_code == 204

    problem = assert_problem(await api.post(f"/v1/dead-letters/{gid}/replay"), 409)
    assert endpoint in problem["detail"] and "deleted" in problem["detail"]
    assert_problem(await api.post("/v1/dead-letters/replay", {"endpoint": endpoint}), 409)
    assert accepted(await api.post("/v1/dead-letters/purge", {"endpoint": endpoint, "dryRun": True}))["matched"] == 1


async def test_an_endpoint_may_bring_its_own_secret(api: Api) -> None:
    secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

    assert (await api.endpoint(secret=secret))["secret"] == secret
    assert (await api.endpoint())["secret"] != secret
    for wrong in ("MDEy", "whsec_MDEy", "whsec_" + "!" * 40, 5):
        body = {"url": "http://127.0.0.1:9999/", "secret": wrong}
        problem = assert_problem(await api.post("/v1/endpoints", body), 422, "secret")
        assert str(wrong) not in problem["detail"] or wrong == 5
    assert (await api.rows("SELECT count(*) FROM endpoint"))[0][0] == 2


async def test_subscriptions_are_within_the_quotas_of_the_settings(api: Api) -> None:
    await api.channel()
    services = api.services
    api.app.state.services = type(services)(**{**vars(services), "quotas": type(services.quotas)(1, 2, 20, 1_000)})
    ours = await api.key(tenant=created(await api.post("/v1/tenants", {"name": "ours"}))["name"])
    gids = [(await ours.endpoint())["endpointGid"] for _ in range(3)]

    async def subscribe(gid: str, **body: Any) -> Any:
        return await ours.post("/v1/subscriptions", {"endpointGid": gid, "channel": "orders", **body})

    first = created(await subscribe(gids[0]))
    assert "EVERHOOK_SUBSCRIPTIONS_PER_ENDPOINT" in assert_problem(await subscribe(gids[0]), 409)["detail"]
    costly = {f"k{number}": number for number in range(10)}
    assert (
        "EVERHOOK_SUBSCRIPTION_COST" in assert_problem(await subscribe(gids[1], filter=costly), 422, "filter")["detail"]
    )
    path = f"/v1/subscriptions/{first['subscriptionGid']}"
    assert_problem(await ours.patch(path, {"filter": costly}), 422, "filter")
    assert ok(await ours.get(path))["filter"] is None
    created(await subscribe(gids[1]))
    assert "EVERHOOK_SUBSCRIPTIONS_PER_TENANT" in assert_problem(await subscribe(gids[2]), 409)["detail"]
    response = await ours.post("/v1/endpoints", {"url": "http://127.0.0.1:9999/", "channel": "orders"})
    assert "EVERHOOK_SUBSCRIPTIONS_PER_TENANT" in assert_problem(response, 409)["detail"]
    assert await api.count("endpoint") == 3, "neither is created without the other"


async def test_a_filter_compares_integers_of_any_length(api: Api) -> None:
    await api.channel()
    gid = (await api.endpoint())["endpointGid"]
    created(await api.post("/v1/subscriptions", {"endpointGid": gid, "channel": "orders", "filter": {"n": 2**64}}))

    async def takers(number: str) -> int:
        body = b'{"type": "a", "payload": {"n": ' + number.encode() + b"}}"
        return len(accepted(await api.try_publish(body))["deliveries"])

    assert [await takers(str(number)) for number in (2**64, 2**64 + 1, 10**23)] == [1, 0, 0]
    assert await takers("1.8446744073709551616e19") == 1
