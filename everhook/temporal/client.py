"""The connection to Temporal: one plugin (the pydantic data converter) for clients, workers, replayers and tests."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, TypeAlias

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import CompositePayloadConverter, DataConverter
from temporalio.plugin import SimplePlugin
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)
from temporalio.service import ConnectConfig, ServiceClient

from everhook.observability.tracing import interceptors
from everhook.temporal.options import connect_options
from everhook.temporal.sdk_errors import in_words

TemporalClient: TypeAlias = Client
"""For modules that hold the client and only pass it on."""

CONNECT_TIMEOUT = timedelta(seconds=10)
"""For calls without a time limit."""

_ENCODINGS = tuple(PydanticPayloadConverter().converters.values())


class SharedPayloadConverter(CompositePayloadConverter):
    """Temporal's pydantic converter, with one set of type adapters for the whole process.

    The SDK creates a converter for each workflow, and for each of its activations, and each would build its own
    adapters (`make bench`, worker CPU per delivery: 12.4 ms that way, 7.2 ms shared, measured on two days).
    """

    def __init__(self) -> None:
        super().__init__(*_ENCODINGS)


class NotConnected(RuntimeError):
    """A lazy client has not reached Temporal yet. It tries again at the next call."""


class LazyServiceClient(ServiceClient):
    """Raises NotConnected where the SDK's own client raises a plain RuntimeError: for a connection that fails. Once it
    is connected, the SDK raises RPCError for a server that does not respond.

    The time limit of a call includes the connection. The SDK connects for one call at a time, for up to 30 s each.
    """

    def __init__(self, inner: ServiceClient) -> None:
        super().__init__(inner.config)
        self._inner = inner
        self._is_connected = False

    @property
    def worker_service_client(self) -> Any:
        """The SDK's own client, which workers need."""
        return self._inner.worker_service_client

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        self._inner.update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        self._inner.update_api_key(api_key)

    async def _rpc_call(self, *args: Any, timeout: timedelta | None, **options: Any) -> Any:
        if not self._is_connected:
            await self._connect(timeout or CONNECT_TIMEOUT)
        return await self._inner._rpc_call(*args, timeout=timeout, **options)

    async def _connect(self, limit: timedelta) -> None:
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await self.worker_service_client._connected_client()
        except TimeoutError as error:
            raise NotConnected(f"cannot connect to Temporal: no response within {limit.total_seconds():g} s") from error
        except RuntimeError as error:
            raise NotConnected(in_words(str(error))) from error
        self._is_connected = True


class EverhookPlugin(SimplePlugin):
    """The data converter, and typed errors of connections."""

    def __init__(self) -> None:
        super().__init__("everhook", data_converter=DataConverter(payload_converter_class=SharedPayloadConverter))

    async def connect_service_client(
        self, config: ConnectConfig, next: Callable[[ConnectConfig], Awaitable[ServiceClient]]
    ) -> ServiceClient:
        return LazyServiceClient(await next(config))


PLUGIN = EverhookPlugin()


@cache
def sdk_runtime(metrics_address: str | None = None) -> Runtime:
    """The SDK's runtime, with its log lines sent to Python's logging; by default it writes plain text to the terminal.

    With `metrics_address` it serves its metrics there, with the names that users of Prometheus expect.
    """
    metrics = (
        PrometheusConfig(
            bind_address=metrics_address, counters_total_suffix=True, unit_suffix=True, durations_as_seconds=True
        )
        if metrics_address is not None
        else None
    )
    forwarding = LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    wanted = LoggingConfig(filter=TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding=forwarding)
    return Runtime(telemetry=TelemetryConfig(logging=wanted, metrics=metrics))


async def connect(*, lazy: bool = False, metrics_address: str | None = None, **overrides: Any) -> Client:
    """Connect as configured. `lazy` returns at once and connects on first use, so that the API starts without Temporal.

    Raises ConfigurationError if the configuration is wrong, RuntimeError if the server cannot be reached.
    """
    options = {**connect_options(), "interceptors": interceptors(), **overrides}
    return await Client.connect(**options, plugins=[PLUGIN], lazy=lazy, runtime=sdk_runtime(metrics_address))


async def connect_for_workers(client: Client) -> None:
    """Connect a lazy client, so that workers of the same process can share it with the API.

    The SDK refuses lazy clients for workers because they may not be connected yet; this one is (a comment in the SDK's
    `_worker.py` says that such clients work). Sharing the client lets workflows start eagerly. Raises RPCError or
    RuntimeError while Temporal is unavailable.
    """
    await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    client.service_client.config.lazy = False
