"""Query parameters: an unknown one is refused, else `?stauts=parked` would list everything. One that is a filter may be
given several times and means any of its values; any other is given once."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

from fastapi import Query, Request

from api.dead_letters.schemas import MAX_VALUES
from api.problems import invalid
from api.schemas import EndpointRef, Gid
from everhook.field_errors import UNKNOWN, meant

_DIGITS = re.compile(r"-?[0-9]{1,20}")

Value = TypeVar("Value")
Several = Annotated[
    list[Value] | None, Query(max_length=MAX_VALUES, description="Given several times: any of the values.")
]
EndpointGids = Annotated[
    list[EndpointRef] | None,
    Query(
        alias="endpointGid",
        max_length=MAX_VALUES,
        description=(
            "A gid, or a part of a URL or description that matches exactly one endpoint. Given several times: any."
        ),
    ),
]
MessageGids = Annotated[
    list[Gid] | None,
    Query(alias="messageGid", max_length=MAX_VALUES, description="Given several times: any of the values."),
]
SubscriptionGids = Annotated[
    list[Gid] | None,
    Query(alias="subscriptionGid", max_length=MAX_VALUES, description="Given several times: any of the values."),
]


@dataclass(frozen=True)
class _Parameter:
    takes_several: bool
    is_number: bool


_known: dict[Callable[..., Any], dict[str, _Parameter]] = {}


def several(values: Sequence[Value] | None) -> tuple[Value, ...] | None:
    """The values of a filter, None where it was not given."""
    return tuple(dict.fromkeys(values)) if values else None


def check_query(request: Request) -> None:
    """Raise 422 for a parameter that the operation does not have, one that is given too often, and for a number that is
    not written in digits: pydantic would take `1_0` and `1.0`."""
    if not request.scope["query_string"]:
        return
    known, given = _parameters(request), request.query_params.multi_items()
    for name, count in Counter(name for name, _ in given).items():
        if name not in known:
            close = meant(name, known)
            hint = f"did you mean {close}?" if close else f"there are: {', '.join(known) or 'none'}"
            raise invalid(name[:100], f"is not a parameter of this call; {hint}", UNKNOWN)
        if count > 1 and not known[name].takes_several:
            raise invalid(name, "is given more than once")
    for name, value in given:
        if known[name].is_number and not _DIGITS.fullmatch(value):
            raise invalid(name, "must be a whole number, in digits", "int_type")


def _parameters(request: Request) -> dict[str, _Parameter]:
    """The query parameters of the operation that was called."""
    route = request.scope["route"]
    found = _known.get(route.endpoint)
    if found is None:
        found = _known[route.endpoint] = {
            field.alias: _Parameter(
                _mentions(field.field_info.annotation, list), _mentions(field.field_info.annotation, int)
            )
            for field in _fields(route.dependant)
        }
    return found


def _fields(dependant: Any) -> Iterator[Any]:
    yield from dependant.query_params
    for dependency in dependant.dependencies:
        yield from _fields(dependency)


def _mentions(annotation: Any, kind: type) -> bool:
    return kind in (annotation, get_origin(annotation)) or any(_mentions(part, kind) for part in get_args(annotation))
