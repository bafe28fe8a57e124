"""Layering: imports go one way, and generic names resolve to our own files."""

import ast
import importlib.util
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CLIENT = "everhook_client"
CLIENT_MAY_IMPORT = {CLIENT, "httpx", "standardwebhooks", *sys.stdlib_module_names}
"""Packages that the Python client may import; its module for FastAPI may also import FastAPI."""

OURS = ("worker", "cli", "api", "workflows", "activities", "everhook")
TESTS_AND_TOOLS = ("tests", "testing", "bench", "migrations")

MAY_IMPORT = {
    "worker": {"workflows", "activities", "everhook"},
    "cli": {"worker", "api", "everhook"},
    "api": {"everhook"},
    "workflows": {"activities", "everhook"},
    "activities": {"everhook"},
    "everhook": set[str](),
}

FOR_WORKFLOWS = {
    "everhook.contracts",
    "everhook.ids",
    "everhook.delivery.policy",
    "everhook.circuit.machine",
    "everhook.temporal.search_attributes",
}

STANDARD_LIBRARY_ONLY = ("everhook/contracts.py", "everhook/delivery/policy.py", "everhook/circuit/machine.py")
PURE = {"everhook.contracts", "everhook.delivery.policy", "everhook.circuit.machine"}

OFFLINE = (
    "everhook/receipts/receipt.py",
    "everhook/receipts/keys.py",
    "everhook/receipts/bundle.py",
    "everhook/receipts/strict_json.py",
    "everhook/receipts/log/merkle.py",
    "everhook/receipts/log/checkpoint.py",
)
"""The verifier of receipts. Auditors read it, so it has no other dependencies."""

SQL = {"sqlalchemy", "sqlmodel", "alembic", "asyncpg"}
EFFECTS = {*SQL, "temporalio", "asyncio", "httpx", "h11", "uvicorn", "structlog", "prometheus_client", "opentelemetry"}
"""A module is pure if neither it nor what it imports uses any of these."""

# Spelt so that this file does not name them itself.
FORBIDDEN_TEXTS = ("pypi" + ".org", "python" + "hosted.org", "/wo" + "rk/", "/ro" + "ot/")


@dataclass(frozen=True)
class Import:
    """One imported module. `in_function` and `passed_through` (`imports_passed_through`) say where the import is."""

    file: str
    line: int
    module: str
    in_function: bool
    passed_through: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def product_files() -> list[Path]:
    return [REPOSITORY / "worker.py", *(f for name in OURS[1:] for f in sorted((REPOSITORY / name).rglob("*.py")))]


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def package_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for path in product_files() for found in _imports_in(_tree(path), name_of(path)))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_of(source: str, file: str) -> Iterator[Import]:
    yield from _imports_in(ast.parse(source), file)


def _imports_in(tree: ast.Module, file: str) -> Iterator[Import]:
    yield from _walk(tree, file, in_function=False, passed_through=False)


def _walk(node: ast.AST, file: str, *, in_function: bool, passed_through: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for module in _modules(node, file):
            yield Import(file, node.lineno, module, in_function, passed_through)
    in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    passed_through = passed_through or (
        isinstance(node, ast.With) and any("imports_passed_through" in ast.unparse(i) for i in node.items)
    )
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, file, in_function=in_function, passed_through=passed_through)


def _modules(node: ast.Import | ast.ImportFrom, file: str) -> list[str]:
    """Modules that an import names. `from everhook import contracts` names `everhook.contracts`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"{file}:{node.lineno} imports relatively"
    assert node.module is not None
    return [f"{node.module}.{a.name}" if _is_module(node.module, a.name) else node.module for a in node.names]


def _is_module(package: str, name: str) -> bool:
    path = REPOSITORY.joinpath(*package.split("."))
    return (path / f"{name}.py").exists() or (path / name / "__init__.py").exists()


def test_imports_go_one_way() -> None:
    wrong = [
        str(found)
        for found in imports()
        if found.top in OURS
        and found.top != package_of(found.file)
        and found.top not in MAY_IMPORT[package_of(found.file)]
        and (found.file, found.module) != ("worker.py", "cli.main")  # `python worker.py` runs a command
    ]
    assert wrong == []


def test_the_product_does_not_import_its_tests_or_tools() -> None:
    assert [str(found) for found in imports() if found.top in TESTS_AND_TOOLS] == []


def test_the_client_does_not_import_the_product_and_the_command_line_uses_it() -> None:
    """`sdk/python` is installed without the product."""
    files = sorted((REPOSITORY / "sdk/python" / CLIENT).rglob("*.py"))
    found = [each for path in files for each in imports_of(path.read_text(), path.name)]
    assert len(files) > 5 and {each.top for each in found} >= {"httpx", "everhook_client"}
    wrong = [f for f in found if f.top not in CLIENT_MAY_IMPORT and (f.file, f.top) != ("fastapi.py", "fastapi")]
    assert [str(f) for f in wrong] == []
    assert {package_of(f.file) for f in imports() if f.top == CLIENT} <= {"cli"}


def test_workflows_import_contracts_and_activities_and_only_passed_through() -> None:
    wrong = [
        str(found)
        for found in imports()
        if package_of(found.file) == "workflows"
        and not found.in_function
        and not (
            (found.top == "temporalio" or found.top in sys.stdlib_module_names or found.module == "workflows.retry")
            or (found.passed_through and (found.module in FOR_WORKFLOWS or found.top == "activities"))
        )
    ]
    assert wrong == []


def test_workflows_import_nothing_inside_functions() -> None:
    assert [str(f) for f in imports() if package_of(f.file) == "workflows" and f.in_function] == []


def test_one_workflow_does_not_import_another() -> None:
    wrong = [f for f in imports() if package_of(f.file) == "workflows" and f.top == "workflows"]
    assert [str(f) for f in wrong if f.module != "workflows.retry"] == []


def test_the_package_of_workflows_is_empty() -> None:
    assert (REPOSITORY / "workflows/__init__.py").read_text() == ""


@pytest.mark.parametrize("file", STANDARD_LIBRARY_ONLY)
def test_contracts_that_cross_temporal_import_only_the_standard_library(file: str) -> None:
    wrong = [
        str(found)
        for found in imports()
        if found.file == file and found.top not in sys.stdlib_module_names and found.module not in PURE
    ]
    assert wrong == []


def test_the_verifier_of_receipts_imports_only_ids_and_errors() -> None:
    allowed = {module_of(file) for file in OFFLINE} | {"everhook.ids", "everhook.errors"}
    wrong = [f for f in imports() if f.file in OFFLINE and f.top in OURS and f.module not in allowed]
    assert [str(f) for f in wrong] == []


TEMPORAL = {
    *("everhook/batches/operations.py", "everhook/batches/service.py"),
    *("everhook/circuit/client.py", "everhook/dead_letters/visibility.py", "everhook/endpoints/service.py"),
    *("everhook/delivery/sender.py", "everhook/delivery/starts.py", "everhook/delivery/weights.py"),
    *("everhook/observability/tracing.py", "everhook/publishing/schedules.py"),
    *("everhook/redelivery/replays.py", "everhook/redelivery/starts.py", "everhook/tenants/erasure.py"),
    *("api/health/readiness.py", "api/problems.py"),
    *("cli/main.py", "cli/dev/temporal.py", "cli/doctor/temporal.py"),
}
"""Files that call Temporal or handle its errors, next to `everhook/temporal/`, workflows, activities and the worker.
Modules that only pass the client on take its type from `everhook.temporal.client`."""


def test_temporal_is_imported_by_the_files_that_call_it() -> None:
    found = {
        f.file
        for f in imports()
        if f.top == "temporalio"
        and package_of(f.file) in {"everhook", "api", "cli"}
        and not f.file.startswith("everhook/temporal/")
    }
    assert found == TEMPORAL


def test_sql_is_in_stores_only() -> None:
    """What `SQL` names is imported under `everhook/storage/`, and by files called `store` or `…_store`."""
    wrong = [
        str(found)
        for found in imports()
        if found.top in SQL
        and not found.file.startswith("everhook/storage/")
        and not found.file.endswith(("/store.py", "_store.py"))
    ]
    assert wrong == []


def _is_router(module: str) -> bool:
    return module.startswith("api.") and module.endswith(".router")


def test_nothing_but_the_application_imports_a_router() -> None:
    """Routes are not called by other modules: shared behaviour is a use case."""
    wrong = {f.file for f in imports() if _is_router(f.module) and f.file != "api/main.py"}
    assert wrong == set()


def test_the_api_holds_no_sql() -> None:
    wrong = {f.file for f in imports() if package_of(f.file) == "api" and f.top in SQL}
    assert wrong == set()


def test_the_api_calls_use_cases_and_not_stores() -> None:
    """From stores it imports classes and constants, such as filters and rows, and no functions. The application
    itself builds the services from stores."""
    wrong = [
        f"{name_of(path)}:{found}"
        for path in product_files()
        if package_of(name_of(path)) == "api" and name_of(path) != "api/main.py"
        for found in _functions_of_stores(_tree(path))
    ]
    assert wrong == []


def _functions_of_stores(tree: ast.Module) -> Iterator[str]:
    """Imports from stores that give access to their functions: of the module itself, and of names in lower case."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"{node.lineno} imports {alias.name}" for alias in node.names if _is_store(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                of_store = _is_store(node.module) and not alias.name[0].isupper()
                if of_store or (_is_store(name) and _is_module(node.module, alias.name)):
                    yield f"{node.lineno} imports {name}"


def _is_store(module: str) -> bool:
    return module.endswith((".store", "_store"))


def test_no_route_uses_the_unscoped_database() -> None:
    """Routes and pages read and write through the scope of their caller, or call a use case."""
    wrong = {
        name_of(path)
        for path in product_files()
        if package_of(name_of(path)) == "api"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "database"
    }
    assert wrong - {"api/main.py", "api/dependencies.py"} == set()


BUILDS_SCOPES = "api/dependencies.py"
"""`Services.scope_of` is the only place of the API that builds a `TenantScope`: for the tenant of a caller."""


def test_no_route_makes_itself_a_scope_of_everything() -> None:
    """A route gets the scope of its caller. A constant None instead of a tenant would be the unscoped database."""
    wrong = [
        f"{name_of(path)}:{call}"
        for path in product_files()
        if package_of(name_of(path)) == "api" and name_of(path) != BUILDS_SCOPES
        for call in _unscoped(_tree(path))
    ]
    assert wrong == []


def _unscoped(tree: ast.Module) -> Iterator[str]:
    """Calls of `TenantScope`, and of `scope_of` with a constant None."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            is_none = any(isinstance(value, ast.Constant) and value.value is None for value in given)
            if called == "TenantScope" or (called == "scope_of" and is_none):
                yield f"{node.lineno} {ast.unparse(node)}"


def test_the_modules_of_the_api_have_no_import_cycle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for f in imports():
        if package_of(f.file) == "api" and f.top == "api":
            graph[module_of(f.file)].add(f.module)
    assert circle_in(graph) is None


def test_the_api_imports_nothing_inside_functions() -> None:
    assert [str(f) for f in imports() if package_of(f.file) == "api" and f.in_function] == []


def test_modules_below_the_front_ends_import_our_own_at_the_top() -> None:
    """An import in a function hides a cycle. Only optional and heavy packages of others are imported there."""
    below = {"everhook", "activities", "workflows", "worker"}
    wrong = [f for f in imports() if package_of(f.file) in below and f.in_function and f.top in OURS]
    assert [str(f) for f in wrong] == []


def test_the_packages_of_everhook_have_no_import_cycle() -> None:
    """Any package may import a pure module of any other. Between modules with effects, packages have an order."""
    edges = {(f.file, f.module) for f in imports() if f.file.startswith("everhook/") and f.top == "everhook"}
    pure = _pure_modules()
    graph: dict[str, set[str]] = defaultdict(set)
    for file, module in edges:
        source, target = _capability(module_of(file)), _capability(module)
        if source != target and module not in pure:
            graph[source].add(target)
    assert circle_in(graph) is None


def _capability(module: str) -> str:
    """The package of a module. Use cases are a layer above all packages: each `service` is a node of its own."""
    parts = module.split(".")
    return ".".join(parts[:3] if parts[2:] == ["service"] else parts[:2])


def _pure_modules() -> set[str]:
    needs: dict[str, set[str]] = defaultdict(set)
    for f in imports():
        if f.file.startswith("everhook/"):
            needs[module_of(f.file)].add(f.module if f.top == "everhook" else f.top)
    modules = {module_of(name_of(path)) for path in product_files() if package_of(name_of(path)) == "everhook"}
    impure = {module for module in modules if needs[module] & EFFECTS}
    while more := {module for module in modules - impure if needs[module] & impure}:
        impure |= more
    return modules - impure


def circle_in(graph: Mapping[str, Collection[str]]) -> list[str] | None:
    """A cycle, as the nodes on it; None if there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for following in sorted(graph.get(node, ())):
            if (found := visit(following, [*path, node])) is not None:
                return found
        done.add(node)
        return None

    return next((found for node in sorted(graph) if (found := visit(node, [])) is not None), None)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({}, None),
        ({"a": {"b", "c"}, "b": {"c"}}, None),
        ({"a": {"b"}, "b": {"a"}}, ["a", "b", "a"]),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
    ],
)
def test_an_import_cycle_is_found(graph: Mapping[str, Collection[str]], expected: list[str] | None) -> None:
    assert circle_in(graph) == expected


@pytest.mark.parametrize("name", [name for name in OURS if name != "everhook"])
def test_a_generic_name_resolves_into_the_checkout(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin).resolve().is_relative_to(REPOSITORY)


def test_every_folder_of_code_and_tests_is_a_package_so_that_none_shadows_another() -> None:
    holding = [*product_files(), *(REPOSITORY / "tests").rglob("test_*.py")]
    folders = {path.parent for path in holding} - {REPOSITORY}
    assert sorted(name_of(folder) for folder in folders if not (folder / "__init__.py").exists()) == []


def test_the_product_logs_and_never_prints() -> None:
    printing = [
        f"{name_of(path)}:{node.lineno}"
        for path in product_files()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


def test_no_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    named = [
        f"{name}: {text}"
        for name in _files_of_the_repository()
        for text in FORBIDDEN_TEXTS
        if text.encode() in (REPOSITORY / name).read_bytes()
    ]
    assert named == []


def _files_of_the_repository() -> list[str]:
    """Files that git tracks or would add; all Python files, if this is not a checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = listing.stdout.split("\0") if listing.returncode == 0 else [name_of(path) for path in product_files()]
    return [name for name in found if (REPOSITORY / name).is_file()]


# The walk itself


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import api.main", [("api.main", False, False)]),
        (
            "from everhook import contracts, __version__",
            [("everhook.contracts", False, False), ("everhook", False, False)],
        ),
        ("from everhook.ids import Kind", [("everhook.ids", False, False)]),
        ("def f():\n    import api", [("api", True, False)]),
        ("class A:\n    async def f(self):\n        from api import main", [("api.main", True, False)]),
        ("if True:\n    import api", [("api", False, False)]),
        ("with workflow.unsafe.imports_passed_through():\n    import api", [("api", False, True)]),
        ("with open(x):\n    import api", [("api", False, False)]),
    ],
)
def test_the_walk_finds_imports_at_any_level(source: str, expected: list[tuple[str, bool, bool]]) -> None:
    assert [(f.module, f.in_function, f.passed_through) for f in imports_of(source, "x.py")] == expected


@pytest.mark.parametrize(
    ("source", "is_refused"),
    [
        ("import everhook.endpoints.store", True),
        ("from everhook.endpoints import store as endpoints", True),
        ("from everhook.endpoints import list_store", True),
        ("from everhook.audit.store import Actor, record_audit", True),
        ("from everhook.audit.store import *", True),
        ("def f():\n    from everhook.audit.store import record_audit", True),
        ("from everhook.audit.store import Actor", False),
        ("from everhook.health.backlog_store import COUNT_AT_MOST, Backlog", False),
        ("from everhook.endpoints.service import EndpointService, check_mode", False),
    ],
)
def test_functions_of_stores_are_found(source: str, is_refused: bool) -> None:
    assert bool(list(_functions_of_stores(ast.parse(source)))) == is_refused


@pytest.mark.parametrize(
    ("source", "is_refused"),
    [
        ("services.scope_of(None)", True),
        ("services.scope_of(tenant_gid=None)", True),
        ("async def f():\n    async with services.scope_of(None).reading() as session: ...", True),
        ("TenantScope(services.database)", True),
        ("tenant_scope.TenantScope(database, tenant_gid)", True),
        ("services.scope_of(caller.tenant_gid)", False),
        ("def f(store: TenantScope) -> None: ...", False),
    ],
)
def test_scopes_of_everything_are_found(source: str, is_refused: bool) -> None:
    assert bool(list(_unscoped(ast.parse(source)))) == is_refused


def test_the_walk_sees_the_whole_product() -> None:
    files = {found.file for found in imports()}
    assert {"worker.py", "api/main.py", "workflows/delivery.py", "activities/sending.py", "cli/main.py"} <= files
    assert any(found.file.startswith("everhook/storage/") for found in imports())
