"""Polling and acknowledging: how consumers receive the deliveries of an endpoint in the mode `poll` or `stream`."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api import problem_types
from api.dependencies import Principal, ServicesDep, Store
from api.problems import documents
from api.pulling.acks import read_lines
from api.pulling.schemas import (
    ACKS_EXAMPLE,
    ACKS_SCHEMA,
    LeaseResultOut,
    LeaseResults,
    PulledItems,
    QueueOut,
)
from api.schemas import Gid, Name
from everhook.pulling.service import Claim
from everhook.pulling.service import Request as PullRequest

router = APIRouter(prefix="/endpoints/{gid}", tags=["pulling"])
view_router = APIRouter(prefix="/endpoints/{gid}", tags=["pulling"])

MAX_ITEMS, MAX_WAIT_S = 100, 55.0

UNSTORED = {"cache-control": "no-store"}
NOT_PULLED: dict[str, Any] = {"responses": documents(problem_types.NOT_PULLED)}

Limit = Annotated[int, Query(ge=1, le=MAX_ITEMS, description="How many deliveries at most.")]
WaitSeconds = Annotated[
    float, Query(alias="waitSeconds", ge=0, le=MAX_WAIT_S, description="How long to wait if there is none.")
]
LeaseSeconds = Annotated[
    int | None,
    Query(alias="leaseSeconds", ge=5, le=43_200, description="How long they are yours. Without it: the endpoint's."),
]
ConsumerName = Annotated[Name | None, Query(description="Your name, for operators. Without it: the name of your key.")]


@router.get(
    "/poll",
    responses={
        HTTPStatus.OK.value: {"model": PulledItems, "description": "What was handed out, if anything"},
        **documents(problem_types.NOT_PULLED),
    },
)
async def poll_endpoint(
    gid: Gid,
    request: Request,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    limit: Limit = 10,
    wait_seconds: WaitSeconds = 0,
    lease_seconds: LeaseSeconds = None,
    consumer: ConsumerName = None,
) -> Response:
    """Take deliveries out of the queue of an endpoint, each under a lease. Several consumers share the work.

    Acknowledge them before the lease ends; otherwise another consumer gets them. An empty list is a normal response:
    poll again.
    """
    async with store.reading() as session:
        endpoint = await services.endpoints.pulled(session, gid)
    asked = PullRequest(
        consumer=consumer or caller.name,
        limit=limit,
        lease=timedelta(seconds=lease_seconds) if lease_seconds is not None else None,
        address=caller.address,
    )
    claim = await services.pulls.poll(endpoint, asked, wait_seconds, request.is_disconnected)
    return Response(_body(claim), media_type="application/json", headers=UNSTORED)


def _body(claim: Claim) -> bytes:
    """Written by hand, because each item is the very bytes whose hash its receipt has."""
    items = b",".join(item.body for item in claim.items)
    held = b',"held":"%b"' % claim.held.value.encode() if claim.held is not None else b""
    return b'{"data":[%b],"more":%b%b}' % (items, b"true" if claim.more else b"false", held)


@router.post(
    "/acks",
    responses={
        HTTPStatus.OK.value: {"model": LeaseResults},
        **documents(problem_types.NOT_PULLED, problem_types.PAYLOAD_TOO_LARGE),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ACKS_SCHEMA, "example": ACKS_EXAMPLE}},
        }
    },
)
async def acknowledge(
    gid: Gid, request: Request, services: ServicesDep, store: Store, caller: Principal
) -> LeaseResults:
    """Acknowledge deliveries, return them, or extend their leases. One line that does not count fails none of the
    others. Acks are idempotent: repeat the call if there was no response."""
    lines = await read_lines(request)
    async with store.reading() as session:
        endpoint = await services.endpoints.pulled(session, gid)
    results = await services.pulls.acknowledge(endpoint, lines, caller.address)
    return LeaseResults(data=[LeaseResultOut.of(result) for result in results])


@view_router.get("/queue", **NOT_PULLED)
async def get_endpoint_queue(gid: Gid, services: ServicesDep, store: Store) -> QueueOut:
    """Get how many deliveries wait in the queue of an endpoint, and which consumers hold leases."""
    async with store.reading() as session:
        endpoint = await services.endpoints.pulled(session, gid)
        return QueueOut.of(await services.pulls.view(session, endpoint))
