"""Use cases of subscriptions. All of them need the database alone, so they take a session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from everhook.audit.store import Actor, record_audit
from everhook.channels import store as channels
from everhook.endpoints import store as endpoints
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.endpoints.choice import chosen_endpoints
from everhook.endpoints.quotas_store import Quotas
from everhook.errors import InvalidField, NotFound
from everhook.notifications.events import EVENTS_CHANNEL, EventKind
from everhook.publishing.matching import FailedCondition, first_failed, matches_type
from everhook.storage.engine import Session
from everhook.storage.paging import Page
from everhook.storage.tables import Subscription
from everhook.storage.tenant_scope import tenant_bound


@dataclass(frozen=True)
class NewSubscription:
    """`events` are patterns of types; none of them: every type. `filter` holds conditions on the payload. With
    `include_payload` events about dead letters carry the payload of the message."""

    endpoint_gid: str
    channel: str
    events: Sequence[str] = field(default_factory=tuple)
    filter: Mapping[str, Any] | None = None
    include_payload: bool = False


class SubscriptionChanges(TypedDict, total=False):
    """New values; what is absent stays as it is."""

    events: Sequence[str]
    filter: Mapping[str, Any] | None
    enabled: bool
    include_payload: bool


@dataclass(frozen=True)
class MatchResult:
    """Whether a subscription would take a message, and what does not match."""

    matches: bool
    type_matches: bool
    failed: FailedCondition | None


def try_subscription(
    events: Sequence[str],
    filter: Mapping[str, Any] | None,
    event_type: str,
    payload: Any,
    attributes: Mapping[str, str],
) -> MatchResult:
    """Match a message against a subscription that need not exist. `filter` passed `check_filter`."""
    type_matches = matches_type(event_type, events)
    failed = first_failed(filter, payload, attributes) if filter else None
    return MatchResult(type_matches and failed is None, type_matches, failed)


class SubscriptionService:
    """One for each process."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    async def create(self, session: Session, actor: Actor, new: NewSubscription) -> Subscription:
        """Every matching message that is accepted after the commit goes to the endpoint. Raises InvalidField and
        QuotaExceeded."""
        view = await endpoints.view(session, new.endpoint_gid, for_change=True)
        if view is None:
            raise InvalidField("endpointGid", "there is no such endpoint")
        if await channels.get(session, new.channel) is None:
            raise InvalidField("channel", f"there is no channel {new.channel}")
        if new.include_payload:
            _require_payloads(session, new.channel)
        subscription = Subscription(
            tenant_gid=view.endpoint.tenant_gid,
            endpoint_gid=new.endpoint_gid,
            channel=new.channel,
            events=list(new.events),
            filter=dict(new.filter) if new.filter is not None else None,
            include_payload=new.include_payload,
        )
        await subscriptions.create(session, subscription, self._quotas)
        detail: dict[str, Any] = {"endpointGid": subscription.endpoint_gid, "channel": subscription.channel}
        if subscription.include_payload:
            detail["includePayload"] = True
        _record(session, actor, "subscription.created", subscription, detail)
        return subscription

    async def get(self, session: Session, gid: str, *, for_change: bool = False) -> Subscription:
        """Raises NotFound. With `for_change` it is locked until the transaction ends."""
        subscription = await subscriptions.get(session, gid, for_change=for_change)
        if subscription is None:
            raise NotFound("subscription", gid)
        return subscription

    async def page(
        self,
        session: Session,
        *,
        endpoints: Sequence[str] | None,
        channels: Sequence[str] | None,
        after: str | None,
        limit: int,
    ) -> Page[Subscription]:
        """One page, newest first. Several values of a filter mean any of them; see `chosen_endpoints` for `endpoints`.
        Raises InvalidField."""
        return await subscriptions.page(
            session,
            endpoint_gid=await chosen_endpoints(session, endpoints),
            channel=tuple(channels) if channels else None,
            after=after,
            limit=limit,
        )

    async def change(self, session: Session, actor: Actor, gid: str, changes: SubscriptionChanges) -> Subscription:
        """Raises NotFound, InvalidField and QuotaExceeded."""
        subscription = await self.get(session, gid, for_change=True)
        if changes.get("include_payload"):
            _require_payloads(session, subscription.channel)
        await subscriptions.change(session, subscription, dict(changes), self._quotas)
        _record(session, actor, "subscription.changed", subscription, {"changed": sorted(changes)})
        return subscription

    async def delete(self, session: Session, actor: Actor, gid: str) -> None:
        """Deliveries that were accepted before go on. Raises NotFound."""
        subscription = await self.get(session, gid, for_change=True)
        await subscriptions.remove(session, subscription)
        _record(session, actor, "subscription.deleted", subscription, {"endpointGid": subscription.endpoint_gid})


def _require_payloads(session: Session, channel: str) -> None:
    """Raise InvalidField unless events about dead letters may carry payloads to a subscription of this channel.

    Endpoints of the default tenant get events about all tenants, so a tenant's key must not ask for their payloads.
    """
    if channel != EVENTS_CHANNEL:
        raise InvalidField(
            "includePayload",
            f"is for subscriptions to {EVENTS_CHANNEL}: its event {EventKind.DEAD_LETTERED} can carry the payload of "
            "the dead letter. Messages of other channels have their payload anyway",
        )
    if tenant_bound(session) is not None:
        raise InvalidField("includePayload", "can be set by operators only, with a key that has the scope admin")


def _record(session: Session, actor: Actor, action: str, subscription: Subscription, detail: dict[str, Any]) -> None:
    record_audit(session, actor, action, subscription.gid, tenant_gid=subscription.tenant_gid, detail=detail)
