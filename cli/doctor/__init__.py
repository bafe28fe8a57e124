"""The checks of `everhook doctor`, on the machine and with the settings of workers and the API.

Each check is a coroutine that returns a Finding. Exceptions and timeouts of a check become findings, too.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from cli.errors import UsageError
from cli.findings import Finding, wrong
from everhook.errors import ConfigurationError
from everhook.settings import Settings

PATIENCE_S = 15.0


async def run_check(name: str, check: Coroutine[Any, Any, Finding]) -> Finding:
    """Run a check with a time limit; what it raises becomes a finding."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await check
    except TimeoutError:
        return wrong(name, f"no response within {PATIENCE_S:g} s")
    except (UsageError, ConfigurationError) as error:
        return wrong(name, str(error))
    except Exception as error:
        return wrong(name, f"could not be checked: {type(error).__name__}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """All findings, in the order of dependencies."""
    from cli.doctor.database import database_findings
    from cli.doctor.environment import environment_findings
    from cli.doctor.temporal import temporal_findings

    for section in (database_findings, temporal_findings, environment_findings):
        async for finding in section(settings):
            yield finding
