"""Roll-ups: what each endpoint did in each minute, counted when its attempts are recorded.

Health and charts read only these: no query scans attempts.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import AttemptRecord, Verdict
from everhook.storage.statements import adding, insert, table_of
from everhook.storage.tables import Endpoint, EndpointMinute, EndpointMinuteError

BANDS_MS = {"under_100": 100, "under_500": 500, "under_2000": 2_000}
SLOWEST = "slower"

_MINUTES = table_of(EndpointMinute)
_COUNTS = ("delivered", "retried", "rejected", "duration_ms", *BANDS_MS, SLOWEST)
_VERDICTS = {Verdict.DELIVERED: "delivered", Verdict.RETRY: "retried", Verdict.REJECTED: "rejected"}


async def roll_up(connection: AsyncConnection, attempts: Iterable[AttemptRecord]) -> None:
    """Add attempts to the counts. They must be new: an attempt that is counted twice appears twice.

    Rows are sorted, and this is the last step of its transaction: two processes that serve one endpoint lock the same
    rows in the same order, and for no longer than a commit takes.
    """
    minutes: dict[tuple[str, datetime], Counter[str]] = {}
    errors: Counter[tuple[str, datetime, str]] = Counter()
    for record in attempts:
        minute = _minute_of(record)
        minutes.setdefault((record.endpoint_gid, minute), Counter()).update(_counts(record))
        if record.error is not None:
            errors[record.endpoint_gid, minute, record.error] += 1
    if minutes:
        rows: list[dict[str, Any]] = [
            {"b_endpoint_gid": gid, "b_minute": minute, **{f"b_{name}": counts[name] for name in _COUNTS}}
            for (gid, minute), counts in sorted(minutes.items())
        ]
        await connection.execute(_add_minutes(connection.dialect.name), rows)
    if errors:
        rows = [
            {"endpoint_gid": gid, "minute": minute, "error": error, "count": count}
            for (gid, minute, error), count in sorted(errors.items())
        ]
        await connection.execute(_add_errors(connection.dialect.name), rows)


@cache
def _add_minutes(dialect: str) -> Any:
    """The upsert of minutes, which also looks up the tenant. Cached: building a statement takes longer than running
    it."""
    given = [bindparam(f"b_{name}", type_=_MINUTES.c[name].type) for name in ("endpoint_gid", "minute", *_COUNTS)]
    rows = select(*given, col(Endpoint.tenant_gid)).where(col(Endpoint.gid) == bindparam("b_endpoint_gid"))
    statement = insert(dialect, _MINUTES).from_select(["endpoint_gid", "minute", *_COUNTS, "tenant_gid"], rows)
    return adding(statement, *_COUNTS)


@cache
def _add_errors(dialect: str) -> Any:
    return adding(insert(dialect, table_of(EndpointMinuteError)), "count")


def _minute_of(record: AttemptRecord) -> datetime:
    """The minute in which the attempt ended."""
    ended_at = record.started_at + timedelta(milliseconds=record.duration_ms)
    return ended_at.replace(second=0, microsecond=0)


def _counts(record: AttemptRecord) -> dict[str, int]:
    """Only attempts with a response count for response times: a refused connection would make a dead endpoint look
    fast."""
    verdict = {_VERDICTS[record.verdict]: 1}
    if record.status_code is None:
        return verdict
    band = next((name for name, limit in BANDS_MS.items() if record.duration_ms < limit), SLOWEST)
    return {**verdict, band: 1, "duration_ms": record.duration_ms}
