"""The activities of the schedule `retention`: delete expired data, resume erasures that were not completed, and encrypt
what a release before stored as plain text."""

import structlog
from temporalio import activity
from temporalio.client import Client

from everhook.contracts import RetentionResult
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database
from everhook.storage.header_encryption import encrypt_plain_headers
from everhook.storage.keyring import KeyRing
from everhook.tenants.erasure import start_erasure
from everhook.tenants.erasure_store import being_erased
from everhook.tenants.retention_store import RetentionPeriods, apply_retention

log = structlog.get_logger()


class RetentionActivities:
    def __init__(self, client: Client, database: Database, periods: RetentionPeriods, keyring: KeyRing) -> None:
        self._client = client
        self._database = database
        self._periods = periods
        self._keyring = keyring

    @activity.defn(name="resume_erasures")
    async def resume_erasures(self) -> None:
        """Start the workflows of tenants that are being erased. Those that are running are left alone."""
        async with self._database.reading() as session:
            tenants = await being_erased(session)
        for tenant_gid in tenants:
            await start_erasure(self._client, tenant_gid, self._periods.erasure_grace)

    @activity.defn(name="remove_past")  # as in recorded histories
    async def apply_retention(self) -> RetentionResult:
        """One pass over all data. If it is interrupted it can be run again, and continues with what is left."""
        await self._encrypt_headers()
        result = await apply_retention(Bulk(self._database, activity.heartbeat), self._periods)
        if any(vars(result).values()):
            log.info("expired data deleted", **vars(result))
        return result

    async def _encrypt_headers(self) -> None:
        """Here, and not in a migration, because processes of the release before run until they are replaced."""
        count = 0
        async for batch in encrypt_plain_headers(self._database, self._keyring):
            count += batch
            activity.heartbeat()
        if count:
            log.info("custom headers encrypted", endpoints=count)
