"""The groups of a run in several processes."""

from testing.processes import REPOSITORY
from testing.schedule import FAULTS, LONGEST_FIRST, PACKAGES, group_of

GROUPS_OF_FAULTS = {f"faults-{number}" for number in FAULTS.values()}


def test_a_file_is_a_group_and_so_is_a_package_with_one_stack_and_the_fault_tests_are_three() -> None:
    assert group_of("tests/api/test_lists.py::test_it[a::b]") == "tests/api/test_lists.py"
    assert group_of("tests/faults/test_mix.py::test_it") == "faults-1"
    assert group_of("tests/faults/test_consumers.py::test_it") == "faults-2"
    assert group_of("tests/faults/test_api.py::test_it") == "faults-3"
    assert group_of("tests/api/live/test_tasks.py::test_it") == "tests/api/live"


def test_every_file_of_fault_tests_has_a_group() -> None:
    files = (REPOSITORY / "tests/faults").glob("test_*.py")
    assert {file.stem.removeprefix("test_") for file in files} == FAULTS.keys()


def test_the_files_and_packages_of_the_schedule_exist() -> None:
    files = {f"tests/faults/test_{name}.py" for name in FAULTS} | {*LONGEST_FIRST, *PACKAGES} - GROUPS_OF_FAULTS
    assert [file for file in sorted(files) if not (REPOSITORY / file).exists()] == []
