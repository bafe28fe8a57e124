"""Values of custom headers of endpoints, which are encrypted at rest.

The column `headers` holds the names, each with `HEADER_MASK` as its value; `header_values` holds all values, as one
ciphertext. Releases before this one stored the values in `headers`. Such rows stay readable, and
`encrypt_plain_headers` converts them. It must not run as part of a migration: processes of the release before would
find no values.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, bindparam, cast, func, or_, select, update
from sqlmodel import col

from everhook.storage.encryption import BATCH, ENDPOINT_HEADERS
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing, TamperedCiphertext
from everhook.storage.statements import table_of
from everhook.storage.tables import Endpoint

HEADER_MASK = "(encrypted) \N{BULLET}"
"""What stands in place of a value. Outside ASCII, so that a process of the release before refuses to send it: its
attempts are `unsendable`, and retried."""

_TEXT = cast(col(Endpoint.headers), Text)


def header_columns(keyring: KeyRing, gid: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """Custom headers as an endpoint's row holds them, with the values encrypted for it."""
    if not headers:
        return {"headers": {}, "header_values": None}
    ciphertext = ENDPOINT_HEADERS.encrypt(keyring, json.dumps(dict(headers)), gid)
    return {"headers": dict.fromkeys(headers, HEADER_MASK), "header_values": ciphertext}


def header_values(keyring: KeyRing, gid: str, headers: Mapping[str, str], ciphertext: str | None) -> dict[str, str]:
    """Custom headers with their values, from the columns of an endpoint's row. Raises DecryptionError."""
    if HEADER_MASK not in headers.values():
        return dict(headers)  # none, or written by the release before, which may also have left an older ciphertext
    values: dict[str, str] = {}
    if ciphertext is not None:
        values = json.loads(ENDPOINT_HEADERS.decrypt(keyring, ciphertext, gid))
    if values.keys() != headers.keys():
        raise TamperedCiphertext("the encrypted values are not those of the custom headers")
    return values


async def count_plain_headers(database: Database) -> int:
    """How many endpoints have custom headers whose values are not encrypted."""
    async with database.read_connection() as connection:
        return int((await connection.execute(select(func.count()).where(_is_plain()))).scalar_one())


async def encrypt_plain_headers(database: Database, keyring: KeyRing, *, at_once: int = BATCH) -> AsyncGenerator[int]:
    """Encrypt values that a release before stored, batch by batch, each in a transaction of its own. Yields the size of
    each batch. It can be interrupted and run again at any time. Headers that are changed meanwhile are not overwritten.

    Versions of endpoints stay as they are: what senders have cached is still right.
    """
    after = ""
    while found := await _plain(database, after, at_once):
        async with database.write_connection() as connection:
            await connection.execute(_CONVERT, [_converted(keyring, gid, written) for gid, written in found])
        after, _ = found[-1]
        yield len(found)


async def _plain(database: Database, after: str, limit: int) -> list[tuple[str, str]]:
    """Endpoints with plain values, each with the text of its headers, in the order of their gids."""
    statement = select(col(Endpoint.gid), _TEXT).where(_is_plain(), col(Endpoint.gid) > after)
    async with database.read_connection() as connection:
        rows = await connection.execute(statement.order_by(col(Endpoint.gid)).limit(limit))
        return [(gid, written) for gid, written in rows]


def _converted(keyring: KeyRing, gid: str, written: str) -> dict[str, Any]:
    columns = header_columns(keyring, gid, json.loads(written))
    return {"b_gid": gid, "b_written": written, "b_headers": columns["headers"], "b_values": columns["header_values"]}


_CONVERT = (
    update(table_of(Endpoint))
    .where(col(Endpoint.gid) == bindparam("b_gid"), bindparam("b_written") == _TEXT)
    .values(headers=bindparam("b_headers"), header_values=bindparam("b_values"))
)
"""For headers that are as they were read."""


def _is_plain() -> ColumnElement[bool]:
    """A process of the release before that changes the headers of a converted row leaves the ciphertext as it is."""
    unmasked = ~_TEXT.contains(HEADER_MASK.partition(" ")[0], autoescape=True)
    return and_(_TEXT != "{}", or_(col(Endpoint.header_values).is_(None), unmasked))
