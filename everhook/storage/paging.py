"""Lists by key: each page takes up behind the last key of the one before, so its cost does not grow with depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """`next_key` is None on the last page."""

    rows: Sequence[Row]
    next_key: str | None


async def page_of(
    session: AsyncSession, statement: Select[Any], key: Any, *, after: str | None, limit: int, newest_first: bool = True
) -> Page[Any]:
    """One page of `statement`, which selects one entity, in the order of its column `key`."""
    if after is not None:
        statement = statement.where(key < after if newest_first else key > after)
    ordered = statement.order_by(key.desc() if newest_first else key).limit(limit + 1)
    rows = (await session.execute(ordered)).scalars().all()
    more = len(rows) > limit
    return Page(rows[:limit], getattr(rows[limit - 1], key.key) if more else None)
