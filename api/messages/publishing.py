"""From the bytes of a publish request to messages.

`payload` stays the very bytes that came: msgspec hands out a member raw, while a pydantic model would write it anew.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from fastapi import Request

from api.decoding import decoded
from api.problems import invalid
from everhook.publishing.service import NewMessage

MAX_BATCH = 500
MAX_TRANSACTION = 100
MAX_BATCH_BYTES = 16 * 1024 * 1024
ENVELOPE_ALLOWANCE = 16 * 1024
"""Bytes that a request may have in addition to its payload."""


class PublishBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    payload: msgspec.Raw
    type: str | None = None
    idempotency_key: str | None = None
    tenant: str | None = None
    published_at: datetime | None = None
    task: dict[str, Any] | None = None
    gates: list[Any] | None = None
    metadata: dict[str, Any] | None = None
    endpoint_gid: str | None = None
    retry: bool = True
    deliver_at: datetime | None = None
    delay_seconds: float | None = None
    group_key: str | None = None


class ChannelledBody(PublishBody, rename="camel", forbid_unknown_fields=True, frozen=True, kw_only=True):
    channel: str


class TransactionBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    messages: list[ChannelledBody]


class BatchBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    messages: list[PublishBody]


_decode_one = msgspec.json.Decoder(PublishBody)
_decode_batch = msgspec.json.Decoder(BatchBody)
_decode_transaction = msgspec.json.Decoder(TransactionBody)


async def read_one(request: Request) -> PublishBody:
    return decoded(_decode_one, await request.body())


async def read_batch(request: Request) -> Sequence[PublishBody]:
    messages = decoded(_decode_batch, await request.body()).messages
    if not 1 <= len(messages) <= MAX_BATCH:
        raise invalid("messages", f"takes 1 to {MAX_BATCH} messages", "too_long" if messages else "too_short")
    return messages


async def read_transaction(request: Request) -> Sequence[ChannelledBody]:
    messages = decoded(_decode_transaction, await request.body()).messages
    if not 1 <= len(messages) <= MAX_TRANSACTION:
        raise invalid("messages", f"takes 1 to {MAX_TRANSACTION} messages", "too_long" if messages else "too_short")
    return messages


def new_message(body: PublishBody, header_key: str | None) -> NewMessage:
    """The message of a request. Raises 422 if the header `Idempotency-Key` differs from the field."""
    key = body.idempotency_key
    if key is not None and header_key is not None and key != header_key:
        raise invalid("idempotencyKey", "differs from the header Idempotency-Key")
    return NewMessage(
        bytes(body.payload),
        body.type,
        key if key is not None else header_key,
        body.tenant,
        body.published_at,
        body.task,
        body.gates,
        body.metadata,
        body.endpoint_gid,
        body.retry,
        body.deliver_at,
        body.delay_seconds,
        body.group_key,
    )


def new_messages(bodies: Sequence[PublishBody], header_key: str | None) -> list[NewMessage]:
    """The messages of a batch. The header's key with the index of a message is the key of one that has none."""
    return [
        new_message(body, f"{header_key}[{index}]" if header_key is not None and body.idempotency_key is None else None)
        for index, body in enumerate(bodies)
    ]
