"""Checks of egress, and of the limits of this machine."""

import asyncio
from collections.abc import AsyncIterator

from cli.doctor import run_check
from cli.findings import Finding, ok, warning, wrong
from everhook import event_loop
from everhook.egress import EgressRules
from everhook.settings import Settings

CONNECT_S = 5.0
ENOUGH_FILES = 4_096


async def environment_findings(settings: Settings) -> AsyncIterator[Finding]:
    rules = EgressRules.from_settings(settings)
    yield await run_check("egress rules", _rules(rules, settings))
    yield await run_check("egress proxy", _proxy(rules))
    yield await run_check("open files", _files())


async def _rules(rules: EgressRules, settings: Settings) -> Finding:
    networks = ", ".join(map(str, settings.egress_allow))
    detail = f"public addresses{f' and {networks}' if networks else ''}, ports {rules.ports_in_words}"
    if settings.egress_http:
        fix = "if that is not intended: EVERHOOK_EGRESS_HTTP=false"
        return warning("egress rules", f"{detail}; plain HTTP inside {networks or 'no network'}", fix)
    wide = [network for network in settings.egress_allow if network.prefixlen < 8]
    if wide:
        fix = "list only the networks of your endpoints: EVERHOOK_EGRESS_ALLOW"
        return warning("egress rules", f"{detail}: {', '.join(map(str, wide))} allows nearly everything", fix)
    return ok("egress rules", detail)


async def _proxy(rules: EgressRules) -> Finding:
    name = "egress proxy"
    if rules.proxy is None:
        return ok(name, "none: direct connections")
    where = f"{rules.proxy.host}:{rules.proxy.port}"
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(rules.proxy.host, rules.proxy.port)
    except (OSError, TimeoutError) as error:
        return wrong(name, f"{where} cannot be reached: {error or 'no response'}", "fix EVERHOOK_EGRESS_PROXY")
    writer.close()
    return ok(name, f"{where} accepts connections")


async def _files() -> Finding:
    event_loop.raise_file_limit()
    limit = event_loop.file_limit()
    if limit < ENOUGH_FILES:
        return warning("open files", f"{limit:,} at most: a socket for each request in flight", "ulimit -n 65536")
    return ok("open files", f"{limit:,} at most")
