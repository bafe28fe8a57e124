"""The client commands: calls to a running API, for operators and developers."""

import typer


def add_commands(app: typer.Typer) -> None:
    """Add them to the command line."""
    from cli.commands import (
        batches,
        channels,
        consume,
        dead_letters,
        deliveries,
        doctor,
        endpoints,
        event_types,
        health,
        messages,
        status,
        subscriptions,
        tasks,
    )
    from cli.commands import (
        profile as profile_commands,
    )
    from cli.commands import (
        publish as publishing,
    )
    from cli.commands import (
        receive as receiving,
    )
    from cli.commands import (
        replay as replaying,
    )
    from cli.commands import (
        simulate as simulating,
    )

    app.add_typer(publishing.app)
    groups = {
        "channels": channels.app,
        "event-types": event_types.app,
        "endpoints": endpoints.app,
        "subscriptions": subscriptions.app,
        "messages": messages.app,
        "deliveries": deliveries.app,
        "dead-letters": dead_letters.app,
        "batches": batches.app,
        "tasks": tasks.app,
        "profile": profile_commands.app,
    }
    for single in (simulating, replaying, receiving, consume, status, health, doctor):
        app.add_typer(single.app)
    for name, group in groups.items():
        app.add_typer(group, name=name)
