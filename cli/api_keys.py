"""API keys without an API: made, listed and revoked in the database itself, for the first one and in need."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from cli.context import load_settings_here, opened_database
from cli.errors import UsageError
from everhook.settings import Settings
from everhook.storage.engine import is_unavailable, refuses_connections
from everhook.storage.tables import ApiKey, now
from everhook.tenants import api_keys_store as api_keys
from everhook.tenants import store as tenants
from everhook.tenants.api_keys_store import Scope
from everhook.tenants.audit_store import Actor

ACTOR = Actor("command line")
ALL_AT_ONCE = 10_000


async def require_a_key(settings: Settings) -> None:
    """Raise UsageError where nobody could call: no key in the environment, and none in the database that opens."""
    if settings.dev or settings.api_key is not None:
        return
    async with opened_database(settings) as database:
        try:
            async with database.reading() as session:
                anybody = await api_keys.has_usable(session)
        except Exception as error:
            if is_unavailable(error) and not refuses_connections(error) and not database.is_sqlite:
                return  # it may be back in a moment; nobody is let in before
            raise
    if not anybody:
        raise UsageError(
            "nobody has a key: make one with `everhook keys create`, "
            "or set EVERHOOK_API_KEY, an admin's key of 24 characters at least"
        )


async def create(name: str, scopes: list[str], tenant: str | None, expires_in_days: float | None) -> tuple[ApiKey, str]:
    if (wrong := api_keys.why_refused(name, scopes, has_tenant=tenant is not None)) is not None:
        raise UsageError(": ".join(wrong))
    async with _writing() as session:
        owner = await tenants.find_tenant(session, tenant) if tenant is not None else None
        if tenant is not None and owner is None:
            raise UsageError(f"there is no tenant {tenant}")
        made = await api_keys.create(
            session,
            name,
            [Scope(scope) for scope in scopes],
            tenant_gid=owner.gid if owner is not None else None,
            expires_at=now() + timedelta(days=expires_in_days) if expires_in_days is not None else None,
            created_by=ACTOR.name,
        )
        api_keys.audit(session, ACTOR, "api_key.created", made[0])
        return made


async def list_all() -> tuple[list[ApiKey], dict[str, str]]:
    async with _writing() as session:
        rows = list((await api_keys.page(session, after=None, limit=ALL_AT_ONCE)).rows)
        return rows, await tenants.names(session, {row.tenant_gid for row in rows if row.tenant_gid})


async def revoke(gid: str) -> None:
    async with _writing() as session:
        row = await api_keys.get(session, gid)
        if row is None:
            raise UsageError(f"there is no key {gid}")
        await api_keys.revoke(session, row)
        api_keys.audit(session, ACTOR, "api_key.revoked", row)


@asynccontextmanager
async def _writing() -> AsyncIterator[AsyncSession]:
    async with opened_database(load_settings_here()) as database, database.writing() as session:
        yield session
