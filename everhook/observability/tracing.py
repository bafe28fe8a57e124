"""OpenTelemetry traces (`EVERHOOK_OTEL`): a publish, its workflows and each attempt form one trace.

The trace is stored with the message, so all attempts belong to it, whichever process makes them and however late: after
hours, after a replay, after the loss of Temporal's store. While tracing is off, OpenTelemetry is not imported, and the
overhead is negligible.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everhook import __version__
from everhook.errors import ConfigurationError
from everhook.observability.trace_context import TraceParent
from everhook.settings import Settings

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context

_tracer: "trace.Tracer | None" = None


@asynccontextmanager
async def tracing(settings: Settings, service: str) -> AsyncIterator[None]:
    """Export spans during the block, to the address in OpenTelemetry's own variables, and flush them at its end."""
    global _tracer
    if not settings.otel:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError("EVERHOOK_OTEL needs the packages of the extra `otel`") from error
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("everhook", __version__)
    try:
        yield
    finally:
        _tracer = None
        await asyncio.to_thread(provider.shutdown)


def interceptors() -> Sequence[Any]:
    """The interceptors of Temporal's client, and through it of workers: spans of starts, workflows and activities."""
    if _tracer is None:
        return []
    from temporalio.contrib.opentelemetry import TracingInterceptor

    return [TracingInterceptor(_tracer)]


@dataclass(frozen=True)
class Span:
    """A span. Without OpenTelemetry it has no `traceparent`, and `note` does nothing."""

    traceparent: TraceParent | None = None
    _span: "trace.Span | None" = None

    def note(self, facts: dict[str, Any], *, failed: bool = False) -> None:
        """Add attributes; those with the value None are left out."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        self._span.set_attributes({f"everhook.{key}": value for key, value in facts.items() if value is not None})
        if failed:
            self._span.set_status(StatusCode.ERROR)


_NOTHING = Span()


@contextmanager
def span(name: str, parent: TraceParent | None, *, serves: bool = False) -> Iterator[Span]:
    """A span with the given parent, or within the current span if that is of the same trace. `serves`: the span of a
    server."""
    if _tracer is None:
        yield _NOTHING
        return
    from opentelemetry.trace import SpanKind

    kind = SpanKind.SERVER if serves else SpanKind.CLIENT
    with _tracer.start_as_current_span(name, context=_context(parent), kind=kind) as current:
        found = current.get_span_context()
        flags = f"{found.trace_flags:02x}"
        yield Span(TraceParent(f"{found.trace_id:032x}", f"{found.span_id:016x}", flags), current)


def _context(parent: TraceParent | None) -> "Context | None":
    """The context of the parent; None: the current one."""
    from opentelemetry import trace

    if parent is None or trace.get_current_span().get_span_context().trace_id == int(parent.trace_id, 16):
        return None
    remote = trace.SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), True, trace.TraceFlags(int(parent.flags, 16))
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote))
