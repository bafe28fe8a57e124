"""Bundles and the command that checks them, against what holds and what must be refused: both made without our code."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.main import run as cli
from everhook.receipts.bundle import (
    HELD,
    BundleVerification,
    Consistency,
    UnknownBundle,
    build,
    build_consistency,
    load,
    verify,
)
from everhook.receipts.keys import KeySet, ReceiptKey, jwks
from everhook.receipts.log.checkpoint import Checkpoint, origin_of, sign_checkpoint
from everhook.receipts.log.merkle import consistency_ranges, inclusion_ranges, root_of
from everhook.receipts.receipt import Receipt, ReceiptSigner, receipt_leaf
from everhook.receipts.strict_json import InvalidDocument, NotJson
from testing.processes import REPOSITORY, clean_environment

VECTORS = REPOSITORY / "tests/vectors/receipts"
VALID = {case["name"]: case for case in json.loads((VECTORS / "valid.json").read_text())}
REFUSED = {case["name"]: case for case in json.loads((VECTORS / "refused.json").read_text())}
RECEIPTS = json.loads((VECTORS / "receipts.json").read_text())
JWKS = json.loads((VECTORS / "keys.json").read_text())["jwks"]
CHECKPOINTS = {case["name"]: case["note"] for case in json.loads((VECTORS / "checkpoints.json").read_text())}
HELD_NOTE, NOTE = CHECKPOINTS["of six, by the old key"], CHECKPOINTS["of eleven, by the new key"]
LEAVES = [receipt_leaf(each["jws"]) for each in RECEIPTS]
FULL = VALID["with all there is to check"]


def check(case: dict[str, Any], bundle: object = None) -> BundleVerification:
    body, keys = case["body"], case["jwks"]
    return verify(
        bundle if bundle is not None else case["bundle"],
        body=body.encode() if body is not None else None,
        since=case["since"],
        keys=KeySet.from_jwks(keys) if keys is not None else None,
    )


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every member and item in a JSON value."""
    inner: list[tuple[str | int, ...]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        inner += [(*path, key), *paths(item, (*path, key))]
    return inner


def changed(bundle: Any, path: Sequence[str | int], value: Any = ...) -> Any:
    """A copy in which one thing is another, or gone."""
    bundle = copy.deepcopy(bundle)
    inner = bundle
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return bundle


# The vectors


@pytest.mark.parametrize("case", VALID.values(), ids=lambda case: case["name"])
def test_a_bundle_that_holds_is_proven_step_by_step(case: dict[str, Any]) -> None:
    result = check(case)
    assert result.wrong is None
    assert result.ok
    first = ["oldCheckpoint", "newCheckpoint", "consistencyProof"]
    if "receipt" in case["bundle"]:
        first = ["receipt", "checkpoint", "inclusionProof"]
    optional = [place for place, given in (("body", case["body"]), (HELD, case["since"])) if given]
    assert [finding.place for finding in result.proven] == [*first, *optional]


@pytest.mark.parametrize("case", REFUSED.values(), ids=lambda case: case["name"])
def test_a_bundle_that_does_not_hold_is_refused_and_the_first_fault_is_named(case: dict[str, Any]) -> None:
    result = check(case)
    assert result.wrong is not None
    assert (result.wrong.place, result.ok, result.unproven) == (case["place"], False, ())
    assert result.wrong.text


@pytest.mark.parametrize("seq", range(len(RECEIPTS)))
def test_we_build_the_bundles_of_the_vectors(seq: int) -> None:
    proof = [root_of(LEAVES[start:end]) for start, end in inclusion_ranges(seq, len(LEAVES))]
    assert build(RECEIPTS[seq]["jws"], seq, proof, NOTE, JWKS) == VALID[f"receipt {seq}"]["bundle"]


def test_we_build_the_proofs_of_growth_of_the_vectors() -> None:
    growth = [root_of(LEAVES[start:end]) for start, end in consistency_ranges(6, 11)]
    proof = [root_of(LEAVES[start:end]) for start, end in inclusion_ranges(7, 11)]
    assert build(RECEIPTS[7]["jws"], 7, proof, NOTE, JWKS, Consistency(6, 11, growth)) == FULL["bundle"]
    assert build_consistency(HELD_NOTE, NOTE, growth, JWKS) == VALID["two checkpoints"]["bundle"]


# What is said


def test_the_result_describes_the_proven_and_the_unproven_claims() -> None:
    result = check(VALID["receipt 7"])
    said = [str(finding) for finding in result.proven]
    assert said[0] == ("receipt: is signed by the key 6Fhv0855GF18bp5fSQg7XuReqruvGq7DhlKWHqjNCR4, and unaltered since")
    assert said[1] == (
        "checkpoint: counts 11 receipts in the log hooks.example.com/receipts/ten_01kgk27ygprz3snww46e1zg0hx "
        "at 2026-02-01 12:30:00 UTC, is signed by the key 6Fhv0855GF18bp5fSQg7XuReqruvGq7DhlKWHqjNCR4, "
        "and unaltered since"
    )
    assert said[2] == "inclusionProof: the receipt is number 7 of that log, counted from 0"
    assert [(each.text.split(":")[0], each.option) for each in result.unproven] == [
        ("that the receiver agrees, or what it did with the request", ""),
        ("what the request said", "--body"),
        ("that the keys are the issuer's", "--jwks"),
        ("that nothing was rewritten before this checkpoint", "--since-checkpoint"),
    ]
    assert str(result.unproven[1]).endswith("the bytes that were received (--body)")
    assert result.receipt is not None and result.receipt.to_claims() == RECEIPTS[7]["claims"]
    assert result.checkpoint is not None and result.checkpoint.size == 11


def test_with_everything_given_only_the_receivers_word_is_missing() -> None:
    result = check(FULL)
    assert len(result.unproven) == 1
    assert "that the receiver agrees" in result.unproven[0].text
    assert [str(finding) for finding in result.proven[3:]] == [
        "body: these 51 bytes are the body of the request, to the bit",
        "held checkpoint: from 6 receipts to 11 receipts the log only grew: none was altered, removed or moved",
    ]


def test_findings_before_the_first_fault_are_kept() -> None:
    result = check(REFUSED["another's number"])
    assert [finding.place for finding in result.proven] == ["receipt", "checkpoint"]
    assert result.receipt is not None


def test_a_forged_receipt_is_not_shown_as_one() -> None:
    result = check(REFUSED["receipt: a stranger's key under our kid"])
    assert (result.proven, result.receipt, result.checkpoint) == ((), None, None)


SAID = {
    "receipt: alg none": "'none' is not accepted; EdDSA is, and its new name Ed25519",
    "receipt: a claim twice": "has the member 'round' twice",
    "receipt: no url": "is missing",
    "receipt: round True": "should be a whole number from 0, and is true",
    "receipt: a signature spelt otherwise": "is not base64url without padding in its one valid spelling: 'W_DmlQ",
    "receipt: dated after its key was retired": "2026-02-01 00:00:00 UTC is not before its key kPrK_qmxVWaYVA9wwBF6I",
    "a number beyond the log": "11 is not in a log of 11 receipts, counted from 0",
    "another's number": "does not lead from this receipt, as number 4, to the root of the checkpoint: the receipt, i",
    "a body with one more byte": "is not what was sent: SHA-256 85e83bf6fc635897e238de49d636cd5335837fd75de9bd7e6989",
    "a checkpoint with another size": "the one of key 6Fhv0855GF18bp5fSQg7XuReqruvGq7DhlKWHqjNCR4 does not fit the t",
    "a size with a zero before it": "should be a decimal number without leading zeros, and is '011'",
    "a checkpoint of a retired key, undated": "is missing, and its key kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k is ",
    "nothing to show that the log is one": "is missing: between 6 receipts, of which you hold a checkpoint, and 11 ",
    "growth from another size": "is from 5 to 11, and should be between 6 receipts, of which you hold a checkpoint,",
    "a log rewritten before the held checkpoint": "fails between 6 receipts, of which you hold a checkpoint, and 11",
    "an old backup, grown again to the held size": "differs from that of the checkpoint you hold, both of 6 receipts: ",
    "checkpoints of a log that was cut": "the log had 11 receipts and now 6 receipts: it was cut",
    "checkpoints, and another held": "neither is the one you hold, of 9 receipts: ask for a bundle from that size",
}


@pytest.mark.parametrize(("name", "said"), SAID.items())
def test_each_fault_has_a_description(name: str, said: str) -> None:
    wrong = check(REFUSED[name]).wrong
    assert wrong is not None and wrong.text.startswith(said)


# Tampering with anything at all


OTHERS: list[Any] = [..., None, 99, -1, True, "x", "", [], {}, ["x"], "A" * 43 + "="]


@pytest.mark.parametrize("value", OTHERS, ids=str)
@pytest.mark.parametrize("name", ["with all there is to check", "two checkpoints, the older held"])
def test_every_change_and_omission_in_a_bundle_is_detected(name: str, value: Any) -> None:
    """Every member and item: gone, of another type, of another value. Only `jwks` is free where keys are pinned."""
    case = {**VALID[name], "jwks": JWKS}
    for path in paths({key: item for key, item in case["bundle"].items() if key not in ("jwks", "type", "version")}):
        result = check(case, changed(case["bundle"], path, value))
        assert result.wrong is not None, path
        assert result.wrong.place.split(".")[0].split("[")[0] == path[0], result.wrong


def test_every_change_of_the_enclosed_keys_is_detected_except_in_unused_members() -> None:
    case = VALID["receipt 7"]
    free = {("jwks", "keys", 0, "use"), ("jwks", "keys", 0, "nbf")}
    for path in paths(case["bundle"]["jwks"], ("jwks",)):
        if path in free or path[:3] == ("jwks", "keys", 1):
            continue
        assert check(case, changed(case["bundle"], path)).wrong is not None, path


@pytest.mark.parametrize("note", ["checkpoint", "since"])
def test_no_line_of_a_checkpoint_can_be_left_out(note: str) -> None:
    text = FULL["bundle"]["checkpoint"] if note == "checkpoint" else FULL["since"]
    for index in range(len(text.splitlines())):
        lines = text.splitlines(keepends=True)
        del lines[index]
        cut = "".join(lines)
        if note == "checkpoint":
            result = check(FULL, {**FULL["bundle"], "checkpoint": cut})
        else:
            result = check({**FULL, "since": cut})
        assert result.wrong is not None
        assert result.wrong.place.startswith("checkpoint" if note == "checkpoint" else HELD)


def test_a_receipt_moved_with_its_number_and_another_ones_proof_is_refused() -> None:
    """Two rows exchanged in the database: each is genuine, and neither is where the log has it."""
    for one, other in ((3, 4), (0, 10), (6, 7)):
        bundle = {**VALID[f"receipt {one}"]["bundle"], "receipt": RECEIPTS[other]["jws"]}
        result = verify(bundle)
        assert result.wrong is not None and result.wrong.place == "inclusionProof"


@pytest.mark.parametrize(
    ("bundle", "place"),
    [
        ([], "bundle"),
        (7, "bundle"),
        (None, "bundle"),
        ({}, "bundle"),
        ({"type": "everhook.receipt-bundle"}, "bundle"),
        ({"type": "tlog", "version": 1}, "type"),
        ({"type": "everhook.receipt-bundle", "version": 2}, "version"),
        ({"type": "everhook.receipt-bundle", "version": True}, "bundle"),
    ],
)
def test_a_document_that_is_not_an_everhook_bundle_is_not_verified(bundle: Any, place: str) -> None:
    with pytest.raises(UnknownBundle) as caught:
        verify(bundle)
    assert caught.value.place == place


def test_a_bundle_with_a_member_twice_is_wrong_and_one_that_is_no_json_is_none() -> None:
    with pytest.raises(InvalidDocument, match=r"^bundle: has the member 'seq' twice") as caught:
        load('{"type":"x","seq":1,"seq":2}')
    assert not isinstance(caught.value, NotJson)
    with pytest.raises(NotJson):
        load(b"<html>")


# The document for those who write their own


def test_the_verifier_in_the_documentation_agrees_with_ours(tmp_path: Path) -> None:
    """On all vectors of single receipts, but for claims that an issuer signed in a wrong form."""
    source = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/receipts.md").read_text(), re.DOTALL)[-1]
    module: dict[str, Any] = {"__name__": "verifier"}
    exec(compile(source, "docs/receipts.md", "exec"), module)

    def accepts(case: dict[str, Any]) -> bool:
        bundle = module["load"](json.dumps(case["bundle"]).encode())
        try:
            module["verify"](bundle, module["read_keys"](case["jwks"] or bundle["jwks"]), case["since"])
        except (Exception, SystemExit):
            return False
        return True

    of_receipts = [case for case in VALID.values() if "receipt" in case["bundle"]]
    assert len(of_receipts) > 10
    assert all(accepts(case) for case in of_receipts)
    judged = [case for case in REFUSED.values() if "oldCheckpoint" not in case["bundle"] and not is_beyond_it(case)]
    assert len(judged) > 60
    assert [case["name"] for case in judged if accepts(case)] == []


def is_beyond_it(case: dict[str, Any]) -> bool:
    """What the short verifier does not look at: the form of what an issuer signed, a body, growth not asked for."""
    place: str = case["place"]
    unasked = place.startswith("consistency.") and case["since"] is None
    undated = case["name"].endswith("undated")
    return (
        unasked or undated or place == "body" or (place.startswith("receipt.claims.") and "dated" not in case["name"])
    )


def test_the_worked_example_is_of_the_vectors() -> None:
    text = (REPOSITORY / "docs/receipts.md").read_text()
    bundle = VALID["receipt 7"]["bundle"]
    values = [bundle["receipt"], bundle["checkpoint"], *bundle["inclusionProof"], LEAVES[7].hex(), RECEIPTS[7]["body"]]
    assert [value for value in values if value not in text] == []
    assert json.dumps(RECEIPTS[7]["claims"], indent=1, ensure_ascii=False) in text


# The command

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`everhook receipts verify …` in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def verifying(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = ["receipts", "verify", *map(str, arguments)]
        status = cli(words)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, captured.out, captured.err)

    return verifying


def run_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "cli", "receipts", "verify", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=REPOSITORY,
        env=clean_environment({"PYTHONUTF8": "1", "COLUMNS": "80"}),
        timeout=60,
        check=False,
    )


def saved(directory: Path, case: dict[str, Any]) -> list[str | Path]:
    """A case as the files and options of the command."""
    contents = {
        "bundle.json": json.dumps(case["bundle"]),
        "--body": case["body"],
        "--since-checkpoint": case["since"],
        "--jwks": json.dumps(case["jwks"]) if case["jwks"] else None,
    }
    arguments: list[str | Path] = []
    for name, content in contents.items():
        if content is not None:
            file = directory / name.removeprefix("--")
            file.write_bytes(content.encode())
            arguments += [name, file] if name.startswith("--") else [file]
    return arguments


def test_the_command_says_in_words_what_is_proven_and_what_is_not(tmp_path: Path) -> None:
    done = run_process(*saved(tmp_path, FULL))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("hooks.example.com states: attempt 2 of round 1 of delivery dlv_")
    assert lines[0].endswith(" ended at 2026-02-01 12:07:00.070417 UTC with HTTP 200: delivered.")
    assert [line.split()[0] for line in lines[1:]] == ["proven"] * 5 + ["not", "All"]
    assert "that the receiver agrees" in lines[6]


def test_the_command_names_the_first_fault_and_exits_with_1(tmp_path: Path, run: Command) -> None:
    done = run(*saved(tmp_path, REFUSED["a log rewritten before the held checkpoint"]))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1].startswith("WRONG       consistency.proof: fails between 6 receipts, of which")
    assert "All that" not in done.stdout


def test_the_command_refuses_a_bundle_of_two_readings(tmp_path: Path, run: Command) -> None:
    (tmp_path / "bundle.json").write_text('{"type":"everhook.receipt-bundle","type":"x","version":1}')
    done = run(tmp_path / "bundle.json")
    assert (done.returncode, done.stdout) == (1, "WRONG       bundle: has the member 'type' twice\n")


def test_the_command_checks_with_pinned_keys(tmp_path: Path, run: Command) -> None:
    forgery = REFUSED["keys of a stranger who forged it all, pinned"]
    assert run(*saved(tmp_path, {**forgery, "jwks": None})).returncode == 0, "a forger's own keys"
    done = run(*saved(tmp_path, forgery))
    assert done.returncode == 1
    assert "WRONG       receipt.header.kid: 'AB_e" in done.stdout


UNUSABLE = [
    ("bundle.json", None, "cannot be read: No such file or directory"),
    ("bundle.json", b"<html>", "bundle: is not JSON"),
    ("bundle.json", b"{}", "bundle: is none of Everhook's"),
    (
        "bundle.json",
        b'{"type": "about:blank", "title": "x", "status": 503, "detail": "rcp_1 is not under a checkpoint yet."}',
        "an error of the API: rcp_1 is not under a checkpoint yet. (503); request it again then",
    ),
    ("bundle.json", b" " * (16 * 1024 * 1024 + 1), "is larger than 16 MiB"),
    ("body", None, "cannot be read: No such file or directory"),
    ("since-checkpoint", b"\xff", "is not a checkpoint"),
    ("since-checkpoint", b"hello\n", "is not a checkpoint: checkpoint: has no empty line"),
    ("jwks", b'{"keys":[]}', "has no keys to check with: jwks.keys: has no Ed25519 key"),
    ("jwks", b"-----BEGIN", "has no keys to check with: jwks: is not JSON"),
]


@pytest.mark.parametrize(("name", "content", "said"), UNUSABLE, ids=lambda value: str(value)[:20])
def test_a_file_that_cannot_be_used_is_one_line_and_status_2(
    tmp_path: Path, run: Command, name: str, content: bytes | None, said: str
) -> None:
    arguments = saved(tmp_path, FULL)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"everhook: {tmp_path / name}") and done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_strangers_text_cannot_steer_the_terminal(tmp_path: Path, run: Command) -> None:
    """Not even a receipt that is signed and in its log."""
    key = ReceiptKey.generate(datetime(2026, 1, 1, tzinfo=UTC))
    stated = replace(Receipt.from_claims(RECEIPTS[7]["claims"]), url="https://x/\x1b[2J\u202e\n[red]All of it holds.")
    receipt = ReceiptSigner([key]).sign(stated)
    head = Checkpoint(origin_of(stated.issuer, stated.tenant), 1, receipt_leaf(receipt), stated.ended_at)
    bundle = build(receipt, 0, [], sign_checkpoint(head, [key]), jwks([key]))
    done = run(*saved(tmp_path, {"bundle": bundle, "body": None, "since": None, "jwks": None}))
    assert done.returncode == 0
    assert (
        "https://x/\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[red]All"
        in done.stdout
    )
    assert not any(char in done.stdout for char in "\x1b\u202e")
