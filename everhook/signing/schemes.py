"""The signature schemes, over the bytes that are sent.

| scheme | header | signed bytes |
|---|---|---|
| `standard` | `webhook-signature: v1,<base64>[ v1,…][ v1a,…]` (Standard Webhooks 1.0.0) | `id.timestamp.body` |
| `timestamped` | `x-webhook-signature: t=<unix>,v1=<hex>[,v1=…]` | `timestamp.body` |
| `npayload` | `x-npayload-signature: sha256=<hex>[,sha256=…]` | `body` |
| `svix` | `svix-signature`, with `svix-id` and `svix-timestamp`: as in `standard` | `id.timestamp.body` |

Endpoints use the first three by default. Receivers written for Svix read its own header names alone.

All are HMAC-SHA256 with the decoded part of a secret after `whsec_`, except `v1a`, which is Ed25519. During a rotation
every live secret and key signs.
"""

import base64
import hmac
import secrets
import string
from collections.abc import Collection, Sequence
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with
PRIVATE_KEY_PREFIX, PUBLIC_KEY_PREFIX = "whsk_", "whpk_"
SECRET_BYTES = 32
SEED_BYTES = 32
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
"""What Standard Webhooks allows for a symmetric secret."""


_BASE64 = frozenset(string.ascii_letters + string.digits + "+/")


class SignatureScheme(StrEnum):
    STANDARD = "standard"
    TIMESTAMPED = "timestamped"
    NPAYLOAD = "npayload"
    SVIX = "svix"

    @property
    def prefix(self) -> str | None:
        """What the names of the headers begin with in a scheme that signs the id."""
        if self is SignatureScheme.STANDARD:
            return "webhook"
        return "svix" if self is SignatureScheme.SVIX else None


class SecretKind(StrEnum):
    """HMAC secrets sign in every scheme; Ed25519 keys add a `v1a` signature to `standard` and `svix`. A
    `HANDLER_URL` is that of a chat webhook, and signs nothing."""

    HMAC = "hmac"
    ED25519 = "ed25519"
    HANDLER_URL = "handler_url"


DEFAULT_SCHEMES = (SignatureScheme.STANDARD, SignatureScheme.TIMESTAMPED, SignatureScheme.NPAYLOAD)


def new_secret() -> str:
    return SECRET_PREFIX + _base64(secrets.token_bytes(SECRET_BYTES))


def secret_key(secret: str) -> bytes:
    """The key bytes of a `whsec_…` secret. Raises ValueError, which says what is wrong without quoting the secret."""
    if not secret.startswith(SECRET_PREFIX):
        kind = (
            f" ({secret[:5]}… is an Ed25519 key)" if secret.startswith((PRIVATE_KEY_PREFIX, PUBLIC_KEY_PREFIX)) else ""
        )
        raise ValueError(f"must begin with `{SECRET_PREFIX}`{kind}")
    encoded = secret.removeprefix(SECRET_PREFIX)
    _check_base64(encoded)
    key = base64.b64decode(encoded)
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(f"must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64, not {len(key)}")
    return key


def _check_base64(encoded: str) -> None:
    """Raise ValueError with the exact fault, which Python's decoder does not report."""
    digits = encoded.rstrip("=")
    for position, character in enumerate(digits, start=len(SECRET_PREFIX) + 1):
        if character in "-_":
            raise ValueError("must be standard base64, with `+` and `/`, not URL-safe base64 with `-` and `_`")
        if character == "=":
            raise ValueError(f"has `=` at character {position}, but in base64 it is allowed only at the end")
        if character not in _BASE64:
            raise ValueError(f"has a character at position {position} that is not in the alphabet of base64")
    if len(digits) % 4 == 1:
        raise ValueError("is not valid base64: a character is missing, or there is one too many")
    missing = -len(digits) % 4
    if len(encoded) - len(digits) != missing:
        wanted = f"with {missing} `=`" if missing else "without `=`"
        raise ValueError(f"has the wrong padding: its base64 must end {wanted}")


def new_private_key() -> str:
    """A new Ed25519 key in the format of Standard Webhooks: `whsk_`, then seed and public key in base64."""
    key = Ed25519PrivateKey.generate()
    return PRIVATE_KEY_PREFIX + _base64(key.private_bytes_raw() + key.public_key().public_bytes_raw())


def ed25519_key(private_key: str) -> Ed25519PrivateKey:
    """The key of a `whsk_…` that Everhook created."""
    seed = base64.b64decode(private_key.removeprefix(PRIVATE_KEY_PREFIX))[:SEED_BYTES]
    return Ed25519PrivateKey.from_private_bytes(seed)


def public_key(private_key: str) -> str:
    """The `whpk_…` that receivers verify with."""
    return PUBLIC_KEY_PREFIX + _base64(ed25519_key(private_key).public_key().public_bytes_raw())


def signature_headers(
    message_gid: str,
    timestamp: int,
    body: bytes,
    keys: Sequence[bytes],
    schemes: Collection[SignatureScheme] = DEFAULT_SCHEMES,
    ed25519_keys: Sequence[Ed25519PrivateKey] = (),
) -> list[tuple[str, str]]:
    """The signature headers of a request. `timestamp` is the attempt's, in Unix seconds; keys are newest first."""
    headers: list[tuple[str, str]] = []
    prefixes = [scheme.prefix for scheme in SignatureScheme if scheme in schemes and scheme.prefix]
    if prefixes:
        signed = f"{message_gid}.{timestamp}.".encode() + body
        signatures = [f"v1,{_base64(_mac(key, signed))}" for key in keys]
        signatures += [f"v1a,{_base64(key.sign(signed))}" for key in ed25519_keys]
        for prefix in prefixes:
            headers += [
                (f"{prefix}-id", message_gid),
                (f"{prefix}-timestamp", str(timestamp)),
                (f"{prefix}-signature", " ".join(signatures)),
            ]
    if SignatureScheme.TIMESTAMPED in schemes:
        signed = f"{timestamp}.".encode() + body
        stamped = ",".join(f"v1={_mac(key, signed).hex()}" for key in keys)
        headers.append(("x-webhook-signature", f"t={timestamp},{stamped}"))
    if SignatureScheme.NPAYLOAD in schemes:
        headers.append(("x-npayload-signature", ",".join(f"sha256={_mac(key, body).hex()}" for key in keys)))
    return headers


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")
