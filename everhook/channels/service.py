"""Use cases of channels. All of them need the database alone, so they take a session."""

from typing import Any

from everhook.channels import store as channels
from everhook.errors import ChannelExists, ChannelInUse, InvalidField, NotFound
from everhook.notifications.events import RESERVED, is_reserved
from everhook.storage.engine import Session
from everhook.storage.paging import Page
from everhook.storage.tables import Channel
from everhook.tenants.audit_store import Actor, record_audit


class ChannelService:
    """Policies are as requests spell them; None: the default policy. Channels have no tenant."""

    async def create(self, session: Session, actor: Actor, name: str, policy: dict[str, Any] | None) -> Channel:
        """Raises InvalidField for a reserved name, and ChannelExists."""
        if is_reserved(name):
            raise InvalidField("name", f"may not begin with {RESERVED}: such channels are Everhook's own")
        channel = await channels.create(session, name, policy)
        if channel is None:
            raise ChannelExists(f"There is a channel {name} already.")
        record_audit(session, actor, "channel.created", channel.name, detail={"policy": channel.policy})
        return channel

    async def get(self, session: Session, name: str) -> Channel:
        """Raises NotFound."""
        channel = await channels.get(session, name)
        if channel is None:
            raise NotFound("channel", name)
        return channel

    async def page(self, session: Session, *, after: str | None, limit: int) -> Page[Channel]:
        """One page, by name."""
        return await channels.page(session, after=after, limit=limit)

    async def set_policy(self, session: Session, actor: Actor, name: str, policy: dict[str, Any] | None) -> Channel:
        """Rounds of attempts that have begun keep the policy that they began with. Raises NotFound."""
        channel = await self.get(session, name)
        await channels.set_policy(session, channel, policy)
        record_audit(session, actor, "channel.changed", name, detail={"policy": channel.policy})
        return channel

    async def delete(self, session: Session, actor: Actor, name: str) -> None:
        """Deliveries that were accepted before go on. Raises NotFound, and ChannelInUse where subscriptions lead from
        the channel or Everhook itself needs it."""
        if is_reserved(name):
            raise ChannelInUse(f"{name} is Everhook's own; it stays.")
        await self.get(session, name)
        if not await channels.remove(session, name):
            raise ChannelInUse(f"Subscriptions lead from {name}; delete those first.")
        record_audit(session, actor, "channel.deleted", name)
