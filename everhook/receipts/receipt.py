"""Receipts: the signed statement of one finished attempt.

A receipt is a compact JWS (RFC 7515) with the algorithm EdDSA (RFC 8037). Its header has exactly `alg`, `kid` and
`typ`; its payload is the JSON object of `Receipt.to_claims`. The JWS itself is sent and hashed into the log, so no
canonical JSON is needed.

`docs/receipts.md` specifies the wire format byte for byte.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from everhook.receipts.keys import KeySet, PublicKey, ReceiptKey, key_at
from everhook.receipts.log.merkle import leaf_hash
from everhook.receipts.strict_json import InvalidDocument, Members, decode_base64url, format_time, load_json, shown

TYPE = "everhook-receipt+jwt"
"""`typ` (RFC 7515 section 4.1.9): the purpose of a signature cannot be confused (RFC 8725 section 3.11)."""

SIGNED_WITH = "EdDSA"
"""RFC 8037 section 3.1. RFC 9864 renames it to `Ed25519`, which many verifiers do not know yet."""

ACCEPTED = frozenset({SIGNED_WITH, "Ed25519"})
"""Two names of one algorithm. Nothing else: no `none`, no MAC (RFC 8725 section 3.1)."""

SIGNATURE_HEADERS = frozenset(
    {
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "x-webhook-signature",
        "x-npayload-signature",
        "svix-id",
        "svix-timestamp",
        "svix-signature",
    }
)
"""The request headers that `signatures_sha256` covers: all that `everhook.signing.schemes` creates."""


@dataclass(frozen=True)
class Receipt:
    """The content of a receipt: one attempt, as Everhook saw it.

    The hashes are SHA-256 in hex: of the request's body, of its signature headers (`signatures_digest`), and of the
    stored part of the response body. `outcome` is the verdict. Without a response, `status_code` and `response_sha256`
    are None and `error` says why. `issuer` is the name of the issuer without a scheme (`hooks.example.com`).
    `decision` is a person's decision, if the delivery went to an inbox.
    """

    gid: str
    issuer: str
    tenant: str
    endpoint_gid: str
    delivery_gid: str
    message_gid: str
    attempt_gid: str
    round: int
    number: int
    url: str
    request_sha256: str
    signatures_sha256: str
    outcome: str
    started_at: datetime
    ended_at: datetime
    status_code: int | None = None
    error: str | None = None
    response_sha256: str | None = None
    peer_address: str | None = None
    decision: dict[str, Any] | None = None

    def to_claims(self) -> dict[str, Any]:
        """The payload of the JWS. Every member is always present, except `decision`."""
        decision = {"decision": self.decision} if self.decision is not None else {}
        return {
            **decision,
            "receiptGid": self.gid,
            "issuer": self.issuer,
            "tenant": self.tenant,
            "endpointGid": self.endpoint_gid,
            "deliveryGid": self.delivery_gid,
            "messageGid": self.message_gid,
            "attemptGid": self.attempt_gid,
            "round": self.round,
            "number": self.number,
            "url": self.url,
            "requestSha256": self.request_sha256,
            "signaturesSha256": self.signatures_sha256,
            "statusCode": self.status_code,
            "error": self.error,
            "outcome": self.outcome,
            "responseSha256": self.response_sha256,
            "startedAt": format_time(self.started_at),
            "endedAt": format_time(self.ended_at),
            "peerAddress": self.peer_address,
        }

    @classmethod
    def from_claims(cls, claims: object, place: str = "receipt.claims") -> "Receipt":
        """Inverse of `to_claims`. Members of later versions are ignored (RFC 7519 section 4). Raises
        InvalidDocument."""
        members = Members(claims, place)
        return cls(
            gid=members.text("receiptGid"),
            issuer=members.text("issuer"),
            tenant=members.text("tenant"),
            endpoint_gid=members.text("endpointGid"),
            delivery_gid=members.text("deliveryGid"),
            message_gid=members.text("messageGid"),
            attempt_gid=members.text("attemptGid"),
            round=members.integer("round"),
            number=members.integer("number"),
            url=members.text("url"),
            request_sha256=members.sha256("requestSha256"),
            signatures_sha256=members.sha256("signaturesSha256"),
            status_code=members.nullable(members.integer, "statusCode"),
            error=members.nullable(members.text, "error"),
            outcome=members.text("outcome"),
            response_sha256=members.nullable(members.sha256, "responseSha256"),
            started_at=members.time("startedAt"),
            ended_at=members.time("endedAt"),
            peer_address=members.nullable(members.text, "peerAddress"),
            decision=members.object("decision").all() if members.has("decision") else None,
        )


@dataclass(frozen=True)
class VerifiedReceipt:
    receipt: Receipt
    key: PublicKey


def signatures_digest(headers: Iterable[tuple[str, str]]) -> str:
    """SHA-256 in hex of the signature headers of a request; other headers are ignored.

    Each header is the line `name: value` with the name in lower case, ended by a line feed. The lines are sorted by
    their bytes, so a receiver need not know their order.
    """
    lines = sorted(
        f"{name.lower()}: {value}\n".encode() for name, value in headers if name.lower() in SIGNATURE_HEADERS
    )
    return sha256(b"".join(lines)).hexdigest()


def claims_of(receipt: str) -> dict[str, Any] | None:
    """The claims of a receipt, unverified, for display; None if it is not a receipt."""
    try:
        _, claims, _ = receipt.split(".")
        return Members(load_json(decode_base64url(claims, "claims"), "claims"), "claims").all()
    except ValueError:
        return None


def receipt_leaf(receipt: str) -> bytes:
    """The receipt's leaf hash in the log: over the ASCII bytes of the JWS."""
    return leaf_hash(receipt.encode("ascii"))


class ReceiptSigner:
    """Signs with the newest key that is valid at the receipt's date. About 40 µs for each receipt."""

    def __init__(self, keys: Iterable[ReceiptKey]) -> None:
        self._keys = tuple(keys)
        self._ready = {key.kid: OKPKey.import_key(key.private) for key in self._keys}

    def sign(self, receipt: Receipt) -> str:
        """The compact JWS. Raises NoReceiptKey if no key is valid at the time at which the attempt ended."""
        kid = key_at(self._keys, receipt.ended_at).kid
        header = {"alg": SIGNED_WITH, "kid": kid, "typ": TYPE}
        return jws.serialize_compact(header, orjson.dumps(receipt.to_claims()), self._ready[kid], registry=_REGISTRY)


def verify_receipt(receipt: str, keys: KeySet, place: str = "receipt") -> VerifiedReceipt:
    """Verify a receipt: its format, algorithm, key, signature, members and date. Raises InvalidDocument at the first
    fault."""
    header, claims = _header_and_claims(receipt, place)
    key = _key_of(header, keys, f"{place}.header")
    _check_signature(receipt, key, f"{place}.signature")
    place = f"{place}.claims"
    stated = Receipt.from_claims(load_json(claims, place), place)
    key.must_cover(stated.ended_at, f"{place}.endedAt")
    return VerifiedReceipt(stated, key)


def _header_and_claims(receipt: str, place: str) -> tuple[bytes, bytes]:
    parts = receipt.split(".")
    if len(parts) != 3:
        raise InvalidDocument(
            place, f"should be a compact JWS, three parts with two dots between, and has {len(parts)}"
        )
    names = ("header", "claims", "signature")
    header, claims, _ = (decode_base64url(part, f"{place}.{name}") for name, part in zip(names, parts, strict=True))
    return header, claims


def _key_of(encoded: bytes, keys: KeySet, place: str) -> PublicKey:
    """The key that the header names. The members of the header are fixed, so it cannot bring a key of its own
    (`jwk`, `jku`, `x5u`)."""
    header = Members(load_json(encoded, place), place)
    if (algorithm := header.text("alg")) not in ACCEPTED:
        raise InvalidDocument(
            header.at("alg"), f"{shown(algorithm)} is not accepted; EdDSA is, and its new name Ed25519"
        )
    if (typ := header.text("typ")) != TYPE:
        raise InvalidDocument(header.at("typ"), f"should be {TYPE}, and is {shown(typ)}")
    if unknown := header.names() - {"alg", "kid", "typ"}:
        raise InvalidDocument(header.at(min(unknown)), "is not allowed in the header of a receipt")
    return keys.find(header.text("kid"), header.at("kid"))


def _check_signature(receipt: str, key: PublicKey, place: str) -> None:
    try:
        jws.deserialize_compact(receipt, OKPKey.import_key(key.ed25519), registry=_REGISTRY)
    except JoseError as error:
        what = f"does not fit this header, these claims and the key {key.kid}: something was altered"
        raise InvalidDocument(place, what) from error


class _Registry(JWSRegistry):
    """joserfc's registry without its warning at every use of the name `EdDSA`, which RFC 9864 deprecates."""

    def get_alg(self, name: str) -> Any:
        if name not in ACCEPTED:
            raise JoseError(f"{name!r} is not accepted")
        return self.algorithms[name]


_REGISTRY = _Registry(algorithms=sorted(ACCEPTED))
