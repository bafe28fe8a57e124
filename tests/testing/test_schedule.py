"""The groups of a run in several processes."""

from types import SimpleNamespace
from typing import Any

from testing.processes import REPOSITORY
from testing.schedule import COMPUTING, FAULTS, PACKAGES, WAITING, group_of, in_order, takes_from_the_end

GROUPS_OF_FAULTS = {f"faults-{number}" for number in FAULTS.values()}


def test_a_file_is_a_group_and_so_is_a_package_with_one_stack_and_the_fault_tests_are_three() -> None:
    assert group_of("tests/api/test_lists.py::test_it[a::b]") == "tests/api/test_lists.py"
    assert group_of("tests/faults/test_mix.py::test_it") == "faults-1"
    assert group_of("tests/faults/test_consumers.py::test_it") == "faults-2"
    assert group_of("tests/faults/test_api.py::test_it") == "faults-3"
    assert group_of("tests/api/live/test_tasks.py::test_it") == "tests/api/live"


def test_what_waits_comes_first_and_what_computes_last_and_stores_just_before_it() -> None:
    files = ("stores/test_lists", "dashboard/test_browser", "api/test_small", "faults/test_mix", "egress/test_room")
    nodes = [f"tests/{file}.py::test_a" for file in files] + [f"tests/api/test_large.py::test_{n}" for n in "ab"]
    items: list[Any] = [SimpleNamespace(nodeid=node) for node in nodes]
    assert [item.nodeid.removeprefix("tests/").partition(".")[0] for item in in_order(items)] == [
        "faults/test_mix",
        "api/test_large",
        "api/test_large",
        "api/test_small",
        "stores/test_lists",
        "egress/test_room",
        "dashboard/test_browser",
    ]


def test_every_second_process_takes_from_the_end() -> None:
    assert [takes_from_the_end(f"gw{n}") for n in range(4)] == [False, True, False, True]


def test_every_file_of_fault_tests_has_a_group() -> None:
    files = (REPOSITORY / "tests/faults").glob("test_*.py")
    assert {file.stem.removeprefix("test_") for file in files} == FAULTS.keys()


def test_the_files_and_packages_of_the_schedule_exist() -> None:
    files = {f"tests/faults/test_{name}.py" for name in FAULTS} | {*WAITING, *COMPUTING, *PACKAGES} - GROUPS_OF_FAULTS
    assert [file for file in sorted(files) if not (REPOSITORY / file).exists()] == []
