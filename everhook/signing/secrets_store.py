"""Signing secrets of endpoints. Each is encrypted for its own row, and decrypted only to sign.

A rotation adds a secret and sets an expiry on earlier ones. Until then all of them sign, so a receiver can switch to
the new one at any time.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.errors import TooManySecrets
from everhook.ids import Kind, new_gid
from everhook.signing.schemes import SecretKind, ed25519_key, new_private_key, public_key, secret_key
from everhook.storage.encryption import ENDPOINT_SECRET
from everhook.storage.keyring import DecryptionError, KeyRing
from everhook.storage.tables import EndpointSecret, now

MAX_LIVE = 10
"""The limit for each kind: every live secret signs every request, and servers refuse headers that grow too long."""


@dataclass(frozen=True)
class SigningKeys:
    """The signing keys of an endpoint, newest first, each with its expiry."""

    hmac: tuple[tuple[bytes, datetime | None], ...] = field(repr=False)
    ed25519: tuple[tuple[Ed25519PrivateKey, datetime | None], ...]


@dataclass(frozen=True)
class EndpointPublicKey:
    """The key that receivers verify `v1a` signatures with. `expires_at` is None for the current one."""

    public_key: str
    expires_at: datetime | None


def encrypted_secret(keyring: KeyRing, endpoint_gid: str, secret: str, **columns: Any) -> EndpointSecret:
    """The row of a new secret."""
    gid = new_gid(Kind.SECRET)
    ciphertext = ENDPOINT_SECRET.encrypt(keyring, secret, gid)
    return EndpointSecret(gid=gid, endpoint_gid=endpoint_gid, secret=ciphertext, **columns)


def new_key_pair(keyring: KeyRing, endpoint_gid: str) -> EndpointSecret:
    """The row of a new Ed25519 key."""
    private_key = new_private_key()
    return encrypted_secret(
        keyring, endpoint_gid, private_key, kind=SecretKind.ED25519, public_key=public_key(private_key)
    )


async def signing_keys(connection: AsyncConnection, keyring: KeyRing, endpoint_gid: str) -> SigningKeys:
    """The live secrets, decrypted. Raises DecryptionError: a fault of the installation, not of the endpoint."""
    rows = await connection.execute(
        select(
            col(EndpointSecret.gid),
            col(EndpointSecret.kind),
            col(EndpointSecret.secret),
            col(EndpointSecret.expires_at),
        )
        .where(col(EndpointSecret.endpoint_gid) == endpoint_gid, _is_live())
        .order_by(col(EndpointSecret.gid).desc())
    )
    decrypted = [
        (row.kind, ENDPOINT_SECRET.decrypt(keyring, row.secret, row.gid), row.expires_at)
        for row in rows
        if row.kind is not SecretKind.HANDLER_URL
    ]
    return SigningKeys(
        hmac=tuple((secret_key(secret), end) for kind, secret, end in decrypted if kind is SecretKind.HMAC),
        ed25519=tuple((ed25519_key(secret), end) for kind, secret, end in decrypted if kind is SecretKind.ED25519),
    )


async def handler_url(connection: AsyncConnection, keyring: KeyRing, endpoint_gid: str) -> str | None:
    """The URL of the webhook that an endpoint's handler posts to; None if it has none. Raises DecryptionError."""
    rows = await connection.execute(
        select(col(EndpointSecret.gid), col(EndpointSecret.secret)).where(*_handler_urls(endpoint_gid))
    )
    row = rows.one_or_none()
    return ENDPOINT_SECRET.decrypt(keyring, row.secret, row.gid) if row is not None else None


async def set_handler_url(session: AsyncSession, keyring: KeyRing, endpoint_gid: str, url: str) -> None:
    """Set the URL of the webhook that an endpoint's handler posts to."""
    await session.execute(delete(EndpointSecret).where(*_handler_urls(endpoint_gid)))
    session.add(encrypted_secret(keyring, endpoint_gid, url, kind=SecretKind.HANDLER_URL))
    await session.flush()


def _handler_urls(endpoint_gid: str) -> tuple[ColumnElement[bool], ...]:
    return col(EndpointSecret.endpoint_gid) == endpoint_gid, col(EndpointSecret.kind) == SecretKind.HANDLER_URL


async def public_keys(session: AsyncSession, endpoint_gids: Collection[str]) -> dict[str, list[EndpointPublicKey]]:
    """The live public keys of those endpoints that have any, newest first."""
    rows = await session.execute(
        select(col(EndpointSecret.endpoint_gid), col(EndpointSecret.public_key), col(EndpointSecret.expires_at))
        .where(
            col(EndpointSecret.endpoint_gid).in_(endpoint_gids),
            col(EndpointSecret.kind) == SecretKind.ED25519,
            _is_live(),
        )
        .order_by(col(EndpointSecret.gid).desc())
    )
    found: defaultdict[str, list[EndpointPublicKey]] = defaultdict(list)
    for row in rows:
        found[row.endpoint_gid].append(EndpointPublicKey(row.public_key, row.expires_at))
    return found


async def rotate(
    session: AsyncSession, keyring: KeyRing, endpoint_gid: str, secret: str, grace: timedelta
) -> datetime | None:
    """Sign with `secret` from now on, and with earlier secrets until `grace` is over. If Ed25519 is on, its key is
    rotated too.

    A live secret that is set again replaces its earlier row, so that a repeated call is harmless. Expired secrets are
    deleted. Returns when the last earlier secret expires; None if all have. Raises TooManySecrets.
    """
    moment = now()
    end = moment + grace
    before = await _rows(session, endpoint_gid)
    staying: list[EndpointSecret] = []
    for row in before:
        row.expires_at = min(row.expires_at or end, end)
        if row.expires_at <= moment or _holds(keyring, row, secret):
            await session.delete(row)
        else:
            staying.append(row)
    if any(count >= MAX_LIVE for count in Counter(row.kind for row in staying).values()):
        raise TooManySecrets(
            f"{MAX_LIVE} secrets of this endpoint sign already. Wait for one to end, or end all of them at once with "
            "gracePeriodSeconds 0."
        )
    session.add(encrypted_secret(keyring, endpoint_gid, secret))
    if any(row.kind is SecretKind.ED25519 for row in before):
        session.add(new_key_pair(keyring, endpoint_gid))
    await session.flush()
    return max((row.expires_at for row in staying if row.expires_at is not None), default=None)


async def set_ed25519(session: AsyncSession, keyring: KeyRing, endpoint_gid: str, *, on: bool) -> None:
    """Create a key pair if there is none, or delete it: switched off, Ed25519 keys end at once."""
    pairs = col(EndpointSecret.endpoint_gid) == endpoint_gid, col(EndpointSecret.kind) == SecretKind.ED25519
    if not on:
        await session.execute(delete(EndpointSecret).where(*pairs))
    elif (await session.execute(select(EndpointSecret).where(*pairs).limit(1))).first() is None:
        session.add(new_key_pair(keyring, endpoint_gid))
    await session.flush()


async def _rows(session: AsyncSession, endpoint_gid: str) -> Sequence[EndpointSecret]:
    """Those that sign."""
    found = await session.execute(
        select(EndpointSecret).where(
            col(EndpointSecret.endpoint_gid) == endpoint_gid, col(EndpointSecret.kind) != SecretKind.HANDLER_URL
        )
    )
    return found.scalars().all()


def _holds(keyring: KeyRing, row: EndpointSecret, secret: str) -> bool:
    """Whether a row holds this secret. A row that cannot be decrypted holds no known secret, so a rotation can
    replace it."""
    try:
        return ENDPOINT_SECRET.decrypt(keyring, row.secret, row.gid) == secret
    except DecryptionError:
        return False


def _is_live() -> ColumnElement[bool]:
    return or_(col(EndpointSecret.expires_at).is_(None), col(EndpointSecret.expires_at) > now())
