"""What a replay of a channel selects, read in windows.

A window is a bounded number of entries of one index in the order of their gids, whether they match or not: so each
statement costs the same, however many rows a channel has and however few of them match.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from everhook.contracts import DeliveryStatus
from everhook.ids import Kind
from everhook.storage.paging import gid_bounds
from everhook.storage.statements import table_of
from everhook.storage.tables import Batch, Delivery, Endpoint, Message, ReplayMode, ScheduledMessage

STATUSES = {
    ReplayMode.FAILED: (DeliveryStatus.DEAD_LETTERED, DeliveryStatus.DISCARDED),
    ReplayMode.ALL: (DeliveryStatus.DEAD_LETTERED, DeliveryStatus.DISCARDED, DeliveryStatus.DELIVERED),
    ReplayMode.MISSING: (),
}
"""The statuses of the deliveries whose next round is opened."""

_DELIVERY, _MESSAGE, _ENDPOINT = table_of(Delivery), table_of(Message), table_of(Endpoint)
_SCHEDULED = table_of(ScheduledMessage)


@dataclass(frozen=True)
class ReplaySelection:
    """Which messages or deliveries. `tenant_gid` is the owner of the endpoint, if there is one; `tenant_bound`: only
    messages that this tenant can see. `published_by`: only what was published with this key. No `types`: all."""

    channel: str
    mode: ReplayMode
    since: datetime
    until: datetime
    types: tuple[str, ...] = ()
    endpoint_gid: str | None = None
    tenant_gid: str | None = None
    tenant_bound: bool = False
    published_by: str | None = None

    @classmethod
    def of(cls, batch: Batch) -> "ReplaySelection":
        assert batch.channel is not None and batch.mode is not None
        assert batch.since is not None and batch.until is not None
        return cls(
            channel=batch.channel,
            mode=batch.mode,
            since=batch.since,
            until=batch.until,
            types=tuple(batch.event_types),
            endpoint_gid=batch.endpoint_gid,
            tenant_gid=batch.tenant_gid,
            tenant_bound=batch.tenant_bound,
            published_by=batch.published_by,
        )

    @property
    def is_backfill(self) -> bool:
        """Whether messages are selected, and not deliveries."""
        return self.mode is ReplayMode.MISSING


@dataclass(frozen=True)
class Found:
    """A delivery, or a message, that matches. `event_type` and `has_payload` are set for messages only."""

    gid: str
    event_type: str = ""
    has_payload: bool = True


@dataclass(frozen=True)
class Window:
    """What matches in a window. `end`: the last gid that was read. `is_last`: nothing follows."""

    found: Sequence[Found]
    end: str
    is_last: bool


@dataclass(frozen=True)
class WindowCount:
    """How many deliveries of a window match, and how many of them have no payload any more."""

    matched: int
    erased: int
    end: str
    is_last: bool


async def read_window(connection: AsyncConnection, selection: ReplaySelection, after: str, rows: int) -> Window:
    """The next window after a gid."""
    if selection.is_backfill:
        return await _messages(connection, selection, after, rows)
    window = _deliveries(selection, after, rows)
    matches = case((_delivery_matches(selection, window), True), else_=False)
    read = (await connection.execute(select(window.c.gid, matches.label("matches")))).all()
    found = sorted((Found(row.gid) for row in read if row.matches), key=lambda one: one.gid)
    return Window(found, max((row.gid for row in read), default=after), is_last=len(read) < rows)


async def count_window(connection: AsyncConnection, selection: ReplaySelection, after: str, rows: int) -> WindowCount:
    """The same for deliveries, counted by the database."""
    window = _deliveries(selection, after, rows)
    matches = _delivery_matches(selection, window)
    is_erased = exists().where(_MESSAGE.c.gid == window.c.message_gid, _MESSAGE.c.payload.is_(None))
    row = (
        await connection.execute(
            select(
                func.count().label("read"),
                func.max(window.c.gid).label("end"),
                func.count(case((matches, 1))).label("matched"),
                func.count(case((and_(matches, is_erased), 1))).label("erased"),
            ).select_from(window)
        )
    ).one()
    return WindowCount(row.matched, row.erased, row.end or after, is_last=row.read < rows)


def _deliveries(selection: ReplaySelection, after: str, rows: int) -> Subquery:
    """A window of one index: of the deliveries that went wrong, of an endpoint, of a tenant or of the channel."""
    table = _DELIVERY.c
    columns = select(
        table.gid, table.message_gid, table.endpoint_gid, table.tenant_gid,
        table.channel, table.event_type, table.status, table.accepted_at,
    )  # fmt: skip
    if selection.mode is ReplayMode.FAILED:
        columns = columns.where(table.gid > after, *_range(table.gid, Kind.DELIVERY, selection))
        wrong = [
            columns.where(table.status == _literal(status)).order_by(table.gid).limit(rows)
            for status in STATUSES[ReplayMode.FAILED]
        ]
        both = union_all(*(select(each.subquery()) for each in wrong)).subquery()
        return select(both).order_by(both.c.gid).limit(rows).subquery()
    if selection.endpoint_gid is not None:
        return _part(columns, table.endpoint_gid, selection.endpoint_gid, table.gid, selection, after, rows)
    if selection.tenant_gid is not None:
        return _part(columns, table.tenant_gid, selection.tenant_gid, table.gid, selection, after, rows)
    return _part(columns, table.channel, selection.channel, table.gid, selection, after, rows)


def _part(
    columns: Select[Any], column: Any, value: str, gid: Any, selection: ReplaySelection, after: str, rows: int
) -> Subquery:
    """A window of the index over `column` and the gid.

    It is asked for by pairs. With `column = value`, a planner might read the primary key instead and skip what has
    another value, which has no bound. The range of gids alone spares PostgreSQL the partitions of other months.
    """
    kind = Kind.MESSAGE if selection.is_backfill else Kind.DELIVERY
    first, end = gid_bounds(kind, selection.since, selection.until)
    pair = tuple_(column, gid)
    return (
        columns.where(gid > after, gid >= first, gid < end)
        .where(pair > tuple_(value, max(after, first)), pair < tuple_(value, end))
        .order_by(column, gid)
        .limit(rows)
        .subquery()
    )


def _range(gid: Any, kind: Kind, selection: ReplaySelection) -> list[ColumnElement[bool]]:
    first, end = gid_bounds(kind, selection.since, selection.until)
    return [gid >= first, gid < end]


def _literal(status: DeliveryStatus) -> Any:
    """Part of the statement's text, so that PostgreSQL sees that a partial index applies."""
    return bindparam(None, status, type_=_DELIVERY.c.status.type, literal_execute=True)


def _delivery_matches(selection: ReplaySelection, window: Subquery) -> ColumnElement[bool]:
    row = window.c
    conditions = [
        row.accepted_at >= selection.since,
        row.accepted_at < selection.until,
        row.channel == selection.channel,
        row.status.in_(STATUSES[selection.mode]),
        ~exists().where(_ENDPOINT.c.gid == row.endpoint_gid, _ENDPOINT.c.deleted_at.is_not(None)),
    ]
    if selection.endpoint_gid is not None:
        conditions.append(row.endpoint_gid == selection.endpoint_gid)
    if selection.tenant_gid is not None:
        conditions.append(row.tenant_gid == selection.tenant_gid)
    if selection.types:
        conditions.append(row.event_type.in_(selection.types))
    if selection.published_by is not None:
        conditions.append(
            exists().where(_MESSAGE.c.gid == row.message_gid, _MESSAGE.c.published_by == selection.published_by)
        )
    return and_(*conditions)


async def _messages(connection: AsyncConnection, selection: ReplaySelection, after: str, rows: int) -> Window:
    """A window of the messages of a channel: those that the endpoint may get and never had a delivery of."""
    table = _MESSAGE.c
    columns = select(
        table.gid, table.tenant_gid, table.event_type, table.accepted_at, table.published_by,
        table.payload.is_not(None).label("has_payload"), table.endpoint_gid, table.cancelled_at,
    )  # fmt: skip
    window = _part(columns, table.channel, selection.channel, table.gid, selection, after, rows)
    matches = case((_message_matches(selection, window), True), else_=False)
    columns = select(window.c.gid, window.c.event_type, window.c.has_payload, matches.label("matches"))
    read = (await connection.execute(columns)).all()
    found = sorted(
        (Found(row.gid, row.event_type, bool(row.has_payload)) for row in read if row.matches), key=lambda one: one.gid
    )
    return Window(found, max((row.gid for row in read), default=after), is_last=len(read) < rows)


def _message_matches(selection: ReplaySelection, window: Subquery) -> ColumnElement[bool]:
    row, delivery = window.c, _DELIVERY.c
    # All deliveries of a message have gids of its time: the range spares PostgreSQL the partitions of other months.
    of_message = and_(delivery.message_gid == row.gid, *_range(delivery.gid, Kind.DELIVERY, selection))
    conditions = [
        row.accepted_at >= selection.since,
        row.accepted_at < selection.until,
        or_(row.tenant_gid.is_(None), row.tenant_gid == selection.tenant_gid),
        row.endpoint_gid.is_(None),  # others went to one endpoint, regardless of subscriptions
        row.cancelled_at.is_(None),
        ~exists().where(_SCHEDULED.c.message_gid == row.gid),
        ~exists().where(of_message, delivery.endpoint_gid == selection.endpoint_gid),
    ]
    if selection.tenant_bound:
        is_known = exists().where(of_message, delivery.tenant_gid == selection.tenant_gid)
        conditions.append(or_(row.tenant_gid == selection.tenant_gid, is_known))
    if selection.types:
        conditions.append(row.event_type.in_(selection.types))
    if selection.published_by is not None:
        conditions.append(row.published_by == selection.published_by)
    return and_(*conditions)
