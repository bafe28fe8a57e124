"""README.md names an existing test for each limit."""

import re

from testing.processes import REPOSITORY

PAGE = (REPOSITORY / "tests/limits/README.md").read_text()


def test_each_limit_names_an_existing_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| resource |")]
    assert len(rows) >= 20
    for row in rows:
        *_, tests, _ = row.split("|")
        named = re.findall(r"`(tests/[\w/]+\.py)?::(\w+)`", tests)
        assert named, f"no test is named: {row}"
        file = ""
        for path, test in named:
            file = path or file
            assert f"def {test}(" in (REPOSITORY / file).read_text(), f"{file}::{test}"
