"""Serves `/metrics` on its own port: it needs no key, so it must not be reachable where the API is."""

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
"""The backlog is counted at most once in this time, however many scrapers there are."""

SDK_TIMEOUT_S = 2.0

COUNT_TIMEOUT_S = 4.0
"""A database that hangs must not block the page: Prometheus waits 10 s, and then considers the process dead."""

log = structlog.get_logger()


def sdk_metrics_address(settings: Settings) -> str | None:
    """The address on this machine where the SDK serves its metrics for `/metrics` to include; None if there is no
    port."""
    return _free_loopback_address() if settings.metrics_port is not None else None


@cache
def _free_loopback_address() -> str:
    return f"127.0.0.1:{free_loopback_port()}"


@contextlib.asynccontextmanager
async def metrics_served(
    settings: Settings, database: Database, sdk_address: str | None, *, count_timeout: float = COUNT_TIMEOUT_S
) -> AsyncIterator[None]:
    """Serve `/metrics` during the block, if a port is configured."""
    if settings.metrics_port is None:
        yield
        return
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=SDK_TIMEOUT_S) as client:  # noqa: S501 - plain HTTP
        collector = _Collector(database, client, sdk_address, count_timeout)
        with contextlib.closing(metrics_listener(settings.metrics_host, settings.metrics_port)) as listener:
            async with contextlib.aclosing(collector), serving(MetricsPage(collector.metrics), listener):
                log.info("serving metrics", address=f"{settings.metrics_host}:{settings.metrics_port}")
                yield


class _Collector:
    """The metrics of this process, of the database, and of Temporal's SDK."""

    def __init__(
        self, database: Database, client: httpx.AsyncClient, sdk_address: str | None, count_timeout: float
    ) -> None:
        self._database = database
        self._client = client
        self._sdk_address = sdk_address
        self._count_timeout = count_timeout
        self._backlog = alru_cache(ttl=CACHED_S)(self._load_backlog)

    async def aclose(self) -> None:
        """Wait for a count under way, at most as long as the database may take for a statement.

        A count is never cancelled: a connection whose use is cancelled closes later, perhaps after its event loop.
        """
        await self._backlog.cache_close(wait=True)

    async def metrics(self) -> bytes:
        backlog, of_the_sdk = await asyncio.gather(self._gauges(), self._sdk_metrics())
        return exposition(backlog) + of_the_sdk

    async def _gauges(self) -> Backlog | None:
        try:
            async with asyncio.timeout(self._count_timeout):
                return await asyncio.shield(self._backlog())
        except Exception as error:
            if not is_unavailable(error):
                log.exception("cannot count the backlog")
            return None

    async def _load_backlog(self) -> Backlog:
        async with self._database.reading() as session:
            return await backlog(session)

    async def _sdk_metrics(self) -> bytes:
        """The metrics of Temporal's SDK, which serves them on a port that only this process knows."""
        if self._sdk_address is None:
            return b""
        try:
            return (await self._client.get(f"http://{self._sdk_address}/metrics")).content
        except httpx.HTTPError as error:
            log.warning("cannot fetch the metrics of the SDK", error=str(error))
            return b""
