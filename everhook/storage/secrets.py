"""Signing secrets of endpoints. At rest each is sealed for its own row; they are opened only to sign."""

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.ids import Kind, new_gid
from everhook.keyring import KeyRing
from everhook.signing import secret_key
from everhook.storage.tables import EndpointSecret


def sealed(keyring: KeyRing, endpoint_gid: str, secret: str, **columns: Any) -> EndpointSecret:
    """A new secret's row."""
    gid = new_gid(Kind.SECRET)
    return EndpointSecret(gid=gid, endpoint_gid=endpoint_gid, secret=keyring.seal(secret, *_place(gid)), **columns)


async def signing_keys(
    connection: AsyncConnection, keyring: KeyRing, endpoint_gid: str
) -> tuple[tuple[bytes, datetime | None], ...]:
    """An endpoint's keys, newest first, each with its end. Raises CannotOpen: a fault of ours, not the endpoint's."""
    rows = await connection.execute(
        select(col(EndpointSecret.gid), col(EndpointSecret.secret), col(EndpointSecret.expires_at))
        .where(col(EndpointSecret.endpoint_gid) == endpoint_gid)
        .order_by(col(EndpointSecret.gid).desc())
    )
    return tuple((secret_key(keyring.open(row.secret, *_place(row.gid))), row.expires_at) for row in rows)


def _place(gid: str) -> tuple[str, str, str]:
    return ("endpoint_secret", "secret", gid)
