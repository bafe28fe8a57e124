"""The keys that sign receipts and checkpoints: Ed25519 (RFC 8032), published as a JWK Set (RFC 7517, RFC 8037).

A key signs from `created_at` to `retired_at`; both are published (`nbf`, `exp`), and a retired key stays published
while there are receipts that it signed. A document dated outside its key's time is refused, so a key that is stolen
after it was retired can only sign backdated documents, which the log reveals.

A key is identified by its thumbprint (RFC 7638), so a document cannot present another key under a known name.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from everhook.receipts.strict_json import InvalidDocument, Members, decode_base64url, encode_base64url, shown

KEY_BYTES = 32
_JWK_MEMBERS = {"kty": "OKP", "crv": "Ed25519"}
"""RFC 8037 section 2."""


def thumbprint(public: bytes) -> str:
    """The `kid`: RFC 7638 section 3, over the members that RFC 8037 section 2 requires of an OKP key."""
    members = {**_JWK_MEMBERS, "x": encode_base64url(public)}
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return encode_base64url(sha256(canonical.encode()).digest())


@dataclass(frozen=True)
class ReceiptKey:
    """A key that signs. `seed` is the private key of RFC 8032 section 5.1.5, to be stored encrypted."""

    seed: bytes = field(repr=False)
    created_at: datetime
    retired_at: datetime | None = None

    @classmethod
    def generate(cls, created_at: datetime) -> Self:
        return cls(Ed25519PrivateKey.generate().private_bytes_raw(), created_at)

    @cached_property
    def private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @cached_property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @cached_property
    def kid(self) -> str:
        return thumbprint(self.public)

    def signs_at(self, moment: datetime) -> bool:
        return self.created_at <= moment and (self.retired_at is None or moment < self.retired_at)


class NoReceiptKey(LookupError):
    """No key signs at this time."""


def key_at(keys: Iterable[ReceiptKey], moment: datetime) -> ReceiptKey:
    """The newest key that signs documents dated `moment`. Raises NoReceiptKey."""
    fitting = [key for key in keys if key.signs_at(moment)]
    if not fitting:
        raise NoReceiptKey(f"no receipt key signs at {moment:%Y-%m-%d %H:%M:%S} UTC")
    return max(fitting, key=lambda key: key.created_at)


def rotate(keys: Sequence[ReceiptKey], now: datetime, overlap: timedelta) -> list[ReceiptKey]:
    """A new key and the old ones, newest first. The old ones are retired after `overlap` at the latest.

    During the overlap both sign, so that a process that does not know the new key yet makes no invalid receipt: the
    overlap must be longer than the time for which processes cache keys.
    """
    end = now + overlap
    retired = [replace(key, retired_at=min(key.retired_at or end, end)) for key in keys]
    return [ReceiptKey.generate(now), *sorted(retired, key=lambda key: key.created_at, reverse=True)]


def jwks(keys: Iterable[ReceiptKey]) -> dict[str, Any]:
    """The JWK Set (RFC 7517 section 5) of all keys ever, newest first.

    `nbf` and `exp` are in whole seconds since 1970, named as in the historical keys of OpenID Federation 1.0; they
    enclose the time in which the key signs. A key in use has no `exp`. There is no `alg`: the key serves both `EdDSA`
    (RFC 8037) and its new name `Ed25519` (RFC 9864).
    """
    return {"keys": [_jwk(key) for key in sorted(keys, key=lambda key: key.created_at, reverse=True)]}


def _jwk(key: ReceiptKey) -> dict[str, Any]:
    jwk = {
        **_JWK_MEMBERS,
        "x": encode_base64url(key.public),
        "kid": key.kid,
        "use": "sig",
        "nbf": int(key.created_at.timestamp()),
    }
    return jwk if key.retired_at is None else {**jwk, "exp": math.ceil(key.retired_at.timestamp())}


@dataclass(frozen=True)
class PublicKey:
    """A key that verifies, from a JWK Set. `not_after` is None while it is in use."""

    x: bytes
    not_before: datetime
    not_after: datetime | None = None

    @cached_property
    def kid(self) -> str:
        return thumbprint(self.x)

    @cached_property
    def ed25519(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.x)

    def verifies(self, signature: bytes, signed: bytes) -> bool:
        """RFC 8032 section 5.1.7."""
        try:
            self.ed25519.verify(signature, signed)
        except InvalidSignature:
            return False
        return True

    def must_cover(self, moment: datetime, place: str) -> None:
        """Raise InvalidDocument if this key cannot have signed a document of this date."""
        if moment < self.not_before:
            raise InvalidDocument(
                place, f"{_day(moment)} is before its key {self.kid} was created ({_day(self.not_before)})"
            )
        if self.not_after is not None and moment >= self.not_after:
            raise InvalidDocument(
                place, f"{_day(moment)} is not before its key {self.kid} was retired ({_day(self.not_after)})"
            )


class KeySet:
    """The keys that a verifier knows."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self._keys = {key.kid: key for key in keys}

    def __iter__(self) -> Iterator[PublicKey]:
        return iter(self._keys.values())

    def find(self, kid: str, place: str) -> PublicKey:
        """The key of this `kid`. Raises InvalidDocument if it is not in the set."""
        if kid not in self._keys:
            known = ", ".join(self._keys) or "none"
            raise InvalidDocument(place, f"{shown(kid)} is not among the known keys ({known})")
        return self._keys[kid]

    @classmethod
    def from_jwks(cls, document: object, place: str = "jwks") -> Self:
        """Read a JWK Set. Keys of other types are skipped (RFC 7517 section 5). Raises InvalidDocument."""
        listed = Members(document, place).items("keys")
        read = [_read(Members(item, f"{place}.keys[{number}]")) for number, item in enumerate(listed)]
        keys = [key for key in read if key is not None]
        if not keys:
            raise InvalidDocument(f"{place}.keys", "has no Ed25519 key")
        if len({key.kid for key in keys}) < len(keys):
            raise InvalidDocument(f"{place}.keys", "has a key twice")
        return cls(keys)


def _read(jwk: Members) -> PublicKey | None:
    if jwk.text("kty") != "OKP" or jwk.text("crv") != "Ed25519":
        return None
    if jwk.has("d"):
        raise InvalidDocument(jwk.at("d"), "is a private key, published: nothing it signs proves anything")
    x = decode_base64url(jwk.text("x"), jwk.at("x"))
    if len(x) != KEY_BYTES:
        raise InvalidDocument(jwk.at("x"), f"should be {KEY_BYTES} bytes, and is {len(x)}")
    key = PublicKey(x, _moment(jwk, "nbf"), _moment(jwk, "exp") if jwk.has("exp") else None)
    if jwk.text("kid") != key.kid:
        raise InvalidDocument(
            jwk.at("kid"), f"should be the key's thumbprint {key.kid}, and is {shown(jwk.text('kid'))}"
        )
    return key


def _moment(jwk: Members, name: str) -> datetime:
    seconds = jwk.integer(name)
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidDocument(jwk.at(name), "is no time in seconds since 1970") from error


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
