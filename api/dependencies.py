"""What routes are handed: annotated types, resolved by FastAPI."""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from temporalio.client import Client

from api.backlog import Backlog
from api.problems import Problem, invalid
from everhook.dispatch import Dispatcher
from everhook.egress import EgressClient
from everhook.entities import EndpointEntities
from everhook.keyring import KeyRing
from everhook.settings import Settings
from everhook.storage.engine import Database
from everhook.storage.messages import Acceptor
from everhook.storage.orders import OrderDefaults

DEFAULT_PAGE, MAX_PAGE = 50, 500

_KEY = re.compile(r"[A-Za-z0-9._-]{1,100}")
"""What lists are ordered by: gids, and names of channels."""


@dataclass(frozen=True)
class Services:
    """All that the API stands on; built once, in the lifespan."""

    settings: Settings
    database: Database
    temporal: Client
    acceptor: Acceptor
    dispatcher: Dispatcher
    entities: EndpointEntities
    egress: EgressClient
    backlog: Backlog
    defaults: OrderDefaults
    keyring: KeyRing


@dataclass(frozen=True)
class Caller:
    """Who calls. `name` goes on record with replays and discards."""

    name: str


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


_bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer <key>`")


def _caller(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """The caller behind the bearer key, compared in constant time. 401 for everybody else."""
    key = _services(request).settings.api_key
    presented = credentials.credentials.encode() if credentials is not None else b""
    if key is None or not hmac.compare_digest(presented, key.get_secret_value().encode()):
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "Present the API key: `Authorization: Bearer <key>`.",
            headers={"www-authenticate": "Bearer"},
        )
    return Caller("api")


def _database(services: Annotated[Services, Depends(_services)]) -> Database:
    return services.database


def _temporal(services: Annotated[Services, Depends(_services)]) -> Client:
    return services.temporal


@dataclass(frozen=True)
class PageRequest:
    limit: int
    after: str | None


def _page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")] = DEFAULT_PAGE,
    cursor: Annotated[str | None, Query(description="`nextCursor` of the page before.")] = None,
) -> PageRequest:
    return PageRequest(limit, _decode_cursor(cursor) if cursor is not None else None)


def encode_cursor(key: str | None) -> str | None:
    return urlsafe_b64encode(key.encode()).decode().rstrip("=") if key is not None else None


def _decode_cursor(cursor: str) -> str:
    """The key behind a cursor. Base 64 decoders skip what they do not know, so it must also encode to the same."""
    try:
        key = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError:
        key = ""
    if not _KEY.fullmatch(key) or encode_cursor(key) != cursor:
        raise invalid("cursor", "is not one of ours; take `nextCursor` as it is")
    return key


ServicesDep = Annotated[Services, Depends(_services)]
Principal = Annotated[Caller, Depends(_caller)]
Store = Annotated[Database, Depends(_database)]
Temporal = Annotated[Client, Depends(_temporal)]
Paging = Annotated[PageRequest, Depends(_page_request)]
