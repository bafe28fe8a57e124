"""`everhook doctor`: check everything that Everhook depends on, and show how to fix problems."""

import asyncio

import typer
from rich.text import Text

from cli.command import epilog, flowing
from cli.context import load_settings, require_temporal_options
from cli.dev.files import adopt_environment
from cli.findings import Finding, conclude, draw
from cli.options import AsJson
from cli.output import Output

app = typer.Typer()

HELP = """Check everything that Everhook depends on, and show how to fix problems.

Run it where workers and API run, with their environment: database and migrations, master keys, Temporal with its
namespace, search attributes, schedules and queue limits, workers, clocks, egress. It changes nothing. Exit status 1
if something is wrong."""


@app.command("doctor", help=flowing(HELP), epilog=epilog(["doctor", "doctor --json"]), rich_help_panel="Run it")
def doctor(as_json: AsJson = False) -> None:
    """Check everything that Everhook depends on, and show how to fix problems."""
    of_dev = adopt_environment()
    settings = load_settings()
    require_temporal_options()
    out = Output(as_json)
    found: list[Finding] = []

    async def check() -> None:
        from cli.doctor import findings

        async for finding in findings(settings):
            found.append(finding)
            out.print(draw(finding))

    configured_by = "the `everhook dev` of this directory" if of_dev else "this environment"
    out.print(Text(f"Everhook, as {configured_by} configures it", style="bold"))
    with out.busy("checking …"):
        asyncio.run(check())
    conclude(out, found)
