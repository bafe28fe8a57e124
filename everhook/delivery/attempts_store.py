"""The attempts of one delivery and their receipts, page by page.

A round has at most `policy.MAX_ATTEMPTS` attempts, but a delivery can be replayed any number of times, and each attempt
can hold 16 KiB of a response. So no query loads all of them.
"""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.storage.paging import Page
from everhook.storage.tables import Attempt, Delivery, Message, Receipt

Position = tuple[int, int]
"""Round and number: the order of the attempts of a delivery."""

_KEY = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")


async def newest_attempts(
    session: AsyncSession, delivery_gid: str, *, before: Position | None = None, limit: int
) -> Page[Attempt]:
    """Newest first; only attempts before `before`, if it is given."""
    return await _page(session, Attempt, delivery_gid, before, limit, newest_first=True)


async def find(session: AsyncSession, gid: str) -> tuple[Attempt, Message] | None:
    """An attempt and its message."""
    rows = await session.execute(
        select(Attempt, Message)
        .join(Delivery, col(Delivery.gid) == col(Attempt.delivery_gid))
        .join(Message, col(Message.gid) == col(Delivery.message_gid))
        .where(col(Attempt.gid) == gid)
    )
    row = rows.one_or_none()
    return (row[0], row[1]) if row is not None else None


async def receipts_in_order(
    session: AsyncSession, delivery_gid: str, *, after: Position | None = None, limit: int
) -> Page[Receipt]:
    """The oldest first."""
    return await _page(session, Receipt, delivery_gid, after, limit, newest_first=False)


async def receipts_of(session: AsyncSession, delivery_gid: str, attempts: Sequence[Attempt]) -> dict[str, Receipt]:
    """The receipts of these attempts of a delivery, by the gids of the attempts."""
    rows = await session.execute(
        select(Receipt).where(
            col(Receipt.delivery_gid) == delivery_gid, col(Receipt.attempt_gid).in_([each.gid for each in attempts])
        )
    )
    return {row.attempt_gid: row for row in rows.scalars()}


def key_of(position: Position) -> str:
    """The key in a cursor: `2.7` is the seventh attempt of the second round."""
    return f"{position[0]}.{position[1]}"


def position_of(key: str) -> Position:
    """Inverse of `key_of`. Raises ValueError for anything else."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(f"{key!r} is not the key of an attempt")
    return int(found[1]), int(found[2])


async def _page(
    session: AsyncSession,
    model: type[Attempt] | type[Receipt],
    delivery_gid: str,
    beyond: Position | None,
    limit: int,
    *,
    newest_first: bool,
) -> Page[Any]:
    """One page, by the index on (delivery, round, number)."""
    key = tuple_(col(model.round), col(model.number))
    statement: Select[Any] = select(model).where(col(model.delivery_gid) == delivery_gid)
    if beyond is not None:
        statement = statement.where(key < beyond if newest_first else key > beyond)
    order = [each.desc() if newest_first else each.asc() for each in (col(model.round), col(model.number))]
    rows = (await session.execute(statement.order_by(*order).limit(limit + 1))).scalars().all()
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(rows[:limit], key_of((last.round, last.number)) if last is not None else None)
