"""From the bytes of a request with acknowledgements to its lines."""

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from fastapi import Request

from api.decoding import checked_utf8, decoded
from api.problems import invalid
from everhook.errors import PayloadTooLarge
from everhook.field_errors import beyond
from everhook.pulling.leases import Ack, Extend, Nack

MAX_LINES = 500
MAX_RESULT = 16 * 1024
MAX_BYTES = 12 * 1024 * 1024
MAX_REASON = 1_000
MAX_LEASE_S, MIN_LEASE_S = 43_200, 5
MAX_RETRY_AFTER_S = 7 * 24 * 3_600


class AckBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    lease: str
    result: msgspec.Raw = msgspec.Raw()


class NackBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    lease: str
    reason: str = ""
    retry_after_seconds: float | None = None
    dead_letter: bool = False


class ExtendBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    lease: str
    seconds: int


class Lines(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    acks: list[AckBody] = []
    nacks: list[NackBody] = []
    extends: list[ExtendBody] = []


_decode = msgspec.json.Decoder(Lines)


async def read_lines(request: Request) -> Sequence[Ack | Nack | Extend]:
    """The lines of a request: acks, then nacks, then extensions. Raises 422 that names the line, and PayloadTooLarge
    for a result that is too large; then none of the lines counts."""
    body = decoded(_decode, await request.body())
    count = len(body.acks) + len(body.nacks) + len(body.extends)
    if not 1 <= count <= MAX_LINES:
        code = "too_long" if count else "too_short"
        raise invalid("body", f"takes 1 to {MAX_LINES} acks, nacks and extends in all, and has {count}", code)
    return [
        *(_ack(each, f"acks[{index}]") for index, each in enumerate(body.acks)),
        *(_nack(each, f"nacks[{index}]") for index, each in enumerate(body.nacks)),
        *(_extend(each, f"extends[{index}]") for index, each in enumerate(body.extends)),
    ]


def _ack(line: AckBody, at: str) -> Ack:
    result = checked_utf8(bytes(line.result), f"{at}.result") or None
    if result is not None and len(result) > MAX_RESULT:
        raise PayloadTooLarge(
            f"{at}.result", f"has {len(result)} bytes; at most {MAX_RESULT} are accepted", "too_large"
        )
    return Ack(line.lease, result)


def _nack(line: NackBody, at: str) -> Nack:
    wait = line.retry_after_seconds
    if wait is not None and not 0 <= wait <= MAX_RETRY_AFTER_S:
        raise invalid(f"{at}.retryAfterSeconds", f"takes 0 to {MAX_RETRY_AFTER_S}", beyond(wait < 0))
    if len(line.reason) > MAX_REASON:
        raise invalid(f"{at}.reason", f"takes at most {MAX_REASON} characters", "string_too_long")
    return Nack(line.lease, line.reason, timedelta(seconds=wait) if wait is not None else None, line.dead_letter)


def _extend(line: ExtendBody, at: str) -> Extend:
    if not MIN_LEASE_S <= line.seconds <= MAX_LEASE_S:
        raise invalid(f"{at}.seconds", f"takes {MIN_LEASE_S} to {MAX_LEASE_S}", beyond(line.seconds < MIN_LEASE_S))
    return Extend(line.lease, timedelta(seconds=line.seconds))
