"""What `everhook doctor` looks at, from the place and with the settings that workers and the API run with.

Each check is a coroutine that answers with a Finding. Whatever else happens in one is a finding, too: a doctor who
faints helps nobody.
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
    """A check within bounds of time, and whatever it raises."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await check
    except TimeoutError:
        return wrong(name, f"no answer within {PATIENCE_S:g} s")
    except (UsageError, ConfigurationError) as error:
        return wrong(name, str(error))
    except Exception as error:
        return wrong(name, f"could not be checked: {type(error).__name__}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """Everything, in the order in which things build on each other."""
    from cli.doctor.database import database_findings
    from cli.doctor.environment import surroundings_findings
    from cli.doctor.temporal import temporal_findings

    for section in (database_findings, temporal_findings, surroundings_findings):
        async for finding in section(settings):
            yield finding
