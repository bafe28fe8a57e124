"""What becomes of a message: wait for it, list its events, follow them."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api import problem_types
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.event_stream import EventStream, LastEventId, permission
from api.lifecycle import render
from api.lifecycle.schemas import RESULT_EXAMPLE, LifecycleEventOut, MessageResultOut
from api.lifecycle.viewers import viewer_of
from api.problems import documents
from api.schemas import Gid, ListOf
from everhook.lifecycle.service import Until

router = APIRouter(prefix="/messages/{gid}", tags=["messages"])

MAX_TIMEOUT_S = 55.0

TimeoutSeconds = Annotated[
    float, Query(alias="timeoutSeconds", ge=0, le=MAX_TIMEOUT_S, description="How long to wait at most.")
]
UntilQuery = Annotated[
    Until, Query(description="`settled`: until all deliveries are settled; `first`: until one of them is.")
]


@router.get(
    "/wait",
    responses={
        HTTPStatus.OK.value: {
            "model": MessageResultOut,
            "description": "What became of it, or `pending` after the timeout",
            "content": {"application/json": {"example": RESULT_EXAMPLE}},
        },
        **documents(problem_types.TOO_MANY_STREAMS),
    },
)
async def wait_for_message(
    gid: Gid,
    request: Request,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    timeout_seconds: TimeoutSeconds = 25,
    until: UntilQuery = Until.SETTLED,
) -> Response:
    """Wait until a message is settled: each delivery is delivered, dead-lettered or discarded.

    The response has what each receiver responded. After the timeout its `state` is `pending`: call again. A key with
    the scope `publish` alone may wait for what was published with it.
    """
    found = await services.lifecycle.wait(
        store, viewer_of(caller), gid, timeout_s=timeout_seconds, until=until, has_left=request.is_disconnected
    )
    return Response(render.message_result(found), media_type="application/json")


@router.get("/events")
async def list_message_events(
    gid: Gid, paging: Paging, services: ServicesDep, store: Store, caller: Principal
) -> ListOf[LifecycleEventOut]:
    """List what happened to a message: first that it was accepted, then the events of one delivery after the other,
    last that it is settled. The events of a delivery are in their order."""
    async with store.reading() as session:
        page = await services.lifecycle.page(session, viewer_of(caller), gid, after=paging.after, limit=paging.limit)
    return ListOf(
        data=[LifecycleEventOut.of(event) for event in page.rows], next_cursor=paging.next_cursor(page.next_key)
    )


@router.get(
    "/events/stream",
    status_code=HTTPStatus.OK,
    response_class=EventStream,
    responses={
        HTTPStatus.OK.value: {
            "description": "Events: `hello`, those of the list, each with its kind as its name, and `bye`",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": render.EVENTS_EXAMPLE}},
        },
        **documents(problem_types.TOO_MANY_DELIVERIES, problem_types.TOO_MANY_STREAMS),
    },
)
async def stream_message_events(
    gid: Gid, services: ServicesDep, store: Store, caller: Principal, last_event_id: LastEventId = None
) -> EventStream:
    """Follow a message as server-sent events: what happened to it already, and what happens from now on.

    A stream ends after some minutes with the event `bye`: reconnect, with the id of the last event in the header
    `Last-Event-ID`. The new stream repeats the 30 s before that event: ignore ids that you know.
    """
    viewer = viewer_of(caller)

    may_continue = permission(
        services, caller, store, lambda session: services.lifecycle.can_be_seen(session, viewer, gid)
    )
    stream = await services.lifecycle.follow(store, viewer, gid, last_event_id, may_continue)
    return EventStream(stream, render.rendered)
