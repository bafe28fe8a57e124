"""The way into the portal: a link for one tenant, signed, short-lived, and good for one visit.

`POST /v1/tenants/{gid}/portal-link` creates it; opening it shows a page with one button, which exchanges it for a
session. The exchange is a form, because programs that scan mail and chats also fetch links.
"""

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ConfigDict, Field

from api import problem_types
from api.dashboard import identity
from api.dashboard.forms import read_form, refuse_foreign
from api.dashboard.pages import (
    PORTAL,
    PageRoute,
    SignedInDep,
    SignOutFormDep,
    dashboard_of,
    render,
    strict_cookie,
)
from api.dashboard.sessions import PORTAL_COOKIE, PORTAL_LIFETIME, PORTAL_LINK, PORTAL_SESSION
from api.dependencies import Principal, Services, ServicesDep, Store, address_of
from api.problems import Problem, documents
from api.schemas import ApiModel, Gid, Integer
from api.tasks.schemas import Assignee
from everhook.audit.store import Actor

LINK_LIFETIME = timedelta(minutes=5)

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix=PORTAL)
api_router = APIRouter(prefix="/tenants", tags=["tenants"])


_EXAMPLE: dict[str, Any] = {
    "url": "https://everhook.example.com/portal/open/eyJhbGciOiJIUzI1NiJ9",
    "expiresAt": "2026-01-31T12:05:00Z",
}


class PortalLinkIn(ApiModel):
    """How long the session that the link opens lasts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sessionSeconds": 3600}]})

    session_seconds: Annotated[Integer, Field(ge=60, le=PORTAL_LIFETIME.total_seconds())] = int(
        PORTAL_LIFETIME.total_seconds()
    )
    person: Assignee | None = Field(
        None, description="Who visits the portal, to decide tasks in this name. Without it the portal itself decides."
    )


class PortalLinkOut(ApiModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    url: str = Field(description="Send the tenant's browser there, or open it in a frame. It works once.")
    expires_at: datetime = Field(description="When the link expires if it is not opened.")


@api_router.post(
    "/{gid}/portal-link", status_code=HTTPStatus.CREATED, responses=documents(problem_types.NOT_CONFIGURED)
)
async def create_portal_link(
    gid: Gid,
    request: Request,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    body: PortalLinkIn | None = None,
) -> PortalLinkOut:
    """Create a link that signs a tenant in to its portal, where it sees its own endpoints, deliveries and receipts."""
    asked = body or PortalLinkIn()
    base = public_url(request)
    async with store.writing() as session:
        tenant = await services.tenants.grant_portal_link(session, caller.actor, gid)
    token, link = dashboard_of(request).sessions.issue(
        PORTAL_LINK, f"{tenant.gid} {asked.session_seconds} {asked.person or ''}", LINK_LIFETIME
    )
    return PortalLinkOut(url=base + request.app.url_path_for("open_portal", token=token), expires_at=link.expires_at)


def public_url(request: Request) -> str:
    """Where browsers reach this API. The header `Host` does not say it: the caller chooses that."""
    settings = dashboard_of(request).settings
    if settings.public_url is not None:
        return settings.public_url
    if settings.dev:
        return str(request.base_url).rstrip("/")
    raise Problem(
        problem_types.NOT_CONFIGURED,
        "EVERHOOK_PUBLIC_URL is not set: a link begins with the address of this API.",
    )


@router.get("/open/{token}")
async def open_portal(token: str, request: Request, services: ServicesDep) -> Response:
    link = dashboard_of(request).sessions.read(PORTAL_LINK, token)
    if link is None or await services.sessions.is_ended(link.number):
        return await _link_ended(request, services)
    return render(request, "portal_open.html", title="Portal", token=token)


@router.post("/open")
async def exchange(request: Request, services: ServicesDep) -> Response:
    """Exchange a link for a session, once."""
    refuse_foreign(request)
    dashboard = dashboard_of(request)
    link = dashboard.sessions.read(PORTAL_LINK, (await read_form(request)).get("token"))
    if link is None:
        return await _link_ended(request, services)
    tenant_gid, seconds, person = link.subject.split(" ", 2)
    visitor = Actor("portal", address_of(request, services.settings))
    if not await services.sessions.use_link(link.number, visitor, tenant_gid):
        return await _link_ended(request, services)
    token, _ = dashboard.sessions.issue(
        PORTAL_SESSION, f"{tenant_gid} {person}".rstrip(), timedelta(seconds=int(seconds))
    )
    response = RedirectResponse(f"{PORTAL}/", HTTPStatus.SEE_OTHER)
    response.headers.append("set-cookie", strict_cookie(request, PORTAL_COOKIE, token, int(seconds), PORTAL))
    return response


async def _link_ended(request: Request, services: Services) -> Response:
    """The portal for one who has a session in it, as the link's first visitor may; for others why the link opens
    nothing. A browser that comes from another site brings no session, so this page leads there as well."""
    if await identity.of_portal(request, services, dashboard_of(request).sessions) is not None:
        return RedirectResponse(f"{PORTAL}/", HTTPStatus.SEE_OTHER)
    return render(request, "portal_link_ended.html", status=HTTPStatus.GONE, title="Link ended")


@router.post("/sign-out")
async def sign_out(request: Request, services: ServicesDep, viewer: SignedInDep, form: SignOutFormDep) -> Response:
    """End the session for good: its cookie opens nothing any more, wherever it may have been copied to."""
    await identity.end_session(services, viewer.caller, viewer.session)
    response = RedirectResponse(f"{PORTAL}/", HTTPStatus.SEE_OTHER)
    response.headers.append("set-cookie", strict_cookie(request, PORTAL_COOKIE, "", 0, PORTAL))
    return response
