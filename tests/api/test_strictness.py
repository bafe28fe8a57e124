"""Input of the wrong type or form is refused with a helpful message: types, parameters, cursors, JSON."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlmodel import SQLModel

from api import patterns, schemas
from api.api_keys import schemas as api_key_schemas
from api.channels import schemas as channel_schemas
from api.dead_letters.schemas import BulkRequest, Decision
from api.dependencies import PageRequest, list_tag
from api.endpoints import schemas as endpoint_schemas
from api.endpoints.schemas import SecretRotation
from api.problems import MAX_ERRORS
from api.subscriptions import schemas as subscription_schemas
from api.tenants import schemas as tenants
from everhook.field_errors import MEANINGS, meant
from everhook.storage import tables  # noqa: F401 - the models
from testing.api import JSON, ON_SHARED, RECEIVER_URL, UNKNOWN_SUFFIX, Api, assert_problem, ok, openapi_document
from tests.api.walking import operations

DOCUMENT = openapi_document()
OPERATIONS = {operation.name: operation for operation in operations(DOCUMENT)}
QUERIES = {
    name: [parameter for parameter in operation.spec.get("parameters", []) if parameter["in"] == "query"]
    for name, operation in OPERATIONS.items()
}
LISTS = [name for name, parameters in QUERIES.items() if any(each["name"] == "cursor" for each in parameters)]
BODIES = [
    model
    for module in (channel_schemas, endpoint_schemas, subscription_schemas, api_key_schemas, tenants)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, BaseModel) and model.__name__.endswith(("In", "Patch", "Settings"))
] + [schemas.Policy, schemas.Exponential, SecretRotation, BulkRequest, Decision]
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
def test_no_json_type_is_coerced_into_another(model: str, field: str, kind: str) -> None:
    """The value alone and as the one item of a list: the form that the field takes must refuse it."""
    alias = {f.alias or name: f for name, f in MODELS[model].model_fields.items()}
    adapter: TypeAdapter[Any] = TypeAdapter(alias[field].rebuild_annotation())
    for value in BENT[kind]:
        for written in (value, [value]):
            with pytest.raises(ValidationError):
                adapter.validate_python(written)


def test_the_walk_over_types_covers_every_type() -> None:
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
        ("/v1/dead-letters/replay", {"lastStatusCode": "503"}, "lastStatusCode"),
        ("/v1/dead-letters/replay", {"dryRun": 1}, "dryRun"),
    ],
)
async def test_a_wrong_type_is_named(shared: Api, path: str, body: JSON, named: str) -> None:
    assert_problem(await shared.post(path, body), 422, named)


MESSAGES, ACKS = "/v1/channels/orders/messages", f"/v1/endpoints/ep_{UNKNOWN_SUFFIX}/acks"
ENDPOINT, URL = f"/v1/endpoints/ep_{UNKNOWN_SUFFIX}", {"url": "https://example.com/"}
UNKNOWN, NO_PARAMETER = "is not a known field", "is not a parameter of this call"
ELSEWHERE = "cannot be changed by this call"
NO_TIME = "is not a time such as 2026-01-31T12:00:00Z"

MISTAKES: dict[tuple[str, str], list[tuple[str, Any, str]]] = {
    ("extra_forbidden", UNKNOWN): [
        ("POST /v1/endpoints", {**URL, "x": 1}, "x"),
        (f"POST {MESSAGES}", {"payload": 1, "x": 1}, "x"),
    ],
    ("extra_forbidden", f"{UNKNOWN}; did you mean type?"): [
        (f"POST {MESSAGES}", {"payload": 1, "typ": 1}, "typ"),
        (f"POST {MESSAGES}", {"payload": 1, "eventType": 1}, "eventType"),
        (f"POST {MESSAGES}", {"payload": 1, "event_type": 1}, "event_type"),
        (f"POST {MESSAGES}/batch", {"messages": [{"eventType": "a", "payload": 1}]}, "messages[0].eventType"),
        ("POST /v1/dead-letters/replay", {"eventType": "a"}, "eventType"),
    ],
    ("extra_forbidden", f"{UNKNOWN}; did you mean delaySeconds?"): [
        (f"POST {MESSAGES}", {"payload": 1, "delay_seconds": 1}, "delay_seconds"),
    ],
    ("extra_forbidden", f"{UNKNOWN}; did you mean lease?"): [
        (f"POST {ACKS}", {"acks": [{"leas": "a"}]}, "acks[0].leas")
    ],
    ("extra_forbidden", f"{UNKNOWN}; did you mean channel?"): [
        ("POST /v1/endpoints", {**URL, "chanel": "a"}, "chanel")
    ],
    ("extra_forbidden", f"{UNKNOWN}; did you mean events?"): [
        ("POST /v1/endpoints", {**URL, "filterTypes": []}, "filterTypes"),
        ("POST /v1/subscriptions", {"endpointGid": "a", "channel": "a", "filterTypes": []}, "filterTypes"),
    ],
    ("extra_forbidden", f"{UNKNOWN}; did you mean jitter?"): [
        ("POST /v1/endpoints", {**URL, "policy": {"jiter": 1}}, "policy.jiter"),
    ],
    ("extra_forbidden", f"{UNKNOWN}; did you mean task?"): [
        ("POST /v1/channels", {"name": "a", "gates": [{"inbox": "a", "tsk": 1}]}, "gates[0].tsk"),
    ],
    ("extra_forbidden", f"{NO_PARAMETER}; did you mean status?"): [("GET /v1/deliveries?stauts=a", None, "stauts")],
    ("extra_forbidden", f"{NO_PARAMETER}; did you mean type?"): [("GET /v1/messages?event_type=a", None, "event_type")],
    ("missing", "is required"): [
        ("POST /v1/channels", {}, "name"),
        (f"POST {MESSAGES}", {"type": "a"}, "payload"),
        (f"POST {MESSAGES}/batch", {}, "messages"),
        (f"POST {ACKS}", {"acks": [{}]}, "acks[0].lease"),
    ],
    ("missing", "is required where the payload has no text `event`"): [(f"POST {MESSAGES}", {"payload": 1}, "type")],
    ("string_type", "must be a string"): [
        ("POST /v1/channels", {"name": 1}, "name"),
        (f"POST {MESSAGES}", {"payload": 1, "type": 1}, "type"),
    ],
    ("float_type", "must be a number"): [
        ("POST /v1/endpoints", {**URL, "rateLimit": "1"}, "rateLimit"),
        (f"POST {MESSAGES}", {"payload": 1, "type": "a", "delaySeconds": "1"}, "delaySeconds"),
    ],
    ("int_type", "must be a whole number"): [
        ("POST /v1/endpoints", {**URL, "maxInFlight": 1.5}, "maxInFlight"),
        (f"POST {ACKS}", {"extends": [{"lease": "a", "seconds": 1.5}]}, "extends[0].seconds"),
    ],
    ("int_type", "must be a whole number, in digits"): [("GET /v1/messages?limit=x", None, "limit")],
    ("bool_type", "must be true or false"): [
        ("POST /v1/endpoints", {**URL, "paused": 1}, "paused"),
        (f"POST {MESSAGES}", {"payload": 1, "retry": 1}, "retry"),
    ],
    ("list_type", "must be a list"): [
        ("POST /v1/endpoints", {**URL, "events": "a"}, "events"),
        (f"POST {MESSAGES}/batch", {"messages": 1}, "messages"),
    ],
    ("dict_type", "must be an object"): [
        ("POST /v1/channels", {"name": "a", "policy": 1}, "policy"),
        ("POST /v1/channels", [], "body"),
        (f"POST {MESSAGES}", {"payload": 1, "task": 1}, "task"),
        (f"POST {MESSAGES}", [], "body"),
    ],
    ("greater_than_equal", "must be 1 or above"): [
        ("POST /v1/endpoints", {**URL, "maxInFlight": 0}, "maxInFlight"),
        ("GET /v1/messages?limit=0", None, "limit"),
    ],
    ("greater_than_equal", "takes 0 to 2592000 seconds, which is 30 days"): [
        (f"POST {MESSAGES}", {"payload": 1, "type": "a", "delaySeconds": -1}, "delaySeconds"),
    ],
    ("greater_than_equal", "takes 5 to 43200"): [
        (f"POST {ACKS}", {"extends": [{"lease": "a", "seconds": 1}]}, "extends[0].seconds"),
    ],
    ("string_too_long", "has too many characters; the maximum is 1000"): [
        ("POST /v1/endpoints", {**URL, "description": "a" * 1_001}, "description"),
    ],
    ("enum", "must be 'http', 'stream', 'poll', 'inbox' or 'internal'"): [
        ("POST /v1/endpoints", {**URL, "mode": "push"}, "mode"),
    ],
    ("invalid", NO_TIME): [
        (f"POST {MESSAGES}", {"payload": 1, "type": "a", "deliverAt": "soon"}, "deliverAt"),
        (f"POST {MESSAGES}", {"payload": 1, "type": "a", "deliverAt": 5}, "deliverAt"),
        ("POST /v1/api-keys", {"name": "a", "expiresAt": 5}, "expiresAt"),
    ],
    ("read_only", "cannot be changed"): [
        (f"PATCH {ENDPOINT}", {"createdAt": "x"}, "createdAt"),
        (f"PATCH {ENDPOINT}", {"circuit": {"state": "open"}}, "circuit.state"),
        ("PATCH /v1/channels/orders", {"name": "x"}, "name"),
        ("PATCH /v1/event-types/a", {"name": "x"}, "name"),
        ("PATCH /v1/subscriptions/sub_1", {"channel": "x"}, "channel"),
        ("PATCH /v1/tenants/ten_1", {"tenantGid": "x"}, "tenantGid"),
    ],
    ("read_only", "cannot be changed; create another endpoint"): [(f"PATCH {ENDPOINT}", {"mode": "stream"}, "mode")],
    ("read_only", f"{ELSEWHERE}; use POST /v1/endpoints/{{gid}}/pause and …/resume"): [
        (f"PATCH {ENDPOINT}", {"paused": True}, "paused"),
    ],
}


@ON_SHARED
@pytest.mark.parametrize(("error", "calls"), MISTAKES.items(), ids=str)
async def test_the_same_mistake_has_the_same_code_and_words_in_every_call(
    shared: Api, error: tuple[str, str], calls: list[tuple[str, Any, str]]
) -> None:
    code, message = error
    assert code in MEANINGS
    for call, body, field in calls:
        response = await shared.http.request(*call.split(" "), json=body)
        expected = [{"field": field, "code": code, "message": message}]
        assert assert_problem(response, 422, field)["errors"] == expected, call


@pytest.mark.parametrize("name", [name for name, parameters in QUERIES.items() if parameters])
def test_numbers_from_outside_are_bounded(name: str) -> None:
    """Without a bound, a number beyond 64 bits would be an error of the database, and not a 422."""
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
    "delivery.attempts", "delivery.last_status_code", "delivery.round", "delivery_round.round",
    "endpoint.max_in_flight", "endpoint_turn.slot", "idempotent_response.status_code", "pull_queue.number",
    "pull_queue.round", "task.reminders_sent", "gate.step", "receipt.number", "receipt.round", "receipt_hash.level",
    "subscription.cost",
}  # fmt: skip
"""Columns that traffic cannot make exceed 32 bits: values of one attempt or one delivery, and values with a limit."""


def test_numbers_that_grow_with_traffic_have_64_bits() -> None:
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
        ("/v1/dead-letters?lastStatusCode=", "lastStatusCode"),
    ):
        response = await shared.http.get(path + quote(value))
        assert response.status_code in (404, 422), response.text
        if not value.isascii() or not value.isdigit():
            assert_problem(response, 422, name)


@ON_SHARED
@pytest.mark.parametrize("key", ["9" * 30, str(2**63), "-1", "a"])
async def test_a_cursor_of_checkpoints_is_a_size(shared: Api, key: str) -> None:
    """A client can forge a cursor."""
    page = PageRequest(1, None, list_tag("/v1/receipts/checkpoints", []))

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


@ON_SHARED
@pytest.mark.parametrize("value", ["-1", "1700000000", "1e9", "2026-01-31", "20260131T120000Z", "now", ""])
async def test_a_time_has_to_be_an_rfc_3339_timestamp(shared: Api, value: str) -> None:
    problem = assert_problem(await shared.get("/v1/messages", since=value), 422, "since")

    assert "2026-01-31T12:00:00Z" in problem["detail"]


@ON_SHARED
async def test_a_plus_that_became_a_space_gets_a_hint(shared: Api) -> None:
    response = await shared.http.get("/v1/messages?since=2026-01-31T12:00:00+05:30")

    assert "%2B" in assert_problem(response, 422, "since")["detail"]
    ok(await shared.http.get("/v1/messages?since=2026-01-31T12:00:00%2B05:30"))


def test_every_pattern_has_a_message_in_words() -> None:
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
        ("/v1/dead-letters/replay", {"reason": "\x00"}, "reason"),
    ],
)
async def test_no_message_shows_a_regular_expression(shared: Api, path: str, body: JSON, named: str) -> None:
    problem = assert_problem(await shared.post(path, body), 422, named)

    assert not set("^\\[]$") & set(problem["errors"][0]["message"]), problem["detail"]


HUGE = -1
FORM = {"type": "object", "properties": {"amount": {"type": "number", "minimum": HUGE}}}


@ON_SHARED
@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", r'"\ud800"'])
@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/subscriptions/test", {"message": {"type": "a", "payload": {"n": HUGE}}}, "message.payload"),
        ("/v1/subscriptions/test", {"message": {"type": "a"}, "filter": {"n": HUGE}}, "filter"),
        ("/v1/subscriptions", {"endpointGid": "ep_1", "channel": "orders", "filter": {"n": HUGE}}, "filter"),
        ("/v1/channels", {"name": "a", "gates": [{"inbox": "ep_1", "filter": {"n": HUGE}}]}, "gates[0].filter"),
        ("/v1/channels", {"name": "a", "gates": [{"inbox": "ep_1", "task": {"form": FORM}}]}, "gates[0].task.form"),
        ("/v1/endpoints", {"mode": "inbox", "options": {"name": "a", "task": {"form": FORM}}}, "options.task.form"),
        ("/v1/endpoints", {"url": "https://example.com/", "metadata": {"n": HUGE}}, "metadata"),
        ("/v1/event-types", {"name": "a.b", "example": {"n": HUGE}}, "example"),
        ("/v1/event-types", {"name": "a.b", "schema": {"minimum": HUGE}}, "schema"),
        ("/v1/tasks/dlv_1/decide", {"version": 1, "outcome": "approved", "data": {"n": HUGE}}, "data"),
    ],
)
async def test_values_that_json_cannot_represent_are_refused(
    shared: Api, path: str, body: JSON, named: str, number: str
) -> None:
    """Python's parser accepts it, and databases do not."""
    content = json.dumps(body).replace(str(HUGE), number)
    response = await shared.http.post(path, content=content, headers={"content-type": "application/json"})
    assert_problem(response, 422, named)


async def test_a_body_of_many_unknown_fields_is_refused_with_the_first_of_them(api: Api) -> None:
    """Each is compared with the known ones, which must not take the event loop for seconds."""
    names = {f"rateLimits{number}": 1 for number in range(3_000)} | {"u" * 100_000: 1}
    problem = assert_problem(await api.post("/v1/endpoints", {"url": RECEIVER_URL, **names}), 422)
    assert len(problem["errors"]) == MAX_ERRORS


def test_a_name_that_is_longer_than_any_field_is_not_compared() -> None:
    assert meant("rateLimits", ["rateLimit"]) == "rateLimit"
    assert meant("rateLimit" + "s" * 100, ["rateLimit" + "s" * 99]) is None
