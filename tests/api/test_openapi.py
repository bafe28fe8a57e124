"""The OpenAPI document, as somebody who has nothing else reads it."""

import re
from typing import Any

import pytest

from everhook import __version__
from testing.api import JSON, Api, assert_problem, ok, openapi_document

OPERATIONS = {
    "GET /livez", "GET /readyz", "GET /version",
    "POST /v1/channels", "GET /v1/channels", "GET /v1/channels/{name}", "PATCH /v1/channels/{name}",
    "DELETE /v1/channels/{name}", "POST /v1/channels/{name}/messages", "POST /v1/channels/{name}/messages/batch",
    "POST /v1/endpoints", "GET /v1/endpoints", "GET /v1/endpoints/{gid}", "PATCH /v1/endpoints/{gid}",
    "DELETE /v1/endpoints/{gid}", "POST /v1/endpoints/{gid}/{command}", "POST /v1/endpoints/{gid}/circuit/{command}",
    "POST /v1/endpoints/{gid}/secret/rotate",
    "POST /v1/subscriptions", "GET /v1/subscriptions", "GET /v1/subscriptions/{gid}",
    "PATCH /v1/subscriptions/{gid}", "DELETE /v1/subscriptions/{gid}",
    "GET /v1/messages", "GET /v1/messages/{gid}",
    "GET /v1/deliveries", "GET /v1/deliveries/{gid}", "GET /v1/deliveries/{gid}/live",
    "POST /v1/deliveries/{gid}/attempt-now",
    "GET /v1/dead-letters", "GET /v1/dead-letters/{gid}", "DELETE /v1/dead-letters/{gid}",
    "POST /v1/dead-letters/{gid}/replay", "POST /v1/dead-letters/replay", "POST /v1/dead-letters/purge",
    "GET /v1/batches/{gid}",
}  # fmt: skip


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
        properties = content["application/problem+json"]["schema"]["properties"]
        assert {"type", "title", "status", "detail", "errors"} == properties.keys()


async def test_every_reference_leads_somewhere(document: JSON) -> None:
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


async def test_the_examples_of_publishing_work_as_they_stand(api: Api, document: JSON) -> None:
    await api.channel()
    operations = operations_of(document)
    for name in ("POST /v1/channels/{name}/messages", "POST /v1/channels/{name}/messages/batch"):
        example = operations[name]["requestBody"]["content"]["application/json"]["example"]
        promised = operations[name]["responses"]["202"]["content"]["application/json"]["example"]

        response = await api.post(name.removeprefix("POST ").replace("{name}", "orders"), example)

        assert response.status_code == 202
        assert response.json().keys() == promised.keys()


async def test_the_examples_of_endpoints_and_channels_work_as_they_stand(api: Api, document: JSON) -> None:
    schemas = document["components"]["schemas"]
    assert_created = [
        await api.post("/v1/channels", {"name": schemas["ChannelIn"]["properties"]["name"]["examples"][0]}),
        await api.post("/v1/endpoints", schemas["EndpointIn"]["examples"][0]),
    ]
    assert [response.status_code for response in assert_created] == [201, 201]


async def test_the_version_is_told_to_all(api: Api, document: JSON) -> None:
    api.http.headers.pop("authorization")

    assert ok(await api.get("/version")) == {"version": __version__}
    assert document["info"]["version"] == __version__
    assert_problem(await api.get("/v1/messages"), 401)


def references_in(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [reference for value in node.values() for reference in references_in(value)]
    return [reference for value in node for reference in references_in(value)] if isinstance(node, list) else []
