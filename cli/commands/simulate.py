"""`everhook simulate`."""

import asyncio
from typing import Annotated

import typer

from cli.command import Session, command
from cli.commands.receive import ReceiverOptions
from cli.errors import UsageError
from cli.following import FAILED

app = typer.Typer()

DEFAULT_SECONDS = 20.0


@command(
    app,
    "simulate",
    examples=[
        "simulate",
        "simulate --rate 50 --duration 60",
        "simulate --rate 2 --count 8 --status 500,200",
        "simulate --channel shop --count 10",
    ],
)
def simulate(
    session: Session,
    options: ReceiverOptions,
    rate: Annotated[float, typer.Option(min=0.01, max=500, help="Messages a second.")] = 5,
    count: Annotated[int | None, typer.Option(min=1, help="So many messages.")] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.1, help=f"For so many seconds; {DEFAULT_SECONDS:g}, unless --count is given.")
    ] = None,
    settle: Annotated[float, typer.Option(min=0, help="Seconds to wait in the end for deliveries under way.")] = 10,
    channel: Annotated[
        str | None, typer.Option(help="Publish to this channel, to whoever subscribes to it, and receive nothing here.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Deliver to this tenant's endpoints only.")] = None,
) -> None:
    """Publish sample messages at a rate, and show arrivals, outcomes and latency as they come.

    Unless --channel is given, a channel, an endpoint and a receiver are made for it and removed in the end; --status
    and --delay are the receiver's. That takes an Everhook that can reach this machine, such as `everhook dev`. Exit
    status 1 unless everything published was delivered. With --json: a line a second, and the result last.
    """
    from cli.simulation import Plan, run

    if channel is not None and (options.status != "200" or options.delay):
        raise UsageError("--status and --delay are the built-in receiver's, and with --channel there is none")
    seconds = duration if duration is not None else None if count is not None else DEFAULT_SECONDS
    plan = Plan(rate, count, seconds, settle, tenant, channel, tuple(options.statuses()), options.delay)
    tally, interrupted = asyncio.run(run(session, plan))
    if interrupted:
        raise typer.Abort
    if not tally.all_delivered:
        raise typer.Exit(FAILED)
