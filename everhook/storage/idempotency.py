"""Responses to calls with an idempotency key, kept for a day: a call that is sent again is answered the same, and what
it creates is created once.

A call first claims its key. A claim in the transaction of what the call creates is committed with it and with the
response, or not at all. A call that asks Temporal commits the claim before it asks; should its process die meanwhile,
the claim ends by itself.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from everhook.storage.encryption import IDEMPOTENT_RESPONSE
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing
from everhook.storage.statements import insert_ignoring, table_of
from everhook.storage.tables import IdempotentResponse, now

LIFETIME = timedelta(hours=24)
CLAIM_LIFETIME = timedelta(minutes=1)
"""Longer than a call takes."""

_ROWS = table_of(IdempotentResponse)


@dataclass(frozen=True)
class Call:
    """A call with an idempotency key: both hashes of `IdempotentResponse`."""

    key_sha256: str
    request_sha256: str

    @classmethod
    def of(cls, scope: str, key: str, *request: bytes) -> "Call":
        """`scope`: whose key it is. `request`: all that makes two calls the same."""
        return cls(_sha256(scope.encode(), key.encode()), _sha256(*request))


@dataclass(frozen=True)
class StoredResponse:
    """What is there for a key: `body` is None while the call is under way."""

    request_sha256: str
    status_code: int | None
    body: str | None


class ResponseStore:
    """The responses that are kept, as routes use them."""

    def __init__(self, database: Database, keyring: KeyRing) -> None:
        self._database = database
        self._keyring = keyring

    async def find(self, call: Call) -> StoredResponse | None:
        """What is kept for the call's key. Raises DecryptionError."""
        async with self._database.read_connection() as connection:
            return await find(connection, self._keyring, call)

    async def keep(
        self, session: AsyncSession, call: Call, status_code: int, body: str, tenant_gid: str | None
    ) -> None:
        """Keep the response to a call in the transaction of what it changed."""
        await keep(session, self._keyring, call, status_code, body, tenant_gid)


async def find(connection: AsyncConnection, keyring: KeyRing, call: Call) -> StoredResponse | None:
    """What is kept for the call's key. Raises DecryptionError."""
    statement = select(_ROWS.c.request_sha256, _ROWS.c.status_code, _ROWS.c.response)
    row = (await connection.execute(statement.where(_ROWS.c.key_sha256 == call.key_sha256, ~_is_over()))).one_or_none()
    if row is None:
        return None
    body = IDEMPOTENT_RESPONSE.open(keyring, row.response, call.key_sha256) if row.response is not None else None
    return StoredResponse(row.request_sha256, row.status_code, body)


async def claim(session: AsyncSession, call: Call) -> bool:
    """Claim the call's key; False where another call has it. Waits for a transaction that claims it at this moment."""
    await session.execute(delete(_ROWS).where(_ROWS.c.key_sha256 == call.key_sha256, _is_over()))
    statement = insert_ignoring(await session.connection(), IdempotentResponse, "key_sha256")
    row = {"key_sha256": call.key_sha256, "request_sha256": call.request_sha256, "created_at": now()}
    claimed = await session.execute(statement.values(row).returning(_ROWS.c.key_sha256))
    return claimed.one_or_none() is not None


async def keep(
    session: AsyncSession, keyring: KeyRing, call: Call, status_code: int, body: str, tenant_gid: str | None
) -> None:
    """Keep the response to a call that has claimed its key. `tenant_gid`: whose things the response shows."""
    ciphertext = IDEMPOTENT_RESPONSE.seal(keyring, body, call.key_sha256)
    changed = update(_ROWS).where(_ROWS.c.key_sha256 == call.key_sha256)
    await session.execute(changed.values(status_code=status_code, response=ciphertext, tenant_gid=tenant_gid))


async def release(session: AsyncSession, call: Call) -> None:
    """Give up the claim of a call that failed: it may be sent again."""
    await session.execute(delete(_ROWS).where(_ROWS.c.key_sha256 == call.key_sha256, _ROWS.c.response.is_(None)))


def _is_over() -> ColumnElement[bool]:
    moment = now()
    abandoned = and_(_ROWS.c.response.is_(None), _ROWS.c.created_at < moment - CLAIM_LIFETIME)
    return or_(_ROWS.c.created_at < moment - LIFETIME, abandoned)


def _sha256(*parts: bytes) -> str:
    """Of all parts, each with its length: no two lists of parts have the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
