"""The metrics of several processes on one page, with the label `process`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Self

import httpx
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

TIMEOUT_S = 8.0
"""Prometheus waits 10 s, so one process that hangs must not delay the others."""

log = structlog.get_logger()


class ProcessMetrics:
    """Fetches the page of each process. `ports` maps processes to ports on this machine; None for one that is not
    serving."""

    def __init__(
        self, ports: Callable[[], Mapping[int, int | None]], restarts: Callable[[], Mapping[int, int]]
    ) -> None:
        self._ports = ports
        self._restarts = restarts
        self._client = httpx.AsyncClient(trust_env=False, verify=False, timeout=TIMEOUT_S)  # noqa: S501 - plain HTTP

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        async with self._client:
            yield self

    async def page(self) -> bytes:
        """The merged page in Prometheus' text format."""
        ports = self._ports()
        pages = dict(zip(ports, await asyncio.gather(*(self._fetch(port) for port in ports.values())), strict=True))
        registry = CollectorRegistry()
        registry.register(_MergedCollector(pages, self._restarts()))
        return generate_latest(registry)

    async def _fetch(self, port: int | None) -> str | None:
        if port is None:
            return None
        try:
            return (await self._client.get(f"http://127.0.0.1:{port}/metrics")).raise_for_status().text
        except httpx.HTTPError as error:
            log.warning("cannot fetch the metrics of a process", error=str(error) or type(error).__name__)
            return None


class _MergedCollector(Collector):
    def __init__(self, pages: Mapping[int, str | None], restarts: Mapping[int, int]) -> None:
        self._pages = pages
        self._restarts = restarts

    def collect(self) -> Iterable[Metric]:
        yield from self._of_processes()
        serving = GaugeMetricFamily(
            "everhook_process_serving", "1: the process serves; 0: it does not.", None, ["process"]
        )
        restarts = CounterMetricFamily(
            "everhook_process_restarts", "How often a process that ended was started again.", None, ["process"]
        )
        for number, page in self._pages.items():
            serving.add_metric([str(number)], page is not None)
            restarts.add_metric([str(number)], self._restarts[number])
        yield from (serving, restarts)

    def _of_processes(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for number, page in self._pages.items():
            for family in text_string_to_metric_families(page or ""):
                together = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                together.samples += [
                    sample._replace(labels={**sample.labels, "process": str(number)}) for sample in family.samples
                ]
        return families.values()
