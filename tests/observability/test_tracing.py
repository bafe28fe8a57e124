"""Tracing where it is off, and where it cannot be had."""

import asyncio
import sys

import pytest

from everhook.errors import ConfigurationError
from everhook.observability import tracing
from everhook.observability.trace_context import TraceParent
from everhook.settings import Settings
from testing.processes import REPOSITORY

PARENT = TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
HEAVY = ("opentelemetry.sdk", "opentelemetry.exporter", "temporalio.contrib.opentelemetry")


async def test_without_tracing_no_heavy_package_is_imported() -> None:
    """FastAPI looks at OpenTelemetry's API by itself, where that is installed."""
    code = (
        "import sys, worker, api.main; from everhook.settings import Settings; api.main.create_app(Settings(dev=True));"
        f"sys.exit(any(name.startswith({HEAVY}) for name in sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=REPOSITORY)
    assert await process.wait() == 0


async def test_without_tracing_spans_do_nothing() -> None:
    async with tracing.tracing(Settings(dev=True), "everhook-api"):
        assert list(tracing.interceptors()) == []
        with tracing.span("publish", PARENT) as span:
            span.note({"a": 1}, failed=True)
            assert span.traceparent is None


async def test_tracing_without_its_packages_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match="the extra `otel`"):
        async with tracing.tracing(Settings(dev=True, otel=True), "everhook-api"):
            pass
