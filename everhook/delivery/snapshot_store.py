"""What a sender loads before it sends: the delivery with its message, and the endpoint with its secrets."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from cachetools import TLRUCache
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Row, Select, and_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import TERMINAL_STATUSES, DeliveryMode, DeliveryStatus, Verdict
from everhook.credentials.auth import EndpointAuth
from everhook.delivery.body_formats import BodyFormat
from everhook.delivery.limits import queue_limit
from everhook.egress import TlsExtras
from everhook.errors import InvalidField
from everhook.internal.options import Handler, parse_handler
from everhook.receipts.issuer import ReceiptContext
from everhook.signing import secrets_store as secrets
from everhook.signing.schemes import SignatureScheme
from everhook.signing.secrets_store import SigningKeys
from everhook.storage.batching import BatchExecutor
from everhook.storage.encryption import ENDPOINT_AUTH, ENDPOINT_TLS_KEY
from everhook.storage.engine import Database
from everhook.storage.header_encryption import header_values
from everhook.storage.keyring import DecryptionError, KeyRing
from everhook.storage.tables import Attempt, CircuitRow, Delivery, Endpoint, Message, Tenant

Key = TypeVar("Key")

MAX_CACHED_DESTINATIONS = 5_000

FAULTY_S = 30.0
"""An endpoint whose secret cannot be decrypted is loaded again after this time."""

MAX_LOADED_TOGETHER = 50
"""Bounds the memory of one load, because payloads are part of it."""


@dataclass(frozen=True)
class DeliverySnapshot:
    """Everything that an attempt starts from, in one row.

    `round` and `attempts` say which attempt was recorded last, and `last_…` what its outcome was. `failures` are those
    in a row that the circuit counts now. `payload` is None if it was erased. `is_decided`: an operator
    asked for it, so that the time since its acceptance says nothing about Everhook.
    """

    gid: str
    status: DeliveryStatus
    round: int
    attempts: int
    message_gid: str
    channel: str
    event_type: str
    payload: bytes | None
    published_at: datetime
    accepted_at: datetime
    traceparent: str | None
    endpoint_version: int
    endpoint_deleted: bool
    state: CircuitState
    hold: Hold | None
    failures: int
    last_attempt_gid: str | None = None
    last_verdict: Verdict | None = None
    last_status_code: int | None = None
    last_error: str | None = None
    last_duration_ms: int | None = None
    next_attempt_at: datetime | None = None
    is_decided: bool = False
    attributes: Mapping[str, str] | None = None
    group_key: str | None = None
    is_scheduled: bool = False

    def has_recorded(self, round_: int, number: int) -> bool:
        """Whether this attempt is recorded. If so, it is the last one, or a later one is."""
        return (round_, number) <= (self.round, self.attempts)

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL_STATUSES


@dataclass(frozen=True)
class Destination:
    """An endpoint as senders need it.

    `fault` says why nothing can be sent to it: a secret cannot be decrypted. `rate_limit` is in requests per second;
    None means no limit. `max_in_flight` is the number of requests at a time. The secrets of a `deleted` endpoint are
    deleted, so nothing can be signed for it. `handler`: it has the mode `internal`; then `url` is what attempts and
    receipts name in place of a URL. `metadata_headers`: the metadata of messages is sent as headers,
    too.
    """

    url: str
    tenant_gid: str
    tenant: str
    format: BodyFormat
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    schemes: frozenset[SignatureScheme]
    keys: SigningKeys = field(repr=False)
    tls: TlsExtras | None = None
    auth: EndpointAuth | None = None
    fault: str | None = None
    deleted: bool = False
    rate_limit: float | None = None
    max_in_flight: int | None = None
    handler: Handler | None = None
    metadata_headers: bool = False

    @property
    def queue_limit(self) -> float | None:
        """The rate limit that workflows know."""
        return queue_limit(self.rate_limit, self.max_in_flight)

    def live_keys(self, moment: datetime) -> list[bytes]:
        """The HMAC keys that sign at this moment, newest first."""
        return _live(self.keys.hmac, moment)

    def live_ed25519_keys(self, moment: datetime) -> list[Ed25519PrivateKey]:
        return _live(self.keys.ed25519, moment)


def _live(keys: Sequence[tuple[Key, datetime | None]], moment: datetime) -> list[Key]:
    return [key for key, expires_at in keys if expires_at is None or expires_at > moment]


class SnapshotLoader:
    """Loads snapshots; concurrent callers share one query."""

    def __init__(self, database: Database) -> None:
        self._group = BatchExecutor(database.read_connection, _load_snapshots, at_most=MAX_LOADED_TOGETHER)

    async def load(self, delivery_gid: str) -> DeliverySnapshot | None:
        """The snapshot; None if there is no such delivery."""
        return await self._group.submit(delivery_gid)


async def _load_snapshots(connection: AsyncConnection, gids: Sequence[str]) -> Sequence[DeliverySnapshot | None]:
    rows = await connection.execute(_SNAPSHOTS, {"gids": gids})
    found = {row.gid: DeliverySnapshot(**row._mapping) for row in rows}
    return [found.get(gid) for gid in gids]


_SNAPSHOTS: Select[*tuple[Any, ...]] = (
    select(
        col(Delivery.gid),
        col(Delivery.status),
        col(Delivery.round),
        col(Delivery.attempts),
        col(Delivery.message_gid),
        col(Delivery.channel),
        col(Delivery.event_type),
        col(Message.payload),
        col(Message.published_at),
        col(Delivery.accepted_at),
        col(Message.traceparent),
        col(Message.attributes),
        col(Delivery.group_key),
        col(Message.deliver_at).is_not(None).label("is_scheduled"),
        col(Endpoint.version).label("endpoint_version"),
        col(Endpoint.deleted_at).is_not(None).label("endpoint_deleted"),
        col(CircuitRow.state),
        col(CircuitRow.hold),
        col(CircuitRow.failures),
        col(Attempt.gid).label("last_attempt_gid"),
        col(Attempt.verdict).label("last_verdict"),
        col(Attempt.status_code).label("last_status_code"),
        col(Attempt.error).label("last_error"),
        col(Attempt.duration_ms).label("last_duration_ms"),
        col(Attempt.next_attempt_at),
        col(Delivery.decided_by).is_not(None).label("is_decided"),
    )
    .join(Message, col(Message.gid) == col(Delivery.message_gid))
    .join(Endpoint, col(Endpoint.gid) == col(Delivery.endpoint_gid))
    .join(CircuitRow, col(CircuitRow.endpoint_gid) == col(Delivery.endpoint_gid))
    .outerjoin(
        Attempt,
        and_(
            col(Attempt.delivery_gid) == col(Delivery.gid),
            col(Attempt.round) == col(Delivery.round),
            col(Attempt.number) == col(Delivery.attempts),
        ),
    )
    .where(col(Delivery.gid).in_(bindparam("gids", expanding=True)))
)


class DestinationCache:
    """Endpoints by gid and version. The current version comes with each `DeliverySnapshot`."""

    def __init__(self, database: Database, keyring: KeyRing) -> None:
        self._database = database
        self._keyring = keyring
        self._cache: TLRUCache[tuple[str, int], Destination] = TLRUCache(
            MAX_CACHED_DESTINATIONS, ttu=_good_until, timer=time.monotonic
        )

    async def get(self, endpoint_gid: str, version: int) -> Destination:
        """The endpoint. If its secrets cannot be decrypted it has a `fault`, and is loaded again after half a
        minute."""
        cached = self._cache.get((endpoint_gid, version))
        if cached is not None:
            return cached
        async with self._database.read_connection() as connection:
            destination = await _load_destination(connection, self._keyring, endpoint_gid)
        self._cache[endpoint_gid, version] = destination
        return destination


def _good_until(_key: tuple[str, int], destination: Destination, moment: float) -> float:
    return math.inf if destination.fault is None else moment + FAULTY_S


async def _load_destination(connection: AsyncConnection, keyring: KeyRing, endpoint_gid: str) -> Destination:
    endpoint: Row[*tuple[Any, ...]] = (
        await connection.execute(
            select(
                col(Endpoint.url),
                col(Endpoint.tenant_gid),
                col(Tenant.name).label("tenant"),
                col(Endpoint.format),
                col(Endpoint.headers),
                col(Endpoint.header_values),
                col(Endpoint.auth),
                col(Endpoint.auth_secret),
                col(Endpoint.signatures),
                col(Endpoint.tls_ca),
                col(Endpoint.tls_certificate),
                col(Endpoint.tls_key),
                col(Endpoint.deleted_at),
                col(Endpoint.rate_limit),
                col(Endpoint.max_in_flight),
                col(Endpoint.mode),
                col(Endpoint.options),
            )
            .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
            .where(col(Endpoint.gid) == endpoint_gid)
        )
    ).one()
    destination = Destination(
        url=endpoint.url,
        tenant_gid=endpoint.tenant_gid,
        tenant=endpoint.tenant,
        format=endpoint.format,
        headers=(),
        schemes=frozenset(),
        keys=SigningKeys((), ()),
        deleted=endpoint.deleted_at is not None,
        rate_limit=endpoint.rate_limit,
        max_in_flight=endpoint.max_in_flight,
        metadata_headers=bool(endpoint.options.get("metadataHeaders")),
    )
    try:
        if endpoint.mode is DeliveryMode.INTERNAL:
            handler = await _handler(connection, keyring, endpoint_gid, endpoint.options)
            return replace(destination, url=handler.place, handler=handler)
        return replace(
            destination,
            headers=tuple(header_values(keyring, endpoint_gid, endpoint.headers, endpoint.header_values).items()),
            schemes=frozenset(SignatureScheme(scheme) for scheme in endpoint.signatures),
            keys=await secrets.signing_keys(connection, keyring, endpoint_gid),
            tls=_tls(keyring, endpoint_gid, endpoint),
            auth=_auth(keyring, endpoint_gid, endpoint),
        )
    except DecryptionError as error:
        return replace(destination, fault=f"a secret cannot be decrypted: {error}")
    except (ValueError, TypeError, AttributeError, KeyError, InvalidField) as error:  # their text may hold a secret
        return replace(destination, fault=f"the stored endpoint cannot be used ({type(error).__name__})")


async def _handler(
    connection: AsyncConnection, keyring: KeyRing, endpoint_gid: str, options: Mapping[str, Any]
) -> Handler:
    """The handler with its secret URL, if it has one. That of a deleted endpoint is deleted."""
    handler = parse_handler(options.get("handler"))
    url = await secrets.handler_url(connection, keyring, endpoint_gid)
    return replace(handler, url=url) if url is not None else handler


def _tls(keyring: KeyRing, endpoint_gid: str, row: Row[*tuple[Any, ...]]) -> TlsExtras | None:
    key = ENDPOINT_TLS_KEY.decrypt(keyring, row.tls_key, endpoint_gid) if row.tls_key is not None else None
    extras = TlsExtras(row.tls_ca, row.tls_certificate, key)
    return extras if extras != TlsExtras() else None


def _auth(keyring: KeyRing, endpoint_gid: str, row: Row[*tuple[Any, ...]]) -> EndpointAuth | None:
    """None for a deleted endpoint, too: its secret is deleted."""
    if row.auth is None or row.auth_secret is None:
        return None
    return EndpointAuth.stored(row.auth, ENDPOINT_AUTH.decrypt(keyring, row.auth_secret, endpoint_gid))


async def load_receipt_context(connection: AsyncConnection, delivery_gid: str) -> ReceiptContext | None:
    """What a receipt needs to know about its delivery; None if the delivery was deleted."""
    rows = await connection.execute(
        select(
            col(Delivery.tenant_gid),
            col(Delivery.message_gid),
            col(Endpoint.url),
            col(Endpoint.mode),
            col(Endpoint.options),
        )
        .join(Endpoint, col(Endpoint.gid) == col(Delivery.endpoint_gid))
        .where(col(Delivery.gid) == delivery_gid)
    )
    row = rows.one_or_none()
    if row is None:
        return None
    url = row.url
    if row.mode is DeliveryMode.INTERNAL:
        url = parse_handler(row.options.get("handler")).place
    return ReceiptContext(row.tenant_gid, row.message_gid, url)
