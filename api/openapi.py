"""The OpenAPI document: what FastAPI derives from the routes, with names, problems and examples that hold for all."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.alias_generators import to_camel

from api import problem_types, problems
from api.idempotency import HEADER
from api.middleware import API

JSON = dict[str, Any]

SCHEME = {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer <key>`"}

TAGS = {
    "channels": "Named streams of messages, each with a default delivery policy.",
    "event types": "The catalogue: what the messages of each type look like.",
    "endpoints": "Where tenants receive messages, with secrets, TLS settings and circuits.",
    "tasks": "What inboxes ask people, and their decisions.",
    "pulling": "Take deliveries out of the queue of an endpoint, and acknowledge them.",
    "subscriptions": "Which messages of a channel go to an endpoint.",
    "messages": "Publish messages, and look at what was published.",
    "deliveries": "One message on its way to one endpoint, with all attempts.",
    "dead letters": "Deliveries that were given up: replay or discard them, one by one or many at once.",
    "batches": "Replays of channels, and bulk operations on dead letters: list, follow, cancel.",
    "receipts": "Signed statements about attempts, and the log that holds them.",
    "health": "How well endpoints work, and whether Everhook itself does.",
    "audit": "Who changed what, when and from where.",
    "tenants": "The publisher's customers.",
    "API keys": "Keys of publishers, operators and tenants.",
}
"""Each group of operations with its description."""


def operation_id(route: APIRoute) -> str:
    """The name of the route's function in camelCase: generated clients have it as the name of a method."""
    return to_camel(route.name)


def document(app: FastAPI) -> JSON:
    """The document of an application whose routes are all there."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=[{"name": name, "description": description} for name, description in TAGS.items()],
    )
    found = _renamed(found)
    found["components"]["securitySchemes"] = {"key": SCHEME}
    schemas = found["components"]["schemas"]
    schemas |= problems.schemas()
    _name_objects(schemas)
    for path, operation in _operations(found):
        if path.startswith(f"{API}/"):
            operation["security"] = [{"key": []}]
            _add_problems(path, operation)
        for media in _media_of(operation):
            _add_example(media, schemas)
    return found


def _renamed(found: JSON) -> JSON:
    """`EndpointList` instead of `ListOf_EndpointOut_`, as pydantic calls the component; `Problem` for the document of
    one."""
    text = re.sub(r"\bListOf_(\w+?)(?:Out)?_\b", r"\1List", json.dumps(found))
    renamed: JSON = json.loads(re.sub(r"\bProblemDocument\b", "Problem", text))
    return renamed


_TEXT_OR_NULL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_OBJECTS: Mapping[str, JSON] = {
    "JsonObject": {"title": "JsonObject", "type": "object", "additionalProperties": True},
    "Headers": {"title": "Headers", "type": "object", "additionalProperties": _TEXT_OR_NULL, "maxProperties": 20},
}


def _name_objects(schemas: JSON) -> None:
    """Refer to a component where a field is a plain object or null: generated clients would have a class for each."""
    for model in list(schemas.values()):
        for field in model.get("properties", {}).values():
            for option in field.get("anyOf", ()):
                for name, plain in _OBJECTS.items():
                    if option.get("additionalProperties") == plain["additionalProperties"]:
                        option.clear()
                        option["$ref"] = f"#/components/schemas/{name}"
    schemas.update(_OBJECTS)


def _operations(found: JSON) -> Iterator[tuple[str, JSON]]:
    for path, operations in found["paths"].items():
        for operation in operations.values():
            yield path, operation


def _add_problems(path: str, operation: JSON) -> None:
    """Problems that follow from the shape of an operation. Routes document the others themselves."""
    responses = operation["responses"]
    kinds = [
        problem_types.UNAUTHENTICATED,
        problem_types.FORBIDDEN,
        problem_types.INVALID_REQUEST,
        problem_types.INTERNAL_ERROR,
        problem_types.UNAVAILABLE,
    ]
    if "requestBody" in operation:
        kinds += [problem_types.MALFORMED_REQUEST, problem_types.PAYLOAD_TOO_LARGE]
    if "{" in path:
        kinds.append(problem_types.NOT_FOUND)
    if any(parameter["name"] == HEADER for parameter in operation.get("parameters", [])):
        kinds += [
            problem_types.IDEMPOTENCY_KEY_REUSED,
            problem_types.IDEMPOTENT_CALL_RUNNING,
            problem_types.CONFLICT,
        ]
    for kind in kinds:
        problems.add_documented(responses, str(kind.status.value), kind)
    operation["responses"] = dict(sorted(responses.items()))


def _media_of(operation: JSON) -> Iterator[JSON]:
    """The JSON that an operation takes and responds with."""
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        if (media := part.get("content", {}).get("application/json")) is not None:
            yield media


def _add_example(media: JSON, schemas: JSON) -> None:
    if "example" in media or "examples" in media:
        return
    example = _example_of(media.get("schema", {}), schemas)
    if example is not None:
        media["example"] = example


def _example_of(schema: JSON, schemas: JSON) -> Any:
    """The example of a model; of a list, a page with one item. None where there is none."""
    model = _resolved(schema, schemas)
    if "examples" in model:
        return _with_nulls(model["examples"][0], model, schemas)
    properties = model.get("properties", {})
    if properties.keys() == {"data", "nextCursor"}:
        item = _example_of(properties["data"]["items"], schemas)
        return {"data": [item], "nextCursor": None} if item is not None else None
    return None


def _with_nulls(example: Any, schema: JSON, schemas: JSON) -> Any:
    """The example with the nulls that FastAPI leaves out of it."""
    model = _resolved(schema, schemas)
    if isinstance(example, list):
        return [_with_nulls(item, model.get("items", {}), schemas) for item in example]
    if not isinstance(example, dict):
        return example
    properties = model.get("properties", {})
    nulls = {name: None for name in model.get("required", ()) if name not in example}
    return {name: _with_nulls(value, properties.get(name, {}), schemas) for name, value in (example | nulls).items()}


def _resolved(schema: JSON, schemas: JSON) -> JSON:
    """Resolve a reference to its schema, also one that may be null."""
    if "anyOf" in schema:
        schema = next((option for option in schema["anyOf"] if "$ref" in option), schema)
    name = schema.get("$ref", "").rpartition("/")[2]
    return schemas[name] if name else schema
