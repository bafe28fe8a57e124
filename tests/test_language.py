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
    r"(?<![\"'])nobody|nobody(?![\"'])": "no one, no client, nothing",  # "nobody" is an account of the system
    r"everybody": "everyone, all clients",
    r"of (ours|one's own)": "our, its own",
    r"(put(s|ting)?|go(es|ing|ne)?|went|stands?|standing|stood) on record": "record, is recorded",
    r"look(s|ed|ing)? again": "check again, retry",
    r"so long": "for that long, meanwhile",
    r"save for": "except",
    r"(comes?|coming|came) of": "results in, happens to",
    r"answer(s|ed|ing)? with": "return, respond with",
    r"told|tells?(?!\()|telling": "reported, says, shows",  # `tell()` is a method of files
    r"besides?": "next to, with, except",
    r"what fails": "errors, the request that fails",
    r"goes on since": "ongoing since",
    r"answer('|&#39;)?s (headers|took)": "response headers, response time",
    r"made \d+ \S+ ago": "created … ago",
    r"(Delivery|Attempt|Endpoint|Round|Release)Orders?": "…Input",
    r"(DeadLetter|Discard|Release)Notes?": "…Input",
    r"OperatorNotes?": "OperatorAction",
    r"within_reach": "tenant_scope",
    r"NotOurBox": "TamperedCiphertext",
    r"CannotOpen": "DecryptionError",
    r"OurFaults?": "LocalError",
    r"NotNow": "Unavailable",
    r"ThresholdWatch": "AlertEvaluator",
    r"Doings": "EndpointTraffic",
    r"checkup": "doctor",
    r"until_it_holds": "RETRY_FOREVER",
    r"our_faults|some_tries": "RETRY_A_FEW",
    r"spare_the_collector": "tune_gc",
    r"left_behind": "stalled_circuits",
    r"mark_woken": "touch",
    r"free_keys": "release_idempotency_keys",
    r"forget_answers": "erase_responses",
}
"""A pattern of whole words, and what to say instead."""

ENDINGS = (
    *(".css", ".env", ".html", ".ini", ".js", ".json", ".mako", ".md"),
    *(".py", ".service", ".sh", ".toml", ".txt", ".yaml", ".yml"),
)
EXEMPT = ("tests/vectors/", "tests/histories/", "CHANGELOG.md", "tests/test_language.py")
"""Fixed data, the past, and this list."""

_HUMP = r"(?<=[a-z])(?=[A-Z])"
_START = rf"(?-i:(?<![A-Za-z0-9])|{_HUMP})"
_END = rf"(?-i:(?![A-Za-z0-9])|{_HUMP})"
_GAP = rf"(?:_|\s+(?:(?:#|//|\*)\s+)?|(?-i:{_HUMP}))"
"""Words may be on two lines, of a comment, too, and in a name, such as `one_name` and `oneName`."""


def _compiled(words: str) -> re.Pattern[str]:
    return re.compile(rf"{_START}(?:{words.replace(' ', _GAP)}){_END}", re.IGNORECASE)


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
        ("nobody = f(\"nobody\", 'nobody')", [(1, "nobody")]),
        ('f("nobody is known", "of nobody")', [(1, "nobody"), (1, "nobody")]),
        ("nobody's session", [(1, "nobody")]),
        ("Tell it, say, by file.tell()", [(1, "Tell")]),
        ("look_again_later()", [(1, "look_again")]),
        (
            "looked again, stood on record, answered with",
            [
                (1, "answered with"),
                (1, "looked again"),
                (1, "stood on record"),
            ],
        ),
        (
            "whoeverCalls(isTold, lookAgain, askNobody)",
            [
                (1, "whoever"),
                (1, "Told"),
                (1, "lookAgain"),
                (1, "Nobody"),
            ],
        ),
        ('{"title": "What fails"}', [(1, "What fails")]),
        (
            "<th>Goes on since</th><th>Answer's headers</th><td>Made 9 s ago</td>",
            [
                (1, "Answer's headers"),
                (1, "Goes on since"),
                (1, "Made 9 s ago"),
            ],
        ),
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


@pytest.mark.parametrize(
    "name",
    [
        *("DeliveryOrder", "AttemptOrder", "EndpointOrder", "RoundOrder", "ReleaseOrder"),
        *("DeadLetterNote", "DiscardNote", "ReleaseNote", "OperatorNote", "within_reach", "CannotOpen", "NotOurBox"),
        *("OurFault", "NotNow", "ThresholdWatch", "Doings", "checkup", "spare_the_collector"),
        *("UNTIL_IT_HOLDS", "OUR_FAULTS", "SOME_TRIES", "left_behind", "mark_woken"),
        *("free_keys", "forget_answers"),
    ],
)
def test_a_name_that_was_given_up_is_found(name: str) -> None:
    assert [phrase for _, phrase, _ in avoided(f"found = {name}(1)")] == [name]


def test_words_that_contain_such_a_name_are_not_found() -> None:
    assert list(avoided("in delivery order; the order of attempts; a release note; free the keys; left behind")) == []


def test_the_check_reads_every_part_of_the_project() -> None:
    files = set(_files())
    assert {"README.md", "Makefile", "docs/api.md", "api/main.py", "everhook/ids.py", "testing/stack.py"} <= files
    assert any(name.endswith(".html") for name in files) and any(name.endswith(".js") for name in files)
    assert {"deploy/grafana/everhook.json", "migrations/script.py.mako"} <= files
