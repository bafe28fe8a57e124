"""`seal_receipts`: adds receipts to their tenant's log, and signs a checkpoint over it."""

import asyncio
from dataclasses import dataclass, field

import structlog
from temporalio import activity

from everhook.contracts import SealResult
from everhook.notifications.events import EventKind
from everhook.receipts.log.sealing_store import BATCH, seal_batch, tenants_with_unsealed
from everhook.receipts.strict_json import InvalidDocument
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.event_outbox import record_event
from everhook.storage.keyring import DecryptionError, KeyRing
from everhook.storage.tables import now

CONCURRENCY = 6
"""Tenants whose logs are extended at once. A process has ten connections; the others stay free for attempts."""

log = structlog.get_logger()


class SealingActivities:
    def __init__(self, database: Database, keyring: KeyRing, *, batch: int = BATCH) -> None:
        self._database = database
        self._keyring = keyring
        self._batch = batch
        self._damaged: dict[str, str] = {}

    @activity.defn(name="seal_receipts")
    async def seal_receipts(self) -> SealResult:
        """One pass over all tenants with unsealed receipts, one batch of each tenant at a time, so that they take
        turns. On PostgreSQL several logs are extended at once; each has one writer.

        A damaged log is skipped, with its receipts, until an operator has repaired it.
        """
        async with self._database.read_connection() as connection:
            waiting = await tenants_with_unsealed(connection)
        summary = _PassSummary()
        slots = asyncio.Semaphore(1 if self._database.is_sqlite else CONCURRENCY)
        failures: list[Exception] = []

        async def seal(tenant_gid: str) -> bool:
            async with slots:
                if failures:  # the database is unavailable, or a key is missing: this affects all tenants
                    return False
                try:
                    return await self._seal(tenant_gid, summary)
                except Exception as error:
                    failures.append(error)
                    return False

        while waiting:
            results = await asyncio.gather(*map(seal, waiting))
            if failures:
                raise failures[0]
            waiting = [tenant_gid for tenant_gid, more in zip(waiting, results, strict=True) if more]
        return SealResult(summary.receipts, summary.checkpoints, tuple(summary.damaged))

    async def _seal(self, tenant_gid: str, summary: "_PassSummary") -> bool:
        """Seal one batch of a tenant. Returns whether there may be more. An error of one tenant does not stop the
        others."""
        activity.heartbeat()
        try:
            async with self._database.writing() as session:
                batch = await seal_batch(session, tenant_gid, self._keyring, now(), at_most=self._batch)
        except InvalidDocument as damage:
            summary.damaged.append(tenant_gid)
            await self._report(tenant_gid, damage)
            return False
        except Exception as error:
            if is_unavailable(error) or isinstance(error, DecryptionError):
                raise
            log.exception("cannot seal receipts", tenant_gid=tenant_gid)
            return False
        self._damaged.pop(tenant_gid, None)
        summary.receipts += batch.receipts
        summary.checkpoints += bool(batch.receipts)
        return batch.more

    async def _report(self, tenant_gid: str, damage: InvalidDocument) -> None:
        """Report a damaged log once, not at every pass."""
        if self._damaged.get(tenant_gid) == str(damage):
            return
        log.error("a log of receipts is damaged; no checkpoint is signed", tenant_gid=tenant_gid, damage=str(damage))
        async with self._database.writing() as session:
            record_event(
                session,
                EventKind.LOG_DAMAGED,
                tenant_gid=tenant_gid,
                data={"place": damage.place, "damage": damage.what},
            )
        self._damaged[tenant_gid] = str(damage)


@dataclass
class _PassSummary:
    """What a pass has done so far."""

    receipts: int = 0
    checkpoints: int = 0
    damaged: list[str] = field(default_factory=list)
