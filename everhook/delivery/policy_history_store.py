"""Earlier policies of channels and endpoints: a round of attempts keeps the policy that it started with.

Nothing is written when a message is accepted or an attempt is made. A change of a policy stores the previous one with
the time at which it ended, and a replay stores the time at which its round started. So does what lets a delivery begin
its first round later than at its acceptance: a gate, and a group if a policy changed meanwhile.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.delivery.policy import DeliveryPolicy, one_attempt, resolve
from everhook.storage.bulk import Bulk
from everhook.storage.paging import WRITTEN_WITHIN
from everhook.storage.statements import insert_ignoring
from everhook.storage.tables import Channel, Delivery, DeliveryRound, Endpoint, Message, PastPolicy, now


async def record_policy(
    session: AsyncSession, policy: dict[str, Any] | None, *, endpoint_gid: str = "", channel: str = ""
) -> None:
    """Record that this was the policy of an endpoint or of a channel until now."""
    row = {"endpoint_gid": endpoint_gid, "channel": channel, "until": now(), "policy": policy}
    connection = await session.connection()
    await session.execute(insert_ignoring(connection, PastPolicy, "endpoint_gid", "channel", "until").values(row))


async def policies_of(
    session: AsyncSession, delivery: Delivery, rounds: Collection[int]
) -> dict[int, tuple[datetime, DeliveryPolicy]]:
    """When each of these rounds of a delivery started, and its policy, by round. Without retries if it was published
    so.

    Rounds that were opened by a release without this history are left out.
    """
    began = await _beginnings(session, delivery, rounds)
    channel = await session.get(Channel, delivery.channel)
    endpoint = await session.get(Endpoint, delivery.endpoint_gid)
    of_channel = (col(PastPolicy.endpoint_gid) == "", col(PastPolicy.channel) == delivery.channel)
    of_endpoint = (col(PastPolicy.endpoint_gid) == delivery.endpoint_gid, col(PastPolicy.channel) == "")
    moments = sorted(began.values())
    channels = await _at(session, of_channel, channel.policy if channel is not None else None, moments)
    endpoints = await _at(session, of_endpoint, endpoint.policy if endpoint is not None else None, moments)
    found = {number: (moment, resolve(channels[moment], endpoints[moment])) for number, moment in began.items()}
    if not delivery.single_attempt:
        return found
    return {number: (moment, one_attempt(policy)) for number, (moment, policy) in found.items()}


async def remove_policies(bulk: Bulk) -> int:
    """Delete the policies that ended before the oldest stored message was accepted. Returns how many."""
    oldest = select(func.min(col(Message.gid))).scalar_subquery()
    found = await bulk.find(select(col(Message.accepted_at)).where(col(Message.gid) == oldest))
    needed_from = (found[0] if found else now()) - WRITTEN_WITHIN
    return await bulk.delete(PastPolicy, col(PastPolicy.until) < needed_from)


async def _beginnings(session: AsyncSession, delivery: Delivery, rounds: Collection[int]) -> dict[int, datetime]:
    rows = await session.execute(
        select(DeliveryRound).where(
            col(DeliveryRound.delivery_gid) == delivery.gid, col(DeliveryRound.round).in_(rounds)
        )
    )
    first = {1: delivery.accepted_at} if 1 in rounds else {}
    return first | {row.round: row.began_at for row in rows.scalars()}


async def _at(
    session: AsyncSession,
    owner: tuple[ColumnElement[bool], ...],
    current: dict[str, Any] | None,
    moments: Collection[datetime],
) -> Mapping[datetime, dict[str, Any] | None]:
    """The policy at each of these moments, which ascend: among those that ended later, the one that ended first."""
    found: dict[datetime, dict[str, Any] | None] = {}
    row: PastPolicy | None = None
    is_current = False
    for moment in moments:
        if not is_current and (row is None or row.until <= moment):
            past = select(PastPolicy).where(*owner, col(PastPolicy.until) > moment)
            row = (await session.execute(past.order_by(col(PastPolicy.until)).limit(1))).scalar_one_or_none()
            is_current = row is None
        found[moment] = row.policy if row is not None else current
    return found
