"""The application: `create_app()`, and what it opens and closes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from temporalio.client import Client

from api import dashboard, problems, publishing, reference
from api.backlog import Backlog
from api.callers import ADMINS, OWNED, PUBLISHERS, SHARED
from api.dependencies import Services, opened_by
from api.middleware import Authentication, BodyLimit, Route, Uncached
from api.publish_rate import PublishRate
from api.readiness import readiness_check
from api.routers import (
    api_keys,
    audit,
    channels,
    dead_letters,
    deliveries,
    endpoints,
    health,
    health_scores,
    messages,
    receipts,
    subscriptions,
    tenants,
)
from everhook import __version__
from everhook.dispatch import Dispatcher
from everhook.egress import EgressClient, EgressRules
from everhook.entities import EndpointEntities
from everhook.keyring import KeyRing
from everhook.metrics_server import metrics_served, sdk_metrics_address
from everhook.settings import Settings
from everhook.storage.api_keys import ApiKeys
from everhook.storage.engine import Database
from everhook.storage.health_board import HealthBoard
from everhook.storage.messages import Acceptor
from everhook.storage.orders import OrderDefaults
from everhook.temporal import connect
from everhook.tracing import tracing

DESCRIPTION = """Everhook delivers messages to other people's systems and can prove that it did.

A `202` means that the message and one delivery for each matching endpoint are committed. From then on each delivery
ends as `delivered`, `dead_lettered` (kept and replayable) or `discarded`."""

ROUTERS = (
    (channels.router, SHARED),
    (endpoints.router, OWNED),
    (subscriptions.router, OWNED),
    (messages.publishing_router, PUBLISHERS),
    (messages.router, SHARED),
    (deliveries.router, OWNED),
    (dead_letters.router, OWNED),
    (receipts.router, OWNED),
    (health_scores.router, OWNED),
    (audit.router, OWNED),
    (tenants.router, ADMINS),
    (api_keys.router, ADMINS),
    (dashboard.portal.api_router, ADMINS),
)
"""All that stands under `/v1`, and whom it is open to."""


def create_app(
    settings: Settings | None = None, *, temporal: Client | None = None, database: Database | None = None
) -> FastAPI:
    """The API. It opens its own connections unless it is handed those of a process that also works (`everhook dev`)."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with tracing(settings, "everhook-api"), _services(settings, temporal, database) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Everhook",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=problems.DOCUMENTED,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app, dashboard.for_browsers)
    # The last one added is the first that a request passes.
    app.add_middleware(BodyLimit, limits=body_limits(settings))
    app.add_middleware(Authentication)
    app.add_middleware(Uncached)
    app.include_router(health.router)
    app.include_router(receipts.well_known)
    for router, access in ROUTERS:
        app.include_router(router, prefix="/v1", dependencies=[opened_by(access)])
    dashboard.install(app, settings)
    reference.install(app)
    return app


def body_limits(settings: Settings) -> dict[Route, int]:
    """The routes whose bodies may be longer than others, or that take one from strangers; in bytes."""
    return {
        messages.publish: settings.max_payload_bytes + publishing.ENVELOPE_ALLOWANCE,
        messages.publish_batch: publishing.MAX_BATCH_BYTES,
        **dict.fromkeys(dashboard.FORMS_OF_STRANGERS, dashboard.MAX_FORM_OF_STRANGERS),
    }


@asynccontextmanager
async def _services(settings: Settings, temporal: Client | None, database: Database | None) -> AsyncIterator[Services]:
    store = database or Database(settings.database_url, pool_size=settings.database_pool_size)
    sdk_address = sdk_metrics_address(settings) if temporal is None else None
    client = temporal or await connect(lazy=True, metrics_address=sdk_address)
    defaults = OrderDefaults.from_settings(settings)
    services = Services(
        settings=settings,
        database=store,
        api_keys=ApiKeys(store),
        temporal=client,
        acceptor=Acceptor(store, defaults),
        dispatcher=Dispatcher(client, store, concurrency=settings.dispatch_concurrency, queue=settings.dispatch_queue),
        entities=EndpointEntities(client, settings.circuit_policy),
        egress=EgressClient(EgressRules.from_settings(settings)),
        backlog=Backlog(store, settings.undispatched_limit),
        publish_rate=PublishRate(settings.publish_rate),
        board=HealthBoard(store),
        readiness=readiness_check(store, client),
        defaults=defaults,
        keyring=KeyRing.from_settings(settings),
    )
    watcher = asyncio.create_task(services.backlog.watch())
    try:
        async with metrics_served(settings, store, sdk_address):
            yield services
    finally:
        services.backlog.close()
        await watcher
        await services.dispatcher.close()
        await services.egress.aclose()
        if database is None:
            await store.close()
