"""The check of a receiver: that a request has a valid, recent signature. Compared in constant time."""

import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from everhook.signing.schemes import SignatureScheme, secret_key, signature_headers

TOLERANCE_S = 300
"""A request that was signed longer ago, or further in the future, is refused, as Standard Webhooks recommends."""

_HEADERS = {
    SignatureScheme.STANDARD: "webhook-signature",
    SignatureScheme.TIMESTAMPED: "x-webhook-signature",
    SignatureScheme.NPAYLOAD: "x-npayload-signature",
    SignatureScheme.SVIX: "svix-signature",
}


@dataclass(frozen=True)
class Verification:
    """`schemes` are those that verified. `why` says what is wrong, and is empty if nothing is."""

    schemes: Sequence[SignatureScheme]
    why: str = ""

    @property
    def is_genuine(self) -> bool:
        return not self.why


def verify(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: float | None = None) -> Verification:
    """Verify every scheme that a request is signed with: each must match one of the secrets.

    `headers` has lower-case names. Raises ValueError for an invalid secret.
    """
    keys = [secret_key(secret) for secret in secrets]
    signed = [scheme for scheme, header in _HEADERS.items() if header in headers]
    if not signed:
        return Verification((), "it is not signed")
    for scheme in signed:
        if why := _why_not(scheme, headers, body, keys, time.time() if now is None else now):
            return Verification((), f"{scheme}: {why}")
    return Verification(signed)


def _why_not(
    scheme: SignatureScheme, headers: Mapping[str, str], body: bytes, keys: Sequence[bytes], now: float
) -> str:
    presented = headers[_HEADERS[scheme]]
    timestamp = _timestamp(scheme, headers, presented)
    if timestamp is None:
        return "it has no timestamp"
    expected = [_signature(scheme, headers, timestamp, body, key) for key in keys]
    parts = presented.split(" " if scheme.prefix else ",")
    # All are compared, so that the time does not depend on which one matches.
    matches = [hmac.compare_digest(part.encode(), wanted.encode()) for part in parts for wanted in expected]
    if not any(matches):
        return "no signature matches the secret"
    if scheme is not SignatureScheme.NPAYLOAD and abs(now - timestamp) > TOLERANCE_S:
        return f"it was signed {now - timestamp:,.0f} s ago"
    return ""


def _timestamp(scheme: SignatureScheme, headers: Mapping[str, str], presented: str) -> int | None:
    """The timestamp of a signature; 0 for the scheme `npayload`, which has none."""
    if scheme is SignatureScheme.NPAYLOAD:
        return 0
    if scheme is SignatureScheme.TIMESTAMPED:
        text = presented.partition(",")[0].removeprefix("t=")
    else:
        text = headers.get(f"{scheme.prefix}-timestamp", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


def _signature(scheme: SignatureScheme, headers: Mapping[str, str], timestamp: int, body: bytes, key: bytes) -> str:
    """The signature by `key`, as it is written in the header of the scheme."""
    message_gid = headers.get(f"{scheme.prefix}-id", "")
    headers_of_key = dict(signature_headers(message_gid, timestamp, body, [key], {scheme}))
    return headers_of_key[_HEADERS[scheme]].removeprefix(f"t={timestamp},")
