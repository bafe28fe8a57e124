"""From the bytes of a publish request to publications.

`payload` is kept as the very bytes that came, so requests are read with msgspec, which hands out a member raw, and
not through a model that would write it anew.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect

from api import problem_types
from api.json_faults import why_not_json
from api.problems import FieldError, Problem, invalid, malformed
from everhook.delivery.body_formats import timestamp
from everhook.ids import Kind, new_gid
from everhook.observability.trace_context import TraceParent
from everhook.publishing.matching import parse_exactly
from everhook.publishing.store import Publication

TEST = "everhook.test"
MAX_BATCH = 500
MAX_BATCH_BYTES = 16 * 1024 * 1024
ENVELOPE_ALLOWANCE = 16 * 1024
"""What a request may hold beside its payload."""

# For `fullmatch`: `$` would let a line feed at the end pass, and types become headers.
_EVENT_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")
_KEY = re.compile(r"[^\x00-\x1f\x7f]{1,255}")
_PATH = re.compile(r" - at `\$\.?(.*)`$")

_ABOUT_A_MEMBER = {
    "Object missing required field `": "is required",
    "Object contains unknown field `": "is not a known field",
}

Body = TypeVar("Body")


class PublishBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    payload: msgspec.Raw
    type: str | None = None
    idempotency_key: str | None = None
    tenant: str | None = None
    published_at: datetime | None = None


class BatchBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    messages: list[PublishBody]


_decode_one = msgspec.json.Decoder(PublishBody)
_decode_batch = msgspec.json.Decoder(BatchBody)


def test_message() -> Publication:
    """What an endpoint is tried out with. Its channel is one that nobody can publish to."""
    moment = datetime.now(UTC)
    content = {"event": TEST, "sentAt": timestamp(moment), "note": "A test message from Everhook. Answer with 2xx."}
    payload = orjson.dumps(content)
    return Publication(
        message_gid=new_gid(Kind.MESSAGE),
        channel=TEST,
        event_type=TEST,
        payload=payload,
        content=content,
        body_sha256=hashlib.sha256(payload).hexdigest(),
        published_at=moment,
    )


async def read_one(request: Request) -> PublishBody:
    return _decoded(_decode_one, await _read(request))


async def read_batch(request: Request) -> Sequence[PublishBody]:
    messages = _decoded(_decode_batch, await _read(request)).messages
    if not 1 <= len(messages) <= MAX_BATCH:
        raise invalid("messages", f"takes 1 to {MAX_BATCH} messages")
    return messages


def publication(
    body: PublishBody,
    channel: str,
    tenant_gid: str | None,
    header_key: str | None,
    max_payload: int,
    at: str = "",
    traceparent: TraceParent | None = None,
) -> Publication:
    """Check a message. `at` is where it stands in its request, for the names of fields in problems."""
    payload = bytes(body.payload)
    if len(payload) > max_payload:
        raise Problem(
            problem_types.PAYLOAD_TOO_LARGE,
            f"{at}payload has {len(payload)} bytes; at most {max_payload} are accepted.",
            errors=[FieldError(field=f"{at}payload", code="too_large", message=f"at most {max_payload} bytes")],
        )
    content = _parsed(payload, f"{at}payload")
    event_type = _event_type(body.type, content, at)
    return Publication(
        message_gid=new_gid(Kind.MESSAGE),
        channel=channel,
        event_type=event_type,
        payload=payload,
        content=content,
        body_sha256=hashlib.sha256(event_type.encode() + b"\0" + payload).hexdigest(),
        published_at=_published_at(body.published_at, f"{at}publishedAt"),
        tenant_gid=tenant_gid,
        idempotency_key=_key(body.idempotency_key, header_key, at),
        traceparent=str(traceparent) if traceparent is not None else None,
    )


async def _read(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect as gone:
        raise malformed("ended before it was whole") from gone


def _decoded(decoder: "msgspec.json.Decoder[Body]", body: bytes) -> Body:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(why_not_json(body, error)) from error


def _wrong_shape(complaint: str) -> Problem:
    """msgspec names fields in its text alone: ``Expected `str`, got `int` - at `$.messages[1].type` ``."""
    path = _PATH.search(complaint)
    at = path[1] if path else ""
    complaint = _PATH.sub("", complaint)
    for beginning, message in _ABOUT_A_MEMBER.items():
        if complaint.startswith(beginning):
            member = complaint.removeprefix(beginning).removesuffix("`")
            return invalid(f"{at}.{member}" if at else member, message)
    return invalid(at or "body", complaint)


def _parsed(payload: bytes, field: str) -> Any:
    """Parse for filters and the type. What cannot be parsed here, such as a nesting bomb, no receiver could."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        with suppress(ValueError, RecursionError):
            return parse_exactly(payload)  # `1e400` is JSON, and kept as it came; orjson alone refuses it
        raise malformed(why_not_json(payload, error), field) from error


def _event_type(given: str | None, content: Any, at: str) -> str:
    if given is None and isinstance(content, dict) and isinstance(content.get("event"), str):
        given = content["event"]
    if given is None:
        raise invalid(f"{at}type", "is required where the payload has no text `event`")
    if not _EVENT_TYPE.fullmatch(given):
        raise invalid(f"{at}type", "takes letters, digits and . _ / : - (128 at most)")
    return given


def _published_at(given: datetime | None, field: str) -> datetime:
    if given is None:
        return datetime.now(UTC)
    if given.tzinfo is None:
        raise invalid(field, "must name its offset from UTC, such as `Z`")
    try:
        return given.astimezone(UTC)
    except OverflowError as error:
        raise invalid(field, "lies outside the years 1 to 9999 in UTC") from error


def _key(field_key: str | None, header_key: str | None, at: str) -> str | None:
    if field_key is not None and header_key is not None and field_key != header_key:
        raise invalid(f"{at}idempotencyKey", "differs from the header Idempotency-Key")
    key = field_key if field_key is not None else header_key
    if key is not None and not _KEY.fullmatch(key):
        raise invalid(f"{at}idempotencyKey", "takes 1 to 255 characters, none of them a control character")
    return key
