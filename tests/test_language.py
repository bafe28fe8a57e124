"""Code, documentation, pages and messages are in plain technical English: a private vocabulary does not return.

The list is short: a phrase is in it only if it has no legitimate use in this project.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping

import pytest

from testing.processes import REPOSITORY

AVOIDED: Mapping[str, str] = {
    r"mend(s|ed|ing)?": "fix, repair",
    r"whom?ever": "anyone who, the client that",
    r"(?<![\"'])nobody(?![\"'])": "no one, no client, nothing",  # in quotes it is an account of the system
    r"everybody": "everyone, all clients",
    r"of (ours|one's own)": "our, its own",
    r"(put|go(es)?|went|stands?) on record": "record, is recorded",
    r"looks? again": "check again, retry",
    r"so long": "for that long, meanwhile",
    r"save for": "except",
    r"(comes?|came) of": "results in, happens to",
    r"answers with": "returns, responds with",
    r"told|tells|telling": "reported, says, shows",
    r"beside": "next to, with, during",
}
"""A pattern of whole words, and what to say instead."""

ENDINGS = (".css", ".env", ".html", ".ini", ".js", ".md", ".py", ".service", ".sh", ".toml", ".txt", ".yaml", ".yml")
EXEMPT = ("tests/vectors/", "tests/histories/", "CHANGELOG.md", "tests/test_language.py")
"""Fixed data, the past, and this list."""

_GAP = r"(?:_|\s+(?:(?:#|//|\*)\s+)?)"
"""Words may be on two lines, of a comment, too, and in a name."""


def _compiled(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])(?:{words.replace(' ', _GAP)})(?![a-z0-9])", re.IGNORECASE)


_PATTERNS = [(_compiled(words), instead) for words, instead in AVOIDED.items()]
_ANY_OF_THEM = _compiled("|".join(AVOIDED))


def avoided(text: str) -> Iterator[tuple[int, str, str]]:
    """The line of each phrase that is on the list, the phrase, and what to say instead."""
    if _ANY_OF_THEM.search(text) is None:  # one search instead of one for each
        return
    for pattern, instead in _PATTERNS:
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), instead


def _files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = [name for name in listing.stdout.split("\0") if name and not name.startswith(EXEMPT)]
    named = [name for name in names if name.endswith(ENDINGS) or "." not in name.rpartition("/")[2]]
    return [name for name in named if (REPOSITORY / name).is_file()]


def test_no_file_has_a_phrase_that_is_avoided() -> None:
    found = [
        f"{name}:{line}: {phrase!r} (say: {instead})"
        for name in _files()
        for line, phrase, instead in avoided((REPOSITORY / name).read_text())
    ]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mended by hand.", [(1, "Mended")]),
        ("one\n# Whoever calls it\n# so\n# long waits", [(2, "Whoever"), (3, "so # long")]),
        ("a form\nof ours", [(2, "of ours")]),
        ('nobody = f("nobody")', [(1, "nobody")]),
        (
            "def test_nobody_looks_again_so_long(): _told()",
            [(1, "nobody"), (1, "looks_again"), (1, "so_long"), (1, "told")],
        ),
        ("It goes on record, and looks\n    again.", [(1, "goes on record"), (1, "looks again")]),
        ("recommended amendments of hours; also longer; who ever; saved for; the outcome of", []),
    ],
)
def test_a_phrase_is_found_as_whole_words_in_any_case_and_over_lines(
    text: str, expected: list[tuple[int, str]]
) -> None:
    assert sorted((line, phrase) for line, phrase, _ in avoided(text)) == sorted(expected)


def test_the_check_reads_every_part_of_the_project() -> None:
    files = set(_files())
    assert {"README.md", "Makefile", "docs/api.md", "api/main.py", "everhook/ids.py", "testing/stack.py"} <= files
    assert any(name.endswith(".html") for name in files) and any(name.endswith(".js") for name in files)
