"""Filters by endpoint take a gid, or a part of a URL or description that matches exactly one endpoint."""

from collections.abc import Sequence

from everhook.endpoints import list_store as endpoint_list
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.errors import InvalidField
from everhook.ids import Kind, is_gid
from everhook.storage.engine import Session

FIELD = "endpointGid"
NAMED = 3
"""How many of several matching endpoints an error names."""


async def chosen_endpoints(session: Session, wanted: Sequence[str] | None) -> tuple[str, ...] | None:
    """The gids of the endpoints that a filter names; None if it names none. Raises InvalidField."""
    if not wanted:
        return None
    return tuple(dict.fromkeys([await chosen_endpoint(session, one) for one in wanted]))


async def chosen_endpoint(session: Session, wanted: str) -> str:
    """The gid of one endpoint, among those that the session reaches. An endpoint whose whole URL or description is
    `wanted` wins over those that contain it. Raises InvalidField if there is no endpoint, or more than one."""
    if is_gid(wanted, Kind.ENDPOINT):
        return wanted
    found = await endpoint_list.named(session, wanted, limit=NAMED + 1)
    exact = [endpoint for endpoint in found if wanted in (endpoint.url, endpoint.description)]
    match exact or found:
        case [endpoint]:
            return endpoint.gid
        case []:
            raise InvalidField(FIELD, "there is no endpoint with this gid, or with this in its URL or description")
        case several:
            raise _ambiguous([f"{endpoint.gid} {endpoint.url}" for endpoint in several])


async def endpoints_subscribed(session: Session, subscription_gids: Sequence[str]) -> tuple[str, ...]:
    """The endpoints of these subscriptions. Raises InvalidField for a subscription that does not exist."""
    found = await subscriptions.endpoints_of(session, subscription_gids)
    for gid in subscription_gids:
        if gid not in found:
            problem = f"there is no subscription {gid}; if it was deleted, give {FIELD} as well"
            raise InvalidField("subscriptionGid", problem)
    return tuple(sorted(set(found.values())))


def _ambiguous(several: list[str]) -> InvalidField:
    named = ", ".join(several[:NAMED]) + (", …" if len(several) > NAMED else "")
    return InvalidField(FIELD, f"several endpoints match: {named}. Give one's gid, or more of its URL")
