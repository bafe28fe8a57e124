"""Checks of the database: connection, clock, migrations, master keys, API keys, backlog, endpoints."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cli.doctor import run_check
from cli.findings import Finding, Severity, ok, skipped, warning, wrong
from cli.formatting import counted
from everhook.delivery.store import oldest_undispatched
from everhook.durations import rough_duration
from everhook.egress import EgressClient, EgressRules, LocalError, UrlRefused
from everhook.endpoints import store as endpoints
from everhook.settings import Settings
from everhook.storage.encryption import census
from everhook.storage.engine import Database, is_unavailable, reason
from everhook.storage.header_encryption import count_plain_headers
from everhook.storage.keyring import KeyRing
from everhook.storage.migrate import known_revisions
from everhook.storage.tables import Endpoint
from everhook.tenants import api_keys_store as api_keys

NEEDS_SCHEMA = ("master keys", "callers", "backlog", "endpoints")
SKEW = timedelta(seconds=2)
LATE = timedelta(minutes=1)
"""Deliveries start within milliseconds; the reconciler starts the rest within a quarter of a minute."""

COUNTED_AT_MOST = 10_000
CHECKED = 50
"""How many of the newest endpoints are checked against the egress rules."""

START = "start it, or fix EVERHOOK_DATABASE_URL"


async def database_findings(settings: Settings) -> AsyncIterator[Finding]:
    database = Database(settings.database_url)
    try:
        reached = await run_check("database", _reach(database))
        yield reached
        if reached.level is Severity.WRONG:
            for name in ("migrations", *NEEDS_SCHEMA, "database's clock"):
                yield skipped(name, "needs the database")
            return
        yield await run_check("database's clock", _clock(database))
        migrated = await run_check("migrations", _migrations(database))
        yield migrated
        if migrated.level is Severity.WRONG:
            for name in NEEDS_SCHEMA:
                yield skipped(name, "needs the schema")
            return
        yield await run_check("master keys", _master_keys(database, settings))
        yield await run_check("callers", _callers(database, settings))
        yield await run_check("backlog", _backlog(database))
        yield await run_check("endpoints", _endpoints(database, settings))
    finally:
        await database.close()


async def _reach(database: Database) -> Finding:
    shown = database.url.render_as_string(hide_password=True)
    file = database.url.database or ""
    if database.is_sqlite and not Path(file).exists():  # noqa: ASYNC240 - opening it would create it
        return wrong("database", f"there is no file {file}", "run `everhook migrate`, or fix EVERHOOK_DATABASE_URL")
    try:
        found = await database.server_version()
    except Exception as error:
        if not is_unavailable(error):
            raise
        return wrong("database", f"{shown} cannot be reached: {reason(error)}", START)
    if database.is_sqlite:
        return ok("database", f"SQLite {found}, {file}: for one machine and a single process")
    return ok("database", f"PostgreSQL {found}, {shown}")


async def _clock(database: Database) -> Finding:
    name = "database's clock"
    if database.is_sqlite:
        return ok(name, "is this machine's")
    moment, took = await database.server_clock()
    skew = abs(moment + took / 2 - datetime.now(UTC))
    if skew > SKEW + took:
        return wrong(name, f"differs from this machine's by {rough_duration(skew)}", "synchronize both with NTP")
    return ok(name, "agrees with this machine's")


async def _migrations(database: Database) -> Finding:
    known = known_revisions()
    head = known[0]
    found = await database.schema_revision()
    if found == head:
        return ok("migrations", f"at {head}, which is this version's")
    if found is None:
        return wrong("migrations", "there is no schema yet", "everhook migrate")
    if found not in known:
        return wrong("migrations", f"at {found}, which this version does not know", "run the version that created it")
    return wrong("migrations", f"at {found}, and this version wants {head}", "everhook migrate")


async def _master_keys(database: Database, settings: Settings) -> Finding:
    name = "master keys"
    found = await census(database, KeyRing.from_settings(settings))
    if found.undecrypted:
        why = ", ".join(f"{counted(count, 'time')}: {reason}" for reason, count in found.undecrypted.items())
        fix = "add the missing key to EVERHOOK_MASTER_KEYS, after the newest"
        return wrong(
            name, f"{found.undecrypted.total():,} of {counted(found.total, 'secret')} cannot be decrypted; {why}", fix
        )
    if found.outdated:
        detail = f"{found.outdated:,} of {counted(found.total, 'secret')} encrypted with an older key"
        return warning(name, detail, "everhook keys rotate-master")
    if plain := await count_plain_headers(database):
        detail = (
            f"the custom headers of {counted(plain, 'endpoint')} are not encrypted yet; workers do so within the hour"
        )
        return warning(name, detail, "everhook keys rotate-master")
    return ok(name, f"the newest decrypts every secret ({found.total:,})")


async def _callers(database: Database, settings: Settings) -> Finding:
    if settings.api_key is not None:
        return ok("callers", "EVERHOOK_API_KEY is set here")
    async with database.reading() as session:
        if await api_keys.has_usable(session):
            return ok("callers", "there are keys in the database")
    return warning(
        "callers", "there is no API key, so no one can publish", "everhook keys create --name … --scope admin"
    )


async def _backlog(database: Database) -> Finding:
    async with database.read_connection() as connection:
        count, oldest = await oldest_undispatched(connection, COUNTED_AT_MOST)
    if oldest is None:
        return ok("backlog", "every accepted delivery was started")
    waited = datetime.now(UTC) - oldest
    detail = f"{count:,} accepted deliveries are not started, the oldest for {rough_duration(waited)}"
    if waited > LATE:
        return wrong("backlog", detail, "they start when Temporal and a worker run: see below")
    return ok("backlog", detail)


async def _endpoints(database: Database, settings: Settings) -> Finding:
    egress = EgressClient(EgressRules.from_settings(settings))
    try:
        async with database.reading() as session:
            views, _ = await endpoints.page(session, tenant_gid=None, after=None, limit=CHECKED)
        checked = [view.endpoint for view in views if view.endpoint.url]  # only those of mode `http` have one
        refused = await asyncio.gather(*(_refusal(egress, endpoint) for endpoint in checked))
    finally:
        await egress.aclose()
    bad = [f"{endpoint.gid} ({why})" for endpoint, why in zip(checked, refused, strict=True) if why]
    if bad:
        fix = "change their URLs, or EVERHOOK_EGRESS_… of every process"
        named = ", ".join(bad[:3])
        return warning("endpoints", f"{len(bad)} of {len(checked)} would be refused here: {named}", fix)
    return ok("endpoints", f"the rules allow the URLs of all {len(checked)} that were checked")


async def _refusal(egress: EgressClient, endpoint: Endpoint) -> str:
    try:
        await egress.check_url(endpoint.url, endpoint.tenant_gid)
    except UrlRefused as error:
        return error.rule
    except LocalError:
        return ""  # says nothing about the endpoint
    return ""
