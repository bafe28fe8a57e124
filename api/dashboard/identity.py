"""From a cookie to who is signed in. The key that signed in is looked up each time: revoking it ends its sessions."""

import hashlib
from dataclasses import dataclass

from fastapi import Request

from api.callers import Caller
from api.dashboard.sessions import DASHBOARD, PORTAL_COOKIE, PORTAL_SESSION, SESSION_COOKIE, Session, Sessions
from api.dependencies import Services, address_of
from everhook.tenants.api_keys_store import Scope


@dataclass(frozen=True)
class Identity:
    """Who is signed in. `tenant` is a tenant's name, if the session is bound to one. `person` is who the tenant's own
    application says that a visitor of the portal is."""

    caller: Caller
    session: Session
    tenant: str | None = None
    person: str | None = None


async def of_dashboard(request: Request, services: Services, sessions: Sessions) -> Identity | None:
    """Who signed in to the dashboard with an API key. None if no one did, or the session has ended."""
    session = sessions.read(DASHBOARD, request.cookies.get(SESSION_COOKIE, ""))
    if session is None or await services.sessions.is_ended(session.number):
        return None
    caller = await _caller_of(request, services, session.subject)
    if caller is None:
        return None
    tenant = await services.sessions.tenant_name(caller.tenant_gid) if caller.tenant_gid is not None else None
    return Identity(caller, session, tenant)


async def of_portal(request: Request, services: Services, sessions: Sessions) -> Identity | None:
    """The tenant that a link signed in to the portal. It may do what the tenant's own key may; its name in the audit
    log says that it used the portal."""
    session = sessions.read(PORTAL_SESSION, request.cookies.get(PORTAL_COOKIE, ""))
    if session is None or await services.sessions.is_ended(session.number):
        return None
    tenant_gid, _, person = session.subject.partition(" ")
    tenant = await services.sessions.tenant_name(tenant_gid)
    if tenant is None:
        return None
    caller = Caller(
        name=f"portal of {tenant}",
        scopes=frozenset({Scope.TENANT}),
        tenant_gid=tenant_gid,
        address=address_of(request, services.settings),
    )
    return Identity(caller, session, tenant, person or None)


async def end_session(services: Services, caller: Caller, session: Session) -> None:
    """Sign out: from the commit on the session is over for every process."""
    subject = caller.key_gid or caller.tenant_gid or caller.name
    await services.sessions.end(session.number, caller.actor, subject, caller.tenant_gid)


def subject_of(services: Services, caller: Caller) -> str:
    """How a session refers to the caller who signed in."""
    return caller.key_gid or _environment(services)


async def _caller_of(request: Request, services: Services, subject: str) -> Caller | None:
    address = address_of(request, services.settings)
    if subject == _environment(services):
        return Caller.of_environment(address) if services.settings.api_key is not None else None
    holder = await services.api_keys.holder_of(subject)
    return Caller.of_key(holder, address) if holder is not None else None


def _environment(services: Services) -> str:
    """Refers to the environment's key without revealing it. Changing the key ends the sessions that it opened."""
    key = services.settings.api_key.get_secret_value() if services.settings.api_key is not None else ""
    return f"environment-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
