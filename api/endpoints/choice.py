"""Filters by endpoint take a gid, or as much of a URL or a description as one endpoint alone has."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from api.problems import Problem, invalid
from everhook.endpoints import list_store as endpoint_list
from everhook.ids import Kind, is_gid

NAMED = 3
"""So many of several that match are named."""


async def chosen_endpoints(session: AsyncSession, wanted: Sequence[str] | None) -> tuple[str, ...] | None:
    """The gids of the endpoints that a filter names; None where it names none."""
    if not wanted:
        return None
    found = [await chosen_endpoint(session, one) for one in wanted]
    return tuple(dict.fromkeys(gid for gid in found if gid is not None))


async def chosen_endpoint(session: AsyncSession, wanted: str | None) -> str | None:
    """The gid of the endpoint that a filter names, as far as the session reaches. One that has the very URL or
    description wins over those that contain it. 422 if there is none, or if there are several."""
    if wanted is None or is_gid(wanted, Kind.ENDPOINT):
        return wanted
    found = await endpoint_list.named(session, wanted, limit=NAMED + 1)
    exact = [endpoint for endpoint in found if wanted in (endpoint.url, endpoint.description)]
    match exact or found:
        case [endpoint]:
            return endpoint.gid
        case []:
            raise invalid("endpoint", "there is no endpoint with this gid, or with this in its URL or description")
        case several:
            raise _ambiguous([f"{endpoint.gid} {endpoint.url}" for endpoint in several])


def _ambiguous(several: list[str]) -> Problem:
    named = ", ".join(several[:NAMED]) + (", …" if len(several) > NAMED else "")
    return invalid("endpoint", f"several endpoints match: {named}. Give one's gid, or more of its URL")
