"""The activities of the schedule `retention`: delete expired data, and resume erasures that were not completed."""

import structlog
from temporalio import activity
from temporalio.client import Client

from everhook.contracts import RetentionResult
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database
from everhook.tenants.erasure import start_erasure
from everhook.tenants.erasure_store import being_erased
from everhook.tenants.retention_store import RetentionPeriods, apply_retention

log = structlog.get_logger()


class RetentionActivities:
    def __init__(self, client: Client, database: Database, periods: RetentionPeriods) -> None:
        self._client = client
        self._database = database
        self._periods = periods

    @activity.defn(name="resume_erasures")
    async def resume_erasures(self) -> None:
        """Start the workflows of tenants that are being erased. Those that are running are left alone."""
        async with self._database.reading() as session:
            tenants = await being_erased(session)
        for tenant_gid in tenants:
            await start_erasure(self._client, tenant_gid, self._periods.erasure_grace)

    @activity.defn(name="remove_past")
    async def remove_past(self) -> RetentionResult:
        """One pass over all data. If it is interrupted it can be run again, and continues with what is left."""
        result = await apply_retention(Bulk(self._database, activity.heartbeat), self._periods)
        if any(vars(result).values()):
            log.info("expired data deleted", **vars(result))
        return result
