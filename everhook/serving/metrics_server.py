"""`/metrics` on a port of its own, so that it is never where the API is published: it needs no key."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import cache

import httpx
import structlog
from async_lru import alru_cache

from everhook.health.backlog_store import Backlog, backlog
from everhook.health.gauges import exposition
from everhook.observability.metrics_page import MetricsPage, free_loopback_port, metrics_listener
from everhook.serving.server import serving
from everhook.settings import Settings
from everhook.storage.engine import Database, is_unavailable

CACHED_S = 5.0
"""The backlog is counted no more often than this, however many scrapers there are."""

SDK_TIMEOUT_S = 2.0

COUNT_TIMEOUT_S = 4.0
"""A database that hangs must not take the page with it: Prometheus waits 10 s, and takes a silent process for dead."""

log = structlog.get_logger()


def sdk_metrics_address(settings: Settings) -> str | None:
    """Where the SDK is to offer its own metrics, for us to fetch: a port of this machine; None: nowhere."""
    return _free_loopback_address() if settings.metrics_port is not None else None


@cache
def _free_loopback_address() -> str:
    return f"127.0.0.1:{free_loopback_port()}"


@contextlib.asynccontextmanager
async def metrics_served(
    settings: Settings, database: Database, sdk_address: str | None, *, count_timeout: float = COUNT_TIMEOUT_S
) -> AsyncIterator[None]:
    """For the time of the block, where a port is set."""
    if settings.metrics_port is None:
        yield
        return
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=SDK_TIMEOUT_S) as client:  # noqa: S501 - plain HTTP
        page = MetricsPage(_Collector(database, client, sdk_address, count_timeout).metrics)
        with contextlib.closing(metrics_listener(settings.metrics_host, settings.metrics_port)) as listener:
            async with serving(page, listener):
                log.info("serving metrics", address=f"{settings.metrics_host}:{settings.metrics_port}")
                yield


class _Collector:
    """What this process counts, what the database says, and what Temporal's SDK counts here."""

    def __init__(
        self, database: Database, client: httpx.AsyncClient, sdk_address: str | None, count_timeout: float
    ) -> None:
        self._database = database
        self._client = client
        self._sdk_address = sdk_address
        self._count_timeout = count_timeout
        self._backlog = alru_cache(ttl=CACHED_S)(self._load_backlog)

    async def metrics(self) -> bytes:
        backlog, of_the_sdk = await asyncio.gather(self._gauges(), self._sdk_metrics())
        return exposition(backlog) + of_the_sdk

    async def _gauges(self) -> Backlog | None:
        try:
            async with asyncio.timeout(self._count_timeout):
                return await self._backlog()
        except Exception as error:
            if not is_unavailable(error):
                log.exception("could not count what waits")
            return None

    async def _load_backlog(self) -> Backlog:
        async with self._database.reading() as session:
            return await backlog(session)

    async def _sdk_metrics(self) -> bytes:
        """What Temporal's SDK counts. It offers them itself, on a port that only this process knows of."""
        if self._sdk_address is None:
            return b""
        try:
            return (await self._client.get(f"http://{self._sdk_address}/metrics")).content
        except httpx.HTTPError as error:
            log.warning("the SDK's metrics cannot be had", error=str(error))
            return b""
