"""The groups of a run in several processes."""

from testing.processes import REPOSITORY
from testing.schedule import FAULTS, LONGEST_FIRST, group_of


def test_a_file_is_a_group_and_the_fault_tests_are_two() -> None:
    assert group_of("tests/api/test_lists.py::test_it[a::b]") == "tests/api/test_lists.py"
    assert group_of("tests/faults/test_workers.py::test_it") == "faults-1"
    assert group_of("tests/faults/test_outages.py::test_it") == "faults-2"


def test_the_files_of_the_schedule_exist() -> None:
    files = {f"tests/faults/test_{name}.py" for name in FAULTS} | set(LONGEST_FIRST) - {"faults-1", "faults-2"}
    assert [file for file in sorted(files) if not (REPOSITORY / file).is_file()] == []
