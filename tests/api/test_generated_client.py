"""A client that is generated from the OpenAPI document has modules, functions and classes with readable names."""

import ast
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType

from api.main import create_app
from everhook.settings import Settings

PACKAGE = "generated_everhook_client"
NOISE = re.compile(r"_v1_|_(get|post|patch|put|delete)$|^body_|literal|response_\w+_\w+_\d|list_of")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the generated package, which can be imported."""
    directory = tmp_path_factory.mktemp("generated")
    document = directory / "openapi.json"
    document.write_text(json.dumps(create_app(Settings(dev=True)).openapi()))
    config = Config.from_sources(
        ConfigFile(post_hooks=[]),
        MetaType.NONE,
        document_source=document,
        file_encoding="utf-8",
        overwrite=True,
        output_path=directory / PACKAGE,
    )
    problems = generate(config=config)
    assert [(each.header, each.detail) for each in problems] == []
    sys.path.insert(0, str(directory))
    yield directory / PACKAGE
    sys.path.remove(str(directory))


def modules_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.rglob("*.py") if path.stem != "__init__")


def test_every_operation_is_a_module_named_after_what_it_does(client: Path) -> None:
    operations = modules_in(client / "api")
    assert len(operations) > 50
    assert [name for name in operations if NOISE.search(name)] == []
    verbs = {name.partition("_")[0] for name in operations}
    assert {"create", "get", "list", "update", "delete", "pause", "resume", "rotate"} <= verbs
    assert {"create_endpoint", "list_subscriptions", "trip_circuit", "get_health_overview"} <= set(operations)


def test_operations_are_grouped_by_resource(client: Path) -> None:
    groups = {path.name for path in (client / "api").iterdir() if path.is_dir()}
    assert {"channels", "endpoints", "subscriptions", "dead_letters", "api_keys"} <= groups


def test_names_of_models_have_no_generated_suffixes(client: Path) -> None:
    classes = [
        node.name
        for path in (client / "models").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    assert len(classes) > 60
    assert [name for name in classes if re.search(r"Body[A-Z]\w*V1|Literal|ListOf|V1|Type\d", name)] == []
    assert {"EndpointIn", "EndpointList", "EndpointStatus", "Problem", "PolicyPreset", "FieldError"} <= set(classes)


def test_the_package_can_be_imported_and_reads_our_examples(client: Path) -> None:
    models = _module("models")
    document = json.loads((client.parent / "openapi.json").read_text())
    operation = document["paths"]["/v1/endpoints/{gid}"]["get"]
    example = operation["responses"]["200"]["content"]["application/json"]["example"]

    endpoint = models.EndpointOut.from_dict(example)

    assert endpoint.endpoint_gid == example["endpointGid"]
    assert endpoint.status is models.EndpointStatus.ENABLED
    assert endpoint.to_dict().keys() == example.keys()


def test_a_function_takes_the_parameters_of_its_call(client: Path) -> None:
    module = _module("api.subscriptions.list_subscriptions")
    parameters = module.sync_detailed.__annotations__
    assert {"endpoint_gid", "channel", "limit", "cursor"} <= parameters.keys()


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")
