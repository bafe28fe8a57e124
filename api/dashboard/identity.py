"""From a cookie to who looks. The key that signed in is looked up each time: a session dies with it."""

import hashlib

from fastapi import Request

from api.callers import Caller
from api.dashboard.pages import PORTAL, PORTAL_COOKIE, SESSION_COOKIE, Viewer, dashboard_of, in_portal
from api.dashboard.sessions import DASHBOARD, PORTAL_SESSION, Session
from api.dependencies import Services, address_of
from everhook.storage.engine import Database
from everhook.tenants import store as tenants
from everhook.tenants.api_keys_store import Scope
from everhook.tenants.audit_store import is_entry, record_once


async def viewer_of(request: Request, services: Services) -> Viewer | None:
    """None where nobody is signed in, or no longer. Error pages find the viewer in the request's state."""
    viewer = await (_of_portal if in_portal(request) else _of_key)(request, services)
    if viewer is not None and await _is_ended(services.database, viewer.session):
        viewer = None
    request.state.viewer = viewer
    return viewer


async def end_session(database: Database, viewer: Viewer) -> None:
    """Sign out: from the commit on the session is over for every process."""
    caller = viewer.caller
    subject = caller.key_gid or caller.tenant_gid or caller.name
    await record_once(
        database, viewer.session.number, caller.actor, "session.ended", subject, tenant_gid=caller.tenant_gid
    )


async def _is_ended(database: Database, session: Session) -> bool:
    async with database.reading() as reading:
        return await is_entry(reading, session.number)


async def _of_key(request: Request, services: Services) -> Viewer | None:
    sessions = dashboard_of(request).sessions
    session = sessions.read(DASHBOARD, request.cookies.get(SESSION_COOKIE, ""))
    caller = await _caller_of(request, services, session.subject) if session is not None else None
    if session is None or caller is None:
        return None
    tenant = await _tenant(services, caller.tenant_gid) if caller.tenant_gid is not None else None
    return Viewer(caller, session, sessions.form_token(session), tenant=tenant)


async def _of_portal(request: Request, services: Services) -> Viewer | None:
    """A link to the portal makes a caller who may do what the tenant's own key may, and whose name says so."""
    sessions = dashboard_of(request).sessions
    session = sessions.read(PORTAL_SESSION, request.cookies.get(PORTAL_COOKIE, ""))
    tenant = await _tenant(services, session.subject) if session is not None else None
    if session is None or tenant is None:
        return None
    caller = Caller(
        name=f"portal of {tenant}",
        scopes=frozenset({Scope.TENANT}),
        tenant_gid=session.subject,
        address=address_of(request, services.settings),
    )
    return Viewer(caller, session, sessions.form_token(session), base=PORTAL, tenant=tenant)


def subject_of(services: Services, caller: Caller) -> str:
    """How a session names whoever signed in."""
    return caller.key_gid or _environment(services)


async def _caller_of(request: Request, services: Services, subject: str) -> Caller | None:
    address = address_of(request, services.settings)
    if subject == _environment(services):
        return Caller.of_environment(address) if services.settings.api_key is not None else None
    holder = await services.api_keys.holder_of(subject)
    return Caller.of_key(holder, address) if holder is not None else None


async def _tenant(services: Services, gid: str) -> str | None:
    """The name of a tenant that exists; one that is being erased does not."""
    async with services.database.reading() as session:
        tenant = await tenants.find_tenant(session, gid)
    return tenant.name if tenant is not None else None


def _environment(services: Services) -> str:
    """Names the environment's key without telling of it: with another key, sessions of the one before are over."""
    key = services.settings.api_key.get_secret_value() if services.settings.api_key is not None else ""
    return f"environment-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
