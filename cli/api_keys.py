"""API keys without the API: create, list and revoke them in the database, for the first key and in emergencies."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from cli.context import load_settings_here, opened_database
from cli.errors import UsageError
from everhook.audit.store import Actor
from everhook.errors import DomainError, InvalidField
from everhook.settings import Settings
from everhook.storage.engine import Session, is_unavailable, refuses_connections
from everhook.storage.tables import now
from everhook.tenants.api_keys import ApiKeyService, ApiKeyView, CreatedApiKey, NewApiKey

ACTOR = Actor("command line")
ALL_AT_ONCE = 10_000
_OPTIONS = {"name": "--name", "scopes": "--scope", "tenant": "--tenant", "expiresAt": "--expires-in-days"}
"""The options of `everhook keys create`, by the fields that they set."""


async def require_a_key(settings: Settings) -> None:
    """Raise UsageError if there is no valid API key: neither in the environment nor in the database."""
    if settings.dev or settings.api_key is not None:
        return
    async with opened_database(settings) as database:
        try:
            async with database.reading() as session:
                has_key = await ApiKeyService(database).has_usable(session)
        except Exception as error:
            if is_unavailable(error) and not refuses_connections(error) and not database.is_sqlite:
                return  # it may be back soon; until then no call is authenticated
            raise
    if not has_key:
        raise UsageError(
            "there is no API key: create one with `everhook keys create`, "
            "or set EVERHOOK_API_KEY, an admin key of at least 24 characters"
        )


async def create(name: str, scopes: list[str], tenant: str | None, expires_in_days: float | None) -> CreatedApiKey:
    """Raises UsageError."""
    expires_at = now() + timedelta(days=expires_in_days) if expires_in_days is not None else None
    async with _writing() as (service, session):
        return await service.create(session, ACTOR, NewApiKey(name, scopes, tenant, expires_at))


async def list_all() -> Sequence[ApiKeyView]:
    """Newest first. Raises UsageError."""
    async with _writing() as (service, session):
        return (await service.page(session, after=None, limit=ALL_AT_ONCE)).rows


async def revoke(gid: str) -> None:
    """Raises UsageError."""
    async with _writing() as (service, session):
        await service.revoke(session, ACTOR, gid)


@asynccontextmanager
async def _writing() -> AsyncIterator[tuple[ApiKeyService, Session]]:
    async with opened_database(load_settings_here()) as database:
        try:
            async with database.writing() as session:
                yield ApiKeyService(database), session
        except InvalidField as error:
            raise UsageError(f"{_OPTIONS.get(error.field, error.field)}: {error.message}") from error
        except DomainError as error:
            raise UsageError(str(error)) from error
