"""Receipts and their keys, against vectors made without our code and the examples of the RFCs."""

import base64
import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from everhook.receipts.keys import KeySet, NoReceiptKey, ReceiptKey, jwks, key_at, rotate, thumbprint
from everhook.receipts.receipt import Receipt, ReceiptSigner, receipt_leaf, signatures_digest, verify_receipt
from everhook.receipts.strict_json import InvalidDocument, format_time, load_json, parse_time
from everhook.signing.schemes import DEFAULT_SCHEMES, signature_headers

VECTORS = Path(__file__).parents[1] / "vectors/receipts"
KEYS = json.loads((VECTORS / "keys.json").read_text())
RECEIPTS = json.loads((VECTORS / "receipts.json").read_text())

JANUARY, OVERLAP, FEBRUARY = (datetime.fromtimestamp(s, UTC) for s in (1767225600, 1769900400, 1769904000))
OLD = ReceiptKey(bytes.fromhex(KEYS["keys"]["old"]["seed"]), JANUARY, FEBRUARY)
NEW = ReceiptKey(bytes.fromhex(KEYS["keys"]["new"]["seed"]), OVERLAP)
KNOWN = KeySet.from_jwks(KEYS["jwks"])
SECOND = timedelta(seconds=1)
ATTEMPT = Receipt.from_claims(RECEIPTS[7]["claims"])


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=="))


# The vectors


@pytest.mark.parametrize("case", RECEIPTS, ids=lambda case: str(case["seq"]))
def test_a_receipt_of_the_vectors_verifies_and_has_the_expected_claims(case: dict[str, Any]) -> None:
    verified = verify_receipt(case["jws"], KNOWN)
    assert verified.receipt.to_claims() == case["claims"]
    assert verified.key.kid == (OLD if case["seq"] < 6 else NEW).kid
    assert receipt_leaf(case["jws"]).hex() == case["leafHash"]


@pytest.mark.parametrize("case", [case for case in RECEIPTS if case["seq"] != 8], ids=lambda case: str(case["seq"]))
def test_we_sign_the_very_bytes_of_the_vectors(case: dict[str, Any]) -> None:
    """Ed25519 is deterministic. (Receipt 8 names its algorithm `Ed25519`, which we accept and do not write.)"""
    assert ReceiptSigner([OLD, NEW]).sign(Receipt.from_claims(case["claims"])) == case["jws"]


@pytest.mark.parametrize("case", RECEIPTS, ids=lambda case: str(case["seq"]))
def test_the_hash_of_the_signature_headers_is_that_of_the_vectors(case: dict[str, Any]) -> None:
    sent = [(name, value) for name, value in case["headers"]]
    assert signatures_digest(sent) == case["claims"]["signaturesSha256"]
    assert signatures_digest(reversed([(name.upper(), value) for name, value in sent])) == signatures_digest(sent)


def test_the_vectors_are_what_their_script_makes(tmp_path: Path) -> None:
    script = VECTORS.parent / "make_receipts.py"
    assert not re.search(r"^\s*(from|import) (everhook|joserfc)", script.read_text(), re.MULTILINE)
    subprocess.run([sys.executable, script, tmp_path], check=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in VECTORS.iterdir()
    }


# Signing


def test_a_receipt_is_a_jws_with_three_header_members() -> None:
    header, claims, _ = ReceiptSigner([NEW]).sign(ATTEMPT).split(".")
    assert decoded(header) == {"alg": "EdDSA", "kid": NEW.kid, "typ": "everhook-receipt+jwt"}
    assert decoded(claims) == ATTEMPT.to_claims()


def test_the_signature_is_over_header_and_claims_as_sent() -> None:
    signed, _, signature = ReceiptSigner([NEW]).sign(ATTEMPT).rpartition(".")
    public = Ed25519PublicKey.from_public_bytes(NEW.public)
    public.verify(base64.urlsafe_b64decode(signature + "=="), signed.encode())


def test_every_part_of_a_receipt_survives_the_wire() -> None:
    silent = replace(ATTEMPT, status_code=None, response_sha256=None, peer_address=None, error="dns", url="https://ü/☃")
    for receipt in (ATTEMPT, silent):
        assert verify_receipt(ReceiptSigner([NEW]).sign(receipt), KNOWN).receipt == receipt


def test_members_of_a_later_version_are_passed_over() -> None:
    assert Receipt.from_claims({**RECEIPTS[7]["claims"], "weather": "fair"}) == ATTEMPT


@given(st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1)), st.integers(-14, 14))
def test_a_time_survives_the_wire_to_the_microsecond_from_any_zone(moment: datetime, hours: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert parse_time(format_time(aware), "") == aware
    assert len(format_time(aware)) == len("2026-01-31T12:00:00.000000Z")


def test_signing_is_quiet_and_costs_little_more_than_the_signature() -> None:
    """1.8 times as much."""
    signer, key = ReceiptSigner([OLD, NEW]), Ed25519PrivateKey.generate()
    claims = json.dumps(ATTEMPT.to_claims()).encode()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert median_cost(lambda: signer.sign(ATTEMPT)) < 3 * median_cost(lambda: key.sign(claims))


def median_cost(call: Callable[[], object]) -> int:
    """In nanoseconds of CPU, of many calls: one that was interrupted says nothing."""
    took = []
    for _ in range(400):
        start = time.thread_time_ns()
        call()
        took.append(time.thread_time_ns() - start)
    return sorted(took)[len(took) // 2]


@pytest.mark.parametrize(
    ("ended", "key"),
    [
        (JANUARY, OLD),
        (OVERLAP - timedelta(microseconds=1), OLD),
        (OVERLAP, NEW),
        (FEBRUARY - timedelta(microseconds=1), NEW),
        (FEBRUARY, NEW),
        (JANUARY - timedelta(microseconds=1), None),
    ],
)
def test_the_newest_key_for_the_date_signs(ended: datetime, key: ReceiptKey | None) -> None:
    for keys in ([OLD, NEW], [NEW, OLD]):
        signer = ReceiptSigner(keys)
        if key is None:
            with pytest.raises(NoReceiptKey):
                signer.sign(replace(ATTEMPT, ended_at=ended))
        else:
            receipt = signer.sign(replace(ATTEMPT, ended_at=ended))
            assert verify_receipt(receipt, KNOWN).key.kid == key.kid


def test_a_process_that_has_not_heard_of_a_rotation_signs_validly_through_the_overlap() -> None:
    first = ReceiptKey.generate(JANUARY)
    after = rotate([first], FEBRUARY, timedelta(hours=1))
    known = KeySet.from_jwks(jwks(after))
    inside, outside = FEBRUARY + timedelta(minutes=59), FEBRUARY + timedelta(minutes=61)
    assert verify_receipt(ReceiptSigner([first]).sign(replace(ATTEMPT, ended_at=inside)), known)
    with pytest.raises(InvalidDocument, match=r"^receipt\.claims\.endedAt: .* was retired"):
        verify_receipt(ReceiptSigner([first]).sign(replace(ATTEMPT, ended_at=outside)), known)
    assert verify_receipt(ReceiptSigner(after).sign(replace(ATTEMPT, ended_at=outside)), known).key.kid == after[0].kid


# Keys


def test_the_thumbprint_is_that_of_rfc_8037_appendix_a3() -> None:
    assert OLD.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert OLD.kid == thumbprint(OLD.public) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_the_keys_are_published_newest_first_with_their_times_and_nothing_private() -> None:
    assert jwks([OLD, NEW]) == jwks([NEW, OLD]) == KEYS["jwks"]
    assert [key.get("exp") for key in KEYS["jwks"]["keys"]] == [None, 1769904000]


def test_published_times_enclose_those_in_which_a_key_signs() -> None:
    part = timedelta(microseconds=500_000)
    key = replace(NEW, created_at=JANUARY + part, retired_at=FEBRUARY + part)
    (published,) = KeySet.from_jwks(jwks([key]))
    assert (published.not_before, published.not_after) == (JANUARY, FEBRUARY + SECOND)


def test_a_key_does_not_show_its_seed() -> None:
    assert NEW.seed.hex() not in repr(NEW) and repr(NEW.seed) not in repr(NEW)


def test_a_rotation_adds_a_key_and_retires_the_others_but_never_later_than_they_were() -> None:
    keys = rotate([OLD, NEW], OVERLAP + timedelta(minutes=10), timedelta(hours=1))
    assert [key.created_at for key in keys] == [OVERLAP + timedelta(minutes=10), OVERLAP, JANUARY]
    assert [key.retired_at for key in keys] == [None, OVERLAP + timedelta(minutes=70), FEBRUARY]
    assert keys[0].kid not in {OLD.kid, NEW.kid}
    assert key_at(keys, OVERLAP + timedelta(minutes=10)) == keys[0]


def broken(**changes: Any) -> Any:
    key = {**KEYS["jwks"]["keys"][0], **changes}
    return {"keys": [{name: value for name, value in key.items() if value is not ...}]}


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "jwks"),
        ({}, "jwks.keys"),
        ({"keys": {}}, "jwks.keys"),
        ({"keys": []}, "jwks.keys"),
        ({"keys": ["x"]}, "jwks.keys[0]"),
        ({"keys": KEYS["jwks"]["keys"] * 2}, "jwks.keys"),
        (broken(kty="RSA"), "jwks.keys"),
        (broken(crv="Ed448"), "jwks.keys"),
        (broken(kty=...), "jwks.keys[0].kty"),
        (broken(x=...), "jwks.keys[0].x"),
        (broken(x="AAAA"), "jwks.keys[0].x"),
        (broken(x="*"), "jwks.keys[0].x"),
        (broken(kid=...), "jwks.keys[0].kid"),
        (broken(kid="mine"), "jwks.keys[0].kid"),
        (broken(nbf=...), "jwks.keys[0].nbf"),
        (broken(nbf="2026"), "jwks.keys[0].nbf"),
        (broken(exp=None), "jwks.keys[0].exp"),
        (broken(exp=10**30), "jwks.keys[0].exp"),
        (broken(d="AAAA"), "jwks.keys[0].d"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_and_the_place_is_named(document: Any, place: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        KeySet.from_jwks(document)
    assert caught.value.place == place


def test_keys_of_other_kinds_are_passed_over() -> None:
    other = {"kty": "RSA", "n": "AQAB", "e": "AQAB"}
    assert [key.kid for key in KeySet.from_jwks({"keys": [other, *KEYS["jwks"]["keys"]]})] == [NEW.kid, OLD.kid]


# The hash of the signature headers


def test_the_signatures_digest_covers_exactly_the_signature_headers() -> None:
    sent = signature_headers("msg_1", 1, b"{}", [bytes(32)], DEFAULT_SCHEMES)
    digest = signatures_digest(sent)
    assert signatures_digest([*sent, ("content-type", "application/json")]) == digest
    for index, (name, value) in enumerate(sent):
        assert signatures_digest([*sent[:index], (name, value + "x"), *sent[index + 1 :]]) != digest
        assert signatures_digest([*sent[:index], *sent[index + 1 :]]) != digest


def test_a_request_without_signatures_has_the_hash_of_nothing() -> None:
    assert signatures_digest([("accept", "*/*")]).startswith("e3b0c442")


# Tampering (refused.json, in test_bundles.py, has the forgeries)


@pytest.mark.parametrize("name", RECEIPTS[7]["claims"])
def test_no_claim_can_be_edited(name: str) -> None:
    header, claims, signature = RECEIPTS[7]["jws"].split(".")
    edited = {**decoded(claims), name: "other"}
    payload = base64.urlsafe_b64encode(json.dumps(edited).encode()).decode().rstrip("=")
    with pytest.raises(InvalidDocument) as caught:
        verify_receipt(f"{header}.{payload}.{signature}", KNOWN)
    assert caught.value.place == "receipt.signature"


def test_no_character_of_a_receipt_can_be_changed() -> None:
    receipt = RECEIPTS[7]["jws"]
    for index in range(len(receipt)):
        for other in "A.= \n":
            if receipt[index] != other:
                with pytest.raises(InvalidDocument):
                    verify_receipt(receipt[:index] + other + receipt[index + 1 :], KNOWN)


@pytest.mark.parametrize("change", [str.swapcase, lambda text: "", lambda text: text[:-1], lambda text: "é" + text])
def test_text_that_is_not_a_receipt_is_an_invalid_document(change: Callable[[str], str]) -> None:
    with pytest.raises(InvalidDocument, match=r"^receipt"):
        verify_receipt(change(RECEIPTS[7]["jws"]), KNOWN)


@given(st.text())
def test_arbitrary_text_is_an_invalid_document(text: str) -> None:
    with pytest.raises(InvalidDocument):
        verify_receipt(text, KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":NaN}',
        b'{"a":1,"a":2}',
        b"[" * 99_999,
    ],
)
def test_json_of_more_than_one_reading_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidDocument, match=r"^here: "):
        load_json(text, "here")
