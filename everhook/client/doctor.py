"""`everhook doctor`: is everything there that Everhook stands on, and how to mend what is not."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from everhook.client.command import epilog, flowing
from everhook.client.findings import Finding, conclude, draw
from everhook.client.output import Output
from everhook.dev_files import DATA_DIR, URL_FILE
from everhook.usage import load_settings

app = typer.Typer()

HELP = """Look at everything Everhook stands on, and say how to mend what is wrong.

Run it where workers and API run, with their environment: database and migrations, master keys, Temporal with its
namespace, search attributes, schedules and queue limits, workers, clocks, egress. It changes nothing. Exit status 1
where something is wrong."""


@app.command("doctor", help=flowing(HELP), epilog=epilog(["doctor", "doctor --json"]), rich_help_panel="Run it")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False) -> None:
    """Look at everything Everhook stands on, and say how to mend what is wrong."""
    settings = load_settings()
    out = Output(as_json)
    found: list[Finding] = []

    async def look() -> None:
        from everhook.checkup import findings

        async for finding in findings(settings):
            found.append(finding)
            out.print(draw(finding))

    if (Path(DATA_DIR) / URL_FILE).exists() and "EVERHOOK_DATABASE_URL" not in os.environ:
        out.note("`everhook dev` runs here with settings of its own; this looks at what the environment says")
    out.print(Text("Everhook, as this environment configures it", style="bold"))
    with out.busy("looking …"):
        asyncio.run(look())
    conclude(out, found)
