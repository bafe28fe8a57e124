"""`everhook messages`."""

from typing import Annotated

import typer
from rich.table import Table

from cli.command import Session, command
from cli.options import Reason, Yes
from cli.output import Output
from cli.terminal_states import state
from everhook_client import calls
from everhook_client.models import RedeliveredMessage

app = typer.Typer(help="Messages that were published.", no_args_is_help=True)

EXAMPLE = "msg_…"

_RESULTS = {
    "round_opened": "sent again",
    "created": "sent for the first time",
    "left_open": "in progress, left alone",
    "endpoint_deleted": "the endpoint was deleted",
}


@command(
    app,
    "redeliver",
    examples=[
        f"messages redeliver {EXAMPLE} --reason 'they lost their database'",
        f"messages redeliver {EXAMPLE} --endpoint ep_…",
    ],
)
def redeliver(
    session: Session,
    gid: Annotated[str, typer.Argument(help="The message's gid (msg_…).", show_default=False)],
    endpoint: Annotated[
        str | None,
        typer.Option(help="To this endpoint only, by its gid, also if it does not subscribe.", show_default=False),
    ] = None,
    reason: Reason = "",
    yes: Yes = False,
) -> None:
    """Send a message again after it was delivered, dead-lettered or discarded.

    Endpoints that match it now and had no delivery of it get one. What is in progress is left alone.
    """
    to = endpoint or "all endpoints that match"
    session.out.confirm(f"Send {gid} again to {to} at {session.target.url}?", yes=yes)
    done = session.api.call(calls.redeliver_message(gid, endpoint_gid=endpoint, reason=reason))
    session.out.show(done, lambda message: _table(session.out, message))


@command(app, "cancel", examples=[f"messages cancel {EXAMPLE}"])
def cancel(
    session: Session,
    gid: Annotated[str, typer.Argument(help="The message's gid (msg_…).", show_default=False)],
) -> None:
    """Cancel a message that waits for the time of its delivery."""
    done = session.api.call(calls.cancel_message(gid))
    session.out.show(done, lambda message: f"{message['messageGid']} is cancelled: it will not be delivered.")


def _table(out: Output, message: RedeliveredMessage) -> Table | str:
    if not message["deliveries"]:
        return "No endpoint had this message, and none matches it now."
    rows = out.table("delivery", "status", "round", "result", "endpoint", wide=("endpoint",))
    for each in message["deliveries"]:
        rows.add(
            delivery=each["deliveryGid"],
            status=state(each["status"]),
            round=str(each["round"]),
            result=_RESULTS.get(each["result"], each["result"]),
            endpoint=each["endpointGid"],
        )
    return rows.table
