"""Polling, streaming and acknowledging: how consumers receive the deliveries of endpoints that are pulled."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from api import problem_types
from api.dependencies import Principal, ServicesDep, Store
from api.event_stream import EventStream, LastEventId, permission
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
from api.pulling.streaming import STREAM_EXAMPLE, rendered
from api.schemas import Gid, Name
from everhook.pulling.leases import PulledEndpoint
from everhook.pulling.leases import Request as PullRequest
from everhook.pulling.service import Claim
from everhook.streaming.service import StreamRequest

router = APIRouter(prefix="/endpoints/{gid}", tags=["pulling"])
view_router = APIRouter(prefix="/endpoints/{gid}", tags=["pulling"])

MAX_ITEMS, MAX_WAIT_S = 100, 55.0

UNSTORED = {"cache-control": "no-store"}
NOT_PULLED: dict[str, Any] = {"responses": documents(problem_types.NOT_PULLED)}


async def _connected(gid: Gid, services: ServicesDep, store: Store) -> PulledEndpoint:
    """The endpoint that a consumer connects to."""
    async with services.pulls.turns, store.reading() as session:
        return await services.endpoints.pulled(session, gid)


Connected = Annotated[PulledEndpoint, Depends(_connected)]

Limit = Annotated[int, Query(ge=1, le=MAX_ITEMS, description="How many deliveries at most.")]
WaitSeconds = Annotated[
    float, Query(alias="waitSeconds", ge=0, le=MAX_WAIT_S, description="How long to wait if there is none.")
]
LeaseSeconds = Annotated[
    int | None,
    Query(alias="leaseSeconds", ge=5, le=43_200, description="How long they are yours. Without it: the endpoint's."),
]
Prefetch = Annotated[
    int, Query(ge=0, le=500, description="How many deliveries may be unacknowledged at a time; 0 hands none out.")
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
    endpoint: Connected,
    request: Request,
    services: ServicesDep,
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
    responses={HTTPStatus.OK.value: {"model": LeaseResults}, **documents(problem_types.NOT_PULLED)},
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
    """Acknowledge deliveries, return them, or extend their leases. A line that is not accepted does not affect the
    others. Acks are idempotent: repeat the call if there was no response."""
    lines = await read_lines(request)
    async with store.reading() as session:
        endpoint = await services.endpoints.pulled(session, gid)
    results = await services.pulls.acknowledge(endpoint, lines, caller.address)
    return LeaseResults(data=[LeaseResultOut.of(result) for result in results])


@router.get(
    "/stream",
    status_code=HTTPStatus.OK,
    response_class=EventStream,
    responses={
        HTTPStatus.OK.value: {
            "description": "Events: `hello`, `message`, `bye`",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": STREAM_EXAMPLE}},
        },
        **documents(problem_types.NOT_PULLED, problem_types.TOO_MANY_STREAMS),
    },
)
async def stream_endpoint(
    endpoint: Connected,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    prefetch: Prefetch = 16,
    lease_seconds: LeaseSeconds = None,
    consumer: ConsumerName = None,
    last_event_id: LastEventId = None,
) -> EventStream:
    """Receive deliveries as server-sent events, each under a lease, as soon as they are available.

    At most `prefetch` of them are unacknowledged at a time. A stream ends after some minutes with the event `bye`:
    reconnect, with the id of the last event in the header `Last-Event-ID`. Events after that one never arrived, and are
    delivered again at once.
    """

    asked = StreamRequest(
        name=consumer or caller.name,
        prefetch=prefetch,
        lease=timedelta(seconds=lease_seconds) if lease_seconds is not None else None,
        address=caller.address,
        last_event_id=last_event_id,
    )
    may_continue = permission(
        services, caller, store, lambda session: services.endpoints.can_be_pulled(session, endpoint.gid)
    )
    return EventStream(services.streams.open(endpoint, asked, may_continue), rendered)


@view_router.get("/queue", **NOT_PULLED)
async def get_endpoint_queue(gid: Gid, services: ServicesDep, store: Store) -> QueueOut:
    """Get how many deliveries wait in the queue of an endpoint, and which consumers hold leases."""
    async with store.reading() as session:
        endpoint = await services.endpoints.pulled(session, gid)
        return QueueOut.of(await services.pulls.view(session, endpoint))
