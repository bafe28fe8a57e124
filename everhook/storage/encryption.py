"""The encrypted columns of the database, and their re-encryption with the newest key of the key ring."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, ColumnElement, and_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from everhook.storage.engine import Database
from everhook.storage.keyring import DecryptionError, KeyRing
from everhook.storage.statements import table_of
from everhook.storage.tables import Endpoint, EndpointSecret, IdempotentResponse, ReceiptKeyRow

BATCH = 500


@dataclass(frozen=True)
class EncryptedColumn:
    """A column whose values are encrypted, each for its own row. After renaming the column all of it must be
    re-encrypted."""

    value: Column[str]

    @property
    def row_key(self) -> Column[str]:
        (key,) = self.value.table.primary_key
        return key

    def encrypt(self, keyring: KeyRing, secret: str, row_key: str) -> str:
        return keyring.encrypt(secret, *self._place(row_key))

    def decrypt(self, keyring: KeyRing, ciphertext: str, row_key: str) -> str:
        """The secret. Raises DecryptionError."""
        return keyring.decrypt(ciphertext, *self._place(row_key))

    def _place(self, row_key: str) -> tuple[str, str, str]:
        return (self.value.table.name, self.value.name, row_key)


ENDPOINT_SECRET = EncryptedColumn(table_of(EndpointSecret).c.secret)
ENDPOINT_TLS_KEY = EncryptedColumn(table_of(Endpoint).c.tls_key)
ENDPOINT_HEADERS = EncryptedColumn(table_of(Endpoint).c.header_values)
ENDPOINT_AUTH = EncryptedColumn(table_of(Endpoint).c.auth_secret)
RECEIPT_SEED = EncryptedColumn(table_of(ReceiptKeyRow).c.seed)
IDEMPOTENT_RESPONSE = EncryptedColumn(table_of(IdempotentResponse).c.response)
ENCRYPTED_COLUMNS = (
    ENDPOINT_SECRET,
    ENDPOINT_TLS_KEY,
    ENDPOINT_HEADERS,
    ENDPOINT_AUTH,
    RECEIPT_SEED,
    IDEMPOTENT_RESPONSE,
)


@dataclass(frozen=True)
class Batch:
    """What one transaction did. `undecrypted` are the reasons why values could not be decrypted; these are left
    unchanged."""

    reencrypted: int
    undecrypted: Sequence[str]


async def count_outdated(database: Database, keyring: KeyRing) -> int:
    """How many values are not encrypted with the newest key."""
    async with database.read_connection() as connection:
        return sum([await _count(connection, column, keyring) for column in ENCRYPTED_COLUMNS])


@dataclass(frozen=True)
class Census:
    """How many encrypted values there are, how many of them not with the newest key, and why some cannot be
    decrypted."""

    total: int
    outdated: int
    undecrypted: Counter[str]


async def census(database: Database, keyring: KeyRing) -> Census:
    """Decrypt every encrypted value."""
    total, outdated, undecrypted = 0, 0, Counter[str]()
    async with database.read_connection() as connection:
        for column in ENCRYPTED_COLUMNS:
            rows = await connection.execute(select(column.row_key, column.value).where(column.value.is_not(None)))
            for row_key, ciphertext in rows:
                total += 1
                outdated += not keyring.is_current(ciphertext)
                try:
                    column.decrypt(keyring, ciphertext, row_key)
                except DecryptionError as error:
                    undecrypted[str(error)] += 1
    return Census(total, outdated, undecrypted)


async def reencrypt(database: Database, keyring: KeyRing, *, at_once: int = BATCH) -> AsyncIterator[Batch]:
    """Re-encrypt all outdated values with the newest key, batch by batch. Batches before an interruption are
    committed."""
    for column in ENCRYPTED_COLUMNS:
        after = ""
        while True:
            async with database.write_connection() as connection:
                ciphertexts = await _outdated(connection, column, keyring, after, at_once)
                if not ciphertexts:
                    break
                batch = await _reencrypt(connection, column, keyring, ciphertexts)
            yield batch
            after, _ = ciphertexts[-1]


async def _reencrypt(
    connection: AsyncConnection, column: EncryptedColumn, keyring: KeyRing, ciphertexts: list[tuple[str, str]]
) -> Batch:
    """Re-encrypt one batch. A value that was replaced meanwhile is not overwritten."""
    changes: list[dict[str, str]] = []
    undecrypted: list[str] = []
    for row_key, ciphertext in ciphertexts:
        try:
            secret = column.decrypt(keyring, ciphertext, row_key)
        except DecryptionError as error:
            undecrypted.append(str(error))
        else:
            changes.append({"b_key": row_key, "b_old": ciphertext, "b_new": column.encrypt(keyring, secret, row_key)})
    if changes:
        statement = update(column.value.table).values({column.value: bindparam("b_new")})
        same = and_(column.row_key == bindparam("b_key"), column.value == bindparam("b_old"))
        await connection.execute(statement.where(same), changes)
    return Batch(len(changes), undecrypted)


async def _outdated(
    connection: AsyncConnection, column: EncryptedColumn, keyring: KeyRing, after: str, limit: int
) -> list[tuple[str, str]]:
    statement = select(column.row_key, column.value).where(_is_outdated(column, keyring), column.row_key > after)
    rows = await connection.execute(statement.order_by(column.row_key).limit(limit))
    return [(key, ciphertext) for key, ciphertext in rows]


async def _count(connection: AsyncConnection, column: EncryptedColumn, keyring: KeyRing) -> int:
    statement = select(func.count()).select_from(column.value.table).where(_is_outdated(column, keyring))
    return int((await connection.execute(statement)).scalar_one())


def _is_outdated(column: EncryptedColumn, keyring: KeyRing) -> ColumnElement[bool]:
    """Whether a value is not encrypted with the newest key. NULL is neither outdated nor current."""
    return ~column.value.startswith(keyring.current, autoescape=True)
