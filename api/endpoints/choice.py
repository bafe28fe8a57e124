"""Filters by endpoint take a gid, or as much of a URL or a description as one endpoint alone has."""

from collections.abc import Sequence

from api.problems import Problem, invalid
from everhook.endpoints import list_store as endpoint_list
from everhook.ids import Kind, is_gid
from everhook.storage.engine import Session

NAMED = 3
"""How many of several endpoints that match are named in the problem."""


async def chosen_endpoints(
    session: Session, wanted: Sequence[str] | None, field: str = "endpoint"
) -> tuple[str, ...] | None:
    """The gids of the endpoints that a filter names; None where it names none. `field` is the filter's name."""
    if not wanted:
        return None
    found = [await chosen_endpoint(session, one, field) for one in wanted]
    return tuple(dict.fromkeys(gid for gid in found if gid is not None))


async def chosen_endpoint(session: Session, wanted: str | None, field: str = "endpoint") -> str | None:
    """The gid of the endpoint that a filter names, among those of the session's tenant. An endpoint whose whole URL or
    description is given wins over those that contain it. 422 if there is none, or if there are several."""
    if wanted is None or is_gid(wanted, Kind.ENDPOINT):
        return wanted
    found = await endpoint_list.named(session, wanted, limit=NAMED + 1)
    exact = [endpoint for endpoint in found if wanted in (endpoint.url, endpoint.description)]
    match exact or found:
        case [endpoint]:
            return endpoint.gid
        case []:
            raise invalid(field, "there is no endpoint with this gid, or with this in its URL or description")
        case several:
            raise _ambiguous(field, [f"{endpoint.gid} {endpoint.url}" for endpoint in several])


def _ambiguous(field: str, several: list[str]) -> Problem:
    named = ", ".join(several[:NAMED]) + (", …" if len(several) > NAMED else "")
    return invalid(field, f"several endpoints match: {named}. Give one's gid, or more of its URL")
