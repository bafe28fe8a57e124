"""The application: `create_app()`, and what it opens and closes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI

from api import dashboard, openapi, problems, reference
from api.api_keys import router as api_keys
from api.audit import router as audit
from api.axme import application as axme
from api.axme import router as axme_routes
from api.batches import router as batches
from api.callers import ADMINS, BATCHES, CONSUMERS, DECIDERS, OWNED, PUBLISHERS, REPLAYERS, SENDERS, SHARED
from api.channels import router as channels
from api.dead_letters import router as dead_letters
from api.deliveries import router as deliveries
from api.dependencies import Services, opened_by
from api.endpoints import router as endpoints
from api.event_types import router as event_types
from api.event_types.schemas import MAX_IMPORT_BYTES
from api.health import probes as health
from api.health import router as health_scores
from api.health.readiness import readiness_check
from api.idempotency import RespondedBefore, respond_again
from api.lifecycle import router as lifecycle
from api.messages import publishing
from api.messages import router as messages
from api.middleware import Authentication, BodyLimit, Route, Uncached
from api.pulling import acks as pull_acks
from api.pulling import router as pulling
from api.receipts import router as receipts
from api.subscriptions import router as subscriptions
from api.tasks import router as tasks
from api.tenants import router as tenants
from api.unversioned import UnversionedCalls
from everhook import __version__
from everhook.axme.service import IntentService
from everhook.batches.service import BatchService
from everhook.channels.service import ChannelService
from everhook.dead_letters.service import DeadLetterService
from everhook.delivery.service import DeliveryService
from everhook.endpoints.quotas_store import Quotas
from everhook.endpoints.service import EndpointService
from everhook.endpoints.subscriptions import SubscriptionService
from everhook.engine import DeliveryEngine, delivery_engine
from everhook.event_types.service import EventTypeService
from everhook.health.alerts_store import endpoint_limits
from everhook.health.overview_store import HealthBoard
from everhook.health.service import HealthService
from everhook.observability.tracing import tracing
from everhook.publishing.backlog import Backlog
from everhook.publishing.publish_rate import PublishRate
from everhook.publishing.service import MessageService
from everhook.publishing.store import Acceptor
from everhook.receipts.service import ReceiptService
from everhook.redelivery.replays import ReplayService
from everhook.redelivery.service import RedeliveryService
from everhook.serving.metrics_server import metrics_served, sdk_metrics_address
from everhook.settings import Settings
from everhook.storage.engine import Database
from everhook.storage.idempotency import ResponseStore
from everhook.temporal.client import TemporalClient, connect
from everhook.tenants.api_keys import ApiKeyService
from everhook.tenants.audit import AuditService
from everhook.tenants.service import TenantService
from everhook.tenants.sessions import SessionService

DESCRIPTION = """Everhook delivers messages to other people's systems and can prove that it did.

A `202` means that the message and one delivery for each matching endpoint are committed. From then on each delivery
ends as `delivered`, `dead_lettered` (kept and replayable) or `discarded`."""

Alongside = Callable[[DeliveryEngine], AbstractAsyncContextManager[None]]

ROUTERS = (
    (channels.router, SHARED),
    (event_types.router, SHARED),
    (endpoints.router, OWNED),
    (pulling.router, CONSUMERS),
    (pulling.view_router, OWNED),
    (subscriptions.router, OWNED),
    (messages.publishing_router, PUBLISHERS),
    (messages.router, SHARED),
    (messages.redelivery_router, REPLAYERS),
    (batches.replays_router, REPLAYERS),
    (batches.router, BATCHES),
    (lifecycle.router, SENDERS),
    (deliveries.router, OWNED),
    (deliveries.attempts_router, OWNED),
    (dead_letters.router, OWNED),
    (receipts.router, OWNED),
    (health_scores.router, OWNED),
    (tasks.router, DECIDERS),
    (dashboard.task_links.api_router, OWNED),
    (audit.router, OWNED),
    (tenants.router, ADMINS),
    (api_keys.router, ADMINS),
    (dashboard.portal.api_router, ADMINS),
)
"""The routers under `/v1`, each with the scopes that open it."""


def create_app(
    settings: Settings | None = None,
    *,
    temporal: TemporalClient | None = None,
    database: Database | None = None,
    engine: DeliveryEngine | None = None,
    alongside: Alongside | None = None,
) -> FastAPI:
    """The API. It opens its own connections unless it is given `engine`, or `temporal` and `database`.

    `alongside` opens what runs in the same process on the same engine: the workers.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            tracing(settings, "everhook-api"),
            _services(settings, temporal, database, engine, alongside) as services,
        ):
            app.state.services = services
            try:
                yield
            finally:
                await dashboard.close(app)

    app = FastAPI(
        title="Everhook",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=problems.DOCUMENTED,
        generate_unique_id_function=openapi.operation_id,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app, dashboard.for_browsers)
    app.add_exception_handler(RespondedBefore, respond_again)
    # The last one added is the first that a request passes.
    app.add_middleware(BodyLimit, limits=body_limits(settings))
    app.add_middleware(Authentication)
    app.add_middleware(Uncached)
    app.include_router(health.router)
    app.include_router(receipts.well_known)
    for router, access in ROUTERS:
        app.include_router(router, prefix="/v1", dependencies=[opened_by(access)])
    if settings.axme:
        axme.install(app, axme_routes.router)
    app.router.routes.append(UnversionedCalls(app.router.routes))
    dashboard.install(app, settings)
    reference.install(app)
    return app


def end_streams(app: FastAPI) -> None:
    """End the responses that last as long as their client listens. Servers call it when they shut down."""
    dashboard.end_streams(app)
    services: Services = app.state.services
    services.streams.end()
    services.lifecycle.end()


def body_limits(settings: Settings) -> dict[Route, int]:
    """The routes with another limit than the default, in bytes: those with long bodies, and the public forms."""
    return {
        messages.publish_message: settings.max_payload_bytes + publishing.ENVELOPE_ALLOWANCE,
        messages.publish_messages: publishing.MAX_BATCH_BYTES,
        event_types.import_event_types: MAX_IMPORT_BYTES,
        axme_routes.create_intent: settings.max_payload_bytes + publishing.ENVELOPE_ALLOWANCE,
        pulling.acknowledge: pull_acks.MAX_BYTES,
        **dashboard.LARGE_FORMS,
        **dict.fromkeys(dashboard.PUBLIC_FORMS, dashboard.MAX_PUBLIC_FORM),
    }


@asynccontextmanager
async def _services(
    settings: Settings,
    temporal: TemporalClient | None,
    database: Database | None,
    engine: DeliveryEngine | None,
    alongside: Alongside | None,
) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        sdk_address = None
        if engine is None:
            if database is None:
                database = Database(settings.database_url, pool_size=settings.database_pool_size)
                stack.push_async_callback(database.close)
            if temporal is None:
                sdk_address = sdk_metrics_address(settings)
                temporal = await connect(lazy=True, metrics_address=sdk_address)
            engine = await stack.enter_async_context(delivery_engine(temporal, database, settings))
        if alongside is not None:
            await stack.enter_async_context(alongside(engine))
        services = _services_on(engine)
        watcher = asyncio.create_task(services.backlog.watch())
        try:
            async with metrics_served(settings, engine.database, sdk_address):
                yield services
        finally:
            services.backlog.close()
            await watcher


def _services_on(engine: DeliveryEngine) -> Services:
    settings, database, quotas = engine.settings, engine.database, Quotas.from_settings(engine.settings)
    acceptor = Acceptor(database, engine.defaults, engine.wake_ups.wake, engine.direct)
    backlog = Backlog(database, settings.undispatched_limit)
    deliveries = DeliveryService(database, engine.client, engine.defaults)
    batch_service = BatchService(engine.client)
    message_service = MessageService(
        database,
        engine.client,
        acceptor,
        engine.dispatcher,
        engine.defaults,
        backlog,
        PublishRate(settings.publish_rate),
        engine.schedules,
        max_payload_bytes=settings.max_payload_bytes,
    )
    endpoint_service = EndpointService(
        egress=engine.egress,
        keyring=engine.keyring,
        quotas=quotas,
        acceptor=acceptor,
        dispatcher=engine.dispatcher,
        circuits=engine.circuits,
        announcer=engine.announcer,
        temporal=engine.client,
        mail_domains=settings.smtp_domains if settings.smtp_url is not None else None,
    )
    return Services(
        settings=settings,
        database=database,
        api_keys=ApiKeyService(database),
        messages=message_service,
        redelivery=RedeliveryService(acceptor, engine.dispatcher, engine.defaults, engine.lifecycle.watch.wake),
        replays=ReplayService(engine.client, acceptor),
        deliveries=deliveries,
        dead_letters=DeadLetterService(engine.client, deliveries, batch_service),
        batches=batch_service,
        receipts=ReceiptService(database, engine.keyring, seal_every_s=settings.seal_receipts_every_seconds),
        audit=AuditService(),
        temporal=engine.client,
        backlog=backlog,
        readiness=readiness_check(database, engine.client),
        endpoints=endpoint_service,
        subscriptions=SubscriptionService(quotas),
        channels=ChannelService(engine.announcer, settings.delivery_retention_days),
        event_types=EventTypeService(),
        tenants=TenantService(engine.client, timedelta(seconds=settings.erasure_settle_seconds)),
        health=HealthService(HealthBoard(database), endpoint_limits(settings)),
        sessions=SessionService(database),
        responses=ResponseStore(database, engine.keyring),
        pulls=engine.pulls,
        streams=engine.streams,
        tasks=engine.tasks,
        lifecycle=engine.lifecycle,
        intents=IntentService(
            database,
            message_service,
            endpoint_service,
            acceptor,
            engine.pulls,
            engine.streams,
            engine.tasks,
            engine.lifecycle,
        ),
    )
