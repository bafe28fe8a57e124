"""The three signature schemes, all HMAC-SHA256 over the very bytes that are sent.

| scheme | header | signed bytes |
|---|---|---|
| `standard` | `webhook-signature: v1,<base64>[ v1,…]` (Standard Webhooks 1.0.0) | `id.timestamp.body` |
| `timestamped` | `x-webhook-signature: t=<unix>,v1=<hex>[,v1=…]` | `timestamp.body` |
| `npayload` | `x-npayload-signature: sha256=<hex>[,sha256=…]` | `body` |

The key is the decoded part of a secret behind `whsec_`, in every scheme. During a rotation each live secret signs.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Collection, Sequence
from enum import StrEnum

SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with
SECRET_BYTES = 32
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
"""What Standard Webhooks allows for a symmetric secret."""


class SignatureScheme(StrEnum):
    STANDARD = "standard"
    TIMESTAMPED = "timestamped"
    NPAYLOAD = "npayload"


class SecretKind(StrEnum):
    """HMAC secrets sign in every scheme; Ed25519 keys add a `v1a` signature to the `standard` one."""

    HMAC = "hmac"
    ED25519 = "ed25519"


ALL_SCHEMES = tuple(SignatureScheme)


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def secret_key(secret: str) -> bytes:
    """The key bytes of a `whsec_…` secret. Raises ValueError where it is not one."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a secret is `whsec_` and base64") from error
    if not secret.startswith(SECRET_PREFIX) or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(f"a secret is `whsec_` and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64")
    return key


def signature_headers(
    message_gid: str,
    timestamp: int,
    body: bytes,
    keys: Sequence[bytes],
    schemes: Collection[SignatureScheme] = ALL_SCHEMES,
) -> list[tuple[str, str]]:
    """The headers that prove a request. `timestamp` is the attempt's, in Unix seconds; `keys` newest first."""
    headers: list[tuple[str, str]] = []
    if SignatureScheme.STANDARD in schemes:
        signed = f"{message_gid}.{timestamp}.".encode() + body
        signatures = " ".join(f"v1,{base64.b64encode(_mac(key, signed)).decode()}" for key in keys)
        headers += [
            ("webhook-id", message_gid),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", signatures),
        ]
    if SignatureScheme.TIMESTAMPED in schemes:
        signed = f"{timestamp}.".encode() + body
        signatures = ",".join(f"v1={_mac(key, signed).hex()}" for key in keys)
        headers.append(("x-webhook-signature", f"t={timestamp},{signatures}"))
    if SignatureScheme.NPAYLOAD in schemes:
        headers.append(("x-npayload-signature", ",".join(f"sha256={_mac(key, body).hex()}" for key in keys)))
    return headers


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")
