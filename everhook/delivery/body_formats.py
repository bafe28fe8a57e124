"""A message as a request body, in each body format. Byte-exact: the payload is embedded unchanged."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum


class BodyFormat(StrEnum):
    ENVELOPE = "envelope"
    EVENT = "event"
    RAW = "raw"
    CLOUDEVENTS = "cloudevents"


@dataclass(frozen=True)
class Content:
    """The parts of a body. `attempt` is the number within its round. The first round is not named, and neither are
    attributes if there are none."""

    message_gid: str
    channel: str
    event_type: str
    payload: bytes
    published_at: datetime
    attempt: int
    round: int = 1
    attributes: Mapping[str, str] | None = field(default=None, hash=False)


def render(body_format: BodyFormat, content: Content) -> tuple[str, bytes]:
    """The content type and the body."""
    media_type, build = _FORMATS[body_format]
    return media_type, build(content)


def find_body(content: Content, sha256: str) -> tuple[str, bytes] | None:
    """The content type and body whose SHA-256 (hex) this is; None if no format renders to it.

    Bodies are not stored: they are rendered again. Every format is tried, because the endpoint's format may have
    changed. Earlier versions never named the round.
    """
    for each in dict.fromkeys((content, replace(content, round=1))):
        for body_format in BodyFormat:
            media_type, body = render(body_format, each)
            if hashlib.sha256(body).hexdigest() == sha256:
                return media_type, body
    return None


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-01-31T12:00:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _envelope(content: Content) -> bytes:
    later_round = b',"round":%d' % content.round if content.round > 1 else b""
    attributes = b',"attributes":%b' % attributes_json(content.attributes) if content.attributes else b""
    return (
        b'{"messageGid":%b,"channelName":%b,"payload":%b,"metadata":{"publishedAt":%b,"attempt":%d%b%b}}' % (
            _string(content.message_gid),
            _string(content.channel),
            content.payload,
            _string(timestamp(content.published_at)),
            content.attempt,
            later_round,
            attributes,
        )
    )  # fmt: skip


def attributes_json(attributes: Mapping[str, str]) -> bytes:
    """In the order of their keys, which the database does not keep."""
    return json.dumps(dict(sorted(attributes.items())), ensure_ascii=False, separators=(",", ":")).encode()


def _event(content: Content) -> bytes:
    return b'{"id":%b,"type":%b,"data":%b}' % (
        _string(content.message_gid),
        _string(content.event_type),
        content.payload,
    )


def _raw(content: Content) -> bytes:
    return content.payload


def _cloudevent(content: Content) -> bytes:
    """CloudEvents 1.0, JSON format, structured mode."""
    return (
        b'{"specversion":"1.0","id":%b,"source":%b,"type":%b,"time":%b,'
        b'"datacontenttype":"application/json","data":%b}' % (
            _string(content.message_gid),
            _string(f"/channels/{content.channel}"),
            _string(content.event_type),
            _string(timestamp(content.published_at)),
            content.payload,
        )
    )  # fmt: skip


def _string(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


_FORMATS: dict[BodyFormat, tuple[str, Callable[[Content], bytes]]] = {
    BodyFormat.ENVELOPE: ("application/json", _envelope),
    BodyFormat.EVENT: ("application/json", _event),
    BodyFormat.RAW: ("application/json", _raw),
    BodyFormat.CLOUDEVENTS: ("application/cloudevents+json", _cloudevent),
}
