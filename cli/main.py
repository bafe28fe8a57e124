"""The command line: its commands and options. Commands import what they need when they run: `--help` is fast."""

import asyncio
import functools
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from cli import streams
from cli.command import epilog
from cli.commands import add_commands
from cli.commands.keys import app as keys_app
from cli.commands.receipts import app as receipts_app
from cli.context import load_settings, require_temporal_options
from cli.errors import CommandError, UsageError
from cli.terminal_text import printable_lines
from everhook.errors import ConfigurationError
from everhook.event_loop import tune_gc_for_imports
from everhook_client.errors import InvalidName

INTERRUPTED = 130

RUN = "Run it"
"""The panel of `--help` for commands that run Everhook; the others use it."""

app = typer.Typer(
    name="everhook",
    help="Durable webhook delivery on Temporal.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(keys_app, name="keys", rich_help_panel=RUN)
add_commands(app)
app.add_typer(receipts_app, name="receipts")
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
errors = Console(stderr=True)


class WorkerRole(StrEnum):
    ALL = "all"
    WORKFLOWS = "workflows"
    SENDS = "sends"


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit without finalising the interpreter: the Temporal SDK's threads may abort the process
    during finalisation (temporalio/sdk-python#300), after a successful run."""
    os._exit(_status_of(lambda: _run_and_flush(arguments)))


def run(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    return _status_of(lambda: _run(arguments))


def _run_and_flush(arguments: list[str] | None) -> int:
    tune_gc_for_imports()
    streams.open_streams()
    status = run(arguments)
    streams.flush()
    return status


def _run(arguments: list[str] | None) -> int:
    streams.check_arguments(sys.argv[1:] if arguments is None else arguments)
    result = command()(arguments, standalone_mode=False, prog_name="everhook")
    return result if isinstance(result, int) else 0


@functools.cache
def command() -> Callable[..., Any]:
    """All commands, as they are run. Building them takes 25 ms of CPU, and tests run hundreds in one process."""
    return typer.main.get_command(app)


def _status_of(what: Callable[[], int]) -> int:
    """Run `what`; returns the exit status, and prints a line on standard error if it failed."""
    try:
        return what()
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return streams.BROKEN_PIPE_STATUS
    except CommandError as error:
        return _report(error)
    except (ConfigurationError, InvalidName) as error:
        return _report(UsageError(str(error)))
    except Exception as error:
        if isinstance(error, OSError) and (explained := streams.explained(error)) is not None:
            return _report(explained)
        if hasattr(error, "show"):  # click's usage errors
            _show(error)
            return UsageError.status
        errors.print_exception()
        return 1


def _show(error: Any) -> None:
    """Print a usage error of click, without pydantic's prefix, and with a hint for an option before the command."""
    error.message = error.message.replace("Value error, ", "")
    if not getattr(error, "possibilities", True) and hasattr(error.ctx.command, "commands"):
        error.message += f"; options follow the command: {error.ctx.command_path} COMMAND {error.option_name} …"
    error.show()


def _report(error: CommandError) -> int:
    text = escape("\n".join(printable_lines(str(error))))
    errors.print(f"[bold red]everhook:[/] {text}", highlight=False, emoji=False, soft_wrap=True)
    return error.status


@app.command(rich_help_panel=RUN, epilog=epilog(["migrate"]))
def migrate(
    partition: Annotated[
        bool,
        typer.Option(
            "--partition", help="Convert the tables of an older PostgreSQL database to partitions by month as well."
        ),
    ] = False,
) -> None:
    """Migrate the database (EVERHOOK_DATABASE_URL) to this version's schema."""
    from everhook.storage.engine import is_unavailable, reason
    from everhook.storage.migrate import migrate as upgrade

    settings = load_settings()
    try:
        asyncio.run(upgrade(settings.database_url, console.print, partition=partition))
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise UsageError(f"the database (EVERHOOK_DATABASE_URL) cannot be used: {reason(error)}") from error
    console.print("database: up to date")


@app.command(rich_help_panel=RUN, epilog=epilog(["setup"]))
def setup() -> None:
    """Create what Everhook needs in Temporal: namespace, search attributes, schedules, queue limits. Idempotent."""
    from temporalio.service import RPCError

    from everhook.temporal.client import connect
    from everhook.temporal.provisioning import setup as provision
    from everhook.temporal.sdk_errors import in_words

    settings = load_settings()

    async def run() -> None:
        try:
            client = await connect()
        except RuntimeError as error:
            raise UsageError(f"{in_words(str(error))} (TEMPORAL_ADDRESS)") from error
        try:
            await provision(client, settings, console.print)
        except RPCError as error:
            raise UsageError(f"Temporal rejects the call: {error}; `everhook doctor` shows what exists") from error

    asyncio.run(run())


@app.command(
    rich_help_panel=RUN, epilog=epilog(["serve", "serve --worker", "serve --host 0.0.0.0 --port 8080 --processes 2"])
)
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    worker: Annotated[bool, typer.Option("--worker", help="Also run a worker in each process.")] = False,
    send: Annotated[
        bool, typer.Option(help="Make first attempts in this process (EVERHOOK_EXPRESS). Otherwise workers do.")
    ] = True,
    processes: Annotated[int, typer.Option(min=1, help="Number of processes on this port; each uses one core.")] = 1,
    listen_fds: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the API until SIGTERM or Ctrl-C. Requests and attempts in flight are finished first."""
    from cli import supervisor
    from cli.api_keys import require_a_key
    from everhook import event_loop
    from everhook.observability.logging import configure_logging
    from everhook.observability.metrics_page import require_metrics_port
    from everhook.receipts.issuer import issuer_name
    from everhook.serving import server as http_server
    from everhook.serving.limits import Limits
    from everhook.serving.server import Address
    from everhook.storage.keyring import KeyRing

    settings = load_settings()
    if not send:
        settings = settings.model_copy(update={"express": False})
    address = Address(
        host or settings.host,
        port if port is not None else settings.port,
        option="--host, --port (EVERHOOK_HOST, EVERHOOK_PORT)",
    )
    # Check these first: here an error is one line, and later it would be a traceback.
    KeyRing.from_settings(settings)
    asyncio.run(require_a_key(settings))
    issuer_name(settings)
    require_temporal_options()
    require_metrics_port(settings)
    if listen_fds is not None:
        ready, sockets = supervisor.end_with_parent(), supervisor.inherited_sockets(listen_fds)
    elif processes == 1:
        ready, sockets = None, address.listen()
    else:
        raise typer.Exit(supervisor.supervise(settings, address, processes))
    configure_logging(settings.log_format, settings.log_level)
    from api import dashboard
    from api.main import create_app, end_streams
    from worker import working

    event_loop.tune_gc()
    event_loop.raise_file_limit()
    served = create_app(settings, alongside=working if worker else None)
    dashboard.warm_up()
    http_server.run(served, sockets, Limits.from_settings(settings), lambda: end_streams(served), ready)


@app.command(rich_help_panel=RUN, epilog=epilog(["worker", "worker --role sends"]))
def worker(
    role: Annotated[WorkerRole, typer.Option(help="What this process does; `sends` needs access to endpoints.")] = (
        WorkerRole.ALL
    ),
) -> None:
    """Run a worker until SIGTERM or Ctrl-C. Attempts in flight are finished first."""
    from everhook import event_loop
    from everhook.observability.logging import configure_logging
    from everhook.observability.metrics_page import require_metrics_port
    from everhook.receipts.issuer import issuer_name
    from everhook.storage.keyring import KeyRing

    settings = load_settings()
    KeyRing.from_settings(settings)
    issuer_name(settings)
    require_temporal_options()
    require_metrics_port(settings)
    configure_logging(settings.log_format, settings.log_level)
    import worker as workers

    event_loop.run(workers.work(settings, workers.Role(role.value)))


@app.command(rich_help_panel=RUN, epilog=epilog(["dev", "dev --data-dir /tmp/everhook --port 9080 --no-demo"]))
def dev(
    data_dir: Annotated[Path, typer.Option(help="Directory of the databases, the API key and the master key.")] = Path(
        ".everhook"
    ),
    host: Annotated[str, typer.Option(help="Address that everything listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API.")] = 8080,
    temporal_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Temporal.")] = 7233,
    temporal_ui_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Temporal UI.")] = 8233,
    demo: Annotated[bool, typer.Option(help="Run a small demo: a receiver, and messages with each outcome.")] = True,
    api_key: Annotated[
        str | None, typer.Option(help="The API key; by default generated once and kept in the data directory.")
    ] = None,
) -> None:
    """Run everything on this machine: Temporal with its UI, database, worker, API, and a small demo."""
    from cli.dev.stack import DevOptions, run_dev

    options = DevOptions(
        data_dir=data_dir,
        host=host,
        port=port,
        temporal_port=temporal_port,
        temporal_ui_port=temporal_ui_port,
        demo=demo,
        api_key=api_key,
    )
    run_dev(options)
