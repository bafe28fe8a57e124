"""Sessions of browsers and links to the portal, as far as the database knows them: each ends, or is used, once.

A session is a signed token and needs no row. Only its end has one: an audit entry whose gid is the session's number, so
that two processes cannot both be the first.
"""

from everhook.audit.store import Actor, is_entry, record_once
from everhook.storage.engine import Database
from everhook.tenants import store as tenants


class SessionService:
    """One for each process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def end(self, number: str, actor: Actor, subject: str, tenant_gid: str | None) -> None:
        """Sign out: from the commit on the session is over for every process."""
        await record_once(self._database, number, actor, "session.ended", subject, tenant_gid=tenant_gid)

    async def is_ended(self, number: str) -> bool:
        async with self._database.reading() as session:
            return await is_entry(session, number)

    async def use_link(self, number: str, actor: Actor, tenant_gid: str) -> bool:
        """Use a link to the portal. False where it was used before."""
        return await record_once(self._database, number, actor, "portal_link.opened", tenant_gid, tenant_gid=tenant_gid)

    async def tenant_name(self, gid: str) -> str | None:
        """The name of a tenant; None where there is none, or where it is being erased."""
        async with self._database.reading() as session:
            tenant = await tenants.find_tenant(session, gid)
        return tenant.name if tenant is not None else None
