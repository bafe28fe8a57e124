"""From the bytes of a publish request to messages.

`payload` stays the very bytes that came: msgspec hands out a member raw, while a pydantic model would write it anew.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from api.problems import Problem, invalid, malformed
from everhook.publishing.json_faults import why_not_json
from everhook.publishing.service import NewMessage

MAX_BATCH = 500
MAX_BATCH_BYTES = 16 * 1024 * 1024
ENVELOPE_ALLOWANCE = 16 * 1024
"""Bytes that a request may have in addition to its payload."""

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


async def read_one(request: Request) -> PublishBody:
    return _decoded(_decode_one, await _read(request))


async def read_batch(request: Request) -> Sequence[PublishBody]:
    messages = _decoded(_decode_batch, await _read(request)).messages
    if not 1 <= len(messages) <= MAX_BATCH:
        raise invalid("messages", f"takes 1 to {MAX_BATCH} messages")
    return messages


def new_message(body: PublishBody, header_key: str | None) -> NewMessage:
    """The message of a request. Raises 422 if the header `Idempotency-Key` differs from the field."""
    key = body.idempotency_key
    if key is not None and header_key is not None and key != header_key:
        raise invalid("idempotencyKey", "differs from the header Idempotency-Key")
    return NewMessage(
        bytes(body.payload), body.type, key if key is not None else header_key, body.tenant, body.published_at
    )


def new_messages(bodies: Sequence[PublishBody], header_key: str | None) -> list[NewMessage]:
    """The messages of a batch. The header's key with the index of a message is the key of one that has none."""
    return [
        new_message(body, f"{header_key}[{index}]" if header_key is not None and body.idempotency_key is None else None)
        for index, body in enumerate(bodies)
    ]


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
