"""Tracing where it is off, and where it cannot be had."""

import sys
from pathlib import Path

import pytest

from everhook.errors import ConfigurationError
from everhook.observability import tracing
from everhook.observability.trace_context import TraceParent
from everhook.settings import Settings
from testing.processes import Process

PARENT = TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
HEAVY = ("opentelemetry.sdk", "opentelemetry.exporter", "temporalio.contrib.opentelemetry")


async def test_without_tracing_no_heavy_package_is_imported(tmp_path: Path) -> None:
    """FastAPI looks at OpenTelemetry's API by itself, where that is installed."""
    script = tmp_path / "imports.py"
    script.write_text(
        "import sys, worker, api.main\n"
        "from everhook.settings import Settings\n"
        "api.main.create_app(Settings(dev=True))\n"
        f"found = [name for name in sys.modules if name.startswith({HEAVY})]\n"
        "sys.exit(str(found) if found else 0)"
    )
    await Process([sys.executable, script], log=tmp_path / "imports.log", forked=True).run()


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
