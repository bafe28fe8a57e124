"""Reports from processes to the circuits of endpoints."""

import asyncio
from dataclasses import replace

import structlog

from everhook.circuit.client import CircuitClient
from everhook.contracts import OutcomeReport
from everhook.delivery.classify import Classification
from everhook.event_loop import sleep_unless

COALESCE_S = 0.1
RETRY_S = 1.0

log = structlog.get_logger()


class OutcomeReporter:
    """Collects outcomes of attempts and reports them to circuits: failures, and successes that end a streak of
    failures. Healthy traffic is not reported.

    If the process dies, counts of a streak are lost; the claim of a lost probe ends with its lease.
    """

    def __init__(self, circuits: CircuitClient) -> None:
        self._circuits = circuits
        self._pending: dict[str, tuple[str, OutcomeReport]] = {}
        self._streaks: set[str] = set()
        self._flusher: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def note(self, endpoint_gid: str, tenant: str, classification: Classification, *, in_streak: bool) -> None:
        """Take an outcome into account. `in_streak`: the circuit was not closed, or counted failures, when the
        attempt began."""
        report = self._report(endpoint_gid, classification, in_streak)
        if report is None:
            return
        _, before = self._pending.get(endpoint_gid, (tenant, OutcomeReport()))
        self._pending[endpoint_gid] = (tenant, merge(before, report))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())

    async def close(self) -> None:
        """Report what is left. If Temporal is unavailable this is tried once only, so that the worker can end."""
        self._closing.set()
        if self._flusher is not None:
            await self._flusher

    def _report(self, endpoint_gid: str, classification: Classification, in_streak: bool) -> OutcomeReport | None:
        if classification.healthy is False:
            self._streaks.add(endpoint_gid)
            return OutcomeReport(failures=1)
        if classification.healthy is None:
            return None
        if classification.gone or in_streak or endpoint_gid in self._streaks:
            self._streaks.discard(endpoint_gid)
            return OutcomeReport(succeeded=True, gone=classification.gone)
        return None

    async def _flush(self) -> None:
        await sleep_unless(self._closing, COALESCE_S)
        while self._pending:
            pending, self._pending = self._pending, {}
            sent = all(await asyncio.gather(*(self._send(gid, *report) for gid, report in pending.items())))
            if self._closing.is_set() and not sent:
                break
            await sleep_unless(self._closing, COALESCE_S if sent else RETRY_S)
        self._flusher = None

    async def _send(self, endpoint_gid: str, tenant: str, report: OutcomeReport) -> bool:
        try:
            await self._circuits.report(endpoint_gid, tenant, report)
            return True
        except Exception as error:
            log.warning("could not report to the endpoint's circuit", endpoint_gid=endpoint_gid, error=str(error))
        _, newer = self._pending.get(endpoint_gid, (tenant, OutcomeReport()))
        self._pending[endpoint_gid] = (tenant, merge(report, newer))
        return False


def merge(older: OutcomeReport, newer: OutcomeReport) -> OutcomeReport:
    """Merge two reports into one: failures before a success no longer count."""
    gone = older.gone or newer.gone
    if newer.succeeded:
        return replace(newer, gone=gone)
    return OutcomeReport(succeeded=older.succeeded, failures=older.failures + newer.failures, gone=gone)
