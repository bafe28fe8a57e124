"""Responses to calls with an idempotency key, stored for a day: a repeated call gets the same response, and creates its
resource once.

A call first claims its key. A call that only writes to the database claims the key in the same transaction, which also
stores the response. A call that needs Temporal commits the claim first; if its process dies, the claim expires.
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
"""Longer than any call takes."""

_ROWS = table_of(IdempotentResponse)


@dataclass(frozen=True)
class Call:
    """A call with an idempotency key: the two hashes of `IdempotentResponse`."""

    key_sha256: str
    request_sha256: str

    @classmethod
    def of(cls, scope: str, key: str, *request: bytes) -> "Call":
        """`scope` is the owner of the key. `request` is everything that makes two calls the same."""
        return cls(_sha256(scope.encode(), key.encode()), _sha256(*request))


@dataclass(frozen=True)
class StoredResponse:
    """What is stored for a key. `body` is None while the call is in progress."""

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
        await save_response(session, self._keyring, call, status_code, body, tenant_gid)


async def find(connection: AsyncConnection, keyring: KeyRing, call: Call) -> StoredResponse | None:
    """What is stored for the key of a call. Raises DecryptionError."""
    statement = select(_ROWS.c.request_sha256, _ROWS.c.status_code, _ROWS.c.response)
    row = (
        await connection.execute(statement.where(_ROWS.c.key_sha256 == call.key_sha256, ~_is_expired()))
    ).one_or_none()
    if row is None:
        return None
    body = IDEMPOTENT_RESPONSE.decrypt(keyring, row.response, call.key_sha256) if row.response is not None else None
    return StoredResponse(row.request_sha256, row.status_code, body)


async def claim(session: AsyncSession, call: Call) -> bool:
    """Claim the key of a call; False if another call has it. Waits for a transaction that is claiming it."""
    await session.execute(delete(_ROWS).where(_ROWS.c.key_sha256 == call.key_sha256, _is_expired()))
    statement = insert_ignoring(await session.connection(), IdempotentResponse, "key_sha256")
    row = {"key_sha256": call.key_sha256, "request_sha256": call.request_sha256, "created_at": now()}
    claimed = await session.execute(statement.values(row).returning(_ROWS.c.key_sha256))
    return claimed.one_or_none() is not None


async def save_response(
    session: AsyncSession, keyring: KeyRing, call: Call, status_code: int, body: str, tenant_gid: str | None
) -> None:
    """Store the response to a call that has claimed its key. `tenant_gid` is the tenant whose data the response
    shows."""
    ciphertext = IDEMPOTENT_RESPONSE.encrypt(keyring, body, call.key_sha256)
    changed = update(_ROWS).where(_ROWS.c.key_sha256 == call.key_sha256)
    await session.execute(changed.values(status_code=status_code, response=ciphertext, tenant_gid=tenant_gid))


async def release(session: AsyncSession, call: Call) -> None:
    """Release the claim of a call that failed, so that it can be repeated."""
    await session.execute(delete(_ROWS).where(_ROWS.c.key_sha256 == call.key_sha256, _ROWS.c.response.is_(None)))


def _is_expired() -> ColumnElement[bool]:
    moment = now()
    abandoned = and_(_ROWS.c.response.is_(None), _ROWS.c.created_at < moment - CLAIM_LIFETIME)
    return or_(_ROWS.c.created_at < moment - LIFETIME, abandoned)


def _sha256(*parts: bytes) -> str:
    """The hash of all parts, each with its length, so that different lists of parts have different hashes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
