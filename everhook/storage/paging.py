"""Keyset pagination: each page starts after the last key of the page before, so its cost does not grow with depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select
from sqlalchemy.ext.asyncio import AsyncSession

from everhook.ids import Kind, first_gid_at

WRITTEN_WITHIN = timedelta(hours=1)
"""How long after its gid was created a row is written at most. Generous, because it only bounds the range of keys."""

_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)

Row = TypeVar("Row")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """One page of rows. `next_key` is None on the last page."""

    rows: Sequence[Row]
    next_key: str | None


async def page_of(
    session: AsyncSession, statement: Select[Any], key: Any, *, after: str | None, limit: int, newest_first: bool = True
) -> Page[Any]:
    """One page of `statement`, which selects one entity, ordered by its column `key`."""
    if after is not None:
        statement = statement.where(key < after if newest_first else key > after)
    ordered = statement.order_by(key.desc() if newest_first else key).limit(limit + 1)
    rows = (await session.execute(ordered)).scalars().all()
    more = len(rows) > limit
    return Page(rows[:limit], getattr(rows[limit - 1], key.key) if more else None)


def any_of(values: Sequence[Value] | None) -> tuple[Value, ...] | None:
    """The values of a filter, each once; None where none was given."""
    return tuple(dict.fromkeys(values)) if values else None


def one_of(column: Any, wanted: Any) -> list[ColumnElement[bool]]:
    """The condition that a column has the wanted value, or one of several in a tuple. None or an empty tuple means
    any."""
    if wanted is None or wanted == ():
        return []
    if isinstance(wanted, tuple):
        return [column == wanted[0] if len(wanted) == 1 else column.in_(wanted)]
    return [column == wanted]


def in_time(
    moment: Any, key: Any, kind: Kind, since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """The conditions that `moment` is in [`since`, `until`). Gids increase with time, so the range of keys is
    bounded too: otherwise the database would scan everything that is newer."""
    conditions: list[ColumnElement[bool]] = []
    first, end = gid_bounds(kind, since, until)
    if since is not None:
        conditions += [moment >= since, key >= first]
    if until is not None:
        conditions += [moment < until, key < end]
    return conditions


def gid_bounds(kind: Kind, since: datetime | None, until: datetime | None) -> tuple[str, str]:
    """The range of gids, from and before, of rows of [`since`, `until`)."""
    first = first_gid_at(kind, max(since or _FIRST, _FIRST) - WRITTEN_WITHIN)
    return first, first_gid_at(kind, min(until or _LAST, _LAST) + WRITTEN_WITHIN)
