"""Receipts: what was stated of each attempt, and all that anyone needs to check it offline."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from api import problem_types
from api.dependencies import Paging, ServicesDep, Store
from api.problems import documents
from api.receipts.schemas import Checkpoint, ConsistencyBundle, JsonWebKeySet, Receipt, ReceiptBundle
from api.schemas import Gid, ListOf, Name
from everhook.receipts.service import MAX_SIZE

KEYS_MAX_AGE_S = 60

router = APIRouter(tags=["receipts"])
well_known = APIRouter(prefix="/.well-known", tags=["receipts"])

Size = Annotated[int, Query(ge=0, le=MAX_SIZE, description="A number of receipts, at which you hold a checkpoint.")]
LogOf = Annotated[
    Name | None,
    Query(description="Whose log: the caller's own, else that of `default`, whose endpoints name no tenant."),
]


class JwksResponse(JSONResponse):
    media_type = "application/jwk-set+json"


@well_known.get(
    "/jwks.json",
    response_class=JwksResponse,
    responses={200: {"model": JsonWebKeySet}, **documents(problem_types.UNAVAILABLE)},
)
async def get_receipt_keys(services: ServicesDep) -> Response:
    """The public keys of receipts and checkpoints, retired ones included (RFC 7517). Needs no API key."""
    keys = await services.receipts.public_keys()
    return JwksResponse(keys, headers={"cache-control": f"public, max-age={KEYS_MAX_AGE_S}"})


@router.get("/deliveries/{gid}/receipts", responses=documents(problem_types.RECEIPT_ARCHIVED))
async def list_delivery_receipts(gid: Gid, paging: Paging, services: ServicesDep, store: Store) -> ListOf[Receipt]:
    """The receipts of a delivery: one for each attempt that has ended, in the order of the attempts."""
    async with store.reading() as session:
        page = await services.receipts.of_delivery(session, gid, after=paging.after, limit=paging.limit)
    return ListOf(data=[Receipt.of(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/receipts/checkpoints", responses=documents(problem_types.NOT_FOUND))
async def list_checkpoints(
    paging: Paging, services: ServicesDep, store: Store, tenant: LogOf = None
) -> ListOf[Checkpoint]:
    """The checkpoints of one tenant's log, newest first."""
    async with store.reading() as session:
        page = await services.receipts.checkpoints(session, tenant, after=paging.after, limit=paging.limit)
    return ListOf(data=[Checkpoint.of(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/receipts/consistency", responses=documents(problem_types.NOT_FOUND))
async def get_consistency_proof(
    services: ServicesDep,
    store: Store,
    from_: Annotated[Size, Query(alias="from")],
    to: Size,
    tenant: LogOf = None,
) -> ConsistencyBundle:
    """Proof that the log of one checkpoint begins with that of another: for `everhook receipts verify`."""
    async with store.reading() as session:
        bundle = await services.receipts.consistency(session, tenant, from_, to)
    return ConsistencyBundle.model_validate(bundle)


@router.get("/receipts/{gid}", responses=documents(problem_types.RECEIPT_ARCHIVED))
async def get_receipt(gid: Gid, services: ServicesDep, store: Store) -> Receipt:
    """One receipt, as it was signed and in words."""
    async with store.reading() as session:
        return Receipt.of(await services.receipts.get(session, gid))


@router.get(
    "/receipts/{gid}/bundle",
    response_model_exclude_none=True,
    responses=documents(problem_types.UNAVAILABLE, problem_types.RECEIPT_ARCHIVED),
)
async def get_receipt_bundle(
    gid: Gid, services: ServicesDep, store: Store, since: Annotated[Size | None, Query()] = None
) -> ReceiptBundle:
    """One file with all that it takes to check a receipt offline: `everhook receipts verify`.

    `503` while the receipt is not under a checkpoint yet: `Retry-After` says when it will be.

    With `since`, it also shows that the log was only added to since your checkpoint of that size.
    """
    async with store.reading() as session:
        bundle = await services.receipts.bundle(session, gid, since=since)
    return ReceiptBundle.model_validate(bundle)
