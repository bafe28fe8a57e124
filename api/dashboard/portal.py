"""The way into the portal: a link for one tenant, signed, short-lived, and good for one visit.

`POST /v1/tenants/{gid}/portal-link` makes it; opening it shows a page with one button, which exchanges it for a
session. The exchange is a form, for links are also fetched by whatever looks at mail and chats beforehand.
"""

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import Field

from api.dashboard.forms import read_form, refuse_foreign
from api.dashboard.identity import end_session
from api.dashboard.pages import (
    PORTAL,
    PORTAL_COOKIE,
    PageRoute,
    SignOutFormDep,
    ViewerDep,
    dashboard_of,
    is_local,
    render,
)
from api.dashboard.sessions import PORTAL_LIFETIME, PORTAL_LINK, PORTAL_SESSION
from api.dependencies import Principal, ServicesDep, Store, address_of
from api.problems import conflict, not_found
from api.schemas import ApiModel, Gid, Integer
from everhook.storage.engine import Database
from everhook.tenants import store as tenants
from everhook.tenants.audit_store import Actor, record_audit, record_once

LINK_LIFETIME = timedelta(minutes=5)

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix=PORTAL)
api_router = APIRouter(prefix="/tenants", tags=["tenants"])


class PortalLinkIn(ApiModel):
    """How long the session lasts that the link opens."""

    session_seconds: Annotated[Integer, Field(ge=60, le=PORTAL_LIFETIME.total_seconds())] = int(
        PORTAL_LIFETIME.total_seconds()
    )


class PortalLink(ApiModel):
    url: str = Field(description="Send the tenant's browser there, or open it in a frame. It works once.")
    expires_at: datetime = Field(description="Until then the link must have been opened.")


@api_router.post("/{gid}/portal-link", status_code=HTTPStatus.CREATED)
async def make_portal_link(
    gid: Gid, request: Request, store: Store, caller: Principal, body: PortalLinkIn | None = None
) -> PortalLink:
    """A link that signs a tenant in to its own portal: its endpoints, deliveries and receipts, and nobody else's."""
    seconds = (body or PortalLinkIn()).session_seconds
    base = _public_url(request)
    async with store.writing() as session:
        tenant = await tenants.find_tenant(session, gid)
        if tenant is None:
            raise not_found("tenant", gid)
        record_audit(session, caller.actor, "portal_link.created", tenant.gid, tenant_gid=tenant.gid)
    token, link = dashboard_of(request).sessions.issue(PORTAL_LINK, f"{tenant.gid} {seconds}", LINK_LIFETIME)
    return PortalLink(url=base + request.app.url_path_for("open_portal", token=token), expires_at=link.expires_at)


def _public_url(request: Request) -> str:
    """Where browsers reach this API. The header `Host` does not say it: the caller chooses that."""
    settings = dashboard_of(request).settings
    if settings.public_url is not None:
        return settings.public_url
    if settings.dev:
        return str(request.base_url).rstrip("/")
    raise conflict("EVERHOOK_PUBLIC_URL is not set: a link to the portal begins with the address of this API.")


@router.get("/open/{token}")
async def open_portal(token: str, request: Request) -> Response:
    if dashboard_of(request).sessions.read(PORTAL_LINK, token) is None:
        return render(request, "portal_ended.html", status=HTTPStatus.UNAUTHORIZED)
    return render(request, "portal_open.html", title="Portal", token=token)


@router.post("/open")
async def exchange(request: Request, services: ServicesDep) -> Response:
    """From a link to a session, once: the record that it was opened has the link's own number for its key."""
    refuse_foreign(request)
    dashboard = dashboard_of(request)
    link = dashboard.sessions.read(PORTAL_LINK, (await read_form(request)).get("token"))
    if link is None:
        return render(request, "portal_ended.html", status=HTTPStatus.UNAUTHORIZED)
    tenant_gid, seconds = link.subject.split(" ")
    address = address_of(request, services.settings)
    if not await _opened(services.database, link.number, tenant_gid, address):
        return render(request, "portal_ended.html", status=HTTPStatus.UNAUTHORIZED)
    token, _ = dashboard.sessions.issue(PORTAL_SESSION, tenant_gid, timedelta(seconds=int(seconds)))
    response = RedirectResponse(f"{PORTAL}/", HTTPStatus.SEE_OTHER)
    response.headers.append("set-cookie", _cookie(request, token, int(seconds)))
    return response


@router.post("/sign-out")
async def sign_out(request: Request, services: ServicesDep, viewer: ViewerDep, form: SignOutFormDep) -> Response:
    """End the session for good: its cookie opens nothing any more, wherever it may have been copied to."""
    await end_session(services.database, viewer)
    response = RedirectResponse(f"{PORTAL}/", HTTPStatus.SEE_OTHER)
    response.headers.append("set-cookie", _cookie(request, "", 0))
    return response


async def _opened(database: Database, number: str, tenant_gid: str, address: str | None) -> bool:
    """Put the visit on record. False where this link was used before, at whichever process."""
    actor = Actor("portal", address)
    return await record_once(database, number, actor, "portal_link.opened", tenant_gid, tenant_gid=tenant_gid)


def _cookie(request: Request, token: str, seconds: int) -> str:
    """In a frame on another site a cookie must say so, and is kept for that site alone."""
    parts = [f"{PORTAL_COOKIE}={token}", f"Max-Age={seconds}", f"Path={PORTAL}", "HttpOnly"]
    if is_local(request):
        parts.append("SameSite=Strict")
    elif dashboard_of(request).settings.portal_frame_ancestors:
        parts += ["SameSite=None", "Secure", "Partitioned"]
    else:
        parts += ["SameSite=Strict", "Secure"]
    return "; ".join(parts)
