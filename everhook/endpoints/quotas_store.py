"""Quotas: how many subscriptions a tenant may have, and how much matching they may cost for each message.

Every message of a channel is matched against all of its subscriptions, those of every tenant: without limits one tenant
could slow down publishing for all.
"""

from dataclasses import dataclass
from typing import Self

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.errors import InvalidField, QuotaExceeded
from everhook.settings import Settings
from everhook.storage.statements import lock, total
from everhook.storage.tables import DEFAULT_TENANT_GID, Subscription


@dataclass(frozen=True)
class Quotas:
    """`cost` is the number of steps of matching. Quotas of tenants do not apply to the default tenant, which owns the
    endpoints of publishers that have no tenants."""

    subscriptions_per_endpoint: int = 100
    subscriptions_per_tenant: int = 1_000
    cost: int = 1_000
    cost_per_tenant: int = 10_000

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            settings.subscriptions_per_endpoint,
            settings.subscriptions_per_tenant,
            settings.subscription_cost,
            settings.subscription_cost_per_tenant,
        )


async def check_quotas(session: AsyncSession, quotas: Quotas, subscription: Subscription) -> None:
    """Raise QuotaExceeded where a new or changed subscription exceeds a limit, InvalidField where it costs too much by
    itself. Until the transaction ends, no other subscription of the tenant is checked: two at once would each find room
    for one."""
    if subscription.cost > quotas.cost:
        raise InvalidField(
            "filter",
            f"costs {subscription.cost} steps a message; a subscription may cost {quotas.cost} "
            "(EVERHOOK_SUBSCRIPTION_COST)",
        )
    await lock(await session.connection(), "subscriptions", subscription.tenant_gid)
    others = col(Subscription.gid) != subscription.gid
    of_endpoint = col(Subscription.endpoint_gid) == subscription.endpoint_gid
    count = (await session.execute(select(func.count(col(Subscription.gid))).where(others, of_endpoint))).scalar_one()
    if count >= quotas.subscriptions_per_endpoint:
        raise QuotaExceeded(
            f"An endpoint may have {quotas.subscriptions_per_endpoint} subscriptions "
            "(EVERHOOK_SUBSCRIPTIONS_PER_ENDPOINT), and this one has that many."
        )
    if subscription.tenant_gid != DEFAULT_TENANT_GID:
        await _check_tenant(session, quotas, subscription)


async def _check_tenant(session: AsyncSession, quotas: Quotas, subscription: Subscription) -> None:
    statement = select(func.count(col(Subscription.gid)), total(col(Subscription.cost))).where(
        col(Subscription.gid) != subscription.gid, col(Subscription.tenant_gid) == subscription.tenant_gid
    )
    count, cost = (await session.execute(statement)).one()
    if count >= quotas.subscriptions_per_tenant:
        raise QuotaExceeded(
            f"A tenant may have {quotas.subscriptions_per_tenant} subscriptions "
            "(EVERHOOK_SUBSCRIPTIONS_PER_TENANT), and this one has that many."
        )
    if (cost or 0) + subscription.cost > quotas.cost_per_tenant:
        raise QuotaExceeded(
            f"The subscriptions of a tenant may cost {quotas.cost_per_tenant} steps a message together "
            f"(EVERHOOK_SUBSCRIPTION_COST_PER_TENANT). This one costs {subscription.cost}, the others {cost}."
        )
