"""The page `/metrics` and its port."""

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from everhook.errors import ConfigurationError
from everhook.settings import Settings

Message = MutableMapping[str, Any]


class MetricsPage:
    """The ASGI application. `collect` returns the metrics in Prometheus' text format.

    Not `prometheus_client.make_asgi_app`: it collects from a registry, without `await`, and these metrics are read from
    the database, or from the other processes of a supervisor.
    """

    def __init__(self, collect: Callable[[], Awaitable[bytes]]) -> None:
        self._collect = collect

    async def __call__(
        self, scope: Message, _receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return
        found = (scope["method"], scope["path"]) == ("GET", "/metrics")
        body = await self._collect() if found else b"Only GET /metrics is served here.\n"
        content_type = CONTENT_TYPE_PLAIN_0_0_4 if found else "text/plain"
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def require_metrics_port(settings: Settings) -> None:
    """Raise ConfigurationError if the port is not available. Called at start, where this is one line and an exit
    status."""
    if settings.metrics_port is not None:
        metrics_listener(settings.metrics_host, settings.metrics_port).close()


def metrics_listener(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigurationError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]  # the message repeats the address
        raise ConfigurationError(
            f"cannot listen on {host}:{port} (EVERHOOK_METRICS_HOST, EVERHOOK_METRICS_PORT): {why}"
        ) from error


def free_loopback_port() -> int:
    """A port of 127.0.0.1 that is free now. Another process may still take it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
