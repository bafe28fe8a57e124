"""The OpenAPI document is complete and readable without the code."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from api.schemas import ApiModel
from everhook import __version__
from testing.api import JSON, Api, accepted, assert_problem, created, ok, openapi_document
from testing.documented import problems_of

OPERATIONS = {
    "GET /livez", "GET /readyz", "GET /version",
    "POST /v1/channels", "GET /v1/channels", "GET /v1/channels/{name}", "PATCH /v1/channels/{name}",
    "POST /v1/messages/transactional", "POST /v1/messages/{gid}/cancel", "POST /v1/subscriptions/test",
    "DELETE /v1/channels/{name}", "POST /v1/channels/{name}/messages", "POST /v1/channels/{name}/messages/batch",
    "POST /v1/endpoints", "GET /v1/endpoints", "GET /v1/endpoints/{gid}", "PATCH /v1/endpoints/{gid}",
    "DELETE /v1/endpoints/{gid}", "POST /v1/endpoints/{gid}/pause", "POST /v1/endpoints/{gid}/resume",
    "POST /v1/endpoints/{gid}/enable", "POST /v1/endpoints/{gid}/disable",
    "POST /v1/endpoints/{gid}/circuit/trip", "POST /v1/endpoints/{gid}/circuit/reset",
    "POST /v1/endpoints/{gid}/secret/rotate",
    "POST /v1/subscriptions", "GET /v1/subscriptions", "GET /v1/subscriptions/{gid}",
    "PATCH /v1/subscriptions/{gid}", "DELETE /v1/subscriptions/{gid}",
    "GET /v1/messages", "GET /v1/messages/{gid}", "POST /v1/messages/{gid}/redeliver",
    "GET /v1/deliveries", "GET /v1/deliveries/{gid}", "GET /v1/deliveries/{gid}/live",
    "POST /v1/deliveries/{gid}/attempt-now",
    "GET /v1/dead-letters", "GET /v1/dead-letters/{gid}", "POST /v1/dead-letters/{gid}/discard",
    "POST /v1/dead-letters/{gid}/replay", "POST /v1/dead-letters/replay", "POST /v1/dead-letters/purge",
    "POST /v1/channels/{name}/replay",
    "GET /v1/batches", "GET /v1/batches/{gid}", "POST /v1/batches/{gid}/cancel",
}  # fmt: skip


DOCS = Path(__file__).resolve().parents[2] / "docs/api.md"


@pytest.fixture
def document() -> JSON:
    return openapi_document()


def operations_of(document: JSON) -> dict[str, JSON]:
    return {
        f"{method.upper()} {path}": operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


async def test_the_document_is_served(api: Api, document: JSON) -> None:
    assert ok(await api.get("/openapi.json")) == document


async def test_the_document_has_every_operation_of_the_design(document: JSON) -> None:
    assert operations_of(document).keys() >= OPERATIONS


async def test_every_operation_says_what_it_does_and_who_may_call_it(document: JSON) -> None:
    for name, operation in operations_of(document).items():
        assert operation["summary"], name
        assert operation.get("description"), name
        assert operation["tags"], name
        assert bool(operation.get("security")) == ("/v1/" in name), name


async def test_every_operation_promises_problem_documents(document: JSON) -> None:
    for name, operation in operations_of(document).items():
        content = operation["responses"]["default"]["content"]
        assert list(content) == ["application/problem+json"], name
        assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}, name
    properties = document["components"]["schemas"]["Problem"]["properties"]
    assert {"type", "title", "status", "detail", "errors"} == properties.keys()


async def test_operations_are_named_after_functions(document: JSON) -> None:
    names = [operation["operationId"] for operation in operations_of(document).values()]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name)] == []
    assert {"createEndpoint", "pauseEndpoint", "resetCircuit", "updateChannel", "getHealthOverview"} <= set(names)


async def test_every_tag_has_a_description_and_is_used(document: JSON) -> None:
    used = {tag for operation in operations_of(document).values() for tag in operation["tags"]}
    assert {tag["name"] for tag in document["tags"]} == used
    assert all(tag["description"].endswith(".") for tag in document["tags"])


async def test_no_path_has_a_command_as_a_parameter(document: JSON) -> None:
    assert [path for path in document["paths"] if re.search(r"\{(?!gid|name)", path)] == []


async def test_operations_document_the_problems_that_their_shape_implies(document: JSON) -> None:
    for name, operation in operations_of(document).items():
        if "/v1/" not in name:
            continue
        expected = {"unauthenticated", "forbidden", "invalid-request", "internal-error", "unavailable"}
        expected |= {"not-found"} if "{" in name else set()
        expected |= {"malformed-request", "payload-too-large"} if "requestBody" in operation else set()
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", [])):
            expected |= {"idempotency-key-reused", "idempotent-call-running", "conflict"}
        assert expected <= problems_of(operation), name


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("POST /v1/channels", "channel-exists"),
        ("DELETE /v1/channels/{name}", "channel-in-use"),
        ("POST /v1/endpoints", "quota-exceeded"),
        ("POST /v1/subscriptions", "quota-exceeded"),
        ("PATCH /v1/subscriptions/{gid}", "quota-exceeded"),
        ("POST /v1/endpoints/{gid}/secret/rotate", "too-many-secrets"),
        ("POST /v1/endpoints/{gid}/pause", "temporal-busy"),
        ("POST /v1/endpoints/{gid}/circuit/reset", "temporal-busy"),
        ("GET /v1/deliveries/{gid}/live", "temporal-busy"),
        ("POST /v1/tenants", "tenant-name-taken"),
        ("PATCH /v1/tenants/{gid}", "tenant-name-taken"),
        ("DELETE /v1/tenants/{gid}", "tenant-in-use"),
        ("POST /v1/tenants/{gid}/portal-link", "not-configured"),
    ],
)
async def test_operations_document_problems_of_their_own(document: JSON, name: str, slug: str) -> None:
    assert slug in problems_of(operations_of(document)[name])


async def test_every_operation_has_an_example_of_what_it_takes_and_responds_with(document: JSON) -> None:
    without = {
        operation["operationId"]
        for operation in operations_of(document).values()
        for part in (operation.get("requestBody", {}), *operation["responses"].values())
        if (media := part.get("content", {}).get("application/json")) is not None
        and "example" not in media
        and "examples" not in media
    }
    assert without == set()


def api_models() -> list[type[ApiModel]]:
    """All models with an example; importing the application has defined them."""
    found, waiting = [], [ApiModel]
    while waiting:
        waiting += (subclasses := waiting.pop().__subclasses__())
        found += [
            model
            for model in subclasses
            if "examples" in (model.__dict__.get("model_config") or {}).get("json_schema_extra", {})
        ]
    return found


@pytest.mark.parametrize("model", api_models(), ids=lambda model: model.__name__)
def test_an_example_is_one_of_its_model(model: type[ApiModel]) -> None:
    extra = model.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    nulls = {
        field.alias: None
        for field in model.model_fields.values()
        if field.is_required() and "None" in str(field.annotation)
    }
    for example in cast(list[JSON], extra["examples"]):
        model.model_validate(_completed(nulls | example))


def _completed(example: Any) -> Any:
    """The example with the nulls that examples of circuits leave out."""
    if isinstance(example, dict):
        example = {name: _completed(value) for name, value in example.items()}
        if "failures" in example and "state" in example:
            return {"failingSince": None, "until": None, **example}
        if set(example) == {"count"}:
            return {"oldestAcceptedAt": None, **example}
    return [_completed(item) for item in example] if isinstance(example, list) else example


# Names: docs/api.md has the table


def named_in_docs() -> set[str]:
    section = DOCS.read_text().partition("### Names")[2].partition("###")[0]
    rows = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


async def test_the_table_of_names_has_every_parameter_and_nothing_else(document: JSON) -> None:
    parameters = {
        parameter["name"]
        for operation in operations_of(document).values()
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query"
    }
    fields = {name for schema in document["components"]["schemas"].values() for name in schema.get("properties", {})}
    assert parameters - named_in_docs() == set()
    assert named_in_docs() - parameters - fields == set()


async def test_a_filter_is_named_like_the_field_that_it_filters(document: JSON) -> None:
    schemas, wrong = document["components"]["schemas"], set()
    for operation in operations_of(document).values():
        if not operation["operationId"].startswith("list"):
            continue
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        page = schemas[schema["$ref"].rpartition("/")[2]]
        item = schemas[page["properties"]["data"]["items"]["$ref"].rpartition("/")[2]]
        wrong |= {
            f"{operation['operationId']} {parameter['name']}"
            for parameter in operation.get("parameters", [])
            if parameter["in"] == "query"
            and not {parameter["name"], f"{parameter['name']}s"} & item["properties"].keys()
            and parameter["name"] not in ("tenant", "since", "until", "limit", "cursor")
        }
    assert wrong == set()


async def test_no_field_has_a_name_that_was_given_up(document: JSON) -> None:
    wrong = {
        f"{model}.{name}"
        for model, schema in document["components"]["schemas"].items()
        for name in schema.get("properties", {})
        if name in ("why", "who", "channelName", "decidedBy", "decidedWhy", "endpoint", "message")
    }
    of_people = {"TaskOut.decidedBy", "TaskDetail.decidedBy"}
    kept = {"FieldError.message", "PulledItem.channelName", "SubscriptionTrial.message"}
    assert wrong - kept - of_people == set()


async def test_models_have_names_that_programs_can_read(document: JSON) -> None:
    names = list(document["components"]["schemas"])
    assert [name for name in names if not re.fullmatch(r"([A-Z][a-z0-9]+)+", name)] == []
    assert "EndpointList" in names


async def test_every_reference_has_a_target(document: JSON) -> None:
    for reference in set(references_in(document)):
        assert reference.startswith("#/"), reference
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


async def test_names_in_json_are_camel_case(document: JSON) -> None:
    names = {name for schema in document["components"]["schemas"].values() for name in schema.get("properties", {})}
    names |= {
        parameter["name"]
        for operation in operations_of(document).values()
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query"
    }
    assert "statusCode" in names and "nextCursor" in names
    assert [name for name in names if not re.fullmatch(r"[a-z][A-Za-z0-9]*", name)] == []


async def test_the_examples_of_publishing_work_unmodified(api: Api, document: JSON) -> None:
    await api.channel()
    operations = operations_of(document)
    for name in (
        "POST /v1/channels/{name}/messages",
        "POST /v1/channels/{name}/messages/batch",
        "POST /v1/messages/transactional",
    ):
        example = operations[name]["requestBody"]["content"]["application/json"]["example"]
        promised = operations[name]["responses"]["202"]["content"]["application/json"]["example"]

        response = await api.post(name.removeprefix("POST ").replace("{name}", "orders"), example)

        assert response.status_code == 202
        given = {name for name, value in response.json().items() if value is not None}
        assert given == promised.keys()  # FastAPI leaves nulls out of examples


async def test_the_examples_of_endpoints_and_channels_work_unmodified(api: Api, document: JSON) -> None:
    schemas = document["components"]["schemas"]
    assert_created = [
        await api.post("/v1/channels", {"name": schemas["ChannelIn"]["properties"]["name"]["examples"][0]}),
        await api.post("/v1/endpoints", schemas["EndpointIn"]["examples"][0]),
    ]
    assert [response.status_code for response in assert_created] == [201, 201]


async def test_the_version_is_shown_without_a_key(api: Api, document: JSON) -> None:
    api.http.headers.pop("authorization")

    assert ok(await api.get("/version")) == {"version": __version__}
    assert document["info"]["version"] == __version__
    assert_problem(await api.get("/v1/messages"), 401)


def references_in(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [reference for value in node.values() for reference in references_in(value)]
    return [reference for value in node for reference in references_in(value)] if isinstance(node, list) else []


async def test_a_response_without_content_has_no_content_type(api: Api, document: JSON) -> None:
    await api.channel()
    await api.channel("unused")
    endpoint = (await api.endpoint())["endpointGid"]
    key = created(await api.post("/v1/api-keys", {"name": "billing", "scopes": ["publish"]}))
    created(await api.post("/v1/event-types", {"name": "order.created"}))
    subscription = created(await api.post("/v1/subscriptions", {"endpointGid": endpoint, "channel": "orders"}))
    message = accepted(await api.try_publish({"payload": {}, "type": "order.created"}))
    paths = {
        "/v1/channels/{name}": "/v1/channels/unused",
        "/v1/messages/{gid}/payload": f"/v1/messages/{message['messageGid']}/payload",
        "/v1/subscriptions/{gid}": f"/v1/subscriptions/{subscription['subscriptionGid']}",
        "/v1/endpoints/{gid}": f"/v1/endpoints/{endpoint}",
        "/v1/api-keys/{gid}": f"/v1/api-keys/{key['keyGid']}",
        "/v1/event-types/{name}": "/v1/event-types/order.created",
    }
    empty = {name for name, operation in operations_of(document).items() if "204" in operation["responses"]}
    assert empty == {f"DELETE {path}" for path in paths}
    for path in paths.values():
        response = await api.delete(path)
        assert (response.status_code, response.content) == (204, b"")
        assert "content-type" not in response.headers, path
