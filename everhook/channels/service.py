"""Use cases of channels. Those that take a session need the database alone."""

from collections.abc import Sequence
from typing import Any

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


class ChannelService:
    """Policies, gates and circuit settings are as requests spell them; None: the default policy, no gates, the settings
    of the environment. Channels have no tenant."""

    def __init__(self, announcer: CircuitAnnouncer, message_days: float) -> None:
        """`message_days`: how long messages are kept (`EVERHOOK_DELIVERY_RETENTION_DAYS`); 0: for ever."""
        self._announcer = announcer
        self._message_days = message_days

    async def create(
        self,
        session: Session,
        actor: Actor,
        name: str,
        policy: dict[str, Any] | None,
        gates: Sequence[Any] | None = None,
        circuit: dict[str, Any] | None = None,
        validation: ValidationMode = ValidationMode.OFF,
        retention_days: float | None = None,
    ) -> Channel:
        """Raises InvalidField for a reserved name, wrong gates and a retention that is too long, and ChannelExists."""
        if is_reserved(name):
            raise InvalidField("name", f"may not begin with {RESERVED}: such channels are Everhook's own")
        self._check_retention(retention_days)
        checked = await _checked(session, gates)
        channel = await channels.create(session, name, policy, checked, circuit, validation, retention_days)
        if channel is None:
            raise ChannelExists(f"There is a channel {name} already.")
        detail: dict[str, Any] = {"policy": channel.policy}
        detail |= {"gates": _inboxes(channel)} if channel.gates else {}
        detail |= {"circuit": circuit} if circuit else {}
        detail |= {"validation": validation} if validation is not ValidationMode.OFF else {}
        detail |= {"retentionDays": retention_days} if retention_days is not None else {}
        record_audit(session, actor, "channel.created", channel.name, detail=detail)
        return channel

    async def get(self, session: Session, name: str, *, for_change: bool = False) -> Channel:
        """Raises NotFound. With `for_change` it is locked until the transaction ends."""
        channel = await channels.get(session, name, for_change=for_change)
        if channel is None:
            raise NotFound("channel", name)
        return channel

    async def page(self, session: Session, *, after: str | None, limit: int) -> Page[Channel]:
        """One page, by name."""
        return await channels.page(session, after=after, limit=limit)

    async def set_policy(self, session: Session, actor: Actor, name: str, policy: dict[str, Any] | None) -> Channel:
        """Rounds of attempts that have begun keep the policy that they began with. Raises NotFound."""
        channel = await self.get(session, name, for_change=True)
        await channels.set_policy(session, channel, policy)
        record_audit(session, actor, "channel.changed", name, detail={"policy": channel.policy})
        return channel

    async def set_gates(self, session: Session, actor: Actor, name: str, gates: Sequence[Any] | None) -> Channel:
        """Messages that were accepted before keep their gates. Raises NotFound and InvalidField."""
        if is_reserved(name):
            raise InvalidField("gates", "channels of Everhook itself have none")
        checked = await _checked(session, gates)  # first: it locks inboxes, whose deletion locks channels after them
        channel = await self.get(session, name, for_change=True)
        await channels.set_gates(session, channel, checked)
        record_audit(session, actor, "channel.changed", name, detail={"gates": _inboxes(channel)})
        return channel

    async def set_circuit(self, session: Session, actor: Actor, name: str, circuit: dict[str, Any] | None) -> Channel:
        """Set the circuit settings of the endpoints that subscribe to a channel. Call `circuit_changed` after the
        commit. Raises NotFound."""
        channel = await self.get(session, name, for_change=True)
        await channels.set_circuit(session, channel, circuit)
        record_audit(session, actor, "channel.changed", name, detail={"circuit": channel.circuit})
        return channel

    def circuit_changed(self, name: str) -> None:
        """Announce changed circuit settings to the circuits, in the background."""
        self._announcer.channel_changed(name)

    async def set_validation(self, session: Session, actor: Actor, name: str, validation: ValidationMode) -> Channel:
        """From now on, messages that do not fit the catalogue of event types are accepted, flagged or rejected. Raises
        NotFound and InvalidField."""
        if is_reserved(name) and validation is not ValidationMode.OFF:
            raise InvalidField("validation", "what Everhook itself publishes is not checked")
        channel = await self.get(session, name, for_change=True)
        await channels.set_validation(session, channel, validation)
        record_audit(session, actor, "channel.changed", name, detail={"validation": validation})
        return channel

    async def set_retention(self, session: Session, actor: Actor, name: str, days: float | None) -> Channel:
        """How long payloads are kept; None: as long as the settings say. Holds for messages that were accepted before,
        too. Raises NotFound and InvalidField."""
        self._check_retention(days)
        channel = await self.get(session, name, for_change=True)
        await channels.set_retention(session, channel, days)
        record_audit(session, actor, "channel.changed", name, detail={"retentionDays": days})
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
