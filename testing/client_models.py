"""The models of the Python client, generated from the OpenAPI document: `make client-models`."""

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datamodel_code_generator import generate
from datamodel_code_generator.config import GenerateConfig
from datamodel_code_generator.enums import DataModelType, InputFileType
from datamodel_code_generator.format import Formatter, PythonVersion
from datamodel_code_generator.parser import LiteralType

from testing.api import openapi_document

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "sdk/python/everhook_client/models.py"

HEADER = '''"""The JSON of the API as typed dictionaries.

Generated from its OpenAPI document by `make client-models`; do not edit. Times are text in RFC 3339.
"""
'''

NOT_FOR_TYPES = ("examples", "example", "pattern", "minLength", "maxLength", "minimum", "maximum", "format")
"""What a typed dictionary cannot express. It would make the generator invent a name for each item of a list."""


def rendered() -> str:
    """The source of the models."""
    with TemporaryDirectory() as directory:
        output = Path(directory) / "models.py"
        generate(
            json.dumps({"openapi": "3.1.0", "components": {"schemas": _schemas()}, "paths": {}}),
            config=GenerateConfig(
                input_file_type=InputFileType.OpenAPI,
                output=output,
                output_model_type=DataModelType.TypingTypedDict,
                target_python_version=PythonVersion.PY_311,
                enum_field_as_literal=LiteralType.All,
                use_type_alias=True,
                use_schema_description=True,
                use_field_description=True,
                use_closed_typed_dict=False,
                disable_future_imports=True,
                formatters=[Formatter.BUILTIN],
                custom_file_header=HEADER,
            ),
        )
        return _formatted(output.read_text())


def _schemas() -> dict[str, Any]:
    """The components with the names that a client wants to see: `Endpoint` for `EndpointOut`."""
    document = openapi_document()
    schemas = dict(document["components"]["schemas"])
    for path in ("/v1/endpoints/{gid}/acks", "/v1/channels/{name}/messages"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        schemas[schema["title"]] = schema
    schemas["Acknowledgements"] = _with_lines_named(schemas["Acknowledgements"], schemas)
    plain = schemas.pop("JsonObject")
    text = json.dumps({name: _for_types(schema) for name, schema in schemas.items()})
    text = text.replace('{"$ref": "#/components/schemas/JsonObject"}', json.dumps(_for_types(plain)))
    found: dict[str, Any] = json.loads(re.sub(r'(#/components/schemas/|"title": ")(\w+?)Out"', r'\1\2"', text))
    return {name.removesuffix("Out"): schema for name, schema in found.items()}


def _with_lines_named(acknowledgements: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Refer to a component for each kind of line."""
    lines = acknowledgements["properties"]
    for line in lines.values():
        schemas[line["items"]["title"]] = line["items"]
    named = {
        name: {**line, "items": {"$ref": f"#/components/schemas/{line['items']['title']}"}}
        for name, line in lines.items()
    }
    return {**acknowledgements, "properties": named}


def _for_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_for_types(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    is_type = isinstance(schema.get("type"), str)
    kept = {name: value for name, value in schema.items() if not (is_type and name in NOT_FOR_TYPES)}
    return {name: _for_types(value) for name, value in kept.items() if not (name == "title" and is_type)}


def _formatted(source: str) -> str:
    command = [sys.executable, "-m", "ruff"]
    for arguments in (["check", "--quiet", "--fix", "--exit-zero"], ["format", "--quiet"]):
        done = subprocess.run(
            [*command, *arguments, "--stdin-filename", str(MODELS), "-"],
            input=source, capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        source = done.stdout
    return source


if __name__ == "__main__":
    MODELS.write_text(rendered())
