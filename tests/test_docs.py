"""README and docs are accurate: variables, commands, calls, attributes and links are checked against their source."""

import json
import re
import time
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cli.api_client import target
from cli.main import app
from everhook.dead_letters.store import DeadLetterFilter
from everhook.delivery.policy import DOCUMENTED, PRESETS
from everhook.notifications.events import EventKind
from everhook.settings import Settings
from everhook.signing.schemes import SignatureScheme, new_secret, secret_key, signature_headers
from everhook.temporal import search_attributes
from testing.api import openapi_document
from tests.cli import test_help

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("activities", "api", "cli", "everhook", "workflows")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_LINK = re.compile(r"\[[^\]]*\]\((?!https?://)([^)\s#]*)(?:#([^)\s]*))?\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_CALL = re.compile(r"\b(GET|POST|PATCH|DELETE) (/[^\s`?]+)")
_COMMAND = re.compile(r"(?<![\w.'-])everhook ([a-z]+(?:-[a-z]+)*)((?: [^\s`']+)*)")


_LOG_LINE = re.compile(r"[a-z][A-Za-z',; -]+")
_NOT_OURS = re.compile(r"(docker|everhook|temporal (operator|schedule)|sql schema) ")
"""Commands, and what Temporal logs."""


API = """\
export API=http://127.0.0.1:8080 KEY=$(cat .everhook/api-key)
alias everhook-api='curl -sS --fail-with-body -H "Authorization: Bearer $KEY" -H "Content-Type: application/json"'
"""
"""What pages define before they use it."""

_CURL = re.compile(r"""everhook-api (?:-X (\w+) )?"?\$API(/v1/[^\s?"]+)[^\n]*? -d '([^']*)'""")


@cache
def _text(page: Path) -> str:
    return page.read_text()


def _code(page: Path) -> list[str]:
    """All code of a page: fenced blocks and text in backticks."""
    text = _text(page)
    return [body for _, body in _FENCE.findall(text)] + _INLINE.findall(_FENCE.sub("", text))


def _rows(page: Path, first_cell: str) -> dict[str, list[str]]:
    """Rows of tables whose first cell is one name in backticks that begins with `first_cell`: name to other cells."""
    rows: dict[str, list[str]] = {}
    for line in _text(page).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and (name := re.fullmatch(r"`([^`]+)`", cells[0])) and name[1].startswith(first_cell):
            rows[name[1]] = cells[1:]
    return rows


def _section(page: Path, heading: str) -> str:
    return _text(page).split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]


def _slugs(page: Path) -> set[str]:
    """Anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", _text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _shown_default(name: str) -> str:
    default = Settings.model_fields[name].get_default(call_default_factory=True)
    if default is None or default in ([], ""):
        return "none" if default is None else "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_configuration_lists_every_setting_with_its_default() -> None:
    documented = {name: cells[0] for name, cells in _rows(ROOT / "docs/configuration.md", "EVERHOOK_").items()}
    assert documented == {f"EVERHOOK_{name.upper()}": _shown_default(name) for name in Settings.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_named_is_a_setting(page: Path) -> None:
    known = {f"EVERHOOK_{name.upper()}" for name in Settings.model_fields} | set(target.VARIABLES)
    for name in re.findall(r"EVERHOOK_[A-Z_]*", _text(page)):
        assert name in known or name == "EVERHOOK_" or any(other.startswith(name) for other in known), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_has_a_target(page: Path) -> None:
    for path, anchor in _LINK.findall(_FENCE.sub("", _text(page))):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in _slugs(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_named_is_one_with_the_options_named(page: Path) -> None:
    commands: Mapping[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009 - of click's Group
    for code in _code(page):
        for name, rest in _COMMAND.findall(code):
            assert name in commands, f"everhook {name}"
            command = commands[name]
            if (group := getattr(command, "commands", None)) is not None:
                command = group[rest.split()[0]]
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) - {"--help"} <= known, f"everhook {name}{rest}"


def test_every_log_line_quoted_is_logged() -> None:
    """A quotation of four words or more, in a paragraph about the log."""
    sources = [path.read_text() for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")]
    source = " ".join(re.sub(r'"\s+f?"', "", "\n".join(sources)).split())
    quoted = [
        " ".join(text.split())
        for page in PAGES
        for paragraph in _FENCE.sub("", _text(page)).split("\n\n")
        if re.search(r"\blog(s|ged)?\b", paragraph)
        for text in re.findall(r"`([^`]+)`", paragraph)
    ]
    lines = {
        text for text in quoted if _LOG_LINE.fullmatch(text) and text.count(" ") >= 3 and not _NOT_OURS.match(text)
    }
    assert len(lines) >= 5
    assert {line for line in lines if line not in source} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_named_is_one(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in _code(page):
        assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets


def _generic(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


@cache
def _calls() -> set[tuple[str, str]]:
    """All calls of the API, (method, path)."""
    return {
        (method.upper(), _generic(path)) for path, methods in openapi_document()["paths"].items() for method in methods
    }


def test_every_call_named_is_one_of_the_api() -> None:
    named = {call for page in PAGES for code in _code(page) for call in _CALL.findall(code)}
    assert len(named) > 30
    assert {(method, _generic(path)) for method, path in named} - _calls() == set()


def test_the_pages_on_the_api_leave_no_call_out() -> None:
    pages = (ROOT / "docs/api.md", ROOT / "docs/approvals.md", ROOT / "docs/operating.md")
    named = {(method, _generic(path)) for page in pages for method, path in _CALL.findall(_text(page))}
    assert {call for call in _calls() if call[1].startswith("/v1/")} - named == set()


def test_the_search_attributes_are_all_there_with_their_types() -> None:
    rows = _rows(ROOT / "docs/temporal-ui.md", "")
    documented = {name: cells[0] for name, cells in rows.items() if cells[0] in ("Keyword", "Int", "Datetime")}
    assert documented == {key.name: key.indexed_value_type.name.title() for key in search_attributes.ALL}


def test_filters_use_search_attributes_only() -> None:
    known = {key.name for key in search_attributes.ALL} | {"ExecutionStatus", "WorkflowType"}
    filters = [code for code in _code(ROOT / "docs/temporal-ui.md") if "ExecutionStatus=" in code]
    assert len(filters) > 10
    for one in filters:
        assert set(re.findall(r"(\w+) ?(?:=|>|<|IN \(|STARTS_WITH )", one)) <= known, one


def test_every_operational_event_is_described() -> None:
    section = _section(ROOT / "docs/operating.md", "## Operational events")
    named = {
        name for line in section.splitlines() if line.startswith("|") for name in _INLINE.findall(line.split("|")[1])
    }
    assert named == {kind.value for kind in EventKind}


def test_dead_letter_filters_are_all_named() -> None:
    line = next(
        line for line in _text(ROOT / "docs/api.md").splitlines() if line.startswith("| `GET /v1/dead-letters` ")
    )
    names = {
        "tenant_gid": "tenant",
        "endpoint_gid": "endpointGid",
        "subscription_gid": "subscriptionGid",
        "event_type": "type",
        "reason": "deadLetterReason",
        "status_code": "lastStatusCode",
    }
    fields = set(DeadLetterFilter.__dataclass_fields__) - {"of_deleted"}
    assert {names.get(name, name) for name in fields} == set(_INLINE.findall(line)[1:])


def test_the_schedule_in_the_readme_is_the_documented_one() -> None:
    units = {"s": 1, "min": 60, "h": 3600}

    def seconds(text: str) -> int:
        return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (s|min|h)\b", text))

    lines = re.findall(r"^\| (\d) \| (.+) \| (.+) \|$", _section(ROOT / "README.md", "## Retries"), re.MULTILINE)
    assert [seconds(wait) for _, wait, _ in lines] == [0, *(delay.total_seconds() for delay in DOCUMENTED)]
    assert [seconds(total) for *_, total in lines] == [
        sum(delay.total_seconds() for delay in DOCUMENTED[:count]) for count in range(len(DOCUMENTED) + 1)
    ]


def test_presets_are_described_with_their_numbers_of_attempts() -> None:
    (_, text) = _rows(ROOT / "docs/api.md", "preset")["preset"]
    described = {name: int(number) for name, number in re.findall(r"`(\w+)`: (?:up to )?(\d+)", text)}
    assert described == {name: len(delays) + 1 for name, delays in PRESETS.items()}


def test_examples_have_their_receiver_at_one_address() -> None:
    """A reader follows several pages: the receiver that one page starts is the one that another sends to."""
    shown = [code for page in PAGES for code in _code(page)]
    shown += [command.epilog or "" for command in test_help.ALL.values()]
    paths = {path for code in shown for path in re.findall(r"http://127\.0\.0\.1:9000([^\s\"']*)", code)}
    assert paths == {"/webhooks"}
    ports = re.findall(r"(?:--port |\bPORT=)(\d+)", _text(ROOT / "docs/receiving.md"))
    assert set(ports) == {"9000"} and len(ports) == 3
    assert {int(port) for code in shown for port in re.findall(r"everhook receive --port (\d+)", code)} == {9000}


def test_every_page_is_listed_in_the_readme() -> None:
    linked = {path for path, _ in _LINK.findall(_text(ROOT / "README.md"))}
    assert {page.relative_to(ROOT).as_posix() for page in PAGES[1:]} | {"CHANGELOG.md", "LICENSE"} <= linked


def test_the_license_and_the_changelog_are_those_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0" and "Apache License\n" in (ROOT / "LICENSE").read_text()
    assert f"\n## {project['version']} " in (ROOT / "CHANGELOG.md").read_text()


def _is_genuine() -> Callable[[str, Mapping[str, str], bytes], bool]:
    """The function that the README shows, as a reader would paste it."""
    (source,) = (body for language, body in _FENCE.findall(_text(ROOT / "README.md")) if language == "python")
    names: dict[str, Any] = {}
    exec("import base64, hmac, time\nfrom collections.abc import Mapping\n" + source, names)
    function: Callable[[str, Mapping[str, str], bytes], bool] = names["is_genuine"]
    return function


def test_the_readme_verifies_what_we_sign_and_nothing_else() -> None:
    is_genuine, secret, body, moment = _is_genuine(), new_secret(), b'{"a": 1}', int(time.time())

    def headers(at: int) -> dict[str, str]:
        keys = [secret_key(new_secret()), secret_key(secret)]  # as during a rotation
        return dict(signature_headers("msg_1", at, body, keys, {SignatureScheme.STANDARD}))

    assert is_genuine(secret, headers(moment), body)
    assert not is_genuine(secret, headers(moment), body + b" ")
    assert not is_genuine(new_secret(), headers(moment), body)
    assert not is_genuine(secret, headers(moment - 3600), body)
    assert not is_genuine(secret, {**headers(moment), "webhook-id": "msg_2"}, body)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_that_calls_the_api_defines_how(page: Path) -> None:
    blocks = [body for _, body in _FENCE.findall(_text(page))]
    using = [body for body in blocks if "$API" in body or ("everhook-api" in body and "curl" in body)]
    assert not using or API in using[0]
    assert "alias everhook-api" not in "".join(using).replace(API, "", 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_bodies_of_calls_have_fields_that_exist(page: Path) -> None:
    for method, path, body in _CURL.findall(_text(page).replace("\\\n", "")):
        fields = _body_fields(method or "POST", path)
        assert json.loads(body.replace("\n", " ")).keys() <= fields, f"{path} {body}"


@cache
def _body_fields(method: str, path: str) -> set[str]:
    document = openapi_document()
    wanted = re.sub(r"(?<=/channels/)[a-z]+|[a-z]+_…", "{}", path)
    for template, operations in document["paths"].items():
        if re.sub(r"{\w+}", "{}", template) == wanted and method.lower() in operations:
            schema = operations[method.lower()]["requestBody"]["content"]["application/json"]["schema"]
            options = [schema, *schema.get("anyOf", ())]
            named = [
                document["components"]["schemas"][each["$ref"].rpartition("/")[2]] for each in options if "$ref" in each
            ]
            return {name for each in (*options, *named) for name in each.get("properties", ())}
    raise AssertionError(f"there is no {method} {path}")
