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
    rate: Annotated[float, typer.Option(min=0.01, max=500, help="Messages per second.")] = 5,
    count: Annotated[int | None, typer.Option(min=1, help="Number of messages.")] = None,
    duration: Annotated[
        float | None,
        typer.Option(min=0.1, help=f"Seconds to publish for; {DEFAULT_SECONDS:g} if --count is not given."),
    ] = None,
    drain: Annotated[float, typer.Option(min=0, help="Seconds to wait at the end for deliveries under way.")] = 10,
    channel: Annotated[
        str | None, typer.Option(help="Publish to this channel and its subscribers, and receive nothing here.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Deliver to this tenant's endpoints only.")] = None,
) -> None:
    """Publish sample messages at a rate, and show arrivals, outcomes and latency.

    The messages are the examples of the catalogue of event types, or orders where it has none.

    Unless --channel is given, it creates a channel, an endpoint and a receiver, and removes them at the end; --status
    and --delay configure the receiver. This needs an Everhook that can reach this machine, such as `everhook dev`. Exit
    status 1 unless everything was delivered. With --json it prints a line per second, and the result last.
    """
    from cli.simulation import Plan, run

    if channel is not None and (options.status != "200" or options.delay):
        raise UsageError("--status and --delay configure the built-in receiver, which --channel does not use")
    seconds = duration if duration is not None else None if count is not None else DEFAULT_SECONDS
    plan = Plan(rate, count, seconds, drain, tenant, channel, tuple(options.statuses()), options.delay)
    stats, interrupted = asyncio.run(run(session, plan))
    if interrupted:
        raise typer.Abort
    if not stats.all_delivered:
        raise typer.Exit(FAILED)
