"""Ids: TypeIDs (`msg_01k…`: a prefix and a UUIDv7 in Crockford base 32, so ids sort by time), and workflow ids.

All ids are built and parsed here; each builder has its inverse.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from uuid_utils import uuid7

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {char: value for value, char in enumerate(_ALPHABET)}
_LENGTH = 26
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_SHIFT = 80
"""A UUIDv7 begins with the milliseconds since 1970; 80 bits follow (RFC 9562 section 5.7)."""


class Kind(StrEnum):
    TENANT = "ten"
    MESSAGE = "msg"
    ENDPOINT = "ep"
    SECRET = "sec"  # noqa: S105 - a prefix
    SUBSCRIPTION = "sub"
    DELIVERY = "dlv"
    ATTEMPT = "att"
    RECEIPT = "rcp"
    EVENT = "evt"
    API_KEY = "ek"
    AUDIT = "aud"
    BATCH = "bat"
    CONSUMER = "con"
    TASK = "tsk"
    GATE = "gat"


def new_gid(kind: Kind) -> str:
    """A new id. Ids that are created later sort later, to the millisecond across processes."""
    return _gid(kind, uuid7().int)


def new_gid_at(kind: Kind, moment: datetime) -> str:
    """A new id that sorts as if it had been created at a moment."""
    return _gid(kind, _milliseconds(moment) << _TIME_SHIFT | uuid7().int & ((1 << _TIME_SHIFT) - 1))


def first_gid_at(kind: Kind, moment: datetime) -> str:
    """The smallest id of a moment: ids created before it sort before it, to the millisecond. A range of time is thus
    a range of keys."""
    return _gid(kind, _milliseconds(moment) << _TIME_SHIFT)


def moment_of(gid: str) -> datetime:
    """When an id was created, to the millisecond; inverse of `first_gid_at`."""
    return _EPOCH + timedelta(milliseconds=_number(gid) >> _TIME_SHIFT)


def is_gid(text: str, kind: Kind) -> bool:
    prefix, _, suffix = text.rpartition("_")
    return prefix == kind and len(suffix) == _LENGTH and suffix[0] <= "7" and all(c in _VALUES for c in suffix)


def gid_endings(part: int, parts: int) -> str:
    """The last characters of the ids in part `part` of `parts`, which are about equal; "" for all ids. The end of an
    id is random."""
    return "" if parts == 1 else _ALPHABET[part::parts]


def trace_id(gid: str) -> str:
    """The UUID of an id as 32 hex digits: the trace id of a message (W3C Trace Context)."""
    return f"{_number(gid):032x}"


def uuid_of(gid: str) -> UUID:
    """The UUID of an id; inverse of `gid_of`."""
    return UUID(int=_number(gid))


def gid_of(kind: Kind, uuid: UUID) -> str:
    """The id of a UUID."""
    return _gid(kind, uuid.int)


def _milliseconds(moment: datetime) -> int:
    return max(0, (moment - _EPOCH) // timedelta(milliseconds=1))


def _gid(kind: Kind, number: int) -> str:
    return f"{kind}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def _number(gid: str) -> int:
    number = 0
    for char in gid.rpartition("_")[2]:
        number = number << 5 | _VALUES[char]
    return number


def delivery_workflow_id(delivery_gid: str) -> str:
    return f"delivery/{delivery_gid}"


def delivery_gid_of(workflow_id: str) -> str:
    """Inverse of `delivery_workflow_id`. Raises ValueError for any other workflow's id."""
    return _unprefixed(workflow_id, "delivery/")


def endpoint_workflow_id(endpoint_gid: str) -> str:
    return f"endpoint/{endpoint_gid}"


def endpoint_gid_of(workflow_id: str) -> str:
    """Inverse of `endpoint_workflow_id`. Raises ValueError for any other workflow's id."""
    return _unprefixed(workflow_id, "endpoint/")


def erasure_workflow_id(tenant_gid: str) -> str:
    return f"erase/{tenant_gid}"


def erased_tenant_gid_of(workflow_id: str) -> str:
    """Inverse of `erasure_workflow_id`. Raises ValueError for any other workflow's id."""
    return _unprefixed(workflow_id, "erase/")


def replay_workflow_id(batch_gid: str) -> str:
    return f"replay/{batch_gid}"


def replay_batch_gid_of(workflow_id: str) -> str:
    """Inverse of `replay_workflow_id`. Raises ValueError for any other workflow's id."""
    return _unprefixed(workflow_id, "replay/")


def _unprefixed(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise ValueError(f"{text!r} does not begin with {prefix!r}")
    return text.removeprefix(prefix)
