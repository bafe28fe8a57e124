"""Receipts: what was stated of each attempt, and all that a stranger needs to check it offline."""

import math
import time
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncSession

from api import problem_types, render
from api.deliveries.router import find_delivery, position_behind
from api.dependencies import Paging, ServicesDep, Store
from api.problems import Problem, invalid, not_found
from api.receipts.schemas import CheckpointOut, ConsistencyBundle, JsonWebKeySet, ReceiptBundle, ReceiptOut
from api.schemas import Gid, ListOf, Name
from everhook.delivery import attempts_store as delivery_attempts
from everhook.receipts import bundle as bundles
from everhook.receipts import store as receipts
from everhook.receipts.bundle import Consistency
from everhook.receipts.keys import jwks
from everhook.receipts.keys_store import load_issuer
from everhook.receipts.log.merkle import MissingHashes, consistency_proof, inclusion_proof
from everhook.receipts.store import StoredHashes
from everhook.storage.keyring import KeyRing
from everhook.storage.tables import DEFAULT_TENANT_GID, Receipt, ReceiptSeal
from everhook.storage.tenant_scope import tenant_bound
from everhook.tenants import store as tenants

KEYS_MAX_AGE_S = 60
SEALING_TAKES_S = 2
"""What a pass of the sealer may take, for those who wait for one."""

T = TypeVar("T")

router = APIRouter(tags=["receipts"])
well_known = APIRouter(prefix="/.well-known", tags=["receipts"])

MAX_SIZE = 2**63 - 1
Size = Annotated[int, Query(ge=0, le=MAX_SIZE, description="A number of receipts, at which you hold a checkpoint.")]
LogOf = Annotated[
    Name | None,
    Query(description="Whose log: the caller's own, else that of `default`, whose endpoints name no tenant."),
]


class JwksResponse(JSONResponse):
    media_type = "application/jwk-set+json"


@well_known.get("/jwks.json", response_class=JwksResponse, responses={200: {"model": JsonWebKeySet}})
async def get_keys(services: ServicesDep) -> Response:
    """The public keys of receipts and checkpoints, retired ones included (RFC 7517). For everybody."""
    async with services.database.reading() as session:
        keys = await key_set(session, services.keyring)
    return JwksResponse(keys, headers={"cache-control": f"public, max-age={KEYS_MAX_AGE_S}"})


@router.get("/deliveries/{gid}/receipts")
async def list_receipts(gid: Gid, paging: Paging, store: Store) -> ListOf[ReceiptOut]:
    """The receipts of a delivery: one for each attempt that is over, in the order of the attempts."""
    after = position_behind(paging.after)
    async with store.reading() as session:
        page = await delivery_attempts.receipts_in_order(session, gid, after=after, limit=paging.limit)
        if not page.rows:
            await find_delivery(session, gid)
    return ListOf(data=[render.receipt(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/receipts/checkpoints")
async def list_checkpoints(paging: Paging, store: Store, tenant: LogOf = None) -> ListOf[CheckpointOut]:
    """The checkpoints of one tenant's log, newest first."""
    async with store.reading() as session:
        tenant_gid = await _log_of(session, tenant)
        page = await receipts.page_of_seals(session, tenant_gid, before=_size(paging.after), limit=paging.limit)
    return ListOf(data=[render.checkpoint(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/receipts/consistency")
async def get_consistency(
    store: Store,
    services: ServicesDep,
    from_: Annotated[Size, Query(alias="from")],
    to: Size,
    tenant: LogOf = None,
) -> ConsistencyBundle:
    """Proof that the log of one checkpoint begins with that of another: for `everhook receipts verify`."""
    if from_ > to:
        raise invalid("from", f"is larger than `to`, and a log only grows: {from_} > {to}")
    async with store.reading() as session:
        tenant_gid = await _log_of(session, tenant)
        old, new = [await _checkpoint(session, tenant_gid, size) for size in (from_, to)]
        proof = await _proven(consistency_proof(StoredHashes(session, tenant_gid), old.size, new.size))
        keys = await key_set(session, services.keyring)
    return ConsistencyBundle.model_validate(bundles.build_consistency(old.note, new.note, proof, keys))


@router.get("/receipts/{gid}")
async def get_receipt(gid: Gid, store: Store) -> ReceiptOut:
    """One receipt, as it was signed and in words."""
    async with store.reading() as session:
        return render.receipt(await _find(session, gid))


@router.get(
    "/receipts/{gid}/bundle",
    response_model_exclude_none=True,
    responses={503: {"description": "Not under a checkpoint yet: `Retry-After` says when it will be."}},
)
async def get_bundle(
    gid: Gid, store: Store, services: ServicesDep, since: Annotated[Size | None, Query()] = None
) -> ReceiptBundle:
    """One file with all that it takes to check a receipt offline: `everhook receipts verify`.

    With `since`, it also shows that the log of the checkpoint that you hold, of that size, was only added to.
    """
    async with store.reading() as session:
        row = await _find(session, gid)
        seal = await receipts.newest_seal(session, row.tenant_gid)
        if row.seq is None or seal is None:
            raise _not_sealed(gid, services.settings.seal_receipts_every_seconds)
        if since is not None and since > seal.size:
            raise invalid("since", f"the log has {seal.size} receipts, which is fewer")
        store_ = StoredHashes(session, row.tenant_gid)
        proof = await _proven(inclusion_proof(store_, row.seq, seal.size))
        growth = None
        if since is not None:
            growth = Consistency(since, seal.size, await _proven(consistency_proof(store_, since, seal.size)))
        keys = await key_set(session, services.keyring)
    return ReceiptBundle.model_validate(bundles.build(row.jws, row.seq, proof, seal.note, keys, growth))


async def _log_of(session: AsyncSession, tenant: str | None) -> str:
    """The tenant whose log it is, as far as the caller reaches."""
    named = tenant or tenant_bound(session) or DEFAULT_TENANT_GID
    found = await tenants.find_tenant(session, named)
    if found is None:
        raise not_found("tenant", named)
    return found.gid


async def _find(session: AsyncSession, gid: str) -> Receipt:
    row = await receipts.find(session, gid)
    if row is None:
        raise not_found("receipt", gid)
    return row


async def _checkpoint(session: AsyncSession, tenant_gid: str, size: int) -> ReceiptSeal:
    seal = await receipts.seal_at(session, tenant_gid, size)
    if seal is None:
        raise Problem(problem_types.NOT_FOUND, f"There is no checkpoint over {size} receipts in this log.")
    return seal


async def key_set(session: AsyncSession, keyring: KeyRing) -> dict[str, Any]:
    """All keys there are now, so those that signed whatever was read before."""
    issuer = await load_issuer(await session.connection(), keyring)
    return jwks(issuer.keys if issuer is not None else ())


async def _proven(proof: Awaitable[T]) -> T:
    try:
        return await proof
    except MissingHashes as error:
        raise Problem(
            problem_types.INTERNAL_ERROR,
            f"This log was damaged, and there is no proof from it: {error}. `everhook receipts audit` names the place.",
        ) from error


def _not_sealed(gid: str, every_seconds: float) -> Problem:
    """Schedules tick at whole multiples of their interval."""
    wait = math.ceil(every_seconds - time.time() % every_seconds) + SEALING_TAKES_S
    return Problem(
        problem_types.UNAVAILABLE,
        f"{gid} is not under a checkpoint yet. The next is signed in {wait} seconds.",
        headers={"retry-after": str(wait)},
    )


def _size(key: str | None) -> int | None:
    """The size that a page of checkpoints begins below."""
    if key is not None and not (key.isascii() and key.isdigit() and int(key) <= MAX_SIZE):
        raise invalid("cursor", "is not a cursor of this API; send `nextCursor` unchanged")
    return int(key) if key is not None else None
