"""What routes are given: annotated types, which FastAPI resolves."""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request, params

from api import problem_types
from api.callers import Access, Caller, client_address
from api.health.readiness import ReadinessCheck
from api.problems import Problem, invalid
from api.query import check_query
from everhook.axme.service import IntentService
from everhook.batches.service import BatchService
from everhook.channels.service import ChannelService
from everhook.dead_letters.service import DeadLetterService
from everhook.decisions.service import TaskService
from everhook.delivery.service import DeliveryService
from everhook.endpoints.service import EndpointService
from everhook.endpoints.subscriptions import SubscriptionService
from everhook.event_types.service import EventTypeService
from everhook.health.service import HealthService
from everhook.lifecycle.service import LifecycleService
from everhook.publishing.backlog import Backlog
from everhook.publishing.service import MessageService
from everhook.pulling.service import PullQueue
from everhook.receipts.service import ReceiptService
from everhook.redelivery.replays import ReplayService
from everhook.redelivery.service import RedeliveryService
from everhook.settings import Settings
from everhook.storage.engine import Database
from everhook.storage.idempotency import ResponseStore
from everhook.storage.tenant_scope import TenantScope
from everhook.streaming.service import PullStreams
from everhook.temporal.client import TemporalClient
from everhook.tenants.api_keys import ApiKeyService
from everhook.tenants.audit import AuditService
from everhook.tenants.service import TenantService
from everhook.tenants.sessions import SessionService

DEFAULT_PAGE, MAX_PAGE = 50, 500

_KEY = re.compile(r"[A-Za-z0-9._/:-]{1,128}")
"""What lists are ordered by: gids, and names of channels and event types."""


@dataclass(frozen=True)
class Services:
    """The parts of the API, built once, in the lifespan. Routes call the use cases with a `Store`, which is bound to
    their caller's tenant; they do not touch `database`."""

    settings: Settings
    database: Database
    api_keys: ApiKeyService
    messages: MessageService
    redelivery: RedeliveryService
    replays: ReplayService
    deliveries: DeliveryService
    dead_letters: DeadLetterService
    batches: BatchService
    receipts: ReceiptService
    audit: AuditService
    temporal: TemporalClient
    backlog: Backlog
    readiness: ReadinessCheck
    endpoints: EndpointService
    subscriptions: SubscriptionService
    channels: ChannelService
    event_types: EventTypeService
    tenants: TenantService
    health: HealthService
    sessions: SessionService
    responses: ResponseStore
    pulls: PullQueue
    streams: PullStreams
    tasks: TaskService
    lifecycle: LifecycleService
    intents: IntentService

    def scope_of(self, tenant_gid: str | None) -> TenantScope:
        """The database as a tenant may see it; None: all of it."""
        return TenantScope(self.database, tenant_gid)


# All of these are coroutines: FastAPI would run plain functions in threads, at the cost of a switch each.
async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def authenticate(request: Request) -> Caller:
    """The caller that a bearer key belongs to. Raises 401 without a valid one. Does not read the request's body."""
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    return await authenticate_key(request, presented if scheme.lower() == "bearer" else "", bool(presented))


async def authenticate_key(request: Request, key: str, was_given: bool) -> Caller:
    """The caller that a key belongs to. Raises 401, which says whether one was given."""
    services = await _services(request)
    caller = await caller_of_key(key, services, address_of(request, services.settings))
    if caller is None:
        raise _key_needed(_WRONG_KEY if was_given else _NO_KEY)
    return caller


_NO_KEY = "No API key was given. Send one as `Authorization: Bearer <key>`."
_WRONG_KEY = "This API key is not valid: it is unknown or incomplete, or was revoked, or has expired."


def _key_needed(detail: str) -> Problem:
    return Problem(problem_types.UNAUTHENTICATED, detail, headers={"www-authenticate": "Bearer"})


async def _caller(request: Request) -> Caller:
    """The caller that the middleware `Authentication` found. It runs for paths of the API only."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:
        raise _key_needed(_NO_KEY)
    return caller


async def caller_of_key(presented: str, services: Services, address: str | None) -> Caller | None:
    """The caller that a key belongs to. None for a key that is unknown, revoked or expired."""
    key = services.settings.api_key
    if key is not None and hmac.compare_digest(presented.encode(), key.get_secret_value().encode()):
        return Caller.of_environment(address)
    holder = await services.api_keys.holder(presented)
    return Caller.of_key(holder, address) if holder is not None else None


def address_of(request: Request, settings: Settings) -> str | None:
    hops = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    return client_address(request.client.host if request.client else None, hops, settings.trusted_proxies)


async def _store(
    services: Annotated[Services, Depends(_services)], caller: Annotated[Caller, Depends(_caller)]
) -> TenantScope:
    return services.scope_of(caller.tenant_gid)


def opened_by(access: Access) -> params.Depends:
    """Raise 403 for callers whom `access` does not admit. Every router under `/v1` is included with one."""

    async def check(request: Request, caller: Annotated[Caller, Depends(_caller)]) -> None:
        access.check(caller, request.method, request.path_params.get("gid"))
        check_query(request)

    dependency: params.Depends = Depends(check)
    return dependency


@dataclass(frozen=True)
class PageRequest:
    """Which page of a list: at most `limit` rows after the key `after`. `list_tag` names the list with its filters."""

    limit: int
    after: str | None
    list_tag: str

    def next_cursor(self, key: str | None) -> str | None:
        """The cursor of the page after `key`: for this list with these filters, and no other."""
        return encode_cursor(key, self.list_tag) if key is not None else None


async def _page_request(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")] = DEFAULT_PAGE,
    cursor: Annotated[
        str | None, Query(description="`nextCursor` of the page before, of the same list with the same filters.")
    ] = None,
) -> PageRequest:
    filters = (pair for pair in request.query_params.multi_items() if pair[0] not in ("limit", "cursor"))
    tag = list_tag(request.url.path, filters)
    return PageRequest(limit, decode_cursor(cursor, tag) if cursor is not None else None, tag)


def list_tag(path: str, filters: Iterable[tuple[str, str]]) -> str:
    """A short name of a list with its filters, to bind cursors to it."""
    return hashlib.sha256(repr((path, sorted(filters))).encode()).hexdigest()[:8]


def encode_cursor(key: str, tag: str) -> str:
    """The cursor of the page after `key`, of the list that `tag` names."""
    return _encoded(f"{key}~{tag}")


def decode_cursor(cursor: str, tag: str) -> str:
    """The key in a cursor. 422 for what is no cursor, or that of another list or of other filters."""
    key, _, its_tag = _decoded(cursor).partition("~")
    if not _KEY.fullmatch(key) or not its_tag:
        raise _no_cursor()
    if its_tag != tag:
        raise invalid("cursor", "belongs to another list or to other filters; begin at the first page")
    return key


def _encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    """The text of a cursor. Base64 decoders skip what they do not know, so it must also encode to the same."""
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError:
        text = ""
    if _encoded(text) != cursor:
        raise _no_cursor()
    return text


def _no_cursor() -> Problem:
    return invalid("cursor", "is not a cursor of this API; send `nextCursor` unchanged")


ServicesDep = Annotated[Services, Depends(_services)]
Principal = Annotated[Caller, Depends(_caller)]
Store = Annotated[TenantScope, Depends(_store)]
Paging = Annotated[PageRequest, Depends(_page_request)]
