"""Makes the vectors of `tests/vectors/receipts`, by another method than the product's.

It imports nothing of Everhook and no JOSE library. Trees are built by the recursive definitions of RFC 9162, from all
the leaves each time; a JWS, a note and a bundle are put together by hand from RFC 7515, c2sp.org/signed-note and
`docs/receipts.md`. All keys are derived from public text and are for tests only.

    python tests/vectors/make_receipts.py [DIRECTORY]
"""

import base64
import copy
import hashlib
import hmac
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER = "hooks.example.com"
OLD_SEED = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
"""The key of RFC 8037 appendix A.1: its thumbprint is published in appendix A.3."""
NEW_SEED = hashlib.sha256(b"everhook receipt vectors: the new key").digest()
STRANGER_SEED = hashlib.sha256(b"everhook receipt vectors: a key of somebody else").digest()

OLD_FROM, NEW_FROM, OLD_UNTIL = 1767225600, 1769900400, 1769904000
"""2026-01-01 00:00, 2026-01-31 23:00 and 2026-02-01 00:00 UTC."""

Claims = dict[str, Any]
Bundle = dict[str, Any]


# RFC 9162


def H(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def k_of(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def MTH(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) < 2:
        return H(b"\0" + leaves[0]) if leaves else H(b"")
    k = k_of(len(leaves))
    return H(b"\1" + MTH(leaves[:k]) + MTH(leaves[k:]))


def PATH(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = k_of(len(leaves))
    if m < k:
        return [*PATH(m, leaves[:k]), MTH(leaves[k:])]
    return [*PATH(m - k, leaves[k:]), MTH(leaves[:k])]


def PROOF(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    return SUBPROOF(m, leaves, True) if m else []


def SUBPROOF(m: int, leaves: Sequence[bytes], b: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if b else [MTH(leaves)]
    k = k_of(len(leaves))
    if m <= k:
        return [*SUBPROOF(m, leaves[:k], b), MTH(leaves[k:])]
    return [*SUBPROOF(m - k, leaves[k:], False), MTH(leaves[:k])]


# Keys, JWS, notes


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def ed25519(seed: bytes, data: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(data)


def kid(seed: bytes) -> str:
    return b64u(H(('{"crv":"Ed25519","kty":"OKP","x":"' + b64u(public(seed)) + '"}').encode()))


def jwk(seed: bytes, nbf: int, exp: int | None = None) -> dict[str, Any]:
    key = {"kty": "OKP", "crv": "Ed25519", "x": b64u(public(seed)), "kid": kid(seed), "use": "sig", "nbf": nbf}
    return key if exp is None else {**key, "exp": exp}


JWKS = {"keys": [jwk(NEW_SEED, NEW_FROM), jwk(OLD_SEED, OLD_FROM, OLD_UNTIL)]}


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def jws(
    claims: Claims | str,
    seed: bytes,
    sign: Callable[[bytes], bytes] | None = None,
    **header: Any,
) -> str:
    """A JWS as receipts are; `header` and `sign` for those that are not."""
    full = {"alg": "EdDSA", "kid": kid(seed), "typ": "everhook-receipt+jwt", **header}
    head = {name: value for name, value in full.items() if value is not None}
    payload = claims if isinstance(claims, str) else compact(claims)
    signed = f"{b64u(compact(head).encode())}.{b64u(payload.encode())}"
    signature = (sign or (lambda data: ed25519(seed, data)))(signed.encode())
    return f"{signed}.{b64u(signature)}"


def key_id(name: str, seed: bytes) -> bytes:
    return H(name.encode() + b"\n\x01" + public(seed))[:4]


def note(text: str, name: str, *seeds: bytes) -> str:
    lines = [f"\N{EM DASH} {name} {b64(key_id(name, seed) + ed25519(seed, text.encode()))}\n" for seed in seeds]
    return text + "\n" + "".join(lines)


def head(origin: str, size: int, root: bytes, time: str | None) -> str:
    return f"{origin}\n{size}\n{b64(root)}\n" + (f"time {time}\n" if time else "")


# The log of the examples


def gid(prefix: str, name: str) -> str:
    digits = "0123456789abcdefghjkmnpqrstvwxyz"
    return f"{prefix}_01kg" + "".join(digits[byte % 32] for byte in H(f"{prefix} {name}".encode())[:22])


TENANT, OTHER_TENANT = gid("ten", "one"), gid("ten", "two")
ORIGIN, OTHER_ORIGIN = f"{ISSUER}/receipts/{TENANT}", f"{ISSUER}/receipts/{OTHER_TENANT}"
SIZE, OLD_SIZE = 11, 6


def body(number: int) -> str:
    return compact({"orderId": 1000 + number, "currency": "EUR", "note": "Zoë ☃"})


def headers(number: int) -> list[list[str]]:
    return [
        ["Content-Type", "application/json"],
        ["Webhook-Id", gid("msg", str(number // 2))],
        ["Webhook-Timestamp", str(1769774400 + number)],
        ["Webhook-Signature", f"v1,{b64(H(b'standard %d' % number))}"],
        ["X-Webhook-Signature", f"t={1769774400 + number},v1={H(b'timestamped %d' % number).hex()}"],
        ["X-Npayload-Signature", f"sha256={H(b'npayload %d' % number).hex()}"],
    ]


def signatures_sha256(sent: list[list[str]]) -> str:
    of_ours = ("webhook-id", "webhook-signature", "webhook-timestamp", "x-npayload-signature", "x-webhook-signature")
    values = {name.lower(): value for name, value in sent}
    return H("".join(f"{name}: {values[name]}\n" for name in of_ours if name in values).encode()).hex()


def claims_of(number: int) -> Claims:
    """Two tries a message: the first fails, by a time-out where 3 divides its number."""
    day = "2026-01-30" if number < OLD_SIZE else "2026-02-01"
    failed, silent = number % 2 == 0, number % 3 == 0 and number % 2 == 0
    status = None if silent else 503 if failed else 200
    return {
        "receiptGid": gid("rcp", str(number)),
        "issuer": ISSUER,
        "tenant": TENANT,
        "endpointGid": gid("ep", "one"),
        "deliveryGid": gid("dlv", str(number // 2)),
        "messageGid": gid("msg", str(number // 2)),
        "attemptGid": gid("att", str(number)),
        "round": 1,
        "number": number % 2 + 1,
        "url": "https://receiver.example/hooks?from=everhook",
        "requestSha256": H(body(number).encode()).hex(),
        "signaturesSha256": signatures_sha256(headers(number)),
        "statusCode": status,
        "error": "timeout_total" if silent else "http_503" if failed else None,
        "outcome": "retry" if failed else "delivered",
        "responseSha256": None if silent else H(b"busy" if failed else b"thank you").hex(),
        "startedAt": f"{day}T12:{number:02}:00.000000Z",
        "endedAt": f"{day}T12:{number:02}:00.{number:02}0417Z",
        "peerAddress": None if silent else "203.0.113.7",
    }


def seed_of(number: int) -> bytes:
    return OLD_SEED if number < OLD_SIZE else NEW_SEED


RECEIPTS = [jws(claims_of(n), seed_of(n), alg="Ed25519" if n == 8 else "EdDSA") for n in range(SIZE)]
OLD_TIME, NEW_TIME = "2026-01-30T12:30:00.000000Z", "2026-02-01T12:30:00.000000Z"


def root(receipts: Sequence[str]) -> bytes:
    return MTH([each.encode() for each in receipts])


def checkpoint(
    receipts: Sequence[str], seed: bytes = NEW_SEED, time: str | None = NEW_TIME, origin: str = ORIGIN
) -> str:
    return note(head(origin, len(receipts), root(receipts), time), origin, seed)


HELD = checkpoint(RECEIPTS[:OLD_SIZE], OLD_SEED, OLD_TIME)
CHECKPOINT = checkpoint(RECEIPTS)


def bundle(
    seq: int, receipts: Sequence[str] = RECEIPTS, since: int | None = None, jwks: Any = JWKS, **changed: Any
) -> Bundle:
    leaves = [each.encode() for each in receipts]
    made: Bundle = {
        "type": "everhook.receipt-bundle",
        "version": 1,
        "receipt": receipts[seq],
        "seq": seq,
        "inclusionProof": [b64(each) for each in PATH(seq, leaves)],
        "checkpoint": checkpoint(receipts),
        "jwks": jwks,
    }
    if since is not None:
        made["consistency"] = {
            "oldSize": since,
            "newSize": len(receipts),
            "proof": [b64(each) for each in PROOF(since, leaves)],
        }
    return {**made, **changed}


def consistency_bundle(old: str, new: str, old_size: int, receipts: Sequence[str]) -> Bundle:
    return {
        "type": "everhook.consistency-bundle",
        "version": 1,
        "oldCheckpoint": old,
        "newCheckpoint": new,
        "consistencyProof": [b64(each) for each in PROOF(old_size, [each.encode() for each in receipts])],
        "jwks": JWKS,
    }


# The files


def keys_file() -> Any:
    seeds = {"old": OLD_SEED, "new": NEW_SEED, "stranger": STRANGER_SEED}
    return {
        "origin": ORIGIN,
        "jwks": JWKS,
        "keys": {
            name: {
                "seed": seed.hex(),
                "public": public(seed).hex(),
                "kid": kid(seed),
                "noteKey": f"{ORIGIN}+{key_id(ORIGIN, seed).hex()}+{b64(bytes([1]) + public(seed))}",
            }
            for name, seed in seeds.items()
        },
    }


def merkle_file() -> Any:
    leaves = [bytes.fromhex(text) for text in CT_LEAVES] + [b"leaf %d" % n for n in range(8, 20)]
    sizes = range(1, len(leaves) + 1)
    return {
        "leaves": [leaf.hex() for leaf in leaves],
        "leafHashes": [H(b"\0" + leaf).hex() for leaf in leaves],
        "roots": [MTH(leaves[:size]).hex() for size in range(len(leaves) + 1)],
        "inclusion": [
            {"index": index, "size": size, "proof": [each.hex() for each in PATH(index, leaves[:size])]}
            for size in sizes
            for index in range(size)
        ],
        "consistency": [
            {"old": old, "new": new, "proof": [each.hex() for each in PROOF(old, leaves[:new])]}
            for new in sizes
            for old in range(1, new + 1)
        ],
    }


CT_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
"""The leaves that certificate-transparency's own tests use, whose roots are published."""


def receipts_file() -> Any:
    return [
        {
            "seq": number,
            "claims": claims_of(number),
            "body": body(number),
            "headers": headers(number),
            "jws": RECEIPTS[number],
            "leafHash": H(b"\0" + RECEIPTS[number].encode()).hex(),
        }
        for number in range(SIZE)
    ]


def checkpoints_file() -> Any:
    def case(name: str, note: str, size: int, time: str | None) -> Any:
        return {"name": name, "note": note, "size": size, "root": root(RECEIPTS[:size]).hex(), "time": time}

    empty = note(head(ORIGIN, 0, H(b""), NEW_TIME), ORIGIN, NEW_SEED)
    extended = head(ORIGIN, SIZE, root(RECEIPTS), NEW_TIME) + "something of a later version\n"
    witness = note(CHECKPOINT.partition("\n\n")[0] + "\n", "witness.example/w1", STRANGER_SEED).partition("\n\n")[2]
    both = note(head(ORIGIN, SIZE, root(RECEIPTS), "2026-01-31T23:30:00.000000Z"), ORIGIN, OLD_SEED, NEW_SEED)
    return [
        case("of six, by the old key", HELD, OLD_SIZE, OLD_TIME),
        case("of eleven, by the new key", CHECKPOINT, SIZE, NEW_TIME),
        case("without a time", checkpoint(RECEIPTS, time=None), SIZE, None),
        case("of an empty log", empty, 0, NEW_TIME),
        case("with an unknown extension line", note(extended, ORIGIN, NEW_SEED), SIZE, NEW_TIME),
        case("with a witness's signature behind ours", CHECKPOINT + witness, SIZE, NEW_TIME),
        case("signed by both keys of a rotation", both, SIZE, "2026-01-31T23:30:00.000000Z"),
    ]


def valid_file() -> Any:
    def case(name: str, made: Bundle, **more: Any) -> Any:
        return {"name": name, "bundle": made, "body": None, "since": None, "jwks": None, **more}

    return [
        *(case(f"receipt {n}", bundle(n)) for n in range(SIZE)),
        case("a log of one", bundle(0, RECEIPTS[:1])),
        case("with all there is to check", bundle(7, since=OLD_SIZE), body=body(7), since=HELD, jwks=JWKS),
        case("since the same checkpoint", bundle(3), since=CHECKPOINT),
        case(
            "since a newer checkpoint",
            bundle(3, RECEIPTS[:OLD_SIZE], consistency=bundle(0, since=OLD_SIZE)["consistency"]),
            since=CHECKPOINT,
        ),
        case("two checkpoints", consistency_bundle(HELD, CHECKPOINT, OLD_SIZE, RECEIPTS)),
        case("two checkpoints, the older held", consistency_bundle(HELD, CHECKPOINT, OLD_SIZE, RECEIPTS), since=HELD),
        case(
            "two checkpoints, the newer held",
            consistency_bundle(HELD, CHECKPOINT, OLD_SIZE, RECEIPTS),
            since=CHECKPOINT,
        ),
        case("twice one checkpoint", consistency_bundle(HELD, HELD, OLD_SIZE, RECEIPTS[:OLD_SIZE])),
    ]


def forged(receipt: str) -> list[str]:
    """The log with this receipt as its number 7, sealed with the right key all the same."""
    return [*RECEIPTS[:7], receipt, *RECEIPTS[8:]]


def hmac_with_the_public_key(data: bytes) -> bytes:
    return hmac.digest(public(NEW_SEED), data, "sha256")


def forged_receipts() -> list[tuple[str, str, str]]:
    """Name, receipt, and the place that a verifier should name. Some are properly signed: a key's owner may err too."""
    claims = claims_of(7)
    good = jws(claims, NEW_SEED)
    header, payload, signature = good.split(".")
    early = {**claims, "endedAt": "2026-01-31T22:59:59.999999Z"}
    late = {**claims, "endedAt": "2026-02-01T00:00:00.000000Z"}
    cases = [
        ("alg none", jws(claims, NEW_SEED, lambda _: b"", alg="none"), "receipt.header.alg"),
        ("alg None", jws(claims, NEW_SEED, lambda _: b"", alg="None"), "receipt.header.alg"),
        ("alg HS256", jws(claims, NEW_SEED, hmac_with_the_public_key, alg="HS256"), "receipt.header.alg"),
        ("alg ES256", jws(claims, NEW_SEED, alg="ES256"), "receipt.header.alg"),
        ("alg Ed448", jws(claims, NEW_SEED, alg="Ed448"), "receipt.header.alg"),
        ("no alg", jws(claims, NEW_SEED, alg=None), "receipt.header.alg"),
        ("another typ", jws(claims, NEW_SEED, typ="JWT"), "receipt.header.typ"),
        ("no typ", jws(claims, NEW_SEED, typ=None), "receipt.header.typ"),
        ("no kid", jws(claims, NEW_SEED, kid=None), "receipt.header.kid"),
        ("a stranger's key", jws(claims, STRANGER_SEED), "receipt.header.kid"),
        ("a stranger's key under our kid", jws(claims, STRANGER_SEED, kid=kid(NEW_SEED)), "receipt.signature"),
        (
            "a key in the header",
            jws(claims, STRANGER_SEED, kid=kid(NEW_SEED), jwk=jwk(STRANGER_SEED, 0)),
            "receipt.header.jwk",
        ),
        ("crit", jws(claims, NEW_SEED, crit=["b64"], b64=False), "receipt.header.b64"),
        ("dated after its key was retired", jws(late, OLD_SEED), "receipt.claims.endedAt"),
        ("dated before its key was made", jws(early, NEW_SEED), "receipt.claims.endedAt"),
        ("two parts", f"{header}.{payload}", "receipt"),
        ("four parts", f"{good}.", "receipt"),
        ("padded", f"{header}.{payload}.{signature}==", "receipt.signature"),
        ("white space behind", f"{good}\n", "receipt.signature"),
        ("white space within", f"{header}. {payload}.{signature}", "receipt.claims"),
        ("a signature spelt otherwise", good[:-1] + chr(ord(good[-1]) + 1), "receipt.signature"),
        ("an empty signature", f"{header}.{payload}.", "receipt.signature"),
        ("claims that are a list", jws("[]", NEW_SEED), "receipt.claims"),
        ("claims that are no JSON", jws("{", NEW_SEED), "receipt.claims"),
        ("a claim twice", jws('{"round":1,' + compact(claims)[1:], NEW_SEED), "receipt.claims"),
    ]
    for half in ("d800", "dfff"):
        text = compact(claims).replace("https://receiver.example", f"https://\\u{half}.example")
        cases.append((f"half a surrogate pair, {half}", jws(text, NEW_SEED), "receipt.claims.url"))
    for name in claims:
        without = {key: value for key, value in claims.items() if key != name}
        cases.append((f"no {name}", jws(without, NEW_SEED), f"receipt.claims.{name}"))
    for name, value in BAD_CLAIMS:
        cases.append((f"{name} {value!r:.40}", jws({**claims, name: value}, NEW_SEED), f"receipt.claims.{name}"))
    return cases


BAD_CLAIMS: list[tuple[str, Any]] = [
    ("receiptGid", ""),
    ("issuer", 7),
    ("url", None),
    ("round", "1"),
    ("round", True),
    ("number", -1),
    ("number", 1.5),
    ("statusCode", "200"),
    ("requestSha256", "AB" * 32),
    ("requestSha256", "ab" * 31),
    ("signaturesSha256", None),
    ("responseSha256", ""),
    ("endedAt", "2026-02-01T12:07:00.070417+00:00"),
    ("endedAt", "2026-02-01T12:07:00Z"),
    ("endedAt", "2026-02-30T12:07:00.070417Z"),
    ("startedAt", 1769947620),
]


def refused_bundles() -> list[tuple[str, Bundle, str, dict[str, Any]]]:
    rolled_back = [*RECEIPTS[:3], *RECEIPTS[6:9]]
    rewritten = [*RECEIPTS[:2], RECEIPTS[9], *RECEIPTS[3:]]
    shorter = bundle(2, rolled_back[:5])
    text, _, signatures = CHECKPOINT.partition("\n\n")
    stranger_jwks = {"keys": [jwk(STRANGER_SEED, 0)]}
    renamed = {"keys": [{**jwk(STRANGER_SEED, 0), "kid": kid(NEW_SEED)}, JWKS["keys"][1]]}
    leaked = {"keys": [{**jwk(NEW_SEED, NEW_FROM), "d": b64u(NEW_SEED)}]}
    longer = bundle(3)["inclusionProof"] + [b64(H(b""))]
    by_stranger = [jws(claims_of(n), STRANGER_SEED) for n in range(3)]
    all_forged = {
        **bundle(1, by_stranger, jwks=stranger_jwks),
        "checkpoint": checkpoint(by_stranger, STRANGER_SEED),
    }
    tampered = copy.deepcopy(bundle(7, since=OLD_SIZE))
    tampered["consistency"]["proof"][1] = b64(H(b"tampered"))
    return [
        ("another's receipt", bundle(3, receipt=RECEIPTS[4]), "inclusionProof", {}),
        ("another's number", {**bundle(3), "seq": 4}, "inclusionProof", {}),
        ("a number beyond the log", {**bundle(3), "seq": SIZE}, "seq", {}),
        ("a number below the log", {**bundle(3), "seq": -1}, "seq", {}),
        ("another's proof", bundle(3, inclusionProof=bundle(4)["inclusionProof"]), "inclusionProof", {}),
        ("a proof that is too long", bundle(3, inclusionProof=longer), "inclusionProof", {}),
        ("a proof that is too short", bundle(3, inclusionProof=longer[:-2]), "inclusionProof", {}),
        ("a proof of short hashes", bundle(3, inclusionProof=[b64(b"short")]), "inclusionProof[0]", {}),
        (
            "a proof with stray bits",
            bundle(3, inclusionProof=[stray(each) for each in bundle(3)["inclusionProof"]]),
            "inclusionProof[0]",
            {},
        ),
        (
            "a checkpoint's signature with stray bits",
            bundle(3, checkpoint=stray(CHECKPOINT[:-1]) + "\n"),
            "checkpoint.signatures[0]",
            {},
        ),
        ("a proof of numbers", bundle(3, inclusionProof=[1]), "inclusionProof[0]", {}),
        ("a receipt that the log never had", bundle(3, receipt=jws(claims_of(12), NEW_SEED)), "inclusionProof", {}),
        (
            "a log from which a receipt was deleted",
            bundle(3, checkpoint=checkpoint([*RECEIPTS[:5], *RECEIPTS[6:]])),
            "inclusionProof",
            {},
        ),
        (
            "a log in which two were swapped",
            bundle(3, checkpoint=checkpoint([*RECEIPTS[:4], RECEIPTS[5], RECEIPTS[4], *RECEIPTS[6:]])),
            "inclusionProof",
            {},
        ),
        ("a log cut before the receipt", bundle(9, checkpoint=checkpoint(RECEIPTS[:8])), "seq", {}),
        (
            "another tenant's checkpoint",
            bundle(3, checkpoint=checkpoint(RECEIPTS, origin=OTHER_ORIGIN)),
            "checkpoint.origin",
            {},
        ),
        (
            "a checkpoint by a stranger",
            bundle(3, checkpoint=checkpoint(RECEIPTS, STRANGER_SEED)),
            "checkpoint.signatures",
            {},
        ),
        ("a checkpoint by a retired key", bundle(3, checkpoint=checkpoint(RECEIPTS, OLD_SEED)), "checkpoint.time", {}),
        (
            "a checkpoint of a retired key, undated",
            bundle(3, checkpoint=checkpoint(RECEIPTS, OLD_SEED, None)),
            "checkpoint.time",
            {},
        ),
        (
            "a checkpoint with another size",
            bundle(3, checkpoint=CHECKPOINT.replace("\n11\n", "\n12\n")),
            "checkpoint.signatures",
            {},
        ),
        (
            "a size with a zero before it",
            bundle(3, checkpoint=CHECKPOINT.replace("\n11\n", "\n011\n")),
            "checkpoint.size",
            {},
        ),
        (
            "a checkpoint with another time",
            bundle(3, checkpoint=CHECKPOINT.replace("12:30", "12:31")),
            "checkpoint.signatures",
            {},
        ),
        (
            "a checkpoint with another root",
            bundle(3, checkpoint=CHECKPOINT.replace(b64(root(RECEIPTS)), b64(H(b"")))),
            "checkpoint.signatures",
            {},
        ),
        (
            "a root that is too short",
            bundle(3, checkpoint=CHECKPOINT.replace(b64(root(RECEIPTS)), b64(b"short"))),
            "checkpoint.root",
            {},
        ),
        ("a checkpoint without a signature", bundle(3, checkpoint=f"{text}\n\n"), "checkpoint.signatures", {}),
        ("a checkpoint without its last line feed", bundle(3, checkpoint=CHECKPOINT[:-1]), "checkpoint.signatures", {}),
        (
            "a checkpoint with a space at a line's end",
            bundle(3, checkpoint=CHECKPOINT.replace("\n11\n", "\n11 \n")),
            "checkpoint.size",
            {},
        ),
        (
            "a checkpoint with carriage returns",
            bundle(3, checkpoint=CHECKPOINT.replace("\n", "\r\n")),
            "checkpoint",
            {},
        ),
        ("a hyphen for the dash", bundle(3, checkpoint=f"{text}\n\n-{signatures[1:]}"), "checkpoint.signatures[0]", {}),
        ("a body with one more byte", bundle(7), "body", {"body": body(7) + "\n"}),
        ("another's body", bundle(7), "body", {"body": body(8)}),
        ("keys of a stranger who forged it all, pinned", all_forged, "receipt.header.kid", {"jwks": JWKS}),
        (
            "keys of a stranger who forged it all, a checkpoint held",
            all_forged,
            "held checkpoint.signatures",
            {"since": HELD},
        ),
        ("a stranger's key under our kid in the keys", bundle(3, jwks=renamed), "jwks.keys[0].kid", {}),
        ("a private key in the keys", bundle(7, jwks=leaked), "jwks.keys[0].d", {}),
        ("no keys", bundle(3, jwks={"keys": []}), "jwks.keys", {}),
        (
            "the key's end moved, the true keys pinned",
            bundle(3, checkpoint=checkpoint(RECEIPTS, OLD_SEED), jwks={"keys": [jwk(OLD_SEED, 0)]}),
            "checkpoint.time",
            {"jwks": JWKS},
        ),
        ("nothing to show that the log is one", bundle(3), "consistency", {"since": HELD}),
        ("growth from another size", bundle(3, since=5), "consistency", {"since": HELD}),
        ("a tampered proof of growth", tampered, "consistency.proof", {"since": HELD}),
        (
            "a log rewritten before the held checkpoint",
            bundle(7, rewritten, since=OLD_SIZE),
            "consistency.proof",
            {"since": HELD},
        ),
        ("an old backup, grown again to the held size", bundle(2, rolled_back), "checkpoint.root", {"since": HELD}),
        (
            "an old backup, shorter than the held size",
            {**shorter, "consistency": bundle(2, rolled_back, since=5)["consistency"]},
            "consistency.proof",
            {"since": HELD},
        ),
        (
            "another tenant's checkpoint held",
            bundle(3),
            "checkpoint.origin",
            {"since": checkpoint(RECEIPTS, origin=OTHER_ORIGIN)},
        ),
        (
            "a held checkpoint that was edited",
            bundle(3, since=OLD_SIZE),
            "held checkpoint.signatures",
            {"since": HELD.replace("\n6\n", "\n5\n")},
        ),
        *(
            (f"no {name}", {k: v for k, v in bundle(3).items() if k != name}, name, {})
            for name in ("receipt", "seq", "inclusionProof", "checkpoint", "jwks")
        ),
        *(
            (f"no {name} in the proof of growth", without_growth(name), f"consistency.{name}", {})
            for name in ("oldSize", "newSize", "proof")
        ),
        (
            "checkpoints of a log that was cut",
            consistency_bundle(CHECKPOINT, HELD, OLD_SIZE, RECEIPTS),
            "newCheckpoint.size",
            {},
        ),
        (
            "checkpoints of two logs",
            consistency_bundle(HELD, checkpoint(RECEIPTS, origin=OTHER_ORIGIN), OLD_SIZE, RECEIPTS),
            "newCheckpoint.origin",
            {},
        ),
        (
            "checkpoints of a rewritten log",
            consistency_bundle(HELD, checkpoint(rewritten), OLD_SIZE, rewritten),
            "consistencyProof",
            {},
        ),
        (
            "checkpoints of one size and two roots",
            consistency_bundle(HELD, checkpoint(rewritten[:OLD_SIZE]), OLD_SIZE, RECEIPTS[:OLD_SIZE]),
            "consistencyProof",
            {},
        ),
        (
            "checkpoints, and another held",
            consistency_bundle(HELD, CHECKPOINT, OLD_SIZE, RECEIPTS),
            "oldCheckpoint.size",
            {"since": checkpoint(RECEIPTS[:9])},
        ),
        (
            "checkpoints, and another root held",
            consistency_bundle(HELD, CHECKPOINT, OLD_SIZE, RECEIPTS),
            "newCheckpoint.root",
            {"since": checkpoint(rewritten)},
        ),
        (
            "checkpoints, and another tenant's held",
            consistency_bundle(HELD, CHECKPOINT, OLD_SIZE, RECEIPTS),
            "newCheckpoint.origin",
            {"since": checkpoint(RECEIPTS, origin=OTHER_ORIGIN)},
        ),
        ("checkpoints, and a body", consistency_bundle(HELD, CHECKPOINT, OLD_SIZE, RECEIPTS), "type", {"body": "{}"}),
    ]


def stray(text: str) -> str:
    """Base64 with one `=` at its end, in another spelling: a lenient reader decodes the same bytes."""
    return text[:-2] + chr(ord(text[-2]) + 1) + "="


def without_growth(name: str) -> Bundle:
    made = bundle(3, since=OLD_SIZE)
    made["consistency"] = {key: value for key, value in made["consistency"].items() if key != name}
    return made


def refused_file() -> Any:
    receipts: list[tuple[str, Bundle, str, dict[str, Any]]] = [
        (f"receipt: {name}", bundle(7, forged(made)), place, {}) for name, made, place in forged_receipts()
    ]
    return [
        {"name": name, "bundle": made, "body": None, "since": None, "jwks": None, "place": place, **more}
        for name, made, place, more in [*receipts, *refused_bundles()]
    ]


FILES: dict[str, Callable[[], Any]] = {
    "keys.json": keys_file,
    "merkle.json": merkle_file,
    "receipts.json": receipts_file,
    "checkpoints.json": checkpoints_file,
    "valid.json": valid_file,
    "refused.json": refused_file,
}


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, make in FILES.items():
        (directory / name).write_text(json.dumps(make(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "receipts")
