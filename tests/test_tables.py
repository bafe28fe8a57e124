"""Tables by an enumeration name each of its members: in code, in templates and in the docs.

All of them are found by reading the source, so that a new table is checked too. A table that omits members on purpose
is listed here, with the members that can occur in it.
"""

import ast
import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import worker
from api.dashboard import states
from api.endpoints.schemas import EndpointMode, EndpointStatus
from api.health.readiness import DependencyState
from api.health.schemas import ScoreComponentName
from api.schemas import PolicyPreset, StatusClass
from cli import main as cli
from everhook.axme.intents import IntentStatus
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus, FailureCode, TaskQueue, Verdict
from everhook.credentials.auth import AuthType
from everhook.dead_letters.service import Decision
from everhook.delivery.body_formats import BodyFormat
from everhook.delivery.sender import Caller
from everhook.endpoints import list_store as endpoint_list
from everhook.endpoints.service import EndpointCommand
from everhook.event_types.modes import FaultKind, ValidationMode
from everhook.health.endpoint_alerts import AlertName, LimitSource
from everhook.health.score import Level, Window
from everhook.ids import Kind
from everhook.inbox.schedule import Step
from everhook.inbox.tasks import Effect, OnDue, TaskKind
from everhook.internal.options import HandlerKind
from everhook.lifecycle.events import LifecycleKind
from everhook.lifecycle.service import Outcome, Until
from everhook.notifications.events import EventKind
from everhook.publishing.gates import StepState
from everhook.pulling.leases import Held, LeaseStatus
from everhook.redelivery.service import RedeliveryResult
from everhook.serving.protocol import Phase
from everhook.signing.schemes import SecretKind, SignatureScheme
from everhook.storage.tables import BatchKind, BatchState, GateState, OnGroupFailure, ReplayMode, TaskState
from everhook.streaming.service import ByeReason
from everhook.tenants.api_keys_store import GIVEN_SCOPES, Scope
from tests.test_layout import REPOSITORY, name_of, product_files

RECORDED = {Verdict.DELIVERED, Verdict.RETRY, Verdict.REJECTED}
"""With the other verdicts no request was made, so no attempt is stored."""

SOME: Collection[Any] = ()
"""For tables that say something about some members, and have a default for the others."""

PARTIAL: Mapping[str, Collection[Any]] = {
    "api.dashboard.audit.PAGES_OF": SOME,
    "api.dashboard.endpoints.command_circuit": SOME,
    "api.dashboard.endpoints.command_endpoint": SOME,
    "api.dashboard.keys.SCOPES": GIVEN_SCOPES,
    "api.dashboard.states.CIRCUIT_EVENTS": endpoint_list.CIRCUIT_EVENTS,
    "api.dashboard.states.WORDS": SOME,
    "api.api_keys.schemas.ApiKeyIn.scopes": GIVEN_SCOPES,
    "api.messages.schemas.MessageDetail.delivery_counts": SOME,
    "everhook.delivery.store._IMPLIES": SOME,
    "everhook.delivery.rollups_store._VERDICTS": RECORDED,
}

Values = frozenset[Any]


@dataclass(frozen=True)
class Table:
    """A dictionary or a `Literal` in the source, and the members of one enumeration that it names."""

    name: str
    line: int
    enum: type[Enum]
    named: Values

    @property
    def missing(self) -> set[Any]:
        wanted = PARTIAL.get(self.name, {member.value for member in self.enum})
        return {str(value) for value in wanted} - {str(value) for value in self.named}

    def __str__(self) -> str:
        return f"{self.name} (line {self.line}) by {self.enum.__name__}"


def modules() -> Iterator[tuple[ModuleType, Path]]:
    for path in product_files():
        name = name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        yield importlib.import_module(name), path


def enumerations() -> dict[str, type[Enum]]:
    """The enumerations of the product, by the module that defines them."""
    return {
        f"{module.__name__}.{name}": value
        for module, _ in modules()
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Enum) and value.__module__ == module.__name__
    }


ENUMERATIONS = enumerations()


def tables_of(module: ModuleType, source: str) -> Iterator[Table]:
    yield from _walk(module, ast.parse(source), module.__name__)


def _walk(module: ModuleType, node: ast.AST, name: str) -> Iterator[Table]:
    match node:
        case ast.Dict(keys=keys):
            yield from _by_members(name, node, [_value(module, key) for key in keys if key is not None])
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=elements)):
            yield from _by_strings(name, node, [_value(module, element) for element in elements])
        case _:
            pass
    for child in ast.iter_child_nodes(node):
        yield from _walk(module, child, _name_within(name, child))


def _name_within(name: str, node: ast.AST) -> str:
    match node:
        case ast.ClassDef(name=own) | ast.FunctionDef(name=own) | ast.AsyncFunctionDef(name=own):
            return f"{name}.{own}"
        case ast.Assign(targets=[ast.Name(id=own)]) | ast.AnnAssign(target=ast.Name(id=own)):
            return f"{name}.{own}"
        case _:
            return name


def _value(module: ModuleType, node: ast.AST) -> Any:
    """The value of a constant, or of `Enumeration.MEMBER`; None for everything else."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Attribute(value=ast.Name(id=owner), attr=member):
            return getattr(getattr(module, owner, None), member, None)
        case _:
            return None


def _by_members(name: str, node: ast.Dict, keys: list[Any]) -> Iterator[Table]:
    found = {type(key) for key in keys if isinstance(key, Enum) and type(key) in ENUMERATIONS.values()}
    for enum in found:
        yield Table(name, node.lineno, enum, frozenset(key for key in keys if isinstance(key, enum)))
    if not found:
        yield from _by_strings(name, node, keys)


def _by_strings(name: str, node: ast.Dict | ast.Subscript, values: list[Any]) -> Iterator[Table]:
    """Two texts that are both values of an enumeration identify it."""
    if len(values) > 1 and all(isinstance(value, str) for value in values):
        for enum in ENUMERATIONS.values():
            if set(values) <= {member.value for member in enum}:
                yield Table(name, node.lineno, enum, frozenset(values))


def test_every_table_in_the_code_names_every_member() -> None:
    found = [table for module, path in modules() for table in tables_of(module, path.read_text())]
    assert len(found) > 25
    assert {str(table): table.missing for table in found if table.missing} == {}


@pytest.mark.parametrize(
    "source",
    [
        "TABLE = {Level.HEALTHY: 1, Level.IDLE: 2}",
        "def f():\n    return {Level.HEALTHY: 1}",
        'TABLE = {"healthy": 1, "failing": 2}',
        'def f(level: Literal["healthy", "idle"]): ...',
    ],
)
def test_a_table_that_leaves_members_out_is_found(source: str) -> None:
    (table,) = tables_of(importlib.import_module("everhook.health.score"), source)
    assert table.missing


def test_templates_hold_no_tables() -> None:
    """Tables in templates could not be checked: they are in `api/dashboard/states.py`."""
    values = [{str(member.value) for member in enum} for enum in ENUMERATIONS.values()]
    found = [
        f"{template.name}: {literal}"
        for template in (REPOSITORY / "api/dashboard/templates").rglob("*.html")
        for literal in re.findall(r"\{[^{}%]+\}", template.read_text())
        if any(len(of_one.intersection(re.findall(r"""["'](\S+?)["']\s*:""", literal))) > 1 for of_one in values)
    ]
    assert found == []


@pytest.mark.parametrize("enum", [DeliveryStatus, Verdict, Level, Hold])
def test_every_state_that_a_page_shows_has_a_tone(enum: type[StrEnum]) -> None:
    assert {member for member in enum if member not in states.TONES} == set()


def test_the_command_line_knows_the_roles_of_workers() -> None:
    """It cannot import them before it is asked to run one."""
    assert [role.value for role in cli.WorkerRole] == [role.value for role in worker.Role]


# The docs

DESCRIBED_IN: Mapping[type[Enum], str] = {
    AlertName: "docs/api.md",
    AuthType: "docs/api.md",
    BodyFormat: "docs/api.md",
    ByeReason: "docs/api.md",
    EndpointMode: "docs/api.md",
    CircuitState: "docs/deployment.md",
    Effect: "docs/approvals.md",
    OnDue: "docs/approvals.md",
    TaskKind: "docs/approvals.md",
    TaskState: "docs/approvals.md",
    DeadLetterReason: "docs/operating.md",
    DeliveryStatus: "docs/operating.md",
    GateState: "docs/approvals.md",
    OnGroupFailure: "docs/api.md",
    IntentStatus: "docs/axme.md",
    StepState: "docs/approvals.md",
    EventKind: "docs/operating.md",
    LifecycleKind: "docs/api.md",
    Outcome: "docs/api.md",
    Until: "docs/api.md",
    FailureCode: "docs/operating.md",
    HandlerKind: "docs/internal-handlers.md",
    RedeliveryResult: "docs/api.md",
    BatchKind: "docs/api.md",
    BatchState: "docs/api.md",
    ReplayMode: "docs/api.md",
    Held: "docs/api.md",
    Hold: "docs/deployment.md",
    LeaseStatus: "docs/api.md",
    Level: "docs/api.md",
    SignatureScheme: "README.md",
    TaskQueue: "docs/operating.md",
    Verdict: "docs/operating.md",
    ValidationMode: "docs/api.md",
    FaultKind: "docs/deployment.md",
    Window: "docs/api.md",
    worker.Role: "docs/deployment.md",
}
IN_PROSE = {Effect, OnDue, Verdict}
"""Most of these words also occur in tables about something else."""

NOT_SHOWN = {
    Caller: "who has an attempt made, inside of a process",
    Decision: "a call each",
    DeliveryMode: "`EndpointMode` has those that can be created",
    DependencyState: "values of `/readyz`",
    EndpointCommand: "a call each",
    EndpointStatus: "what the calls `pause` and `disable` result in",
    LimitSource: "in words on the page of an endpoint",
    StatusClass: "values of `retryStatuses`",
    PolicyPreset: "the presets, of which `tests/test_docs.py` checks the description",
    ScoreComponentName: "parts of a score, each with a reason in words",
    Kind: "prefixes of gids",
    Phase: "what a connection waits for, inside of the HTTP server",
    Scope: "`tenant` is written `tenant:<gid>`",
    SecretKind: "chosen by `ed25519`, or the URL of a chat",
    Step: "what a timer of a task does",
}


def test_every_enumeration_has_a_known_place_of_description() -> None:
    ours = {enum for name, enum in ENUMERATIONS.items() if not name.startswith("cli.")}
    assert ours == DESCRIBED_IN.keys() | NOT_SHOWN.keys()


@pytest.mark.parametrize("enum", DESCRIBED_IN, ids=lambda enum: enum.__name__)
def test_every_member_is_described(enum: type[Enum]) -> None:
    """The members in the first cells of a table, if there is a table for them."""
    text = (REPOSITORY / DESCRIBED_IN[enum]).read_text()
    cells = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("|"))
    names = {f"`{member.value}`" for member in enum}
    in_table = enum not in IN_PROSE and sum(name in cells for name in names) >= len(names) - 1 > 1
    assert {name for name in names if name not in (cells if in_table else text)} == set()
