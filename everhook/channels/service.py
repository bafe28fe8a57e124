"""Use cases of channels. Those that take a session need the database alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from everhook.audit.store import Actor, record_audit
from everhook.channels import store as channels
from everhook.circuit.announcer import CircuitAnnouncer
from everhook.errors import ChannelExists, ChannelInUse, InvalidField, NotFound
from everhook.event_types.modes import ValidationMode
from everhook.notifications.events import RESERVED, is_reserved
from everhook.publishing.gates import NO_INBOX, parse_gates
from everhook.publishing.gates_store import inboxes
from everhook.storage.engine import Session
from everhook.storage.paging import Page
from everhook.storage.tables import Channel
from everhook.storage.tenant_scope import TenantScope

MAX_NAMES = 500


class ChannelChanges(TypedDict, total=False):
    """New values of settings; settings that are absent stay as they are."""

    gates: Sequence[Any] | None
    policy: dict[str, Any] | None
    validation: ValidationMode
    retention_days: float | None
    circuit: dict[str, Any] | None


@dataclass(frozen=True)
class NewChannel:
    name: str
    policy: dict[str, Any] | None = None
    gates: Sequence[Any] | None = None
    circuit: dict[str, Any] | None = None
    validation: ValidationMode = ValidationMode.OFF
    retention_days: float | None = None


class ChannelService:
    """Policies, gates and circuit settings are as requests spell them; None: the default policy, no gates, the settings
    of the environment. Channels have no tenant."""

    def __init__(self, announcer: CircuitAnnouncer, message_days: float) -> None:
        """`message_days`: how long messages are kept (`EVERHOOK_DELIVERY_RETENTION_DAYS`); 0: for ever."""
        self._announcer = announcer
        self._message_days = message_days

    async def create(self, session: Session, actor: Actor, new: NewChannel) -> Channel:
        """Raises InvalidField for a reserved name, wrong gates and a retention that is too long, and ChannelExists."""
        if is_reserved(new.name):
            raise InvalidField("name", f"may not begin with {RESERVED}: such channels are Everhook's own")
        self._check_retention(new.retention_days)
        checked = await _checked(session, new.gates)
        channel = await channels.create(
            session, new.name, new.policy, checked, new.circuit, new.validation, new.retention_days
        )
        if channel is None:
            raise ChannelExists(f"There is a channel {new.name} already.")
        detail: dict[str, Any] = {"policy": channel.policy}
        detail |= {"gates": _inboxes(channel)} if channel.gates else {}
        detail |= {"circuit": new.circuit} if new.circuit else {}
        detail |= {"validation": new.validation} if new.validation is not ValidationMode.OFF else {}
        detail |= {"retentionDays": new.retention_days} if new.retention_days is not None else {}
        record_audit(session, actor, "channel.created", channel.name, detail=detail)
        return channel

    async def get(self, session: Session, name: str, *, for_change: bool = False) -> Channel:
        """Raises NotFound. With `for_change` it is locked until the transaction ends."""
        channel = await channels.get(session, name, for_change=for_change)
        if channel is None:
            raise NotFound("channel", name)
        return channel

    async def find(self, session: Session, name: str) -> Channel | None:
        """None for one that does not exist, such as the deleted channel of an earlier delivery."""
        return await channels.get(session, name)

    async def names(self, session: Session) -> list[str]:
        """The first `MAX_NAMES` names, in order."""
        return [row.name for row in (await channels.page(session, after=None, limit=MAX_NAMES)).rows]

    async def page(self, session: Session, *, after: str | None, limit: int) -> Page[Channel]:
        """One page, by name."""
        return await channels.page(session, after=after, limit=limit)

    async def change(
        self, scope: TenantScope, actor: Actor, name: str, changes: ChannelChanges, *, only_different: bool = False
    ) -> Channel:
        """Change settings in one transaction, with an audit entry for each. With `only_different`, values that the
        channel already has are skipped. Raises NotFound and InvalidField.

        Rounds of attempts that have begun keep their policy, messages that were accepted keep their gates. The new
        retention also applies to messages that were accepted before. Circuits are notified after the commit.
        """
        async with scope.writing() as session:
            channel = await self.get(session, name)
            if only_different:
                changes = _different(channel, changes)
            if "gates" in changes:  # first: it locks inboxes, and the deletion of an inbox locks channels after it
                channel = await self._set_gates(session, actor, name, changes["gates"])
            if "policy" in changes:
                channel = await self._set_policy(session, actor, name, changes["policy"])
            if "validation" in changes:
                channel = await self._set_validation(session, actor, name, changes["validation"])
            if "retention_days" in changes:
                channel = await self._set_retention(session, actor, name, changes["retention_days"])
            if "circuit" in changes:
                channel = await self._set_circuit(session, actor, name, changes["circuit"])
        if "circuit" in changes:
            self._announcer.channel_changed(name)
        return channel

    async def _set_gates(self, session: Session, actor: Actor, name: str, gates: Sequence[Any] | None) -> Channel:
        if is_reserved(name):
            raise InvalidField("gates", "channels of Everhook itself have none")
        checked = await _checked(session, gates)  # before the channel is locked: see `change`
        channel = await self.get(session, name, for_change=True)
        await channels.set_gates(session, channel, checked)
        record_audit(session, actor, "channel.changed", name, detail={"gates": _inboxes(channel)})
        return channel

    async def _set_policy(self, session: Session, actor: Actor, name: str, policy: dict[str, Any] | None) -> Channel:
        channel = await self.get(session, name, for_change=True)
        await channels.set_policy(session, channel, policy)
        record_audit(session, actor, "channel.changed", name, detail={"policy": channel.policy})
        return channel

    async def _set_validation(self, session: Session, actor: Actor, name: str, validation: ValidationMode) -> Channel:
        if is_reserved(name) and validation is not ValidationMode.OFF:
            raise InvalidField("validation", "what Everhook itself publishes is not checked")
        channel = await self.get(session, name, for_change=True)
        await channels.set_validation(session, channel, validation)
        record_audit(session, actor, "channel.changed", name, detail={"validation": validation})
        return channel

    async def _set_retention(self, session: Session, actor: Actor, name: str, days: float | None) -> Channel:
        self._check_retention(days)
        channel = await self.get(session, name, for_change=True)
        await channels.set_retention(session, channel, days)
        record_audit(session, actor, "channel.changed", name, detail={"retentionDays": days})
        return channel

    async def _set_circuit(self, session: Session, actor: Actor, name: str, circuit: dict[str, Any] | None) -> Channel:
        channel = await self.get(session, name, for_change=True)
        await channels.set_circuit(session, channel, circuit)
        record_audit(session, actor, "channel.changed", name, detail={"circuit": channel.circuit})
        return channel

    def _check_retention(self, days: float | None) -> None:
        if days is not None and 0 < self._message_days < days:
            raise InvalidField(
                "retentionDays",
                f"is longer than messages are kept: {self._message_days:g} days (EVERHOOK_DELIVERY_RETENTION_DAYS)",
            )

    async def delete(self, session: Session, actor: Actor, name: str) -> None:
        """Deliveries that were accepted before go on. Raises NotFound, and ChannelInUse if there are subscriptions to
        the channel or Everhook itself needs it."""
        if is_reserved(name):
            raise ChannelInUse(f"{name} is Everhook's own; it stays.")
        await self.get(session, name, for_change=True)
        if not await channels.remove(session, name):
            raise ChannelInUse(f"{name} has subscriptions; delete those first.")
        record_audit(session, actor, "channel.deleted", name)


async def _checked(session: Session, gates: Sequence[Any] | None) -> list[dict[str, Any]] | None:
    """Gates as they are stored. Raises InvalidField, also for an endpoint that is no inbox."""
    steps = parse_gates(gates or (), "gates")
    if not steps:
        return None
    found = await inboxes(await session.connection(), {step.inbox for step in steps})
    for index, step in enumerate(steps):
        if step.inbox not in found:
            raise InvalidField(f"gates[{index}].inbox", NO_INBOX)
    return [dict(step.document) for step in steps]


def _inboxes(channel: Channel) -> list[str]:
    return [step["inbox"] for step in channel.gates or ()]


def _different(channel: Channel, changes: ChannelChanges) -> ChannelChanges:
    """The changes without the values that the channel already has. Empty gates are stored as None."""
    wanted = {name: (value or None) if name == "gates" else value for name, value in changes.items()}
    return cast(ChannelChanges, {name: value for name, value in wanted.items() if value != getattr(channel, name)})
