"""The receipt keys in the database: encrypted seeds, the creation of the first key, and rotation."""

from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from async_lru import alru_cache
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.receipts.issuer import Issuer
from everhook.receipts.keys import ReceiptKey, rotate
from everhook.receipts.strict_json import decode_base64, encode_base64
from everhook.storage.encryption import RECEIPT_SEED
from everhook.storage.engine import Database
from everhook.storage.keyring import DecryptionError, KeyRing
from everhook.storage.statements import lock, table_of
from everhook.storage.tables import ReceiptKeyRow as KeyRow
from everhook.storage.tables import now

CACHED_S = 60.0
OVERLAP = timedelta(minutes=10)
"""How long a rotated key continues to sign: longer than `CACHED_S`, the longest attempt and the difference of clocks
together."""

CLOCKS_APART = timedelta(minutes=5)
"""The first key is valid from this long before its creation: the clocks of other processes may be behind."""

log = structlog.get_logger()


class IssuerCache:
    """The issuer, cached for a minute.

    `name` is used for the first key only. Later the name of the stored keys counts; a different setting is logged.
    """

    def __init__(self, database: Database, keyring: KeyRing, name: str) -> None:
        self._database = database
        self._keyring = keyring
        self._name = name
        self._cached = alru_cache(maxsize=1, ttl=CACHED_S)(self._read_or_log)
        self._was_read = False
        self._unreadable = False

    async def get(self) -> Issuer:
        """The issuer. Creates the first key if there is none. Raises DecryptionError if a key cannot be decrypted: then
        no delivery can be made, and the error is logged once."""
        return await self._cached()

    async def _read_or_log(self) -> Issuer:
        try:
            issuer = await self._read()
        except DecryptionError as error:
            if not self._unreadable:
                log.error("the receipt keys cannot be decrypted; deliveries wait", error=str(error))
            self._unreadable = True
            raise
        self._unreadable = False
        return issuer

    async def _read(self) -> Issuer:
        async with self._database.read_connection() as connection:
            found = await load_issuer(connection, self._keyring)
        if found is None:
            async with self._database.write_connection() as connection:
                found = await create_first_key(connection, self._keyring, self._name)
        if found.name != self._name and not self._was_read:
            log.warning("receipts keep the issuer of the first key", issuer=found.name, configured=self._name)
        self._was_read = True
        return found


async def load_issuer(connection: AsyncConnection, keyring: KeyRing) -> Issuer | None:
    """The issuer; None before the first key is created."""
    rows = (await connection.execute(select(table_of(KeyRow)).order_by(col(KeyRow.created_at).desc()))).all()
    keys = tuple(ReceiptKey(_decrypted(keyring, row.kid, row.seed), row.created_at, row.retired_at) for row in rows)
    return Issuer(rows[0].issuer, keys) if rows else None


async def create_first_key(connection: AsyncConnection, keyring: KeyRing, name: str) -> Issuer:
    """Create the first key. If two processes do this, one creates it and the other finds it."""
    await lock(connection, "receipt_key")
    found = await load_issuer(connection, keyring)
    if found is not None:
        return found
    first = ReceiptKey.generate(now() - CLOCKS_APART)
    await _insert(connection, keyring, first, name)
    log.info("first receipt key created", kid=first.kid, issuer=name)
    return Issuer(name, (first,))


async def rotate_keys(connection: AsyncConnection, keyring: KeyRing, name: str, moment: datetime) -> Issuer:
    """Rotate the key: a new one signs from now on; earlier ones stop after the overlap, and stay published."""
    await lock(connection, "receipt_key")
    issuer = await load_issuer(connection, keyring)
    if issuer is None:
        return await create_first_key(connection, keyring, name)
    new, *old = rotate(issuer.keys, moment, OVERLAP)
    await _insert(connection, keyring, new, issuer.name)
    for key in old:
        await connection.execute(update(KeyRow).where(col(KeyRow.kid) == key.kid).values(retired_at=key.retired_at))
    return replace(issuer, keys=(new, *old))


async def _insert(connection: AsyncConnection, keyring: KeyRing, key: ReceiptKey, issuer: str) -> None:
    seed = RECEIPT_SEED.encrypt(keyring, encode_base64(key.seed), key.kid)
    row = {"kid": key.kid, "seed": seed, "issuer": issuer, "created_at": key.created_at, "retired_at": key.retired_at}
    await connection.execute(table_of(KeyRow).insert(), row)


def _decrypted(keyring: KeyRing, kid: str, ciphertext: str) -> bytes:
    return decode_base64(RECEIPT_SEED.decrypt(keyring, ciphertext, kid), "receipt_key.seed")
