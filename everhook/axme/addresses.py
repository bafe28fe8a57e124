"""Addresses of agents, `agent://<tenant>/<workspace>/<name>`, and the endpoints that they stand for. Pure.

The gid of an agent's endpoint is derived from its tenant and its address. So an address is looked up by primary key,
and two processes cannot create two endpoints for one address.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from everhook.errors import InvalidField
from everhook.ids import Kind, first_gid_at, gid_of, uuid_of

SCHEME = "agent://"
GENERATIONS = 16
"""How often the endpoint of an address can be deleted and created again: a deleted one stays as a row."""

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?:{SCHEME})?({_PART})/({_PART})/({_PART})")
_HASH_BYTES = 10

FIRST_OF_OTHERS = first_gid_at(Kind.ENDPOINT, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
"""The gids of agents are smaller than this one: the part of a gid that holds the time is zero."""


@dataclass(frozen=True)
class AgentAddress:
    """`tenant` is the name of a tenant."""

    tenant: str
    workspace: str
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.tenant}/{self.workspace}/{self.name}"

    @classmethod
    def parse(cls, text: str, field: str) -> "AgentAddress":
        """Raises InvalidField."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise InvalidField(field, f"is not an address such as {SCHEME}acme/production/billing")
        return cls(*found.groups())

    def endpoint_gids(self, tenant_gid: str) -> tuple[str, ...]:
        """The gids that the endpoint of this address can have, in the order in which they are used."""
        return tuple(self._endpoint_gid(tenant_gid, number) for number in range(GENERATIONS))

    def _endpoint_gid(self, tenant_gid: str, generation: int) -> str:
        text = f"{tenant_gid}\0{self.workspace}/{self.name}\0{generation}"
        hashed = hashlib.sha256(text.encode()).digest()[:_HASH_BYTES]
        return gid_of(Kind.ENDPOINT, UUID(int=int.from_bytes(hashed)))


def consumer_gid(endpoint_gid: str) -> str:
    """The consumer that holds the leases of all streams of an agent."""
    return gid_of(Kind.CONSUMER, uuid_of(endpoint_gid))
