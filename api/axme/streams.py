"""Streams as AXME's clients read them: events named `intent.…`, and `stream.timeout` at the end."""

import msgspec
import orjson

from api.axme.mapping import shown_event
from api.event_stream import KEEP_ALIVE, event
from everhook.axme.intents import IntentEvent
from everhook.ids import uuid_of
from everhook.pulling.leases import Item
from everhook.streaming.service import Bye, Hello, Messages, StreamEvent

OPENED = b": opened\n\n"
TIMEOUT = event(b"{}", name="stream.timeout")


class _ItemBody(msgspec.Struct, rename="camel", frozen=True):
    message_gid: str
    type: str


_decode = msgspec.json.Decoder(_ItemBody)


def agent_event(each: StreamEvent) -> bytes:
    """An event of the stream of an agent's intents."""
    if isinstance(each, Messages):
        return b"".join(_delivered(each.position + n, item) for n, item in enumerate(each.items))
    if isinstance(each, Bye):
        return TIMEOUT
    return OPENED if isinstance(each, Hello) else KEEP_ALIVE


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


def intent_event(intent_id: str, each: IntentEvent) -> bytes:
    """An event of the stream of one intent."""
    return event(orjson.dumps(shown_event(intent_id, each)), name=each.status.event, id=str(each.seq))
