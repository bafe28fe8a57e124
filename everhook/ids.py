"""Ids: TypeIDs (`msg_01k…`: a prefix and a UUIDv7 in Crockford base 32, so ids sort by time), and workflow ids.

Every id is made and taken apart here; each maker has its inverse.
"""

from enum import StrEnum

from uuid_utils import uuid7

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {char: value for value, char in enumerate(_ALPHABET)}
_LENGTH = 26


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


def new_gid(kind: Kind) -> str:
    """A new id. Ids made later sort later, to the millisecond between processes."""
    number = uuid7().int
    return f"{kind}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_gid(text: str, kind: Kind) -> bool:
    prefix, _, suffix = text.rpartition("_")
    return prefix == kind and len(suffix) == _LENGTH and suffix[0] <= "7" and all(c in _VALUES for c in suffix)


def trace_id(gid: str) -> str:
    """The 32 hex digits behind an id: a message's trace carries its own number (W3C Trace Context)."""
    number = 0
    for char in gid.rpartition("_")[2]:
        number = number << 5 | _VALUES[char]
    return f"{number:032x}"


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


def _unprefixed(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise ValueError(f"{text!r} does not begin with {prefix!r}")
    return text.removeprefix(prefix)
