"""Wait for deliveries, and show one with its attempts."""

import time
from collections.abc import Sequence

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.api_client.client import Api
from cli.command import Session
from cli.formatting import age, clock, response, when
from cli.output import lines, pairs
from cli.terminal_states import state
from cli.terminal_text import printable
from everhook_client import calls
from everhook_client.models import Attempt, DeliveryDetail, Endpoint

POLL_S = 0.2
TERMINAL = ("delivered", "dead_lettered", "discarded")

FAILED = 1


def wait_for_end(api: Api, gid: str, patience_s: float, *, first_attempt: bool = False) -> DeliveryDetail:
    """The delivery when it has ended (or an attempt has failed, or it is parked), or as it is after `patience_s`.

    The API reads a delivery just before its attempts: one that has succeeded by then is read again.
    """
    deadline = time.monotonic() + patience_s
    while True:
        delivery = api.call(calls.get_delivery(gid))
        if delivery["status"] in TERMINAL:
            return delivery
        has_failed = any(attempt["verdict"] != "delivered" for attempt in delivery["attempts"])
        if first_attempt and (has_failed or delivery["status"] == "parked"):
            return delivery
        if time.monotonic() >= deadline:
            return delivery
        time.sleep(POLL_S)


def conclude(session: Session, deliveries: Sequence[DeliveryDetail]) -> None:
    """Exit with status 1 unless all were delivered. For those that still wait, standard error says for what."""
    for delivery in deliveries:
        if reason := _waits_for(session.api, delivery):
            session.out.note(f"{delivery['deliveryGid']} is not delivered: {reason}", "yellow")
    if any(delivery["status"] != "delivered" for delivery in deliveries):
        raise typer.Exit(FAILED)


def _waits_for(api: Api, delivery: DeliveryDetail) -> str | None:
    """What a delivery waits for. None if it has ended, or its attempts show it."""
    endpoint = delivery["endpointGid"]
    match delivery["status"]:
        case "parked":
            return _parked(api.call(calls.get_endpoint(endpoint)))
        case "accepted" | "sending" if not delivery["attempts"]:
            return "its first attempt has not ended; `everhook status` shows whether workers run"
        case "available":
            return f"no consumer has taken it (everhook consume --endpoint {endpoint})"
        case "awaiting_decision":
            return f"its task is not decided (everhook tasks list --inbox {endpoint} --state open)"
        case "gated":
            return "it waits for the decisions of a gate (everhook tasks list --state open)"
        case "queued":
            return "it waits for the messages before it in its group"
        case _:
            return None


def _parked(endpoint: Endpoint) -> str:
    circuit = endpoint["circuit"]
    if endpoint["status"] != "enabled":
        return f"its endpoint is {endpoint['status']}" + (
            f": {endpoint['statusReason']}" if endpoint["statusReason"] else ""
        )
    if circuit["state"] == "closed":
        return "it is parked, and is released because the circuit of its endpoint is closed again"
    return f"the circuit of its endpoint is {circuit['state'].replace('_', '-')}" + (
        f" until {when(circuit['until'])}" if circuit["until"] else ""
    )


def show_delivery(delivery: DeliveryDetail) -> RenderableType:
    """A delivery with every attempt and its response."""
    card = pairs(
        [
            ("delivery", delivery["deliveryGid"]),
            ("status", _status(delivery)),
            ("message", f"{delivery['messageGid']}  {delivery['type']} on {delivery['channel']}"),
            ("endpoint", delivery["endpointGid"]),
            ("accepted", when(delivery["acceptedAt"])),
            (
                "available again" if delivery["status"] == "available" else "next attempt",
                when(delivery["nextAttemptAt"]),
            ),
            ("ended", when(delivery["completedAt"])),
            ("resolved", _resolved(delivery)),
        ]
    )
    return Group(card, *(part for attempt in delivery["attempts"] for part in _attempt(attempt)))


def _status(delivery: DeliveryDetail) -> Text:
    shown = state(delivery["status"])
    if delivery["deadLetterReason"] and delivery["status"] == "dead_lettered":
        return Text.assemble(shown, f"  {delivery['deadLetterReason']}, {age(delivery['deadLetteredAt'])}")
    return shown


def _resolved(delivery: DeliveryDetail) -> str | None:
    if not delivery["resolvedBy"]:
        return None
    reason = f": {delivery['resolutionReason']}" if delivery["resolutionReason"] else ""
    return f"by {delivery['resolvedBy']}{reason}"


def _attempt(attempt: Attempt) -> list[RenderableType]:
    round_ = f"round {attempt['round']}, " if attempt["round"] > 1 else ""
    head = Text.assemble(
        ("\n" + clock(attempt["startedAt"]), "dim"),
        f"  {round_}attempt {attempt['number']}  ",
        state(attempt["verdict"]),
        f"  {printable(response(attempt))}",
        (f"  {attempt['durationMs']:,} ms  {printable(attempt['peerAddress'] or '')}", "dim"),
    )
    parts: list[RenderableType] = [head, lines(attempt["url"], style="dim")]
    if attempt["errorDetail"]:
        parts.append(lines(attempt["errorDetail"], style="yellow"))
    if attempt["responseBody"]:
        parts.append(lines(attempt["responseBody"], indent="  │ "))
    return parts
