"""`remove_past`: what is past its time goes."""

import structlog
from temporalio import activity

from everhook.contracts import RetentionResult
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database
from everhook.storage.retention import RetentionPeriods, remove_past

log = structlog.get_logger()


class Retention:
    def __init__(self, database: Database, periods: RetentionPeriods) -> None:
        self._database = database
        self._periods = periods

    @activity.defn(name="remove_past")
    async def remove_past(self) -> RetentionResult:
        """One pass. Interrupted, it is simply run again: it finds what is left."""
        result = await remove_past(Bulk(self._database, activity.heartbeat), self._periods)
        log.info("removed what was past its time", **vars(result))
        return result
