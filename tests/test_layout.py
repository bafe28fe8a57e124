"""The tree keeps its shape: imports go one way, and generic names resolve to our own files."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
OURS = ("worker", "api", "workflows", "activities", "everhook")
TESTS_AND_TOOLS = ("tests", "bench", "migrations")

MAY_IMPORT = {
    "worker": {"api", "workflows", "activities", "everhook"},
    "api": {"workflows", "activities", "everhook"},
    "workflows": {"activities", "everhook"},
    "activities": {"everhook"},
    "everhook": set[str](),
}

COMPOSERS = {"everhook/cli.py", "everhook/dev/__init__.py", "everhook/dev/demo.py"}
"""What puts the application together knows its parts, and imports them only when told to run."""

FOR_WORKFLOWS = {
    "everhook.contracts",
    "everhook.ids",
    "everhook.policy",
    "everhook.circuit",
    "everhook.search_attributes",
}

STANDARD_LIBRARY_ONLY = ("everhook/contracts.py", "everhook/policy.py", "everhook/circuit.py")
PURE = {"everhook.contracts", "everhook.policy", "everhook.circuit"}

# Spelt so that this file does not name them itself.
FORBIDDEN_TEXTS = ("pypi" + ".org", "python" + "hosted.org", "/wo" + "rk/", "/ro" + "ot/")


@dataclass(frozen=True)
class Import:
    """One imported module. `inside` tells what holds it: nothing, a function, or `imports_passed_through`."""

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


def package_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for path in product_files() for found in imports_of(path.read_text(), name_of(path)))


def imports_of(source: str, file: str) -> Iterator[Import]:
    yield from _walk(ast.parse(source), file, in_function=False, passed_through=False)


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
    """Modules that an import names. `from everhook import circuit` names `everhook.circuit`."""
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
        and not (found.file in COMPOSERS and found.in_function)
    ]
    assert wrong == []


def test_the_product_does_not_import_its_tests_or_tools() -> None:
    assert [str(found) for found in imports() if found.top in TESTS_AND_TOOLS] == []


def test_workflows_import_contracts_and_activities_and_only_passed_through() -> None:
    wrong = [
        str(found)
        for found in imports()
        if package_of(found.file) == "workflows"
        and not found.in_function
        and not (
            (found.top == "temporalio" or found.top in sys.stdlib_module_names)
            or (found.passed_through and (found.module in FOR_WORKFLOWS or found.top == "activities"))
        )
    ]
    assert wrong == []


def test_workflows_import_nothing_inside_functions() -> None:
    assert [str(f) for f in imports() if package_of(f.file) == "workflows" and f.in_function] == []


def test_one_workflow_does_not_import_another() -> None:
    assert [str(f) for f in imports() if package_of(f.file) == "workflows" and f.top == "workflows"] == []


def test_the_packages_of_workflows_holds_nothing() -> None:
    assert (REPOSITORY / "workflows/__init__.py").read_text() == ""


@pytest.mark.parametrize("file", STANDARD_LIBRARY_ONLY)
def test_what_crosses_temporal_needs_the_standard_library_only(file: str) -> None:
    wrong = [
        str(found)
        for found in imports()
        if found.file == file and found.top not in sys.stdlib_module_names and found.module not in PURE
    ]
    assert wrong == []


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
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


def test_no_file_names_an_index_or_a_place_on_somebodys_machine() -> None:
    named = [
        f"{name}: {text}"
        for name in _files_of_the_repository()
        for text in FORBIDDEN_TEXTS
        if text.encode() in (REPOSITORY / name).read_bytes()
    ]
    assert named == []


def _files_of_the_repository() -> list[str]:
    """What git has or would take; all Python, where this is no checkout."""
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
        ("from everhook import circuit, __version__", [("everhook.circuit", False, False), ("everhook", False, False)]),
        ("from everhook.ids import Kind", [("everhook.ids", False, False)]),
        ("def f():\n    import api", [("api", True, False)]),
        ("class A:\n    async def f(self):\n        from api import main", [("api.main", True, False)]),
        ("if True:\n    import api", [("api", False, False)]),
        ("with workflow.unsafe.imports_passed_through():\n    import api", [("api", False, True)]),
        ("with open(x):\n    import api", [("api", False, False)]),
    ],
)
def test_the_walk_finds_imports_wherever_they_stand(source: str, expected: list[tuple[str, bool, bool]]) -> None:
    assert [(f.module, f.in_function, f.passed_through) for f in imports_of(source, "x.py")] == expected


def test_the_walk_sees_the_whole_product() -> None:
    files = {found.file for found in imports()}
    assert {"worker.py", "api/main.py", "workflows/delivery.py", "activities/sending.py", "everhook/cli.py"} <= files
    assert any(found.file.startswith("everhook/storage/") for found in imports())
