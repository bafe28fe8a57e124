"""Streams as AXME's clients read them: events named `intent.…`, and `stream.timeout` at the end."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
import orjson

from api.axme.mapping import shown_event
from api.event_stream import KEEP_ALIVE, event
from everhook.axme.service import IntentStream
from everhook.ids import uuid_of
from everhook.pulling.leases import Item
from everhook.streaming.service import Bye, Hello, Messages, PullStream

OPENED = b": opened\n\n"
TIMEOUT = event(b"{}", name="stream.timeout")


class _ItemBody(msgspec.Struct, rename="camel", frozen=True):
    message_gid: str
    type: str


_decode = msgspec.json.Decoder(_ItemBody)


class RenderedAgentStream:
    """The intents for an agent."""

    def __init__(self, stream: PullStream) -> None:
        self._stream = stream

    async def events(self) -> AsyncGenerator[bytes]:
        async with aclosing(self._stream.events()) as events:
            async for each in events:
                if isinstance(each, Messages):
                    yield b"".join(_delivered(each.position + n, item) for n, item in enumerate(each.items))
                elif isinstance(each, Bye):
                    yield TIMEOUT
                else:
                    yield OPENED if isinstance(each, Hello) else KEEP_ALIVE

    def leave(self) -> None:
        self._stream.leave()


def _delivered(seq: int, item: Item) -> bytes:
    """`delivery` is the item whose hash its receipt has, byte for byte."""
    body = _decode.decode(item.body)
    data = {
        "intent_id": str(uuid_of(body.message_gid)),
        "seq": seq,
        "event_type": "intent.delivered",
        "status": "DELIVERED",
        "intent_type": body.type,
        "attempt": item.lease.number,
        "delivery": orjson.Fragment(item.body),
    }
    return event(orjson.dumps(data), name="intent.delivered", id=str(seq))


class RenderedIntentStream:
    """The events of an intent."""

    def __init__(self, stream: IntentStream, intent_id: str) -> None:
        self._stream = stream
        self._intent_id = intent_id

    async def events(self) -> AsyncGenerator[bytes]:
        yield OPENED
        async with aclosing(self._stream.events()) as events:
            async for each in events:
                data = orjson.dumps(shown_event(self._intent_id, each))
                yield event(data, name=each.status.event, id=str(each.seq))
        yield TIMEOUT

    def leave(self) -> None:
        self._stream.leave()
