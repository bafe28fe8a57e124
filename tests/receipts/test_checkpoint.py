"""Checkpoints, against vectors made without our code and the published example of Go's `sumdb/note`."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everhook.receipts.keys import KeySet, NoReceiptKey, PublicKey, ReceiptKey, jwks
from everhook.receipts.log.checkpoint import (
    Checkpoint,
    key_id,
    origin_of,
    parse_note,
    sign_checkpoint,
    verifier_key,
    verify_checkpoint,
)
from everhook.receipts.log.merkle import EMPTY_ROOT
from everhook.receipts.strict_json import InvalidDocument, decode_base64, parse_time

VECTORS = Path(__file__).parents[1] / "vectors/receipts"
KEYS = json.loads((VECTORS / "keys.json").read_text())
CASES = {case["name"]: case for case in json.loads((VECTORS / "checkpoints.json").read_text())}
KNOWN = KeySet.from_jwks(KEYS["jwks"])
OLD = ReceiptKey(
    bytes.fromhex(KEYS["keys"]["old"]["seed"]), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
)
NEW = ReceiptKey(bytes.fromhex(KEYS["keys"]["new"]["seed"]), datetime(2026, 1, 31, 23, tzinfo=UTC))
GOOD = CASES["of eleven, by the new key"]
NOTE: str = GOOD["note"]
TEXT, _, SIGNATURE = NOTE.partition("\n\n")
ORIGIN, SIZE, ROOT, TIME = TEXT.split("\n")
HEAD = Checkpoint(KEYS["origin"], 11, bytes.fromhex(GOOD["root"]), parse_time(GOOD["time"], ""))


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case["name"])
def test_a_checkpoint_of_the_vectors_verifies_and_has_the_expected_values(case: dict[str, Any]) -> None:
    verified = verify_checkpoint(case["note"], KNOWN).checkpoint
    time = parse_time(case["time"], "") if case["time"] else None
    assert verified == Checkpoint(KEYS["origin"], case["size"], bytes.fromhex(case["root"]), time)


@pytest.mark.parametrize("name", ["of six, by the old key", "of eleven, by the new key", "of an empty log"])
def test_we_sign_the_very_bytes_of_the_vectors(name: str) -> None:
    case = CASES[name]
    head = Checkpoint(KEYS["origin"], case["size"], bytes.fromhex(case["root"]), parse_time(case["time"], ""))
    assert sign_checkpoint(head, [OLD, NEW]) == case["note"]


def test_the_key_is_named_as_gos_tools_name_it() -> None:
    for name, key in KEYS["keys"].items():
        assert verifier_key(KEYS["origin"], bytes.fromhex(key["public"])) == key["noteKey"], name


def test_the_published_example_of_a_note_key_holds() -> None:
    """golang.org/x/mod/sumdb/note, and a signature of that key in its documentation."""
    name, id_hex, key = ["PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
    public = decode_base64(key, "")[1:]
    assert key_id(name, public).hex() == id_hex
    text = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = decode_base64(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=", ""
    )
    assert signature[:4].hex() == id_hex
    assert PublicKey(public, datetime.now(UTC)).verifies(signature[4:], text)


def test_the_log_is_named_for_issuer_and_tenant() -> None:
    assert origin_of("hooks.example.com", "ten_1") == "hooks.example.com/receipts/ten_1"


@pytest.mark.parametrize(
    ("issuer", "tenant"),
    [
        ("", "t"),
        ("i", ""),
        ("https://i", "t"),
        ("a b", "t"),
        ("a+b", "t"),
        ("i", "t\n"),
        ("i\u2028", "t"),
        ("\u202ei", "t"),
    ],
)
def test_an_issuer_or_a_tenant_that_cannot_name_a_log_is_refused(issuer: str, tenant: str) -> None:
    with pytest.raises(ValueError):
        origin_of(issuer, tenant)


def test_a_checkpoint_that_we_sign_says_when() -> None:
    with pytest.raises(ValueError):
        sign_checkpoint(replace(HEAD, time=None), [NEW])
    with pytest.raises(NoReceiptKey):
        sign_checkpoint(HEAD, [OLD])


def test_the_signature_of_a_witness_does_not_affect_the_checkpoint() -> None:
    witness = CASES["with a witness's signature behind ours"]["note"].removeprefix(NOTE)
    for note in (NOTE + witness, TEXT + "\n\n" + witness + SIGNATURE):
        assert verify_checkpoint(note, KNOWN).checkpoint == HEAD


def test_every_signature_by_a_known_key_must_be_valid() -> None:
    both = CASES["signed by both keys of a rotation"]["note"]
    first, second = both.partition("\n\n")[2].splitlines()
    assert verify_checkpoint(both, KNOWN)
    for note in (both.replace(first, first[:-8] + "AAAAAAA="), both.replace(second, second[:-8] + "AAAAAAA=")):
        with pytest.raises(InvalidDocument, match="does not fit the text"):
            verify_checkpoint(note, KNOWN)


def test_a_signature_under_another_name_is_ignored() -> None:
    note = NOTE.replace(f"— {ORIGIN} ", "— hooks.example.com ")
    with pytest.raises(InvalidDocument, match=r"^checkpoint\.signatures: none is by a known key"):
        verify_checkpoint(note, KNOWN)


@pytest.mark.parametrize(
    ("name", "old", "new", "place"),
    [
        ("origin", ORIGIN, "hooks.example.com/receipts/other", "signatures"),
        ("origin with a space", ORIGIN + "\n", ORIGIN + " x\n", "origin"),
        ("origin with a plus", ORIGIN + "\n", ORIGIN + "+x\n", "origin"),
        ("no origin", ORIGIN + "\n11", "\n11", ""),
        ("size", "\n11\n", "\n10\n", "signatures"),
        ("size with a sign", "\n11\n", "\n+11\n", "size"),
        ("size with a zero before it", "\n11\n", "\n011\n", "size"),
        ("size in other digits", "\n11\n", "\n\N{ARABIC-INDIC DIGIT ONE}1\n", "size"),
        ("size that is vast", "\n11\n", f"\n{10**18}\n", "size"),
        ("no size", "\n11\n", "\n", "size"),
        ("size of an empty log", "\n11\n", "\n0\n", "root"),
        ("root", ROOT, ROOT.replace(ROOT[3], "A" if ROOT[3] != "A" else "B"), "signatures"),
        ("root without padding", ROOT, ROOT[:-1], "root"),
        ("root of 33 bytes", ROOT, "A" * 44, "root"),
        ("root in the other alphabet", ROOT, "-" * 43 + "=", "root"),
        ("no root", ROOT + "\n" + TIME + "\n", "", ""),
        ("time", "12:30", "12:31", "signatures"),
        ("time in another form", TIME, "time 2026-02-01T12:30:00Z", "time"),
        ("time twice", TIME, f"{TIME}\n{TIME}", "time"),
        ("no time", TIME + "\n", "", "signatures"),
        ("a line more", TIME, TIME + "\nmore", "signatures"),
        ("an empty line", TIME, TIME + "\n", ""),
        ("no empty line", "\n\n", "\n", ""),
        ("carriage returns", "\n", "\r\n", ""),
        ("a tab", "\n11\n", "\n11\t\n", ""),
        ("a space at the end", "\n11\n", "\n11 \n", "size"),
        ("two hyphens", "—", "--", "signatures[0]"),
        ("no space after the dash", "— ", "—", "signatures[0]"),
        ("no name", f"— {ORIGIN} ", "—  ", "signatures[0]"),
        ("no signature", SIGNATURE, f"— {ORIGIN}\n", "signatures[0]"),
        ("four bytes of signature", SIGNATURE, f"— {ORIGIN} AAAAAA==\n", "signatures[0]"),
        ("a short signature", SIGNATURE, SIGNATURE[:-9] + "\n", "signatures"),
        ("white space after the signature", SIGNATURE, SIGNATURE[:-1] + " \n", "signatures[0]"),
        ("no last line feed", SIGNATURE, SIGNATURE[:-1], "signatures"),
        ("too many signatures", SIGNATURE, SIGNATURE * 101, "signatures"),
        ("too long a text", TIME, TIME + "\nmore" * 20_000, ""),
    ],
)
def test_a_checkpoint_that_was_altered_is_refused_and_the_place_is_named(
    name: str, old: str, new: str, place: str
) -> None:
    changed = NOTE.replace(old, new)
    assert changed != NOTE
    with pytest.raises(InvalidDocument) as caught:
        verify_checkpoint(changed, KNOWN)
    assert caught.value.place.removeprefix("checkpoint").removeprefix(".") == place


def test_no_character_of_a_checkpoint_can_be_changed() -> None:
    for index in range(len(NOTE)):
        for other in "0A \n":
            if NOTE[index] != other:
                with pytest.raises(InvalidDocument):
                    verify_checkpoint(NOTE[:index] + other + NOTE[index + 1 :], KNOWN)


@given(st.text())
def test_arbitrary_text_is_an_invalid_document(text: str) -> None:
    with pytest.raises(InvalidDocument):
        parse_note(text)


@pytest.mark.parametrize(
    ("time", "fits"),
    [
        (OLD.created_at - timedelta(microseconds=1), False),
        (OLD.created_at, True),
        (datetime(2026, 1, 31, 23, 59, 59, 999_999, UTC), True),
        (datetime(2026, 2, 1, tzinfo=UTC), False),
    ],
)
def test_a_checkpoint_is_of_its_keys_time(time: datetime, fits: bool) -> None:
    always = replace(OLD, created_at=datetime(2020, 1, 1, tzinfo=UTC), retired_at=None)
    note = sign_checkpoint(replace(HEAD, time=time), [always])
    if fits:
        assert verify_checkpoint(note, KNOWN).key.kid == OLD.kid
    else:
        with pytest.raises(InvalidDocument, match=r"^checkpoint\.time: "):
            verify_checkpoint(note, KNOWN)


def test_an_undated_checkpoint_is_accepted_only_if_its_key_is_in_use() -> None:
    note = CASES["without a time"]["note"]
    assert verify_checkpoint(note, KNOWN).checkpoint.time is None
    with pytest.raises(InvalidDocument, match=r"^checkpoint\.time: is missing"):
        verify_checkpoint(note, KeySet.from_jwks(jwks([replace(NEW, retired_at=datetime(2026, 3, 1, tzinfo=UTC))])))


def test_an_empty_log_has_the_empty_root() -> None:
    note = sign_checkpoint(replace(HEAD, size=0, root=EMPTY_ROOT), [NEW])
    assert verify_checkpoint(note, KNOWN).checkpoint.size == 0
