"""The types of problems: the table, the docs, OpenAPI and the pages agree."""

import inspect
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from api import problem_types, problems
from api.problem_types import ProblemType
from everhook import errors, field_errors
from everhook.errors import DomainError
from testing.api import JSON, ON_SHARED, Api, assert_problem, ok

DOCS = Path(__file__).resolve().parents[2] / "docs/problems.md"
ROW = re.compile(r"^\| `(?P<slug>[a-z-]+)` \| (?P<status>\d+) \| (?P<meaning>.+) \| (?P<action>.+) \|$", re.MULTILINE)

each_type = pytest.mark.parametrize("kind", problem_types.ALL, ids=lambda kind: kind.slug)


def domain_errors() -> list[type[DomainError]]:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in classes if issubclass(kind, DomainError) and kind not in (DomainError, errors.TryLater)]


def test_the_docs_list_every_type_as_the_table_has_it() -> None:
    listed = [match.group("slug", "status", "meaning", "action") for match in ROW.finditer(DOCS.read_text())]
    assert listed == [(kind.slug, str(kind.status.value), kind.meaning, kind.action) for kind in problem_types.ALL]


def test_the_docs_list_every_code_as_the_table_has_it() -> None:
    table = DOCS.read_text().partition("## Codes")[2]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)) == dict(field_errors.MEANINGS)


def test_every_domain_error_has_a_type() -> None:
    assert len(domain_errors()) > 15
    assert [kind.__name__ for kind in domain_errors() if kind not in problem_types.OF_ERRORS] == []


def test_an_error_that_is_not_listed_has_the_type_of_its_parent() -> None:
    class Narrower(errors.ChannelExists):
        pass

    assert problem_types.type_of(Narrower("twice")) is problem_types.CHANNEL_EXISTS


@each_type
def test_a_type_is_written_like_the_others(kind: ProblemType) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.slug)
    assert kind.uri == f"/problems/{kind.slug}"
    assert kind.meaning.endswith(".") and kind.action.endswith(".")
    assert problem_types.BY_SLUG[kind.slug] is kind


@ON_SHARED
async def test_openapi_names_every_type(shared: Api) -> None:
    document = ok(await shared.get("/openapi.json"))
    schema = document["components"]["schemas"]["Problem"]
    assert schema["properties"]["type"]["enum"] == [kind.uri for kind in problem_types.ALL]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                _check_examples(f"{method} {path}", status, response)


def _check_examples(operation: str, status: str, response: JSON) -> None:
    media = response.get("content", {}).get("application/problem+json", {})
    for slug, example in media.get("examples", {}).items():
        kind = problem_types.BY_SLUG[slug]
        assert example["value"]["type"] == kind.uri, operation
        assert example["value"]["status"] == kind.status.value == int(status), operation


@ON_SHARED
@each_type
async def test_every_type_has_a_page_that_takes_no_key(shared: Api, kind: ProblemType) -> None:
    response = await shared.http.get(kind.uri, headers={"authorization": ""})

    assert response.status_code == 200
    assert f"<h1>{kind.title}</h1>" in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


@ON_SHARED
async def test_a_page_lists_all_types(shared: Api) -> None:
    text = (await shared.http.get("/problems", headers={"authorization": ""})).text
    assert [kind.slug for kind in problem_types.ALL if f'href="{kind.uri}"' not in text] == []


@ON_SHARED
async def test_an_unknown_type_has_no_page(shared: Api) -> None:
    assert (await shared.http.get("/problems/nonsense", headers={"accept": "text/html"})).status_code == 404


@ON_SHARED
async def test_the_type_of_a_problem_leads_to_its_page(shared: Api) -> None:
    problem = assert_problem(await shared.post("/v1/channels", {"name": "orders"}), 409)

    assert problem["type"] == problem_types.CHANNEL_EXISTS.uri
    assert "Channel exists" in (await shared.http.get(problem["type"])).text


async def test_a_path_without_a_route_differs_from_a_route_that_finds_nothing() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/v1/things/{gid}")
    async def get_thing(gid: str) -> None:
        raise HTTPException(404)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://everhook.test") as http:
        found_nothing = assert_problem(await http.get("/v1/things/1"), 404)
        no_route = assert_problem(await http.get("/v1/other"), 404)

    assert found_nothing["detail"] == "Not Found"
    assert no_route["detail"] == "There is no /v1/other; /openapi.json lists what there is."
